//! The text of a finished command.
//!
//! Owns: the wording of exit codes, signals, timeouts and cut output. Must not know how a command is run or stored.

use super::{Cut, Limit, MAX_BYTES, size, tail};
use crate::Output;

/// How a command ended and what is known of its output (stdout and stderr in the order of their arrival).
#[derive(Debug, Clone, Copy, Default)]
pub struct BashEnd<'a> {
    /// Exit code, if it ended by itself.
    pub exit: Option<i32>,
    /// Signal that killed it.
    pub signal: Option<i32>,
    /// It was killed after so many seconds because its timeout had passed.
    pub timed_out_after: Option<u64>,
    /// It was cancelled.
    pub aborted: bool,
    /// The last bytes of the output. For exact results hand over at least [`MAX_BYTES`] of them, if there are so
    /// many, plus a few for a character or line cut in two; more does no harm.
    pub tail: &'a [u8],
    /// Why it was ended, if its session went beyond a limit.
    pub over: Option<&'a str>,
    /// Bytes of the whole output.
    pub total_bytes: u64,
    /// Line breaks in the whole output, plus one if something follows the last of them.
    pub total_lines: u64,
    /// Bytes that the stored output lacks because it reached its cap.
    pub missing_bytes: u64,
    /// Where the output is stored, as a path that the model can read.
    pub output_path: Option<&'a str>,
}

/// The result of a command as the model reads it: the end of the output, a notice if that is not all, and how it
/// ended if that was not exit code 0.
#[must_use]
pub fn format_bash(end: &BashEnd<'_>) -> Output {
    let given = u64::try_from(end.tail.len()).unwrap_or(u64::MAX);
    let begins_late = end.total_bytes > given;
    let clean = printable(end.tail, begins_late);
    let (cut, line_is_whole) = last_lines(&clean, begins_late);

    let mut text = cut.text.to_owned();
    let total_lines = end.total_lines.max(cut.lines as u64);
    let is_cut = cut.limit.is_some() || (begins_late && total_lines > cut.lines as u64) || !line_is_whole;
    if is_cut {
        let place = stored(end);
        let notice = if cut.partial_line || !line_is_whole {
            format!("Showing last {} of line {total_lines}. {place}", size(cut.text.len() as u64))
        } else {
            let first = total_lines - cut.lines as u64 + 1;
            let why = if cut.limit == Some(Limit::Lines) {
                String::new()
            } else {
                format!(" ({} limit)", size(MAX_BYTES as u64))
            };
            format!("Showing lines {first}-{total_lines} of {total_lines}{why}. {place}")
        };
        text = super::with_notices(text, &[notice]);
    }
    let ending = ending(end);
    match (&ending, text.is_empty()) {
        (Some(ending), true) if end.exit.is_none() => text.clone_from(ending),
        (Some(ending), true) => text = format!("(no output)\n\n{ending}"),
        (Some(ending), false) => text = format!("{text}\n\n{ending}"),
        (None, true) => "(no output)".clone_into(&mut text),
        (None, false) => {}
    }
    Output { text, image: None, is_error: ending.is_some() }
}

/// The last lines that are whole, and whether the last line is (it is not if its beginning is not in `clean`).
fn last_lines(clean: &str, begins_late: bool) -> (Cut<'_>, bool) {
    if !begins_late {
        return (tail(clean), true);
    }
    match clean.split_once('\n') {
        // The line before the break may have begun earlier.
        Some((_, rest)) if !rest.is_empty() => (tail(rest), true),
        _ => (tail(clean), false),
    }
}

fn stored(end: &BashEnd<'_>) -> String {
    match (end.output_path, end.missing_bytes) {
        (Some(path), 0) => format!("Full output: {path}"),
        (Some(path), n) => {
            format!("Output: {path} (incomplete: {} were not stored because the output is too large)", size(n))
        }
        (None, _) => "The rest was not stored; redirect the output to a file if you need it".to_owned(),
    }
}

/// What is said of the end, unless all is well.
fn ending(end: &BashEnd<'_>) -> Option<String> {
    if let Some(why) = end.over {
        return Some(format!("Command was ended. {why}"));
    }
    if end.aborted {
        return Some("Command aborted".to_owned());
    }
    if let Some(seconds) = end.timed_out_after {
        let plural = if seconds == 1 { "" } else { "s" };
        return Some(format!("Command timed out after {seconds} second{plural}"));
    }
    match (end.exit, end.signal) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("Command exited with code {code}")),
        (None, Some(signal)) => Some(format!("Command was killed by signal {signal}{}", signal_name(signal))),
        (None, None) => Some("Command ended, but its exit code is not known".to_owned()),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => " (SIGHUP)",
        libc::SIGINT => " (SIGINT)",
        libc::SIGQUIT => " (SIGQUIT)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGTRAP => " (SIGTRAP)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGKILL => " (SIGKILL, possibly out of memory)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGPIPE => " (SIGPIPE)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGXCPU => " (SIGXCPU)",
        libc::SIGXFSZ => " (SIGXFSZ, file size limit)",
        libc::SIGSYS => " (SIGSYS, a system call that the sandbox does not allow)",
        _ => "",
    }
}

/// Text as a terminal would leave it: invalid UTF-8 replaced, escape sequences and other control characters taken
/// out. They carry nothing for a model, and some providers refuse NUL.
fn printable(bytes: &[u8], begins_late: bool) -> String {
    let mut bytes = bytes;
    if begins_late {
        // The first bytes may be the end of a character that was cut in two.
        let broken = bytes.iter().take(3).take_while(|b| (0x80..0xC0).contains(*b)).count();
        bytes = &bytes[broken..];
    }
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\t' | '\r' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Skips what follows ESC. A sequence never reaches over a line break, so that a stray ESC hides no output.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            while let Some(&c) = chars.peek() {
                if !(' '..='~').contains(&c) {
                    return;
                }
                chars.next();
                if ('@'..='~').contains(&c) {
                    return;
                }
            }
        }
        // An operating system command (a window title, a link) ends with BEL or ESC \.
        Some(']') => {
            while let Some(&c) = chars.peek() {
                if c == '\n' {
                    return;
                }
                chars.next();
                if c == '\u{7}' {
                    return;
                }
                if c == '\u{1b}' {
                    if chars.peek() == Some(&'\\') {
                        chars.next();
                    }
                    return;
                }
            }
        }
        Some('(' | ')') => {
            chars.next();
            if chars.peek().is_some_and(|c| *c != '\n') {
                chars.next();
            }
        }
        Some(c) if (' '..='~').contains(c) => {
            chars.next();
        }
        _ => {}
    }
}
