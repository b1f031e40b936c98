//! Holding a session to its limits on memory and disk, where the kernel does not.
//!
//! Owns: what is looked at, how often, and that a session which is over is ended. Must not know: how usage is measured.
//!
//! This is watching, not a wall: between two looks a command may go beyond. What it may fill meanwhile is what the disk's
//! free space and the kernel's limits on each process leave.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use crate::daemon::usage;

/// Shortest time between two looks at a session's folders; more where a look takes long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look may take one part in so many of the time.
const LOOK_SHARE: u32 = 20;
/// What a command may add that begins when its session is over the limit already: enough to clean up.
const TO_CLEAN_UP: u64 = 16 * 1024 * 1024;

/// What is known of a session's folders.
#[derive(Debug, Default)]
pub(super) struct Disk {
    used: u64,
    /// What a folder that the session was given held when it was first looked at: that is the user's.
    given: Option<u64>,
    /// How much the session may use at present; 0: the limit.
    ceiling: u64,
    next: Option<Instant>,
}

impl Session {
    /// Whether a call that writes may start. A command may, to clean up; a file tool may not.
    ///
    /// # Errors
    /// A text for the model.
    pub(in crate::daemon) async fn may_write(&self, tool: &str) -> Result<(), String> {
        let given = self.inner.lock().await.opened.clone().flatten();
        let folders = self.folders(given);
        if let Some(why) = self.is_full(&folders) {
            return Err(format!("{why} Nothing was run."));
        }
        let limit = self.shared.settings.limits.disk;
        {
            let mut disk = self.disk();
            if disk.used <= limit + disk.given.unwrap_or(0) {
                disk.ceiling = 0;
                return Ok(());
            }
        }
        // By now it may have been cleaned up.
        self.measure(folders, u64::MAX).await;
        let mut disk = self.disk();
        let most = limit + disk.given.unwrap_or(0);
        if disk.used > most && tool != "bash" {
            let why = over_disk(limit);
            return Err(format!("{why} Nothing was written. Delete files with bash first."));
        }
        disk.ceiling = if disk.used > most { disk.used + TO_CLEAN_UP } else { 0 };
        Ok(())
    }

    /// Ends what runs in a session whose processes hold so much memory that it is over.
    pub(in crate::daemon) fn watch_memory(&self, held: u64) {
        let limit = self.shared.settings.limits.memory;
        if held > limit {
            self.end_over(&over_memory(limit));
        }
    }

    /// Looks at the folders of a session that has a domain; ends what runs if it is over. May take long.
    pub(in crate::daemon) async fn watch_disk(&self) {
        let limits = &self.shared.settings.limits;
        // Who holds the lock is ending or starting something: next time.
        let Some(given) = self.inner.try_lock().ok().map(|inner| inner.opened.clone().flatten()) else { return };
        let folders = self.folders(given);
        if let Some(why) = self.is_full(&folders) {
            return self.end_over(&why);
        }
        if self.disk().next.is_some_and(|next| next > Instant::now()) {
            return;
        }
        let first = self.disk().given.is_none();
        let ceiling = {
            let disk = self.disk();
            disk.ceiling.max(limits.disk + disk.given.unwrap_or(0))
        };
        self.measure(folders, if first { u64::MAX } else { ceiling }).await;
        if !first && self.disk().used > ceiling {
            self.end_over(&over_disk(limits.disk));
        }
    }

    async fn measure(&self, folders: Vec<PathBuf>, enough: u64) {
        let begun = Instant::now();
        let own = folders.len() == 1;
        let measured = tokio::task::spawn_blocking(move || {
            let given = folders.get(1).map_or(0, |g| usage::disk(std::slice::from_ref(g), enough));
            (given, given + usage::disk(&folders[..1], enough.saturating_sub(given)))
        });
        let Ok((given, used)) = measured.await else { return };
        let mut disk = self.disk();
        disk.used = used;
        disk.given.get_or_insert(if own { 0 } else { given });
        disk.next = Some(Instant::now() + LOOK_EVERY.max(begun.elapsed() * LOOK_SHARE));
    }

    fn is_full(&self, folders: &[PathBuf]) -> Option<String> {
        let least = self.shared.settings.limits.min_free;
        // A folder that is not there yet says nothing.
        let full = folders.iter().any(|f| usage::is_full(f, least).unwrap_or(false));
        let mib = least >> 20;
        full.then(|| format!("The disk is nearly full: fewer than {mib} MiB, or hardly any files, are left on it."))
    }

    /// The session's own folder, and the one that it was given.
    fn folders(&self, given: Option<PathBuf>) -> Vec<PathBuf> {
        std::iter::once(self.dir.join("leaf")).chain(given).collect()
    }

    /// Ends all that runs, telling why; at the next look, if something is being started just now.
    fn end_over(&self, why: &str) {
        let Ok(mut inner) = self.inner.try_lock() else { return };
        inner.live.values().for_each(|call| call.end_over(why));
        if let Some(domain) = inner.domain.take() {
            domain.end();
        }
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over_disk(limit: u64) -> String {
    format!("The session's files take more than its {} MiB of disk.", limit >> 20)
}

/// Also what is said where the kernel has ended a process.
pub(in crate::daemon) fn over_memory(limit: u64) -> String {
    format!("The session's processes took more than its {} MiB of memory.", limit >> 20)
}
