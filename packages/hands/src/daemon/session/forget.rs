//! Forgetting a session.
//!
//! Owns: the order of what is ended and removed. Must not know: who asks, or why.
//!
//! The fence goes up first, so that nobody older starts anything while this goes on. Then everything that runs ends,
//! then files go, and last the journal's records: as long as there are files, the session is known, and whoever asks
//! for it to be forgotten again finds them.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::timeout;
use torpor_core::Epoch;
use torpor_core::sandbox::Forgotten;
use torpor_exec_channel::message::{Code, Refused};

use super::{Inner, Session, failed, refuse};
use crate::daemon::remove::remove;
use crate::domain::handle::Gone;

/// How long what runs may take to be gone once it was killed.
const GONE_WITHIN: Duration = Duration::from_secs(20);

impl Session {
    /// See [`forget`](torpor_core::sandbox::SandboxTransport::forget). Must be driven to its end: a caller that may be
    /// dropped runs it as a task.
    pub(in crate::daemon) async fn forget(&self, epoch: Epoch) -> Result<Forgotten, Refused> {
        let mut inner = match self.at_rest(epoch).await {
            // On a full disk even the fence has no room, and this is what makes room.
            Err(refused) if refused.code == Code::Failed => {
                self.shared.reserve.give();
                self.at_rest(epoch).await?
            }
            rested => rested?,
        };
        let calls = inner.past.len() as u64;
        let (leaf, outputs) = (self.dir.join("leaf"), [self.outputs.folder(), self.dir.join("segments")]);
        let trash = self.dir.join("trash");
        let removed = tokio::task::spawn_blocking(move || {
            let workspace = leaf.join("workspace").is_dir();
            let mut files = remove(&leaf, &trash)?;
            for folder in &outputs {
                files += remove(folder, &trash)?;
            }
            Ok((workspace, files))
        });
        let (workspace, files) =
            removed.await.map_err(io::Error::other).and_then(|r| r).map_err(failed("remove the session's files"))?;
        // Of a session in a folder that it was given, what was made beside it is no workspace.
        let workspace = workspace && !matches!(inner.opened, Some(Some(_)));
        inner.journal.forget(epoch).await.map_err(failed("write the journal"))?;
        (inner.opened, inner.past, inner.floor) = (None, HashMap::new(), 0);
        let shared = self.shared.clone();
        drop(tokio::task::spawn_blocking(move || shared.reserve.keep()).await);
        Ok(Forgotten { calls, workspace, files })
    }

    /// Raises the fence, and comes back with the lock once nothing of the session runs.
    async fn at_rest(&self, epoch: Epoch) -> Result<MutexGuard<'_, Inner>, Refused> {
        loop {
            let mut inner = self.lock().await;
            self.raise(&mut inner, epoch).await?;
            if let Some(domain) = inner.domain.take() {
                domain.end(); // who runs in it holds it too
            }
            let live: Vec<_> = inner.live.values().cloned().collect();
            let mut domains = inner.domains.clone();
            if live.is_empty() && domains.iter().all(Gone::has_come) {
                return Ok(inner);
            }
            drop(inner); // they need it to write down how they ended
            let ends = async {
                for call in live {
                    call.cancel();
                    call.wait().await;
                }
                for domain in &mut domains {
                    domain.wait().await;
                }
            };
            let still = |_| {
                let why = format!("something of the session still runs {GONE_WITHIN:?} after it was killed");
                refuse(Code::Failed, why)
            };
            timeout(GONE_WITHIN, ends).await.map_err(still)?;
        }
    }
}
