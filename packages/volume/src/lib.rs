//! The shared volume: files below one folder and nowhere else, written whole or not at all.
//!
//! Owns: how a path is resolved so that nothing leads out, how a file comes to stand under its name, whose part of the
//! volume is called what, and the bound of every call. Must not know: runs, envelopes, what stands in a file, when one is
//! written.
//!
//! - `beneath`: opening what is below a folder, race-free.
//! - `file`: reading, publishing, removing and moving.
//! - `leftover`: what a process that died left half-written.
//! - `part`: the folder of a tenant.

mod beneath;
mod file;
mod leftover;
mod part;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use torpor_core::volume::{Error, Listed, Place, Volume, relative};

use beneath::Resolver;
use leftover::Leftovers;

/// Bound of one call. A network file system may hang for as long as it likes; whoever waits for it does not.
const LIMIT: Duration = Duration::from_secs(15);

/// Calls that are made at once: no more threads than that can hang.
const CONCURRENCY: usize = 16;

/// The files below a folder.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    root: PathBuf,
    limit: Duration,
    /// Never closed.
    turns: Arc<Semaphore>,
    resolver: Resolver,
    leftovers: Leftovers,
}

impl Shared {
    /// The files below `root`, an absolute path. Nothing is looked at yet: the volume may be mounted later.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::with(root.into(), Resolver::Kernel, LIMIT)
    }

    /// The same, on a machine whose kernel cannot resolve a path below a folder by itself.
    #[doc(hidden)]
    #[must_use]
    pub fn stepwise(root: impl Into<PathBuf>) -> Self {
        Self::with(root.into(), Resolver::Steps, LIMIT)
    }

    fn with(root: PathBuf, resolver: Resolver, limit: Duration) -> Self {
        let turns = Arc::new(Semaphore::new(CONCURRENCY));
        Self(Arc::new(Inner { root, limit, turns, resolver, leftovers: Leftovers::default() }))
    }

    /// Does something with files in a thread of its own, within the bound. What hangs keeps its turn until it is over.
    async fn blocking<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.0);
        let work = async {
            let turn = Arc::clone(&inner.turns).acquire_owned().await;
            let work = {
                let inner = Arc::clone(&inner);
                move || {
                    let _turn = turn;
                    what(&inner)
                }
            };
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|_| Err(Error::Away("the call broke; this is a bug".to_owned())))
        };
        let late = || Err(Error::Away(format!("it took more than {} s", inner.limit.as_secs())));
        tokio::time::timeout(inner.limit, work).await.unwrap_or_else(|_| late())
    }
}

#[async_trait]
impl Volume for Shared {
    fn place(&self, tenant: Option<&str>, path: &str) -> Result<Place, String> {
        let root: &Path = &self.0.root;
        let path = match tenant {
            None => relative(path, root),
            Some(tenant) => relative(path, &root.join(part::folder(tenant))),
        };
        Ok(Place::new(tenant, path?))
    }

    async fn ready(&self) -> Result<(), Error> {
        self.blocking(|inner| inner.root().map(drop)).await
    }

    async fn read(&self, file: &Place, max: usize) -> Result<Vec<u8>, Error> {
        let file = file.clone();
        self.blocking(move |inner| inner.read(&file, max)).await
    }

    async fn publish(&self, file: &Place, bytes: Vec<u8>) -> Result<(), Error> {
        let file = file.clone();
        self.blocking(move |inner| inner.publish(&file, &bytes)).await
    }

    async fn remove(&self, file: &Place) -> Result<(), Error> {
        let file = file.clone();
        self.blocking(move |inner| inner.remove(&file)).await
    }

    async fn rename(&self, from: &Place, to: &Place) -> Result<bool, Error> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |inner| inner.rename(&from, &to)).await
    }

    async fn make(&self, folder: &Place) -> Result<(), Error> {
        let folder = folder.clone();
        self.blocking(move |inner| inner.make(&folder)).await
    }

    async fn list(&self, folder: &Place, max: usize) -> Result<Vec<Listed>, Error> {
        let folder = folder.clone();
        self.blocking(move |inner| inner.list(&folder, max)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// What hangs is waited for no longer than the bound, keeps its turn, and gives it back when it ends after all.
    #[tokio::test]
    async fn a_volume_that_hangs_is_away_and_takes_no_more_threads_than_its_turns() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::with(dir.path().to_owned(), Resolver::Kernel, Duration::from_millis(50));
        let (ends, hanging): (Vec<_>, Vec<_>) = (0..CONCURRENCY).map(|_| mpsc::channel::<()>()).unzip();
        let hang = |end: mpsc::Receiver<()>| {
            shared.blocking(move |_| {
                let _ = end.recv();
                Ok(())
            })
        };
        let answers = futures::future::join_all(hanging.into_iter().map(hang)).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Away(_)))), "{answers:?}");
        assert_eq!(shared.0.turns.available_permits(), 0);
        assert!(matches!(shared.ready().await, Err(Error::Away(_))), "there is no turn for it");
        drop(ends);
        let all = u32::try_from(CONCURRENCY).unwrap();
        drop(shared.0.turns.acquire_many(all).await.unwrap());
        assert_eq!(shared.ready().await, Ok(()));
    }
}
