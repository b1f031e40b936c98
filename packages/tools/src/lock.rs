//! One change to a file at a time.
//!
//! Owns: the lock that `write` and `edit` hold from looking at a file until it is replaced. A model may ask for
//! several edits of one file at once, and each runs in a process of its own; without the lock one of two would be
//! lost. Must not know what is changed.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Context, open};

/// How long another process may keep a file locked.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How often a locked file is looked at.
const RETRY: Duration = Duration::from_millis(2);

/// Waits until nobody else changes `path`. The lock is released when the file is dropped. There is none for a file
/// that does not exist, cannot be opened or whose file system has no locks: what is wrong with it shows later.
///
/// # Errors
/// A text for the model: cancelled, or locked for too long.
pub(crate) fn for_change(ctx: &Context, given: &str, path: &Path) -> Result<Option<File>, String> {
    let since = Instant::now();
    loop {
        ctx.check_cancelled()?;
        let Ok((file, meta)) = open::without_waiting(path) else { return Ok(None) };
        if !meta.is_file() {
            return Ok(None);
        }
        match file.try_lock() {
            Ok(()) => {
                // Whoever held it before may have put another file in its place.
                let same = fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (meta.dev(), meta.ino()));
                if same {
                    return Ok(Some(file));
                }
            }
            Err(TryLockError::WouldBlock) => thread::sleep(RETRY),
            Err(TryLockError::Error(_)) => return Ok(None),
        }
        if since.elapsed() > MAX_WAIT {
            return Err(format!(
                "{given} has been locked by another process for {} seconds. Find out which, or try again later.",
                MAX_WAIT.as_secs()
            ));
        }
    }
}
