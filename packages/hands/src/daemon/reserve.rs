//! A little room on the disk that is kept for the one thing that must work when there is none: forgetting a session.
//!
//! Owns: the file that holds the room. Must not know: who uses it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Its size in bytes: some journal records and the metadata that goes with them.
const SIZE: usize = 256 * 1024;

/// See the module's page.
pub(super) struct Reserve(PathBuf);

impl Reserve {
    /// Below the state folder. Blocking. Where there is no room for it, there is none until the next [`Self::keep`].
    pub(super) fn new(state: &Path) -> Self {
        let reserve = Self(state.join("reserve"));
        reserve.keep();
        reserve
    }

    /// Gives the room back to the disk.
    pub(super) fn give(&self) {
        let _ = fs::remove_file(&self.0);
    }

    /// Takes the room, if it is not taken. Blocking.
    pub(super) fn keep(&self) {
        let whole = || self.0.metadata().is_ok_and(|m| m.len() == SIZE as u64);
        let take = || -> io::Result<()> {
            let mut file = File::create(&self.0)?;
            // Written out: a file that is only said to be long holds no room.
            file.write_all(&vec![0xff; SIZE])?;
            file.sync_all()
        };
        if !whole() && take().is_err() {
            self.give();
        }
    }
}
