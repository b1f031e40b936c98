//! A file that operators change while the program runs, such as a mounted Kubernetes Secret.
//!
//! Owns: reading it within a bound, and noticing that it changed. Must not know: what it says.
//!
//! A file that is damaged or gone while the program runs changes nothing: what it said before stays, and the log says so.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use torpor_core::Timestamp;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a text, which was last changed at this instant. The error says what is wrong without quoting a secret.
type Parse<T> = fn(&str, Timestamp) -> Result<T, String>;

/// A file and what it says.
pub(crate) struct WatchedFile<T> {
    /// What people call it.
    name: &'static str,
    path: PathBuf,
    parse: Parse<T>,
    known: Mutex<Known<T>>,
}

/// What the file said when it was last read.
pub(crate) struct Known<T> {
    /// What tells one state of the file from another.
    stamp: Option<Stamp>,
    /// How often it has changed.
    pub(crate) times: u64,
    pub(crate) said: Arc<T>,
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { stamp: self.stamp, times: self.times, said: Arc::clone(&self.said) }
    }
}

/// What tells one state of a file from another.
pub(crate) type Stamp = (u64, u64, i64, i64);

impl<T> WatchedFile<T> {
    /// Reads the file.
    ///
    /// # Errors
    /// One line that names the file and what is wrong.
    pub(crate) fn open(name: &'static str, path: &Path, parse: Parse<T>) -> Result<Self, String> {
        let (stamp, said) = read(path, parse)?;
        let known = Known { stamp: Some(stamp), times: 0, said: Arc::new(said) };
        Ok(Self { name, path: path.to_owned(), parse, known: Mutex::new(known) })
    }

    /// What the file says, read again if it has changed. A look costs one `stat`.
    pub(crate) fn look(&self) -> Known<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = std::fs::metadata(&self.path).map(|m| stamp(&m)).ok();
        if stamp == known.stamp {
            return known.clone();
        }
        known.stamp = stamp;
        match read(&self.path, self.parse) {
            Ok((stamp, said)) => {
                tracing::info!(file = %self.path.display(), "the {} was read again", self.name);
                *known = Known { stamp: Some(stamp), times: known.times + 1, said: Arc::new(said) };
            }
            Err(e) => tracing::error!(error = e, "the {} cannot be read; what it said before stays", self.name),
        }
        known.clone()
    }
}

/// The stamp of a file in this state.
pub(crate) fn stamp(meta: &std::fs::Metadata) -> Stamp {
    (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

fn read<T>(path: &Path, parse: Parse<T>) -> Result<(Stamp, T), String> {
    let (meta, text) = read_text(path)?;
    let changed = Timestamp(u64::try_from(meta.mtime()).unwrap_or(0).saturating_mul(1_000));
    let said = parse(&text, changed).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok((stamp(&meta), said))
}

/// The text of a file that is not too large, and the state it was in.
pub(crate) fn read_text(path: &Path) -> Result<(std::fs::Metadata, String), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("{}: is larger than {MAX_BYTES} bytes", path.display()));
    }
    Ok((meta, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str, _: Timestamp) -> Result<u64, String> {
        text.trim().parse().map_err(|_| "expected a number".to_owned())
    }

    #[test]
    fn a_change_is_noticed_and_damage_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(WatchedFile::open("file of numbers", &path, number).is_err());
        std::fs::write(&path, "7").unwrap();
        let file = WatchedFile::open("file of numbers", &path, number).unwrap();
        let said = || (file.look().times, *file.look().said);
        assert_eq!(said(), (0, 7));
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(said(), (1, 1234));
        std::fs::write(&path, "damaged").unwrap();
        assert_eq!(said(), (1, 1234));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(said(), (1, 1234));
        std::fs::write(&path, "99999").unwrap();
        assert_eq!(said(), (2, 99_999));
    }
}
