//! `grep`: lines that match a regular expression.
//!
//! Owns: its arguments, which files are searched, notices. Files are streamed; of a line no more than
//! [`MAX_SEARCH_MEMORY`] is ever held.

mod sink;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, MmapChoice, Searcher, SearcherBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use serde_json::Value;

use crate::args::Fields;
use crate::output::{Limit, MAX_BYTES, MAX_LINES, size};
use crate::walk::{self, Skipped};
use crate::{Answer, Context, open, path};
use sink::{Found, MAX_LINE_CHARS};

/// Matching lines shown unless `limit` says otherwise.
const DEFAULT_LIMIT: u64 = 100;
/// Lines of context on each side at most: a result should be more than one match.
const MAX_CONTEXT: u64 = 100;
/// Memory for the lines of a file that are looked at together; a line that is longer cannot be searched.
const MAX_SEARCH_MEMORY: usize = 8 * 1024 * 1024;
/// Memory for the compiled expression and for the states of its automaton, each.
const MAX_REGEX_MEMORY: usize = 10 * 1024 * 1024;

struct Arguments {
    pattern: String,
    path: String,
    glob: Option<String>,
    ignore_case: bool,
    literal: bool,
    context: usize,
    limit: usize,
}

fn arguments(input: &Value) -> Result<Arguments, String> {
    let mut fields = Fields::new("grep", input)?;
    let pattern = fields.required_string("pattern");
    let path = fields.string("path").unwrap_or_else(|| ".".to_owned());
    let glob = fields.string("glob");
    let ignore_case = fields.flag("ignoreCase");
    let literal = fields.flag("literal");
    let context = fields.count("context", 0).unwrap_or(0).min(MAX_CONTEXT);
    let limit = fields.count("limit", 1).unwrap_or(DEFAULT_LIMIT);
    if pattern.is_empty() {
        fields.problem("pattern", "must not be empty");
    }
    fields.finish()?;
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(Arguments { pattern, path, glob, ignore_case, literal, context: number(context), limit: number(limit) })
}

pub(crate) fn run(input: &Value, ctx: &Context) -> Answer {
    let args = arguments(input)?;
    let matcher = matcher(&args)?;
    let root = path::resolve(ctx, &args.path)?;
    let meta = std::fs::metadata(&root).map_err(|e| path::failure(ctx, "search", &args.path, &root, &e))?;
    let globs = args.glob.as_deref().map(|glob| Globs::new(ctx, &root, glob)).transpose()?;
    let mut search = Search {
        ctx,
        searcher: searcher(args.context),
        matcher,
        found: Found::new(args.limit, args.context > 0),
        skipped: Skipped::default(),
    };
    if meta.is_dir() {
        search.tree(&root, globs.as_ref())?;
    } else {
        let (file, _) = open::regular(ctx, &args.path, &root)?;
        search.file(&root, file)?;
        if search.found.matches == 0 && search.found.binary {
            return Ok(format!(
                "No matches found. {} is a binary file and was not searched to its end. Use bash: grep -a",
                args.path
            ));
        }
    }
    Ok(search.result(&args))
}

fn matcher(args: &Arguments) -> Result<RegexMatcher, String> {
    RegexMatcherBuilder::new()
        .case_insensitive(args.ignore_case)
        .fixed_strings(args.literal)
        // `^` and `$` mean the ends of a line.
        .multi_line(true)
        .size_limit(MAX_REGEX_MEMORY)
        .dfa_size_limit(MAX_REGEX_MEMORY)
        // So that `$` also matches before the carriage return of a Windows line end.
        .crlf(true)
        .build(&args.pattern)
        .map_err(|e| match e.kind() {
            grep_regex::ErrorKind::NotAllowed(what) => format!(
                "Invalid pattern: it holds {}, but a match never goes over the end of a line. Search for one of the \
                 lines and use context to see those around it.",
                path::one_line(what)
            ),
            _ if args.literal => format!("Cannot search for this pattern: {e}"),
            _ => format!("Invalid regular expression: {e}\nUse literal=true to search for the text as it is."),
        })
}

fn searcher(context: usize) -> Searcher {
    SearcherBuilder::new()
        .line_terminator(grep_matcher::LineTerminator::crlf())
        .line_number(true)
        .before_context(context)
        .after_context(context)
        .heap_limit(Some(MAX_SEARCH_MEMORY))
        .memory_map(MmapChoice::never())
        .binary_detection(BinaryDetection::quit(0))
        .build()
}

/// The glob of the arguments, with the meaning it has as a line of a `.gitignore` file: `*.rs` at any depth, `!*.rs`
/// for all others. It chooses among files that are not ignored and brings none back.
struct Globs {
    /// Relative to the working directory, as paths are shown, and to the directory that is searched.
    bases: [Override; 2],
    negated: bool,
}

impl Globs {
    fn new(ctx: &Context, root: &Path, glob: &str) -> Result<Self, String> {
        let build = |base: &Path| {
            let mut builder = OverrideBuilder::new(base);
            builder.add(glob).and_then(|builder| builder.build()).map_err(|e| format!("Invalid glob: {e}."))
        };
        Ok(Self { bases: [build(&ctx.workdir)?, build(root)?], negated: glob.starts_with('!') })
    }

    fn leave_out(&self, file: &Path) -> bool {
        let mut by_base = self.bases.iter().map(|globs| globs.matched(file, false).is_ignore());
        if self.negated { by_base.any(|out| out) } else { by_base.all(|out| out) }
    }
}

struct Search<'c> {
    ctx: &'c Context,
    searcher: Searcher,
    matcher: RegexMatcher,
    found: Found,
    skipped: Skipped,
}

impl Search<'_> {
    fn tree(&mut self, root: &Path, globs: Option<&Globs>) -> Result<(), String> {
        for entry in walk::walk(self.ctx, root) {
            self.ctx.check_cancelled()?;
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    self.skipped.add_walk_error(&e);
                    continue;
                }
            };
            let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
            if !is_file || globs.is_some_and(|globs| globs.leave_out(entry.path())) {
                continue;
            }
            match open::without_waiting(entry.path()) {
                Ok((file, meta)) if meta.is_file() => self.file(entry.path(), file)?,
                // Something else took its place just now.
                Ok(_) => {}
                Err(e) => self.skipped.add(self.ctx, entry.path(), &e.kind().to_string()),
            }
            if self.found.is_over() {
                break;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, file: File) -> Result<(), String> {
        let reader = Cancellable { inner: file, ctx: self.ctx };
        self.found.begin_file(path::show(self.ctx, path));
        let searched = self.searcher.search_reader(&self.matcher, reader, &mut self.found);
        self.ctx.check_cancelled()?;
        match searched {
            Ok(()) if self.found.binary && self.found.matches_in_file > 0 => {
                self.skipped.add(self.ctx, path, "binary from some line on");
            }
            Ok(()) => {}
            // How the searcher says that the memory it may use is not enough.
            Err(e) if e.kind() == io::ErrorKind::Other => {
                let why = format!("a line or its context is longer than {}", size(MAX_SEARCH_MEMORY as u64));
                self.skipped.add(self.ctx, path, &why);
            }
            Err(e) => self.skipped.add(self.ctx, path, &e.kind().to_string()),
        }
        Ok(())
    }

    fn result(self, args: &Arguments) -> String {
        let Found { page, matches, more, shortened, .. } = self.found;
        if page.lines == 0 {
            return walk::finish("No matches found".to_owned(), Vec::new(), &self.skipped);
        }
        let mut notices = Vec::new();
        match page.full {
            Some(limit) => {
                let limit = match limit {
                    Limit::Lines => format!("{MAX_LINES} lines"),
                    Limit::Bytes => size(MAX_BYTES as u64),
                };
                notices.push(format!("{limit} limit reached"));
                notices.push("Refine pattern, or narrow path or glob".to_owned());
            }
            None if more => {
                notices.push(format!("{matches} matches limit reached"));
                notices.push(format!("Use limit={} for more, or refine pattern", args.limit.saturating_mul(2)));
            }
            None => {}
        }
        if shortened {
            notices.push(format!("Some lines truncated to {MAX_LINE_CHARS} chars"));
            notices.push("Use read to see full lines".to_owned());
        }
        walk::finish(page.text, notices, &self.skipped)
    }
}

/// A file that cannot be read any further once the call is cancelled.
struct Cancellable<'c> {
    inner: File,
    ctx: &'c Context,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ctx.check_cancelled().map_err(io::Error::other)?;
        self.inner.read(buf)
    }
}
