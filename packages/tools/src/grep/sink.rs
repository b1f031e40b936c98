//! Collects what the searcher finds into one page of text.
//!
//! Owns: the shape of a line (`path:12: text`, context as `path-11- text`, `--` between groups), the match limit,
//! the length of a line. Must not know which files are searched.

use std::io;

use grep_searcher::{Searcher, Sink, SinkContext, SinkContextKind, SinkFinish, SinkMatch};

use crate::output::Page;

/// Characters shown of a line.
pub(super) const MAX_LINE_CHARS: usize = 500;

/// What was found so far.
pub(super) struct Found {
    pub(super) page: Page,
    pub(super) matches: usize,
    pub(super) matches_in_file: usize,
    /// There is a match beyond the limit.
    pub(super) more: bool,
    /// A line was longer than [`MAX_LINE_CHARS`].
    pub(super) shortened: bool,
    /// The current file holds a NUL byte; it was not searched further.
    pub(super) binary: bool,
    limit: usize,
    has_context: bool,
    path: String,
    /// A `--` is due before the next line.
    gap: bool,
}

impl Found {
    pub(super) fn new(limit: usize, has_context: bool) -> Self {
        Self {
            page: Page::default(),
            matches: 0,
            matches_in_file: 0,
            more: false,
            shortened: false,
            binary: false,
            limit,
            has_context,
            path: String::new(),
            gap: false,
        }
    }

    pub(super) fn begin_file(&mut self, path: String) {
        self.path = path;
        self.matches_in_file = 0;
        self.binary = false;
        self.gap = self.has_context && self.page.lines > 0;
    }

    /// Nothing more can be added.
    pub(super) fn is_over(&self) -> bool {
        self.more || self.page.full.is_some()
    }

    fn push(&mut self, separator: char, number: Option<u64>, bytes: &[u8]) -> bool {
        if std::mem::take(&mut self.gap) && !self.page.push("--") {
            return false;
        }
        let (text, shortened) = shorten(bytes);
        self.shortened |= shortened;
        let number = number.unwrap_or(0);
        self.page.push(&format!("{}{separator}{number}{separator} {text}", self.path))
    }
}

impl Sink for Found {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        if self.matches == self.limit {
            self.more = true;
            return Ok(false);
        }
        if !self.push(':', found.line_number(), found.bytes()) {
            return Ok(false);
        }
        self.matches += 1;
        self.matches_in_file += 1;
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, io::Error> {
        // Belongs to a match that will not be shown.
        if self.matches == self.limit && *context.kind() == SinkContextKind::Before {
            return Ok(true);
        }
        Ok(self.push('-', context.line_number(), context.bytes()))
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, io::Error> {
        self.gap = self.page.lines > 0;
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> Result<bool, io::Error> {
        self.binary = true;
        Ok(false)
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> Result<(), io::Error> {
        self.binary |= finish.binary_byte_offset().is_some();
        Ok(())
    }
}

/// A line without its end, at most [`MAX_LINE_CHARS`] long, and whether something was cut.
fn shorten(bytes: &[u8]) -> (String, bool) {
    // As many bytes as so many characters can have, and one more character.
    let enough = &bytes[..bytes.len().min((MAX_LINE_CHARS + 1) * 4)];
    let text = String::from_utf8_lossy(enough);
    let text = text.trim_end_matches(['\n', '\r']);
    match text.char_indices().nth(MAX_LINE_CHARS) {
        Some((end, _)) => (format!("{}... [truncated]", &text[..end]), true),
        None => (text.to_owned(), false),
    }
}
