//! From the path a model writes to the path that is opened, and what it is told when that fails.
//!
//! Owns: resolving, display, the texts of file system errors. Must not decide what may be touched: the kernel does.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::Context;

/// Directory entries looked at for a name that is close to a missing one.
const MAX_SUGGESTION_SCAN: usize = 2_000;
/// Longest name for which similar names are looked for.
const MAX_SUGGESTION_NAME: usize = 128;
/// How alike names must be, between 0 and 1.
const SUGGESTION_CUTOFF: f32 = 0.6;
/// Names suggested.
const MAX_SUGGESTIONS: usize = 3;

/// The path to open. Relative ones start at the working directory; `.` and `..` are taken out, the latter as the
/// kernel would (a `..` after a link leads to the parent of the link's target).
pub(crate) fn resolve(ctx: &Context, given: &str) -> Result<PathBuf, String> {
    if given.is_empty() {
        return Err("path must not be empty. Use . for the working directory.".to_owned());
    }
    if given.contains('\0') {
        return Err("path must not contain a NUL character.".to_owned());
    }
    let mut out = ctx.workdir.clone();
    for part in Path::new(without_mention(ctx, given)).components() {
        match part {
            Component::CurDir | Component::Prefix(_) => {}
            Component::RootDir => out = PathBuf::from("/"),
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                if out.is_symlink()
                    && let Ok(real) = out.canonicalize()
                {
                    out = real;
                }
                out.pop();
            }
        }
    }
    Ok(out)
}

/// Some models write a file as `@src/main.rs`, as users mention files to them. An existing `@types` is meant as is.
fn without_mention<'a>(ctx: &Context, given: &'a str) -> &'a str {
    match given.strip_prefix('@') {
        Some(rest) if !rest.is_empty() => {
            let first = given.split('/').next().unwrap_or(given);
            if ctx.workdir.join(first).symlink_metadata().is_ok() { given } else { rest }
        }
        _ => given,
    }
}

/// A path as the model should write it: relative inside the working directory, absolute elsewhere.
pub(crate) fn show(ctx: &Context, path: &Path) -> String {
    match path.strip_prefix(&ctx.workdir) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Ok(rest) => one_line(&rest.to_string_lossy()),
        Err(_) => one_line(&path.to_string_lossy()),
    }
}

/// A name in which nothing breaks the line: control characters are escaped as in `\n`.
pub(crate) fn one_line(name: &str) -> String {
    if !name.contains(char::is_control) {
        return name.to_owned();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(escape).collect()
}

/// A word of a shell command, quoted if it must be.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else if word.starts_with('-') {
        shell_word(&format!("./{word}"))
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What the model is told about a failed operation on `path`, which it wrote as `given`. `verb` is what was tried.
pub(crate) fn failure(ctx: &Context, verb: &str, given: &str, path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => not_found(ctx, given, path),
        io::ErrorKind::PermissionDenied if !path.starts_with(&ctx.workdir) => {
            format!("Permission denied: {given} is outside the working directory {}.", ctx.workdir.display())
        }
        io::ErrorKind::PermissionDenied => format!("Permission denied: cannot {verb} {given}."),
        io::ErrorKind::NotADirectory => {
            format!("Not a directory: a part of {given} before its last one is a file.")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("No space left: cannot {verb} {given}. Delete files that are not needed and try again.")
        }
        _ => match error.raw_os_error() {
            Some(libc::ELOOP) => format!("Cannot {verb} {given}: its symbolic links form a loop."),
            Some(libc::ENAMETOOLONG) => format!("Cannot {verb} {given}: the name is too long."),
            _ => format!("Cannot {verb} {given}: {error}."),
        },
    }
}

fn not_found(ctx: &Context, given: &str, path: &Path) -> String {
    if let Ok(target) = fs::read_link(path) {
        return format!("Path not found: {given} is a symbolic link to {}, which does not exist.", target.display());
    }
    // The first part that is missing, and the directory that lacks it.
    let mut missing = path;
    while let Some(parent) = missing.parent() {
        if parent.exists() {
            break;
        }
        missing = parent;
    }
    let mut text = format!("Path not found: {given}.");
    if missing != path {
        text.push_str(&format!(" {} does not exist.", show(ctx, missing)));
    }
    let close = close_names(missing);
    if !close.is_empty() {
        let shown: Vec<String> = close.iter().map(|name| show(ctx, &missing.with_file_name(name))).collect();
        text.push_str(&format!(" Did you mean {}?", shown.join(" or ")));
    }
    text
}

/// Names beside `missing` that resemble it, best first.
fn close_names(missing: &Path) -> Vec<String> {
    let (Some(parent), Some(name)) = (missing.parent(), missing.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy();
    if name.len() > MAX_SUGGESTION_NAME {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .take(MAX_SUGGESTION_SCAN)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|other| other.len() <= MAX_SUGGESTION_NAME)
        .collect();
    names.sort_unstable();
    if let Some(same) = names.iter().find(|other| other.to_lowercase() == name.to_lowercase()) {
        return vec![same.clone()];
    }
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let close = similar::get_close_matches(&*name, &all, MAX_SUGGESTIONS, SUGGESTION_CUTOFF);
    close.into_iter().map(str::to_owned).collect()
}
