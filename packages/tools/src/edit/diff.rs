//! The change that an edit made, as a bounded unified diff.

use std::fmt::Write;
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

/// Lines around each change.
const CONTEXT: usize = 3;
/// Lines of a diff.
const MAX_DIFF_LINES: usize = 120;
/// Characters of a line of a diff.
const MAX_LINE_CHARS: usize = 200;
/// After this long the diff is finished roughly: it may then show more as changed than was.
const PATIENCE: Duration = Duration::from_millis(300);

/// The difference between two texts. Line ends are not shown, so that a changed line is all that is seen of it.
pub(super) fn unified(old: &str, new: &str) -> String {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    let (mut out, mut lines, mut left_out) = (String::new(), 0usize, 0usize);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT);
    for hunk in unified.iter_hunks() {
        if lines < MAX_DIFF_LINES {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}", hunk.header().to_string().trim_end());
        }
        for change in hunk.iter_changes() {
            if lines >= MAX_DIFF_LINES {
                left_out += 1;
                continue;
            }
            lines += 1;
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let text = change.value().trim_end_matches(['\n', '\r']);
            match text.char_indices().nth(MAX_LINE_CHARS) {
                Some((end, _)) => {
                    let _ = writeln!(out, "{sign}{}... [truncated]", &text[..end]);
                }
                None => {
                    let _ = writeln!(out, "{sign}{text}");
                }
            }
        }
    }
    if left_out > 0 {
        let _ = writeln!(out, "[{left_out} more lines of the diff not shown]");
    }
    out.truncate(out.trim_end().len());
    out
}
