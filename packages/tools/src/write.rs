//! `write`: a whole file.
//!
//! Owns: its arguments, creating the directories above, its text.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::args::Fields;
use crate::{Answer, Context, atomic, lock, path};

pub(crate) fn run(input: &Value, ctx: &Context) -> Answer {
    let mut fields = Fields::new("write", input)?;
    let given = fields.required_string("path");
    let content = fields.required_string("content");
    fields.finish()?;

    let target = path::resolve(ctx, &given)?;
    if given.ends_with('/') || target.is_dir() {
        return Err(format!("{given} is a directory. Give the path of a file in it."));
    }
    if let Some(parent) = target.parent() {
        create_parents(ctx, &given, parent)?;
    }
    let _lock = lock::for_change(ctx, &given, &target)?;
    atomic::replace(ctx, &given, &target, content.as_bytes())?;
    Ok(format!("Successfully wrote {} bytes to {given}", content.len()))
}

fn create_parents(ctx: &Context, given: &str, parent: &Path) -> Result<(), String> {
    fs::create_dir_all(parent).map_err(|e| {
        let blocking = parent.ancestors().find(|dir| dir.exists() && !dir.is_dir());
        match blocking {
            Some(file) => format!("Cannot write {given}: {} is a file, not a directory.", path::show(ctx, file)),
            None => path::failure(ctx, "create the directory of", given, parent, &e),
        }
    })
}
