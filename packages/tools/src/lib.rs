//! The file and search tools as the sandbox runs them, and the words in which the model reads their results.
//!
//! Owns: the arguments, limits, effects and texts of `read`, `write`, `edit`, `ls`, `grep` and `find`, and the text
//! of a finished `bash` command. Everything here blocks and is bounded in memory whatever the files hold.
//! Must not know: async, the network, who may call what, or how a process is confined. The caller runs this inside
//! a confined process, so that the kernel and not this crate decides which paths can be touched.

mod args;
mod atomic;
mod edit;
mod find;
mod grep;
pub mod image;
mod lines;
mod lock;
mod ls;
mod open;
pub mod output;
mod path;
mod read;
mod sniff;
mod walk;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use image::Image;
use serde_json::Value;

/// Names that [`run`] knows.
pub const NAMES: [&str; 6] = ["read", "write", "edit", "ls", "grep", "find"];

/// What the model is told when a call was cancelled.
const CANCELLED: &str = "Operation aborted";

/// Where a tool works, and whether it is still wanted.
#[derive(Debug, Clone)]
pub struct Context {
    /// Absolute; relative paths start here.
    pub workdir: PathBuf,
    /// Set by the caller to stop the tool. Long work looks at it between chunks, lines and files; `write` and `edit`
    /// look at it last before they replace the file, so a cancelled call has either done all or nothing.
    pub cancelled: Arc<AtomicBool>,
}

impl Context {
    pub(crate) fn check_cancelled(&self) -> Result<(), String> {
        if self.cancelled.load(Ordering::Relaxed) { Err(CANCELLED.to_owned()) } else { Ok(()) }
    }
}

/// What the model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Never empty, within [`output::MAX_LINES`] and [`output::MAX_BYTES`] apart from the notices at its end.
    pub text: String,
    /// What is to be seen beside the text.
    pub image: Option<Image>,
    /// Whether the model should read this as a failure.
    pub is_error: bool,
}

/// Text for the model: an answer, or what went wrong and what to do about it.
pub(crate) type Answer = Result<String, String>;

/// Runs the tool `name` to its end. Never panics on what a file or an argument holds; failures of any kind (an
/// unknown tool, wrong arguments, a missing file) come back as an [`Output`] with `is_error`.
#[must_use]
pub fn run(name: &str, input: &Value, ctx: &Context) -> Output {
    let text = |text| (text, None);
    let answer = ctx.check_cancelled().and_then(|()| match name {
        "read" => read::run(input, ctx),
        "write" => write::run(input, ctx).map(text),
        "edit" => edit::run(input, ctx).map(text),
        "ls" => ls::run(input, ctx).map(text),
        "grep" => grep::run(input, ctx).map(text),
        "find" => find::run(input, ctx).map(text),
        _ => Err(format!("Unknown tool: {name}. Known tools: {}.", NAMES.join(", "))),
    });
    match answer {
        Ok((text, image)) => Output { text, image, is_error: false },
        Err(text) => Output { text, image: None, is_error: true },
    }
}
