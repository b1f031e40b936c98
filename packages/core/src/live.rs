//! Pieces of answers while they stream, for whoever watches right now. Never stored, never needed: the log has the
//! whole answer a moment later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::id::RunId;
use crate::model::Delta;

/// Pieces that a follower may fall behind before it misses some.
const BACKLOG: usize = 256;

/// Hands pieces from leaves to followers within one process. Cheap to clone; clones are one hub. A run that nobody
/// follows costs a look into a map per piece.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<HashMap<RunId, broadcast::Sender<Delta>>>>);

/// One follower's view. Dropping it is leaving.
#[derive(Debug)]
pub struct Follower {
    hub: Hub,
    run: RunId,
    pieces: Option<broadcast::Receiver<Delta>>,
}

impl Hub {
    /// Shows a piece to whoever follows the run.
    pub fn publish(&self, run: &RunId, piece: Delta) {
        if let Some(followers) = self.lock().get(run) {
            let _ = followers.send(piece); // the last one may have left an instant ago
        }
    }

    /// Follows a run from now on.
    #[must_use]
    pub fn follow(&self, run: &RunId) -> Follower {
        let pieces = self.lock().entry(run.clone()).or_insert_with(|| broadcast::Sender::new(BACKLOG)).subscribe();
        Follower { hub: self.clone(), run: run.clone(), pieces: Some(pieces) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, broadcast::Sender<Delta>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// The next piece; those that a slow follower missed are left out. Cancellation safe; never ends by itself.
    pub async fn next(&mut self) -> Delta {
        while let Some(pieces) = &mut self.pieces {
            match pieces.recv().await {
                Ok(piece) => return piece,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        std::future::pending().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.pieces = None;
        let mut all = self.hub.lock();
        if all.get(&self.run).is_some_and(|followers| followers.receiver_count() == 0) {
            all.remove(&self.run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_see_what_comes_and_leave_nothing_behind() {
        let (hub, run) = (Hub::default(), RunId::generate());
        hub.publish(&run, Delta::Text("nobody".into()));
        let (mut a, mut b) = (hub.follow(&run), hub.follow(&run));
        hub.publish(&run, Delta::Text("both".into()));
        assert_eq!((a.next().await, b.next().await), (Delta::Text("both".into()), Delta::Text("both".into())));
        for n in 0..BACKLOG * 2 {
            hub.publish(&run, Delta::Text(n.to_string()));
        }
        assert_eq!(a.next().await, Delta::Text(BACKLOG.to_string()), "a slow one misses the oldest");
        drop((a, b));
        assert!(hub.lock().is_empty());
    }
}
