//! Script files on disk, read when first used and again when they change.
//!
//! Owns: reading, the size limit, the cache. Must not know: what a script says.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::io::AsyncReadExt;

use super::file::{Invalid, Scripts};

/// Largest script file, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// Files kept; a process uses one or a few.
const MAX_CACHED: usize = 64;

/// A file is the same while its length and its time of change are.
type Version = (u64, Option<SystemTime>);

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("script {path:?} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("script {path:?} is larger than {MAX_FILE} bytes")]
    TooLarge { path: PathBuf },
    #[error("script {path:?}: {source}")]
    Invalid { path: PathBuf, source: Invalid },
}

/// The files read so far.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<PathBuf, (Version, Arc<Scripts>)>>);

impl Cache {
    /// The scripts of a file. Cancellation safe.
    pub(super) async fn get(&self, path: &str) -> Result<Arc<Scripts>, Error> {
        let path = PathBuf::from(path);
        let read = |source| Error::Read { path: path.clone(), source };
        let meta = tokio::fs::metadata(&path).await.map_err(read)?;
        if !meta.is_file() {
            return Err(read(std::io::Error::other("it is no file")));
        }
        let version = (meta.len(), meta.modified().ok());
        if let Some((known, scripts)) = self.files().get(&path)
            && *known == version
        {
            return Ok(scripts.clone());
        }
        let mut text = Vec::new();
        let file = tokio::fs::File::open(&path).await.map_err(read)?;
        file.take(MAX_FILE + 1).read_to_end(&mut text).await.map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            return Err(Error::TooLarge { path });
        }
        let scripts = Scripts::parse(&text).map_err(|source| Error::Invalid { path: path.clone(), source })?;
        let scripts = Arc::new(scripts);
        let mut files = self.files();
        if files.len() >= MAX_CACHED {
            files.clear();
        }
        files.insert(path, (version, scripts.clone()));
        Ok(scripts)
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Version, Arc<Scripts>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
