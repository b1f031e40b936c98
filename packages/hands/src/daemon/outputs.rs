//! Where the outputs of one session's calls are kept.
//!
//! Owns: their paths, as the daemon and as commands see them, and how much of them is kept. Must not know: what is in
//! them, or when a call runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::level::Level;
use crate::output::Output;

/// Bytes of stored output that a session may have; the oldest goes first.
const MAX_OUTPUTS: u64 = 1024 * 1024 * 1024;
/// Bytes that are written between two looks at what there is.
const LOOK_EVERY: u64 = 128 * 1024 * 1024;
/// What the smallest output takes, in bytes.
const MIN_OUTPUT: u64 = 4096;

/// See the module's page.
pub(super) struct Outputs {
    session: PathBuf,
    level: Level,
    unseen: AtomicU64, // bytes since the last look
}

impl Outputs {
    /// Below a session's folder, for commands confined at `level`.
    pub(super) fn new(session: &Path, level: Level) -> Self {
        Self { session: session.to_owned(), level, unseen: AtomicU64::new(LOOK_EVERY) }
    }

    /// The folder that commands may read.
    pub(super) fn folder(&self) -> PathBuf {
        self.session.join("outputs")
    }

    /// Files of a call's output: text, segments.
    pub(super) fn paths(&self, position: u64) -> (PathBuf, PathBuf) {
        let position = position.to_string();
        (self.folder().join(&position).join("output"), self.session.join("segments").join(position))
    }

    /// Where a command finds the output of a call.
    pub(super) fn path_inside(&self, position: u64) -> String {
        match self.level {
            Level::Full => format!("/outputs/{position}/output"),
            _ => self.paths(position).0.display().to_string(),
        }
    }

    /// The output of a call that is about to start. Makes room now and then: the oldest outputs beyond the bound go.
    pub(super) fn create(&self, position: u64) -> Output {
        let (output, segments) = self.paths(position);
        if self.unseen.load(Ordering::Relaxed) >= LOOK_EVERY {
            self.unseen.store(0, Ordering::Relaxed);
            self.sweep(position);
        }
        Output::create(output, segments)
    }

    /// Counts what a call has stored.
    pub(super) fn stored(&self, bytes: u64) {
        self.unseen.fetch_add(bytes.max(MIN_OUTPUT), Ordering::Relaxed);
    }

    /// Removes the oldest until the rest is within the bound. `except` is about to be written.
    fn sweep(&self, except: u64) {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for entry in fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let position = entry.file_name().to_str().and_then(|n| n.parse().ok());
            let size = fs::metadata(entry.path().join("output")).map_or(0, |m| m.len()).max(MIN_OUTPUT);
            found.extend(position.filter(|p| *p != except).map(|p| (p, size)));
        }
        let mut total: u64 = found.iter().map(|(_, size)| size).sum();
        found.sort_unstable();
        for (position, size) in found {
            if total <= MAX_OUTPUTS {
                return;
            }
            let (output, segments) = self.paths(position);
            let _ = output.parent().map(fs::remove_dir_all);
            let _ = fs::remove_file(segments);
            total -= size;
        }
    }
}
