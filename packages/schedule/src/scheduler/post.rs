//! Posting the items of a fire that was begun.
//!
//! Owns: how many at once, how long a server that is busy is asked again, and what is reported. Must not know: when a
//! fire is due.
//!
//! Whatever dies in the middle: the fire is not finished, so somebody posts all of it again, and what was posted is known
//! by its session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use torpor_core::schedule::{Fire, FireId, Report, ScheduleStore};
use torpor_core::{Clock, RunId, Timestamp};

use crate::file::Schedule;
use crate::item::Post;
use crate::seam::{Refused, Submit};

/// Fires that are posted at once; the others wait.
const FIRES: usize = 8;
/// Items of one fire that are posted at once.
const ITEMS: usize = 16;
/// How long a queue that is full, or a store that is away, is asked again: well within a claim.
const PATIENCE: Duration = Duration::from_secs(40);
/// First and longest wait in between.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often a fire is set out for, each time after a claim has lapsed, before what could not be posted counts as refused:
/// about an hour.
const MAX_ATTEMPTS: u32 = 60;

/// Posts fires, each in a task of its own.
#[derive(Clone)]
pub(super) struct Posting {
    store: Arc<dyn ScheduleStore>,
    submit: Arc<dyn Submit>,
    clock: Arc<dyn Clock>,
    slots: Arc<Semaphore>,
    /// What is being posted in this process, each with what tells of its end.
    active: Arc<Mutex<Active>>,
    /// How much that is.
    busy: watch::Sender<usize>,
}

type Active = HashMap<(String, FireId), watch::Receiver<()>>;

impl Posting {
    pub(super) fn new(store: Arc<dyn ScheduleStore>, submit: Arc<dyn Submit>, clock: Arc<dyn Clock>) -> Self {
        let (slots, active, busy) = (Arc::new(Semaphore::new(FIRES)), Arc::default(), watch::Sender::new(0));
        Self { store, submit, clock, slots, active, busy }
    }

    /// Posts the items of a fire, unless this process is at it already.
    pub(super) fn begin(&self, schedule: &Arc<Schedule>, fire: Fire) {
        let key = (schedule.name.clone(), fire.id.clone());
        let (ended, waits) = watch::channel(());
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.contains_key(&key) {
            return;
        }
        active.insert(key.clone(), waits);
        self.busy.send_replace(active.len());
        drop(active);
        let (this, schedule) = (self.clone(), Arc::clone(schedule));
        tokio::spawn(async move {
            let gone = Gone { posting: this.clone(), key, _ended: ended };
            // The semaphore is never closed.
            let _slot = this.slots.acquire().await;
            this.post(&schedule, &fire).await;
            drop(gone);
        });
    }

    /// Waits until this fire is no longer being posted here.
    pub(super) async fn ended(&self, schedule: &str, fire: &FireId) {
        let key = (schedule.to_owned(), fire.clone());
        let waits = self.active.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(mut waits) = waits {
            let _ = waits.changed().await; // an error is the end
        }
    }

    /// Waits until nothing is being posted here.
    pub(super) async fn end(&self) {
        let _ = self.busy.subscribe().wait_for(|busy| *busy == 0).await;
    }

    async fn post(&self, schedule: &Schedule, fire: &Fire) {
        let until = self.clock.now().after(PATIENCE);
        let posts = schedule.posts(&fire.id);
        let items = posts.len();
        let send = |post: Post| async move { (post.name, self.send(post.body, until).await) };
        // In their order, so that the report names the first.
        let sent: Vec<_> = futures::stream::iter(posts).map(send).buffered(ITEMS).collect().await;
        let waiting = sent.iter().filter(|(_, sent)| sent.as_ref().is_err_and(|e| e.passing)).count();
        let (name, id) = (&schedule.name, &fire.id);
        if waiting > 0 && fire.attempts < MAX_ATTEMPTS {
            tracing::warn!(schedule = name, fire = %id, waiting, "a fire is not whole yet: its other items are posted later");
            return;
        }
        let mut report = Report { at: self.clock.now(), ..Report::default() };
        for (item, sent) in sent {
            match sent {
                Ok(run) => report.accepted(&item, run),
                Err(e) => {
                    tracing::warn!(schedule = name, fire = %id, item, code = e.code, detail = e.detail, "an item was refused");
                    report.refused(&item, e.code, &e.detail);
                }
            }
        }
        match self.store.finish(name, id, &report).await {
            Ok(_) => tracing::info!(schedule = name, fire = %id, items, refused = report.refused, "fired"),
            Err(e) => {
                tracing::warn!(schedule = name, fire = %id, error = %e, "a fire was posted and could not be noted")
            }
        }
    }

    async fn send(&self, envelope: serde_json::Value, until: Timestamp) -> Result<Option<RunId>, Refused> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.submit.submit(envelope.clone()).await {
                Err(e) if e.passing && self.clock.now().after(wait) < until => {
                    self.clock.sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                sent => return sent,
            }
        }
    }
}

/// Takes a fire off the list however its task ends.
struct Gone {
    posting: Posting,
    key: (String, FireId),
    /// Dropped with this: whoever waits is told.
    _ended: watch::Sender<()>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let mut active = self.posting.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.remove(&self.key);
        self.posting.busy.send_replace(active.len());
    }
}
