//! Wake-ups for claims that wait: one new run wakes one process.
//!
//! Owns: one blocking connection for each shard, held only while somebody here waits. Must not know: what is claimed.
//!
//! A wake-up is a hint. One that is lost with a connection costs whoever waits a second, because claims look that often.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::link::{Conn, Lane, Link};
use crate::shard::Shards;

/// How long one blocking command waits, in seconds.
const SLICE_SECONDS: u64 = 5;

/// A blocking command that has not come back so long after its time has lost its connection.
const OVERDUE: Duration = Duration::from_secs(SLICE_SECONDS + 5);

/// Wait before the next attempt after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Hears wake-ups while somebody listens. Dropping it closes the connections.
#[derive(Debug)]
pub(crate) struct Wake {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    listeners: AtomicUsize,
    /// Somebody began to listen.
    begun: Notify,
    /// There is something to claim.
    ready: Notify,
}

/// Somebody listens, as long as it lives.
#[derive(Debug)]
pub(crate) struct Listening<'a>(&'a Shared);

impl Wake {
    pub(crate) fn start(link: &Arc<Link>, shards: &Shards) -> Self {
        let shared = Arc::new(Shared::default());
        let tasks = shards
            .all()
            .map(|shard| {
                let key = format!("{}q:wake", shards.prefix(shard));
                tokio::spawn(hear(Arc::clone(link), Arc::clone(&shared), key))
            })
            .collect();
        Self { shared, tasks }
    }

    /// Begins to listen. To be called before looking, so that nothing is missed.
    pub(crate) fn listen(&self) -> Listening<'_> {
        self.shared.listeners.fetch_add(1, Ordering::SeqCst);
        self.shared.begun.notify_waiters();
        Listening(&self.shared)
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Listening<'_> {
    /// Waits for a wake-up. One that came since somebody last waited counts. Cancellation safe.
    pub(crate) async fn notified(&self) {
        self.0.ready.notified().await;
    }

    /// Wakes the next listener of this process: there may be more than this one took.
    pub(crate) fn pass_on(&self) {
        self.0.ready.notify_one();
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn hear(link: Arc<Link>, shared: Arc<Shared>, key: String) {
    let mut conn = None;
    loop {
        loop {
            let begun = shared.begun.notified();
            if shared.listeners.load(Ordering::SeqCst) > 0 {
                break;
            }
            begun.await;
        }
        match next(&link, &mut conn, &key).await {
            Some(true) if shared.listeners.load(Ordering::SeqCst) > 0 => shared.ready.notify_one(),
            // It came when nobody here waited any more: somebody else may.
            Some(true) => {
                let mut back = Cmd::new();
                back.arg("LPUSH").arg(&key).arg(1);
                let _ = link.send(Lane::Control, &back).await; // a hint: lost is lost
            }
            Some(false) => {}
            None => {
                conn = None;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Whether there was a wake-up within a slice; `None` when the server is away.
async fn next(link: &Link, conn: &mut Option<Conn>, key: &str) -> Option<bool> {
    if conn.is_none() {
        *conn = Some(link.connect(None).await.ok()?);
    }
    let mut wait = Cmd::new();
    wait.arg("BLPOP").arg(key).arg(SLICE_SECONDS);
    let answer = tokio::time::timeout(OVERDUE, conn.as_mut()?.send(&wait)).await;
    Some(!matches!(answer.ok()?.ok()?, Value::Nil))
}
