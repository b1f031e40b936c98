//! `read`: a page of a text file, streamed, or a picture.
//!
//! Owns: paging, its notices, describing what is no text. Holds one page in memory at most, whatever the file's size.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::args::Fields;
use crate::image::{self, Image};
use crate::lines::{Count, Line, LineReader, Stop};
use crate::output::{Limit, MAX_BYTES, MAX_LINES, Page, size};
use crate::sniff::{self, Kind};
use crate::{Answer, CANCELLED, Context, open, path};

/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;
/// Bytes looked at behind a page to say how many lines there are, or how long an over-long line is.
const MAX_LOOK_AHEAD: u64 = 64 * 1024 * 1024;

struct Arguments {
    path: String,
    /// First line, from 1.
    offset: u64,
    limit: Option<u64>,
}

fn arguments(input: &Value) -> Result<Arguments, String> {
    let mut fields = Fields::new("read", input)?;
    let path = fields.required_string("path");
    let offset = fields.count("offset", 1).unwrap_or(1);
    let limit = fields.count("limit", 1);
    fields.finish()?;
    Ok(Arguments { path, offset, limit })
}

pub(crate) fn run(input: &Value, ctx: &Context) -> Result<(String, Option<Image>), String> {
    let args = arguments(input)?;
    let target = path::resolve(ctx, &args.path)?;
    let (file, meta) = open::regular(ctx, &args.path, &target)?;
    let failed = |e: &io::Error| path::failure(ctx, "read", &args.path, &target, e);
    let kind = kind(&file).map_err(|e| failed(&e))?;
    if let Kind::Image(media_type) = kind
        && image::is_shown(media_type)
    {
        return image::read(&file, meta.len(), &args.path, media_type).map_err(|e| failed(&e));
    }
    if kind != Kind::Text {
        return Ok((no_text(kind, &args.path, meta.len()), None));
    }
    let mut reader = LineReader::new(BufReader::with_capacity(BUFFER, file), &ctx.cancelled);
    let explain = |stop| match stop {
        Stop::Cancelled => CANCELLED.to_owned(),
        Stop::Io(e) => failed(&e),
    };
    page(&mut reader, &args).map_err(explain)?.map(|text| (text, None))
}

/// What the file is, by its first bytes. Leaves its offset where it is.
fn kind(file: &File) -> io::Result<Kind> {
    let mut head = [0; sniff::HEAD];
    let mut got = 0;
    while got < head.len() {
        match file.read_at(&mut head[got..], got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sniff::kind(&head[..got]))
}

/// What is said instead of dumping bytes that are no text.
fn no_text(kind: Kind, given: &str, bytes: u64) -> String {
    let word = path::shell_word(given);
    let size = size(bytes);
    match kind {
        Kind::Image(mime) => format!("[{given} is an image ({mime}, {size}). It cannot be shown as text.]"),
        Kind::Utf16 => format!(
            "[{given} is UTF-16 text ({size}). It cannot be shown as it is. Use bash: iconv -f UTF-16 -t UTF-8 {word}]"
        ),
        Kind::Binary(mime) => format!(
            "[{given} is a binary file ({mime}, {size}). It cannot be shown as text. \
             Use bash to look into it: od -A d -t x1z {word} | head -n 50]"
        ),
        Kind::Text => String::new(),
    }
}

/// Why a page ended before the file did.
enum End {
    /// The caller's own `limit`.
    Asked,
    Limit(Limit),
    /// The next line alone is longer than a page; its length.
    LongLine(Count),
}

fn page(reader: &mut LineReader<'_, BufReader<File>>, args: &Arguments) -> Result<Answer, Stop> {
    let before = args.offset - 1;
    let skipped = reader.skip(before)?;
    if skipped < before || (before > 0 && reader.peek()?.is_empty()) {
        return Ok(Err(beyond_end(args, skipped)));
    }
    let mut page = Page::default();
    let mut line = Vec::new();
    let mut last_ended = false;
    // Lines read but not shown: at most the one that did not fit.
    let mut unshown = 0;
    let end = loop {
        if args.limit.is_some_and(|limit| page.lines as u64 >= limit) {
            break End::Asked;
        }
        if page.lines == MAX_LINES {
            break End::Limit(Limit::Lines);
        }
        match reader.line(MAX_BYTES, &mut line)? {
            Line::End => {
                if last_ended && page.text.len() < MAX_BYTES {
                    page.text.push('\n');
                }
                let empty = page.lines == 0;
                return Ok(Ok(if empty { "(empty file)".to_owned() } else { page.text }));
            }
            Line::Whole { ended } => {
                let text = String::from_utf8_lossy(&line);
                if !page.push(&text) {
                    unshown = 1;
                    let long = text.len() > MAX_BYTES;
                    let length = Count::Exact(line.len() as u64);
                    break if long { End::LongLine(length) } else { End::Limit(Limit::Bytes) };
                }
                last_ended = ended;
            }
            Line::TooLong => {
                unshown = 1;
                let seen = line.len() as u64;
                let length = match reader.rest_of_line(MAX_LOOK_AHEAD)? {
                    Count::Exact(rest) => Count::Exact(seen + rest),
                    Count::AtLeast(rest) => Count::AtLeast(seen + rest),
                };
                break End::LongLine(length);
            }
        }
    };
    let shown_to = before + page.lines as u64;
    let rest = match end {
        // The end of that line was not found, so nothing is known of what follows.
        End::LongLine(Count::AtLeast(_)) => Count::AtLeast(1),
        _ => match reader.count_rest(MAX_LOOK_AHEAD)? {
            Count::Exact(n) => Count::Exact(n + unshown),
            Count::AtLeast(n) => Count::AtLeast(n + unshown),
        },
    };
    if rest == Count::Exact(0) {
        if last_ended && page.text.len() < MAX_BYTES {
            page.text.push('\n');
        }
        return Ok(Ok(page.text));
    }
    Ok(Ok(with_notice(page, args, shown_to, &end, rest)))
}

fn with_notice(page: Page, args: &Arguments, shown_to: u64, end: &End, rest: Count) -> String {
    let next = shown_to + 1;
    let first = args.offset;
    let total = match rest {
        Count::Exact(n) => (shown_to + n).to_string(),
        Count::AtLeast(n) => format!("at least {}", shown_to + n),
    };
    let byte_limit = size(MAX_BYTES as u64);
    let showing = format!("Showing lines {first}-{shown_to} of {total}");
    let notice = match end {
        End::Asked => {
            let (at_least, n) = match rest {
                Count::Exact(n) => ("", n),
                Count::AtLeast(n) => ("At least ", n),
            };
            let plural = if n == 1 { "" } else { "s" };
            format!("{at_least}{n} more line{plural} in file. Use offset={next} to continue.")
        }
        End::Limit(Limit::Lines) => format!("{showing}. Use offset={next} to continue."),
        End::Limit(Limit::Bytes) => format!("{showing} ({byte_limit} limit). Use offset={next} to continue."),
        End::LongLine(length) => {
            let word = path::shell_word(&args.path);
            let (length, line) = match length {
                Count::Exact(n) => (size(*n), format!("sed -n '{next}p;{next}q' {word}")),
                // sed would hold the whole line in memory.
                Count::AtLeast(n) => (format!("more than {}", size(*n)), format!("tail -n +{next} {word}")),
            };
            let hint =
                format!("Line {next} is {length}, exceeds {byte_limit} limit. Use bash: {line} | head -c {MAX_BYTES}");
            let after = match rest {
                Count::Exact(1) | Count::AtLeast(1) => String::new(),
                _ => format!(" (or offset={} to go on after it)", next + 1),
            };
            if page.lines == 0 { format!("{hint}{after}") } else { format!("{showing}. {hint}{after}") }
        }
    };
    let gap = if page.lines == 0 { "" } else { "\n\n" };
    format!("{}{gap}[{notice}]", page.text)
}

fn beyond_end(args: &Arguments, lines: u64) -> String {
    let (path, offset) = (&args.path, args.offset);
    match lines {
        0 => format!("Offset {offset} is beyond end of file: {path} is empty."),
        1 => format!("Offset {offset} is beyond end of file: {path} has 1 line."),
        n => format!("Offset {offset} is beyond end of file: {path} has {n} lines. Use an offset between 1 and {n}."),
    }
}
