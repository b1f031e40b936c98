//! The data folder and the lock that makes this process its only user.
//!
//! The lock is an `flock` on a file that is closed on exec: no child process can hold it on after us.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use torpor_core::store;

/// The lock file's name in the data folder.
const FILE: &str = "lock";

/// Longest process id that is read back from the lock file, in bytes.
const PID_BYTES: u64 = 20;

/// The folder is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    _lock: File,
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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(store::Error::Unavailable(format!(
                    "the data folder {} is in use by {}",
                    dir.display(),
                    holder(&mut file)
                )));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock", e)),
        }
        // The id is for people only: the lock itself is what counts.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| failed("write to", e))?;
        Ok(Self { _lock: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(PID_BYTES).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    }
}
