//! The data folder and the lock that makes this process its only user.
//!
//! The lock is an `flock` on a file that is closed on exec: no child process can hold it on after us.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use torpor_core::store;

/// The lock file's name in the data folder.
const FILE: &str = "lock";

/// Longest process id that is read back from the lock file, in bytes.
const PID_BYTES: u64 = 20;

/// How long a folder must be locked to count as in use: whoever only looks ([`holder`]) is done long before, and a
/// process that was killed an instant ago has time to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the lock is tried within that.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// The folder is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    lock: File,
}

impl Folder {
    /// Creates `dir` (0700) if it is missing and locks it.
    pub(crate) fn lock(dir: &Path) -> Result<Self, store::Error> {
        let failed = |what: &str, e: std::io::Error| {
            store::Error::Failed(format!("cannot {what} the data folder {}: {e}", dir.display()))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed("create", e))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(FILE))
            .map_err(|e| failed("write to", e))?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => std::thread::sleep(TRY_EVERY),
                Err(TryLockError::WouldBlock) => {
                    let whose = written_pid(&file).map(|pid| format!("process {pid}"));
                    let whose = whose.as_deref().unwrap_or("another process");
                    return Err(store::Error::Unavailable(format!(
                        "the data folder {} is in use by {whose}",
                        dir.display()
                    )));
                }
                Err(TryLockError::Error(e)) => return Err(failed("lock", e)),
            }
        }
        // The lock is what counts; the id only says whose it is.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| failed("write to", e))?;
        Ok(Self { lock: file })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.lock.set_len(0); // the next holder overwrites it in any case
    }
}

/// The process that holds the store in `dir` right now; `None` when nobody does, or only this process.
///
/// Only looks: creates and changes nothing. Does not wait; a store that is opened meanwhile is not disturbed.
/// (In the instant between a new holder's lock and its writing down its id, one that was killed before is still named.)
#[must_use]
pub fn holder(dir: &Path) -> Option<u32> {
    let file = File::open(dir.join(FILE)).ok()?;
    // Shared, so that two who look do not take each other for the holder. Released with the file.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => written_pid(&file).filter(|pid| *pid != std::process::id()),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn written_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
