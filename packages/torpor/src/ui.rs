//! How commands talk to people: colours only on a terminal, tables, one line of progress, and foreign text made
//! harmless. Must not know: what is talked about.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use serde_json::Value;

/// `println!` for commands: a reader that has gone (`torpor runs list | head`) is no error.
macro_rules! say {
    ($($text:tt)*) => { $crate::ui::print(format_args!($($text)*)) };
}
pub(crate) use say;

/// One line on standard output; see [`say`].
pub(crate) fn print(line: std::fmt::Arguments<'_>) {
    let written = writeln!(std::io::stdout(), "{line}");
    if written.is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        #[allow(clippy::disallowed_methods, reason = "nobody reads on: ends like a program that SIGPIPE killed")]
        std::process::exit(NOBODY_READS);
    }
}

/// Exit code of a command whose reader has gone: what shells show for SIGPIPE.
const NOBODY_READS: i32 = 141;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1_024;

/// Width that is assumed where there is no terminal to ask.
const USUAL_WIDTH: usize = 100;

/// Puts colours around text, or leaves it as it is. Standard output and standard error are asked one by one: either
/// may be a file while the other is a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    /// For standard output.
    pub(crate) fn out() -> Self {
        Self(std::io::stdout().is_terminal() && takes_colours())
    }

    /// For standard error.
    pub(crate) fn err() -> Self {
        Self(std::io::stderr().is_terminal() && takes_colours())
    }

    /// Never any colour.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(false)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Something less important.
    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// Good.
    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// Bad.
    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// Somebody should look.
    pub(crate) fn note(self, text: &str) -> String {
        self.with("33", text)
    }

    /// A status, in the colour of what it means.
    pub(crate) fn status(self, status: &str) -> String {
        match status {
            "done" | "solved" | "approve" => self.good(status),
            "failed" | "aborted" | "abort" | "reject" => self.bad(status),
            "paused" | "pending" => self.note(status),
            _ => status.to_owned(),
        }
    }
}

fn takes_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// [`Paint::bold`] for standard output.
pub(crate) fn bold(text: &str) -> String {
    Paint::out().bold(text)
}

/// [`Paint::dim`] for standard output.
pub(crate) fn dim(text: &str) -> String {
    Paint::out().dim(text)
}

/// [`Paint::good`] for standard output.
pub(crate) fn good(text: &str) -> String {
    Paint::out().good(text)
}

/// [`Paint::bad`] for standard output.
pub(crate) fn bad(text: &str) -> String {
    Paint::out().bad(text)
}

/// Foreign text as a person may safely see it: what would move the cursor, hide text or turn its direction round is
/// spelled out. Line breaks and tabs stay.
pub(crate) fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => safe.push(c),
            c if c.is_control() || is_invisible(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// Characters that show nothing or change how others are shown: marks of direction, zero-width ones, tags.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Foreign text on one line of at most `width` characters.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    // No more is looked at than can be shown: a call may hold a megabyte.
    let start: String = text.chars().take(width.saturating_mul(4)).collect();
    let flat = harmless(&start).split_whitespace().collect::<Vec<_>>().join(" ");
    let whole = start.len() == text.len() && flat.chars().count() <= width;
    if whole { flat } else { flat.chars().take(width.saturating_sub(1)).chain(['…']).collect() }
}

/// A span of time, in the units that people use.
pub(crate) fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..120 => format!("{:.0} s", time.as_secs_f64()),
        120..7_200 => format!("{} min {} s", s / 60, s % 60),
        7_200..172_800 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} days", s / 86_400),
    }
}

/// A span of time that still grows, in whole seconds.
pub(crate) fn seconds(time: Duration) -> String {
    if time.as_secs() < 120 { format!("{} s", time.as_secs()) } else { span(time) }
}

/// `2027-01-31 08:00:00Z`: seconds are enough in a list.
pub(crate) fn short_time(time: &str) -> String {
    let seconds = time.split_once('.').map_or(time, |(seconds, _)| seconds);
    format!("{}Z", seconds.trim_end_matches('Z').replacen('T', " ", 1))
}

/// A number with its noun: `1 run`, `2 runs`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Whether a person who is there says yes to something that cannot be undone.
pub(crate) fn confirm(question: &str) -> std::io::Result<bool> {
    eprint!("{} [y/N] ", harmless(question));
    let mut line = String::new();
    std::io::stdin().lock().take(MAX_ANSWER).read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// How wide a line on standard error may be.
pub(crate) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).map(|size| usize::from(size.ws_col));
    size.ok().filter(|columns| *columns > 0).unwrap_or(USUAL_WIDTH)
}

/// A column of a table: its title, the field it shows, its width (0 for the last).
pub(crate) type Column = (&'static str, &'static str, usize);

/// A table, each cell as `cell` shows that field of that row.
pub(crate) fn table(columns: &[Column], rows: &[Value], cell: impl Fn(&Value, &str) -> String) {
    header(columns);
    for each in rows {
        row(columns, |field| cell(each, field));
    }
}

/// The titles of a table.
pub(crate) fn header(columns: &[Column]) {
    let titles: Vec<_> = columns.iter().map(|column| pad(column.0, column.2)).collect();
    say!("{}", dim(titles.join("  ").trim_end()));
}

/// One row of a table. Cells are other people's words.
pub(crate) fn row(columns: &[Column], cell: impl Fn(&str) -> String) {
    let paint = Paint::out();
    let shown = |column: &Column| {
        let text = harmless(&cell(column.1));
        let padded = pad(&text, column.2);
        if column.1 == "status" { padded.replacen(&text, &paint.status(&text), 1) } else { padded }
    };
    say!("{}", columns.iter().map(shown).collect::<Vec<_>>().join("  ").trim_end());
}

fn pad(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

/// `name   value`, for the details of one thing on standard output.
pub(crate) fn detail(name: &str, value: &str) {
    say!("{} {value}", dim(&pad(name, 12)));
}

/// A line on standard error that is overwritten as things go on; silent where that is no terminal.
#[derive(Default)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Shows the state of things.
    pub(crate) fn show(&mut self, text: &str) {
        let mut err = std::io::stderr();
        if err.is_terminal() {
            let _ = write!(err, "\r\x1b[K{}", one_line(text, width().saturating_sub(1)));
            let _ = err.flush();
            self.shown = true;
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_act_on_a_terminal() {
        for (text, shown) in [
            ("plain\tü\n", "plain\tü\n"),
            ("\x1b[2Krm -rf", "\\u{1b}[2Krm -rf"),
            ("a\rb\u{8}", "a\\u{d}b\\u{8}"),
            ("\u{202e}cod\u{200b}e\u{9b}1m", "\\u{202e}cod\\u{200b}e\\u{9b}1m"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn one_line_is_one_line_of_its_width() {
        for (text, width, shown) in [
            ("short", 10, "short"),
            ("two\n  lines", 10, "two lines"),
            ("0123456789", 10, "0123456789"),
            ("0123456789a", 10, "012345678…"),
            ("a\n\n\n\n\n\n\n\n\n\nb", 2, "a…"),
        ] {
            assert_eq!(one_line(text, width), shown);
        }
    }

    #[test]
    fn spans_are_told_in_their_unit() {
        for (ms, shown) in [
            (120, "0.12 s"),
            (61_400, "61 s"),
            (125_000, "2 min 5 s"),
            (7_260_000, "2 h 1 min"),
            (200_000_000, "2 days"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), shown);
        }
    }
}
