//! Pieces of answers while they stream, for whoever watches right now. Never stored, never needed: the log has the
//! whole answer a moment later.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
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

/// Carries pieces from the process in which a run works to those in which somebody follows it.
///
/// Promises, each a case of the conformance suite:
/// - What is offered for a run reaches every other process that follows it, soon, in the order in which it was offered,
///   and no process that never did. Pieces of one answer may arrive as one.
/// - Nothing is stored and nobody waits: what cannot be carried now is dropped, and what is on its way has a bound.
/// - What is offered for a run that nobody follows costs no traffic.
#[async_trait]
pub trait Relay: Send + Sync + 'static {
    /// Somebody in this process follows the run from now on, or nobody does any more. Must not block.
    fn follow(&self, run: &RunId, yes: bool);

    /// A piece of a run that works in this process. Must not block.
    fn offer(&self, run: &RunId, piece: &Piece);

    /// The next piece of a run that is followed here and works elsewhere. Cancellation safe; for one caller at a time.
    async fn arrived(&self) -> (RunId, Piece);
}

/// Hands pieces from leaves to followers within one process, and with a [`Relay`] beyond it. Cheap to clone; clones are
/// one hub. A run that nobody follows costs a look into a map per piece.
#[derive(Clone, Default)]
pub struct Hub(Arc<Inner>);

#[derive(Default)]
struct Inner {
    followed: Mutex<HashMap<RunId, broadcast::Sender<Piece>>>,
    relay: Option<Arc<dyn Relay>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// One follower's view. Dropping it is leaving.
#[derive(Debug)]
pub struct Follower {
    hub: Hub,
    run: RunId,
    pieces: Option<broadcast::Receiver<Piece>>,
}

impl Hub {
    /// A hub whose pieces go further with this relay. What comes from elsewhere is shown while [`Hub::pump`] runs.
    #[must_use]
    pub fn relayed(relay: Arc<dyn Relay>) -> Self {
        Self(Arc::new(Inner { followed: Mutex::default(), relay: Some(relay) }))
    }

    /// Shows a piece to whoever follows the run.
    pub fn publish(&self, run: &RunId, piece: Piece) {
        if let Some(relay) = &self.0.relay {
            relay.offer(run, &piece);
        }
        self.show(run, piece);
    }

    /// Shows what comes from other processes to who follows it here. Never ends.
    pub async fn pump(&self) {
        let Some(relay) = &self.0.relay else { return std::future::pending().await };
        loop {
            let (run, piece) = relay.arrived().await;
            self.show(&run, piece);
        }
    }

    /// Follows a run from now on.
    #[must_use]
    pub fn follow(&self, run: &RunId) -> Follower {
        let mut followed = self.lock();
        let pieces = followed.entry(run.clone()).or_insert_with(|| {
            self.tell(run, true);
            broadcast::Sender::new(BACKLOG)
        });
        Follower { hub: self.clone(), run: run.clone(), pieces: Some(pieces.subscribe()) }
    }

    fn show(&self, run: &RunId, piece: Piece) {
        if let Some(followers) = self.lock().get(run) {
            let _ = followers.send(piece); // the last one may have left an instant ago
        }
    }

    /// Under the lock, so that the relay hears of comings and goings in their order.
    fn tell(&self, run: &RunId, yes: bool) {
        if let Some(relay) = &self.0.relay {
            relay.follow(run, yes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, broadcast::Sender<Piece>>> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.hub.tell(&self.run, false);
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

    /// Notes what it is told, and brings what the test puts in.
    struct Noting {
        told: Mutex<Vec<(bool, RunId)>>,
        offered: Mutex<Vec<Piece>>,
        arriving: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<(RunId, Piece)>>,
    }

    #[async_trait]
    impl Relay for Noting {
        fn follow(&self, run: &RunId, yes: bool) {
            self.told.lock().unwrap().push((yes, run.clone()));
        }

        fn offer(&self, _: &RunId, piece: &Piece) {
            self.offered.lock().unwrap().push(piece.clone());
        }

        async fn arrived(&self) -> (RunId, Piece) {
            match self.arriving.lock().await.recv().await {
                Some(arrived) => arrived,
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn a_relay_hears_who_follows_and_what_is_said_here_and_what_it_brings_is_shown() {
        let (bring, arriving) = tokio::sync::mpsc::unbounded_channel();
        let (told, offered) = (Mutex::default(), Mutex::default());
        let relay = Arc::new(Noting { told, offered, arriving: tokio::sync::Mutex::new(arriving) });
        let (hub, run) = (Hub::relayed(relay.clone()), RunId::generate());
        let (mut a, b) = (hub.follow(&run), hub.follow(&run));
        hub.publish(&run, piece("here"));
        assert_eq!(*relay.offered.lock().unwrap(), [piece("here")]);
        for _ in 0..2 {
            bring.send((run.clone(), piece("from elsewhere"))).unwrap();
        }
        let pumping = tokio::spawn({
            let hub = hub.clone();
            async move { hub.pump().await }
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(a.next().await);
        }
        assert_eq!(seen, [piece("here"), piece("from elsewhere"), piece("from elsewhere")]);
        assert_eq!(relay.offered.lock().unwrap().len(), 1, "what comes from elsewhere is not sent on");
        pumping.abort();
        drop((a, b));
        assert_eq!(*relay.told.lock().unwrap(), [(true, run.clone()), (false, run)], "once each");
    }
}
