//! The worker of a file or search tool. It runs inside the confinement, so the kernel enforces its paths.
//!
//! Owns: turning SIGTERM into the tool's own cancellation. Must not know: what the tools do.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use torpor_core::message::{Content, ToolResult};
use torpor_tools::{Context, run};

use super::protocol::{Report, write_report};
use crate::confine::sys;

/// Runs the tool and writes its report.
pub(super) fn work(name: &str, input: &Value, workdir: &Path, report: impl AsFd) {
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = cancelled.clone();
    // SIGTERM is blocked since before the fork, so it waits here whenever it comes.
    let watcher = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
        while !matches!(sys::wait_signal(&[libc::SIGTERM]), Ok(libc::SIGTERM)) {}
        flag.store(true, Ordering::Relaxed);
    });
    drop(watcher); // without it a cancelled call is killed instead
    let out = run(name, input, &Context { workdir: workdir.to_owned(), cancelled });
    let mut content = vec![Content::Text { text: out.text }];
    let image = out.image.map(|i| Content::Image { media_type: i.media_type.to_owned(), data: i.data });
    content.extend(image);
    let _ = write_report(report, &Report::Answer(ToolResult { content, is_error: out.is_error }));
}
