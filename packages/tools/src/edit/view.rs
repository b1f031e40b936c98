//! A text as `edit` compares it, and the way back to the bytes it was made from.
//!
//! Owns: what counts as the same text, finding a passage. Must not know files or replacements.

use std::borrow::Cow;
use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;

use super::MAX_LISTED;

/// A text in normal form, and which part of it stands for which part of the original.
pub(super) struct View<'a> {
    text: Cow<'a, str>,
    /// In order, from the first byte to the last; empty if the two texts are the same.
    segments: Vec<Segment>,
    /// Spaces were dropped from the end of a last line that no line break ends.
    trimmed_end: bool,
}

/// Neighbouring bytes of the text and where they are from.
struct Segment {
    /// Where it begins in the text.
    at: usize,
    /// What it stands for.
    original: Range<usize>,
    /// It is a copy of the original; else something else written for it, to be replaced as a whole or not at all.
    is_copy: bool,
}

/// How often a passage occurs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    Nothing,
    /// At this place of the original.
    Once(Range<usize>),
    /// Where it begins, up to [`MAX_LISTED`] times.
    Often {
        count: usize,
        first: Vec<usize>,
    },
}

impl<'a> View<'a> {
    /// The text to the letter, except that `\r\n` and `\n` are the same.
    pub(super) fn exact(original: &'a str) -> Self {
        if !original.contains("\r\n") {
            return Self { text: Cow::Borrowed(original), segments: Vec::new(), trimmed_end: false };
        }
        let mut view = Builder::new(original.len());
        for (at, line) in lines(original) {
            let (body, line_end) = split_line_end(line);
            view.copy(body, at);
            view.line_end(line_end, at + body.len());
        }
        view.done(false)
    }

    /// Without regard to spaces at line ends, compatibility forms (NFKC), and the kind of quotes, dashes and spaces.
    pub(super) fn loose(original: &'a str) -> Self {
        let mut view = Builder::new(original.len());
        let mut trimmed_end = false;
        for (at, line) in lines(original) {
            let (body, line_end) = split_line_end(line);
            let trimmed = body.trim_end();
            view.normalise(trimmed, at);
            view.line_end(line_end, at + body.len());
            trimmed_end = line_end.is_empty() && trimmed.len() < body.len();
        }
        view.done(trimmed_end)
    }

    /// Looks for `needle` (a view of the same kind).
    pub(super) fn find(&self, needle: &View<'_>) -> Search {
        let Some(first) = self.next(needle, 0) else { return Search::Nothing };
        // From the next character on, so that `aa` is not taken to be unique in `aaa`.
        let width = self.text[first.start..].chars().next().map_or(1, char::len_utf8);
        if self.next(needle, first.start + width).is_none() {
            return Search::Once(self.to_original(&first));
        }
        let (mut count, mut listed, mut from) = (0, Vec::new(), 0);
        while let Some(found) = self.next(needle, from) {
            count += 1;
            if listed.len() < MAX_LISTED {
                listed.push(self.to_original(&found).start);
            }
            from = found.end;
        }
        // Occurrences that overlap are still two.
        Search::Often { count: count.max(2), first: listed }
    }

    /// The next occurrence at or after `from` that can be cut out of the original.
    fn next(&self, needle: &View<'_>, mut from: usize) -> Option<Range<usize>> {
        if needle.text.is_empty() {
            return None;
        }
        loop {
            let start = from + self.text.get(from..)?.find(&*needle.text)?;
            let end = start + needle.text.len();
            // What was dropped from the end of the needle must be at a line end here too: `return ` is not in
            // `returned`.
            let ends_well = !needle.trimmed_end || matches!(self.text.as_bytes().get(end), None | Some(b'\n'));
            if ends_well && self.is_border(start) && self.is_border(end) {
                return Some(start..end);
            }
            from = start + self.text[start..].chars().next().map_or(1, char::len_utf8);
        }
    }

    /// The segment that byte `at` of the text belongs to.
    fn segment(&self, at: usize) -> Option<&Segment> {
        self.segments.get(self.segments.partition_point(|s| s.at <= at).checked_sub(1)?)
    }

    fn is_border(&self, at: usize) -> bool {
        at == self.text.len() || self.segment(at).is_none_or(|s| s.is_copy || s.at == at)
    }

    fn to_original(&self, range: &Range<usize>) -> Range<usize> {
        let start = self.segment(range.start).map_or(range.start, |s| s.original.start + (range.start - s.at));
        let end = self
            .segment(range.end - 1)
            .map_or(range.end, |s| if s.is_copy { s.original.start + (range.end - s.at) } else { s.original.end });
        start..end
    }
}

/// Lines with their ends, and where they begin.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        (start, line)
    })
}

fn split_line_end(line: &str) -> (&str, &str) {
    let body = line.strip_suffix('\n').map_or(line, |rest| rest.strip_suffix('\r').unwrap_or(rest));
    line.split_at(body.len())
}

struct Builder {
    text: String,
    segments: Vec<Segment>,
}

impl Builder {
    fn new(size: usize) -> Self {
        Self { text: String::with_capacity(size), segments: Vec::new() }
    }

    /// Takes over `part`, which begins at `at` in the original.
    fn copy(&mut self, part: &str, at: usize) {
        if part.is_empty() {
            return;
        }
        match self.segments.last_mut() {
            Some(last) if last.is_copy && last.original.end == at => last.original.end += part.len(),
            _ => self.segments.push(Segment { at: self.text.len(), original: at..at + part.len(), is_copy: true }),
        }
        self.text.push_str(part);
    }

    /// Writes `text` for `part`, which begins at `at` in the original.
    fn stand_in(&mut self, text: &str, part: &str, at: usize) {
        if text == part {
            self.copy(part, at);
        } else if !text.is_empty() {
            self.segments.push(Segment { at: self.text.len(), original: at..at + part.len(), is_copy: false });
            self.text.push_str(text);
        }
    }

    fn line_end(&mut self, line_end: &str, at: usize) {
        if !line_end.is_empty() {
            self.stand_in("\n", line_end, at);
        }
    }

    /// Brings `part` into normal form; a character and its combining marks are taken as one.
    fn normalise(&mut self, part: &str, at: usize) {
        let mut rest = part;
        while let Some(first) = rest.chars().next() {
            let here = at + (part.len() - rest.len());
            let ascii = rest.bytes().take_while(u8::is_ascii).count();
            let whole_ascii = if ascii == rest.len() { ascii } else { ascii.saturating_sub(1) };
            if whole_ascii > 0 {
                // All but the last of them, which a combining mark may follow.
                let (plain, after) = rest.split_at(whole_ascii);
                self.copy(plain, here);
                rest = after;
                continue;
            }
            let marks = rest[first.len_utf8()..].chars().take_while(|c| canonical_combining_class(*c) != 0);
            let length = first.len_utf8() + marks.map(char::len_utf8).sum::<usize>();
            let (cluster, after) = rest.split_at(length);
            // Quotes and spaces first: the normal form of some of them is made of other characters.
            let normal: String = cluster.chars().map(plain).nfkc().map(plain).collect();
            self.stand_in(&normal, cluster, here);
            rest = after;
        }
    }

    fn done(self, trimmed_end: bool) -> View<'static> {
        View { text: Cow::Owned(self.text), segments: self.segments, trimmed_end }
    }
}

/// What a keyboard would have typed.
fn plain(c: char) -> char {
    match c {
        '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        c => c,
    }
}
