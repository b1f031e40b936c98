//! `ls`: the entries of one directory.
//!
//! Owns: its arguments, order, marks and notices. Holds as many names as it may show, however many there are.

use std::collections::BinaryHeap;
use std::fs::{self, DirEntry};
use std::path::Path;

use serde_json::Value;

use crate::args::Fields;
use crate::output::{MAX_BYTES, MAX_LINES, Page, size, with_notices};
use crate::{Answer, Context, path};

/// Entries listed unless `limit` says otherwise.
const DEFAULT_LIMIT: u64 = 500;

/// Ordered without regard to case, then by the name itself so that the order is the same every time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    folded: String,
    name: String,
    line: String,
}

pub(crate) fn run(input: &Value, ctx: &Context) -> Answer {
    let mut fields = Fields::new("ls", input)?;
    let given = fields.string("path").unwrap_or_else(|| ".".to_owned());
    let asked = fields.count("limit", 1).unwrap_or(DEFAULT_LIMIT);
    fields.finish()?;

    let target = path::resolve(ctx, &given)?;
    let explain = |e| path::failure(ctx, "list", &given, &target, &e);
    if !fs::metadata(&target).map_err(explain)?.is_dir() {
        return Err(format!("Not a directory: {given}. Use read to see a file."));
    }
    let limit = usize::try_from(asked).unwrap_or(usize::MAX).min(MAX_LINES);
    // The greatest of the names kept is on top, to be dropped for a smaller one.
    let mut kept = BinaryHeap::new();
    let mut total = 0u64;
    for entry in fs::read_dir(&target).map_err(explain)? {
        ctx.check_cancelled()?;
        total += 1;
        kept.push(describe(&entry.map_err(explain)?));
        if kept.len() > limit {
            kept.pop();
        }
    }
    if total == 0 {
        return Ok("(empty directory)".to_owned());
    }
    let mut page = Page::default();
    for entry in kept.into_sorted_vec() {
        if !page.push(&entry.line) {
            break;
        }
    }
    let shown = page.lines;
    let mut notices = Vec::new();
    if page.full.is_some() {
        notices.push(format!("{} limit reached: {shown} of {total} entries shown", size(MAX_BYTES as u64)));
        notices.push(rest_with_find(&given));
    } else if total > shown as u64 {
        notices.push(format!("{shown} entries limit reached, {total} in all"));
        notices.push(if limit < MAX_LINES {
            format!("Use limit={} for more", total.min(asked.saturating_mul(2)).min(MAX_LINES as u64))
        } else {
            rest_with_find(&given)
        });
    }
    Ok(with_notices(page.text, &notices))
}

fn rest_with_find(given: &str) -> String {
    format!("Use find with a pattern in {given} to narrow it down")
}

/// Directories end with `/`; a link shows where it leads, and ends with `/` if that is a directory.
fn describe(entry: &DirEntry) -> Entry {
    let name = path::one_line(&entry.file_name().to_string_lossy());
    let kind = entry.file_type().ok();
    let line = if kind.is_some_and(|k| k.is_dir()) {
        format!("{name}/")
    } else if kind.is_some_and(|k| k.is_symlink()) {
        link(&name, &entry.path())
    } else {
        name.clone()
    };
    Entry { folded: name.to_lowercase(), name, line }
}

fn link(name: &str, path: &Path) -> String {
    let target = fs::read_link(path).map(|t| path::one_line(&t.to_string_lossy())).unwrap_or_default();
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => format!("{name}/ -> {target}"),
        Ok(_) => format!("{name} -> {target}"),
        Err(_) => format!("{name} -> {target} (broken link)"),
    }
}
