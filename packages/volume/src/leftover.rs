//! What a process that was killed in the very moment left behind: a file half-written, under a name of its own.
//!
//! Owns: those names, and when such files go. They are removed from a folder when this process first writes into it, if they
//! are older than any write may take.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, Stat, statat, unlinkat};

/// What such names begin and end with. They begin with a dot, so that nobody takes them for files of their own.
const PREFIX: &str = ".torpor-";
const SUFFIX: &str = ".tmp";

/// For so long nobody touches them, in seconds: whoever writes one may be slow.
const AGE: i64 = 3_600;

/// Most names that are looked at in a folder.
const MAX_NAMES: usize = 10_000;

/// Folders that are remembered; when there are more, all are forgotten and may be looked at once more.
const MAX_FOLDERS: usize = 1_024;

/// A fresh name.
pub(crate) fn name() -> String {
    format!("{PREFIX}{}{SUFFIX}", uuid::Uuid::new_v4().simple())
}

/// The folders that were looked at.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<HashSet<(u64, u64)>>);

impl Leftovers {
    /// Removes what is left in a folder, the first time that this process writes there. `written` is what it wrote just now:
    /// its time is that of the file system, whose clock may be another.
    pub(crate) fn sweep(&self, folder: BorrowedFd<'_>, written: &Stat) {
        if self.is_first(folder) {
            for name in old(folder, written) {
                if let Err(e) = unlinkat(folder, &*name, AtFlags::empty()) {
                    tracing::debug!(error = %e, "a file that was left half-written could not be removed");
                }
            }
        }
    }

    fn is_first(&self, folder: BorrowedFd<'_>) -> bool {
        let Ok(of) = rustix::fs::fstat(folder) else { return false };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_FOLDERS {
            seen.clear();
        }
        seen.insert((of.st_dev, of.st_ino))
    }
}

fn old(folder: BorrowedFd<'_>, written: &Stat) -> Vec<std::ffi::CString> {
    let Ok(names) = Dir::read_from(folder) else { return Vec::new() };
    let is_old = |name: &std::ffi::CStr| {
        let it = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        it.is_ok_and(|it| it.st_mtime.saturating_add(AGE) < written.st_mtime)
    };
    let names = names.take(MAX_NAMES).filter_map(Result::ok);
    let ours = names.filter(|entry| is_ours(entry.file_name().to_bytes()) && is_old(entry.file_name()));
    ours.map(|entry| entry.file_name().to_owned()).collect()
}

fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

/// Whether a name is that of such a file.
pub(crate) fn is_leftover(name: &OsStr) -> bool {
    is_ours(name.as_encoded_bytes())
}
