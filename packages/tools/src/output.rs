//! Limits of a result, and cutting text to them. Shared by every tool.
//!
//! Owns: [`MAX_LINES`], [`MAX_BYTES`], cutting from either end, sizes in words, the text of a finished command.
//! Must not know files.

mod bash;

pub use bash::{BashEnd, format_bash};

/// Lines of one result.
pub const MAX_LINES: usize = 2_000;
/// Bytes of one result.
pub const MAX_BYTES: usize = 51_200;

/// Which limit cut a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`MAX_LINES`].
    Lines,
    /// [`MAX_BYTES`].
    Bytes,
}

/// A text cut to [`MAX_LINES`] and [`MAX_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut<'a> {
    /// What is left: whole lines, without the line break after the last of them if anything was cut there.
    pub text: &'a str,
    /// Lines in `text`.
    pub lines: usize,
    /// Lines in the whole text.
    pub total_lines: usize,
    /// The limit that was reached first; `None` if nothing was cut.
    pub limit: Option<Limit>,
    /// `text` is a part of one line that alone is longer than the limit.
    pub partial_line: bool,
}

/// Lines of a text. A line break at its end starts no further line.
fn count_lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count() + usize::from(!text.is_empty() && !text.ends_with('\n'))
}

/// Keeps the beginning.
#[must_use]
pub fn head(text: &str) -> Cut<'_> {
    let total_lines = count_lines(text);
    let body = text.strip_suffix('\n').unwrap_or(text);
    if total_lines <= MAX_LINES && text.len() <= MAX_BYTES {
        return Cut { text, lines: total_lines, total_lines, limit: None, partial_line: false };
    }
    let (mut end, mut lines, mut start) = (0, 0, 0);
    for line in body.split('\n') {
        if lines == MAX_LINES {
            return Cut { text: &text[..end], lines, total_lines, limit: Some(Limit::Lines), partial_line: false };
        }
        if start + line.len() > MAX_BYTES {
            break;
        }
        end = start + line.len();
        start = end + 1;
        lines += 1;
    }
    if lines == 0 {
        let end = text.floor_char_boundary(MAX_BYTES);
        return Cut { text: &text[..end], lines: 1, total_lines, limit: Some(Limit::Bytes), partial_line: true };
    }
    // Only the last line break may not have fitted.
    let limit = (lines < total_lines).then_some(Limit::Bytes);
    Cut { text: &text[..end], lines, total_lines, limit, partial_line: false }
}

/// Keeps the end. A line break at the very end is not part of the result.
#[must_use]
pub fn tail(text: &str) -> Cut<'_> {
    let total_lines = count_lines(text);
    let body = text.strip_suffix('\n').unwrap_or(text);
    if total_lines <= MAX_LINES && body.len() <= MAX_BYTES {
        return Cut { text: body, lines: total_lines, total_lines, limit: None, partial_line: false };
    }
    let (mut start, mut lines, mut end) = (body.len(), 0, body.len());
    for line in body.rsplit('\n') {
        if lines == MAX_LINES {
            return Cut { text: &body[start..], lines, total_lines, limit: Some(Limit::Lines), partial_line: false };
        }
        let from = end - line.len();
        if body.len() - from > MAX_BYTES {
            break;
        }
        start = from;
        end = from.saturating_sub(1);
        lines += 1;
    }
    if lines == 0 {
        let start = body.ceil_char_boundary(body.len() - MAX_BYTES);
        return Cut { text: &body[start..], lines: 1, total_lines, limit: Some(Limit::Bytes), partial_line: true };
    }
    Cut { text: &body[start..], lines, total_lines, limit: Some(Limit::Bytes), partial_line: false }
}

/// A size as a person writes it: `312B`, `50.0KB`, `1.5MB`, `1.0GB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    #[allow(clippy::cast_precision_loss)] // one digit after the point is shown
    let mut n = bytes as f64 / 1024.0;
    let mut unit = 0;
    while n >= 1024.0 && unit + 1 < UNITS.len() {
        n /= 1024.0;
        unit += 1;
    }
    format!("{n:.1}{}", UNITS[unit])
}

/// Builds a result line by line and refuses the line that would go over a limit.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) text: String,
    pub(crate) lines: usize,
    /// Set by the line that did not fit; every later one is refused too.
    pub(crate) full: Option<Limit>,
}

impl Page {
    /// Adds a line (without its line break); `false` if the page is full.
    pub(crate) fn push(&mut self, line: &str) -> bool {
        let break_before = usize::from(self.lines > 0);
        if self.full.is_none() {
            if self.lines == MAX_LINES {
                self.full = Some(Limit::Lines);
            } else if self.text.len() + break_before + line.len() > MAX_BYTES {
                self.full = Some(Limit::Bytes);
            }
        }
        if self.full.is_some() {
            return false;
        }
        if break_before == 1 {
            self.text.push('\n');
        }
        self.text.push_str(line);
        self.lines += 1;
        true
    }
}

/// Puts notices under a text, in one pair of brackets.
pub(crate) fn with_notices(mut text: String, notices: &[String]) -> String {
    if !notices.is_empty() {
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push('[');
        text.push_str(&notices.join(". "));
        text.push(']');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_written_with_one_digit() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (51_200, "50.0KB"),
            (1_572_864, "1.5MB"),
            (1 << 30, "1.0GB"),
            (u64::MAX, "16777216.0TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_text_within_the_limits_is_left_alone() {
        for text in ["", "a", "a\n", "\n", "\n\n", "a\nb"] {
            let cut = head(text);
            assert_eq!((cut.text, cut.limit), (text, None));
            let cut = tail(text);
            assert_eq!((cut.text, cut.limit), (text.strip_suffix('\n').unwrap_or(text), None));
        }
    }

    #[test]
    fn a_single_line_over_the_limit_is_cut_at_a_character() {
        let text = format!("{}é{}", "x".repeat(MAX_BYTES - 1), "y".repeat(MAX_BYTES - 1));
        let cut = head(&text);
        assert_eq!(cut.text, "x".repeat(MAX_BYTES - 1));
        assert!(cut.partial_line);
        let cut = tail(&text);
        assert_eq!(cut.text, "y".repeat(MAX_BYTES - 1));
        assert!(cut.partial_line);
    }

    #[test]
    fn lines_are_counted_against_the_line_limit() {
        let text = "x\n".repeat(MAX_LINES + 1);
        for cut in [head(&text), tail(&text)] {
            assert_eq!((cut.lines, cut.total_lines, cut.limit), (MAX_LINES, MAX_LINES + 1, Some(Limit::Lines)));
            assert_eq!(cut.text, vec!["x"; MAX_LINES].join("\n"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_cut_keeps_whole_lines_within_the_limits(
            widths in proptest::collection::vec(0usize..40, 0..3000), ends in any::<bool>()
        ) {
            let lines: Vec<String> = widths.iter().map(|w| "é".repeat(*w)).collect();
            let mut text = lines.join("\n");
            if ends { text.push('\n'); }
            let all: Vec<&str> = text.strip_suffix('\n').unwrap_or(&text).split('\n').collect();
            for (cut, from_start) in [(head(&text), true), (tail(&text), false)] {
                prop_assert!(cut.text.len() <= MAX_BYTES);
                prop_assert!(cut.lines <= MAX_LINES);
                prop_assert!(!cut.partial_line);
                prop_assert_eq!(cut.limit.is_none(), cut.lines == cut.total_lines);
                if cut.lines > 0 && cut.text != text {
                    let expected = if from_start { &all[..cut.lines] } else { &all[all.len() - cut.lines..] };
                    prop_assert_eq!(cut.text.split('\n').collect::<Vec<_>>(), expected);
                }
            }
        }
    }
}
