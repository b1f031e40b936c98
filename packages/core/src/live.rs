//! Pieces of answers while they stream, for whoever watches right now. Never stored, never needed: the log has the
//! whole answer a moment later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::id::{Position, RunId};
use crate::model::Delta;

/// Pieces that a follower may fall behind before it misses some.
const BACKLOG: usize = 256;

/// A piece of an answer. It means something only between its request and the whole answer, which is the next entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Where the request stands in the log.
    pub request: Position,
    /// Which attempt at that request it belongs to, from 1: a further attempt begins the answer anew.
    pub attempt: u32,
    /// The piece.
    pub delta: Delta,
}

/// Hands pieces from leaves to followers within one process. Cheap to clone; clones are one hub. A run that nobody
/// follows costs a look into a map per piece.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<HashMap<RunId, broadcast::Sender<Piece>>>>);

/// One follower's view. Dropping it is leaving.
#[derive(Debug)]
pub struct Follower {
    hub: Hub,
    run: RunId,
    pieces: Option<broadcast::Receiver<Piece>>,
}

impl Hub {
    /// Shows a piece to whoever follows the run.
    pub fn publish(&self, run: &RunId, piece: Piece) {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, broadcast::Sender<Piece>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// The next piece; those that a slow follower missed are left out. Cancellation safe; never ends by itself.
    pub async fn next(&mut self) -> Piece {
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

impl Follower {
    /// The next piece that has come already.
    pub fn try_next(&mut self) -> Option<Piece> {
        let pieces = self.pieces.as_mut()?;
        loop {
            match pieces.try_recv() {
                Ok(piece) => return Some(piece),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
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

    fn piece(text: &str) -> Piece {
        Piece { request: Position(2), attempt: 1, delta: Delta::Text(text.into()) }
    }

    #[tokio::test]
    async fn followers_see_what_comes_and_leave_nothing_behind() {
        let (hub, run) = (Hub::default(), RunId::generate());
        hub.publish(&run, piece("nobody"));
        let (mut a, mut b) = (hub.follow(&run), hub.follow(&run));
        assert_eq!(a.try_next(), None);
        hub.publish(&run, piece("both"));
        assert_eq!((a.next().await, b.try_next()), (piece("both"), Some(piece("both"))));
        for n in 0..BACKLOG * 2 {
            hub.publish(&run, piece(&n.to_string()));
        }
        assert_eq!(a.next().await, piece(&BACKLOG.to_string()), "a slow one misses the oldest");
        assert_eq!(b.try_next(), Some(piece(&BACKLOG.to_string())));
        drop((a, b));
        assert!(hub.lock().is_empty());
    }
}
