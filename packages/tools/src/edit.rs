//! `edit`: replaces passages of a text file.
//!
//! Owns: its arguments, finding each passage exactly once, replacing all of them in one step, its texts. Whatever is
//! not replaced keeps every byte: line ends, byte order mark, odd characters.

mod diff;
mod view;

use std::io::Read;
use std::ops::Range;

use serde_json::Value;

use crate::args::Fields;
use crate::output::size;
use crate::{Answer, Context, atomic, lock, open, path};
use view::{Search, View};

/// Largest file that is edited: it is held in memory a few times over.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Replacements of one call.
const MAX_EDITS: usize = 1_000;
/// Line numbers listed of a passage that occurs more than once.
const MAX_LISTED: usize = 10;

/// One replacement as the model asked for it.
struct Edit {
    /// How errors name its fields: empty for the only one, else `edits[3].`.
    label: String,
    old: String,
    new: String,
}

struct Arguments {
    path: String,
    edits: Vec<Edit>,
}

fn arguments(input: &Value) -> Result<Arguments, String> {
    let mut fields = Fields::new("edit", input)?;
    let path = fields.required_string("path");
    let mut edits = Vec::new();
    // Some models write the array as a string that holds JSON.
    let list = match fields.take("edits") {
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Some(other) => other,
        None => Value::Array(Vec::new()),
    };
    match &list {
        Value::Array(items) if items.len() <= MAX_EDITS => {
            for (i, item) in items.iter().enumerate() {
                match (item.get("oldText").and_then(Value::as_str), item.get("newText").and_then(Value::as_str)) {
                    (Some(old), Some(new)) if item.as_object().is_some_and(|o| o.len() == 2) => {
                        edits.push(Edit { label: format!("edits[{i}]."), old: old.to_owned(), new: new.to_owned() });
                    }
                    _ => fields.problem(
                        &format!("edits[{i}]"),
                        "expected an object with the strings oldText and newText and nothing else",
                    ),
                }
            }
        }
        Value::Array(items) => fields.problem("edits", format!("{} edits, at most {MAX_EDITS} allowed", items.len())),
        _ => fields.problem("edits", "expected an array of {oldText, newText}"),
    }
    match (fields.string("oldText"), fields.string("newText")) {
        (Some(old), Some(new)) => edits.push(Edit { label: String::new(), old, new }),
        (None, None) if edits.is_empty() && fields.is_clean() => {
            fields.problem("edits", "required, expected an array of {oldText, newText} with at least one entry");
        }
        (None, None) => {}
        (Some(_), None) => fields.problem("newText", "required beside oldText, expected a string"),
        (None, Some(_)) => fields.problem("oldText", "required beside newText, expected a string"),
    }
    fields.finish()?;
    if let [only] = &mut edits[..] {
        only.label.clear();
    }
    for edit in &edits {
        if edit.old.is_empty() {
            return Err(format!(
                "{}oldText must not be empty. Use write to create or replace a whole file.",
                edit.label
            ));
        }
    }
    Ok(Arguments { path, edits })
}

pub(crate) fn run(input: &Value, ctx: &Context) -> Answer {
    let args = arguments(input)?;
    let target = path::resolve(ctx, &args.path)?;
    let _lock = lock::for_change(ctx, &args.path, &target)?;
    let (file, meta) = open::regular(ctx, &args.path, &target)?;
    if meta.len() > MAX_FILE {
        return Err(too_large(&args.path, meta.len()));
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| path::failure(ctx, "read", &args.path, &target, &e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large(&args.path, bytes.len() as u64));
    }
    let original = String::from_utf8(bytes).map_err(|e| {
        format!(
            "{} is not UTF-8 text (byte {} cannot be read as such). edit works on UTF-8 text only: use bash instead.",
            args.path,
            e.utf8_error().valid_up_to()
        )
    })?;
    let done = apply(&args, &original)?;
    ctx.check_cancelled()?;
    atomic::replace(ctx, &args.path, &target, done.text.as_bytes())?;

    let blocks = if args.edits.len() == 1 { "1 block".to_owned() } else { format!("{} blocks", args.edits.len()) };
    let mut text = format!("Successfully replaced {blocks} in {}.", args.path);
    if done.loosely {
        text.push_str(
            " The text was found only without regard to trailing spaces and the kind of quotes, dashes and spaces.",
        );
    }
    text.push_str("\n\n");
    text.push_str(&diff::unified(&original, &done.text));
    Ok(text)
}

/// The text with all edits made.
struct Done {
    text: String,
    /// At least one passage was not there to the letter.
    loosely: bool,
}

fn apply(args: &Arguments, original: &str) -> Result<Done, String> {
    let body = original.strip_prefix('\u{feff}').unwrap_or(original);
    let mark = &original[..original.len() - body.len()];
    let exact = View::exact(body);
    let mut loose = None;
    let mut loosely = false;
    let mut places: Vec<(Range<usize>, &Edit)> = Vec::new();
    for edit in &args.edits {
        let old = edit.old.strip_prefix('\u{feff}').unwrap_or(&edit.old);
        let place = match exact.find(&View::exact(old)) {
            Search::Nothing => {
                loosely = true;
                loose.get_or_insert_with(|| View::loose(body)).find(&View::loose(old))
            }
            found => found,
        };
        match place {
            Search::Once(range) => places.push((range, edit)),
            Search::Nothing => return Err(not_found(args, edit, body)),
            Search::Often { count, first } => return Err(ambiguous(args, edit, body, count, &first)),
        }
    }
    places.sort_by_key(|(range, _)| range.start);
    for pair in places.windows(2) {
        if let [(a, first), (b, second)] = pair
            && a.end > b.start
        {
            return Err(format!(
                "{}oldText and {}oldText overlap in {} (lines {} and {}). Merge them into one edit.",
                first.label,
                second.label,
                args.path,
                line_number(body, a.start),
                line_number(body, b.start)
            ));
        }
    }
    let crlf = uses_crlf(body);
    let mut text = String::with_capacity(original.len());
    text.push_str(mark);
    let mut copied = 0;
    for (range, edit) in places {
        text.push_str(&body[copied..range.start]);
        let new = edit.new.strip_prefix('\u{feff}').unwrap_or(&edit.new).replace("\r\n", "\n");
        text.push_str(&if crlf { new.replace('\n', "\r\n") } else { new });
        copied = range.end;
    }
    text.push_str(&body[copied..]);
    if text == original {
        return Err(format!(
            "No changes made to {}. The replacement is identical to the text that is there.",
            args.path
        ));
    }
    Ok(Done { text, loosely })
}

/// Whether most lines end as on Windows; new lines then do too.
fn uses_crlf(text: &str) -> bool {
    let all = text.bytes().filter(|b| *b == b'\n').count();
    text.matches("\r\n").count() * 2 > all
}

fn line_number(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

fn too_large(given: &str, bytes: u64) -> String {
    format!(
        "{given} is too large to edit ({}, at most {}). Use bash, for instance sed -i.",
        size(bytes),
        size(MAX_FILE)
    )
}

fn not_found(args: &Arguments, edit: &Edit, body: &str) -> String {
    let mut text = format!(
        "Could not find {}oldText in {}. It must match the file exactly, including all whitespace and line breaks.",
        edit.label, args.path
    );
    // A first line that does occur is where the model should look.
    let first = edit.old.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let at = body.lines().position(|line| !first.is_empty() && line.trim() == first);
    match at {
        Some(at) => text.push_str(&format!(
            " Its first line is at line {}: read the file from there and copy the text as it is.",
            at + 1
        )),
        None => text.push_str(" Read the file again and copy the text as it is."),
    }
    text
}

fn ambiguous(args: &Arguments, edit: &Edit, body: &str, count: usize, first: &[usize]) -> String {
    let lines: Vec<String> = first.iter().map(|at| line_number(body, *at).to_string()).collect();
    let more = if count > lines.len() { ", …" } else { "" };
    format!(
        "Found {count} occurrences of {}oldText in {}, at lines {}{more}. It must be unique: add lines around it to \
         oldText until it is.",
        edit.label,
        args.path,
        lines.join(", ")
    )
}
