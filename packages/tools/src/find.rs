//! `find`: paths that match a glob.
//!
//! Owns: its arguments, what a pattern is compared with, its notices.

use std::fs;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use serde_json::Value;

use crate::args::Fields;
use crate::output::{MAX_BYTES, MAX_LINES, Page, size};
use crate::walk::{self, Skipped};
use crate::{Answer, Context, path};

/// Paths listed unless `limit` says otherwise.
const DEFAULT_LIMIT: u64 = 1_000;

/// A pattern and what it is compared with.
struct Pattern {
    glob: GlobMatcher,
    against: Against,
    directories_only: bool,
}

enum Against {
    /// A pattern without `/`: the name, at any depth.
    Name,
    /// One with `/`: the path from the directory that is searched, or from the working directory.
    Below,
    /// One that starts with `/`: the whole path.
    Whole,
}

impl Pattern {
    fn new(given: &str) -> Result<Self, String> {
        let pattern = given.strip_prefix("./").unwrap_or(given);
        let (pattern, directories_only) = match pattern.strip_suffix('/') {
            Some(rest) => (rest, true),
            None => (pattern, false),
        };
        if pattern.is_empty() {
            return Err("pattern must not be empty. Use * for every file, or for instance **/*.rs.".to_owned());
        }
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|e| format!("Invalid glob pattern: {e}. Put a backslash before a special character to mean it."))?
            .compile_matcher();
        let against = match pattern.find('/') {
            None => Against::Name,
            Some(0) => Against::Whole,
            Some(_) => Against::Below,
        };
        Ok(Self { glob, against, directories_only })
    }

    fn matches(&self, bases: [&Path; 2], path: &Path, is_dir: bool) -> bool {
        if self.directories_only && !is_dir {
            return false;
        }
        match self.against {
            Against::Name => path.file_name().is_some_and(|name| self.glob.is_match(name)),
            Against::Below => {
                bases.iter().any(|base| path.strip_prefix(base).is_ok_and(|below| self.glob.is_match(below)))
            }
            Against::Whole => self.glob.is_match(path),
        }
    }
}

pub(crate) fn run(input: &Value, ctx: &Context) -> Answer {
    let mut fields = Fields::new("find", input)?;
    let given_pattern = fields.required_string("pattern");
    let given = fields.string("path").unwrap_or_else(|| ".".to_owned());
    let asked = fields.count("limit", 1).unwrap_or(DEFAULT_LIMIT);
    fields.finish()?;
    let pattern = Pattern::new(&given_pattern)?;
    let root = path::resolve(ctx, &given)?;
    let meta = fs::metadata(&root).map_err(|e| path::failure(ctx, "search", &given, &root, &e))?;
    if !meta.is_dir() {
        return Err(format!("Not a directory: {given}. Give the directory to search in as path."));
    }

    let limit = usize::try_from(asked).unwrap_or(usize::MAX).min(MAX_LINES);
    let (mut page, mut skipped, mut more) = (Page::default(), Skipped::default(), false);
    for entry in walk::walk(ctx, &root) {
        ctx.check_cancelled()?;
        let entry = match entry {
            Ok(entry) if entry.depth() == 0 => continue,
            Ok(entry) => entry,
            Err(e) => {
                skipped.add_walk_error(&e);
                continue;
            }
        };
        let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
        if !pattern.matches([&root, &ctx.workdir], entry.path(), is_dir) {
            continue;
        }
        more = page.lines == limit;
        let shown = path::show(ctx, entry.path());
        if more || !page.push(&if is_dir { shown + "/" } else { shown }) {
            break;
        }
    }
    if page.lines == 0 {
        return Ok(walk::finish(nothing(&given_pattern), Vec::new(), &skipped));
    }
    let mut notices = Vec::new();
    if page.full.is_some() {
        notices.push(format!("{} limit reached", size(MAX_BYTES as u64)));
        notices.push("Refine pattern or give a narrower path".to_owned());
    } else if more {
        notices.push(format!("{limit} results limit reached"));
        notices.push(if limit < MAX_LINES {
            format!("Use limit={} for more, or refine pattern", (limit * 2).min(MAX_LINES))
        } else {
            "Refine pattern or give a narrower path".to_owned()
        });
    }
    Ok(walk::finish(page.text, notices, &skipped))
}

fn nothing(pattern: &str) -> String {
    let mut text = "No files found matching pattern".to_owned();
    if !pattern.contains(['*', '?', '[', '{', '/']) {
        text.push_str(&format!(". It must match a whole name: *{pattern}* also finds a part of one."));
    }
    text
}
