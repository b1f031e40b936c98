//! The scheduler: watches schedules, fires what is due, and finishes what others left.
//!
//! Owns: when it looks, and that a fire is begun before anything of it is posted. Must not know: where files are, what
//! makes an envelope acceptable, or that there are other schedulers: the store sorts out whose a fire is.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use torpor_core::schedule::{Begin, Begun, Fire, FireId, ScheduleStore, State};
use torpor_core::{Clock, Timestamp, store};

use crate::file::Schedule;
use crate::owed::{Owed, owed};
use crate::seam::{Loaded, Source, Submit};
use crate::when::When;

mod ask;
mod post;

pub use ask::{Fired, View};
use post::Posting;

#[cfg(test)]
mod tests;

/// How often the files are looked at; the scheduler wakes in between for what is due.
const LOOK: Duration = Duration::from_secs(5);
/// How soon what could not be begun is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often fires that others left are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// How long fires that are being posted may take to end at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// What a scheduler works with.
pub struct Deps {
    /// What is kept of schedules.
    pub store: Arc<dyn ScheduleStore>,
    /// Where they come from.
    pub source: Arc<dyn Source>,
    /// Who takes their items.
    pub submit: Arc<dyn Submit>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Names this process and no other.
    pub by: String,
}

/// Fires schedules. Cheap to clone; clones are one scheduler.
#[derive(Clone)]
pub struct Scheduler(Arc<Inner>);

struct Inner {
    store: Arc<dyn ScheduleStore>,
    source: Arc<dyn Source>,
    clock: Arc<dyn Clock>,
    by: String,
    posting: Posting,
    memory: Mutex<Memory>,
}

/// What is known without asking the store.
#[derive(Default)]
struct Memory {
    watched: HashMap<String, Watched>,
    swept: Option<Timestamp>,
    /// The store did not answer the last time; said once.
    away: bool,
    /// Schedules that cannot be fired for a reason of their own; said once.
    failing: HashSet<String>,
}

/// A schedule that the store knows to be watched.
struct Watched {
    plan: String,
    /// Nothing is owed before.
    next: Option<Timestamp>,
}

impl Scheduler {
    /// A scheduler that does nothing until [`Scheduler::run`].
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let posting = Posting::new(deps.store.clone(), deps.submit, deps.clock.clone());
        let Deps { store, source, clock, by, .. } = deps;
        Self(Arc::new(Inner { store, source, clock, by, posting, memory: Mutex::default() }))
    }

    /// Fires what is due until `told`, then gives what is being posted a few seconds. What is not posted by then is
    /// left to the next scheduler.
    pub async fn run(&self, told: impl Future<Output = ()>) {
        let watch = async {
            loop {
                let next = self.tick().await;
                self.0.clock.sleep(next).await;
            }
        };
        tokio::select! {
            biased;
            () = told => {}
            () = watch => {}
        }
        tokio::select! {
            () = self.0.posting.end() => {}
            () = self.0.clock.sleep(DRAIN) => tracing::warn!("a fire was left half posted; the next server finishes it"),
        }
    }

    /// Looks once at everything; how long until it is worth looking again.
    async fn tick(&self) -> Duration {
        let loaded = self.0.source.look();
        let done = self.look(&loaded).await;
        let now = self.0.clock.now();
        let mut memory = self.0.memory();
        match &done {
            Ok(()) => memory.away = false,
            Err(e) if !memory.away => {
                tracing::warn!(error = %e, "schedules cannot be fired: the store does not answer");
                memory.away = true;
            }
            Err(_) => {}
        }
        let next = memory.watched.values().filter_map(|watched| watched.next).min();
        next.map_or(LOOK, |next| next.since(now).clamp(AGAIN, LOOK))
    }

    async fn look(&self, loaded: &Loaded) -> Result<(), store::Error> {
        self.0.memory().watched.retain(|name, _| loaded.schedules.contains_key(name));
        for schedule in loaded.schedules.values() {
            let name = &schedule.name;
            match self.look_at(schedule).await {
                Ok(()) => drop(self.0.memory().failing.remove(name)),
                Err(e) if e.is_retryable() => return Err(e),
                // What is wrong with one (a state that cannot be read) must not stop the others.
                Err(e) => {
                    if self.0.memory().failing.insert(name.clone()) {
                        tracing::error!(schedule = name, error = %e, "a schedule cannot be fired");
                    }
                }
            }
        }
        let now = self.0.clock.now();
        if self.0.memory().swept.is_none_or(|at| now.since(at) >= SWEEP) {
            self.sweep(loaded, now).await?;
            self.0.memory().swept = Some(now);
        }
        Ok(())
    }

    async fn look_at(&self, schedule: &Arc<Schedule>) -> Result<(), store::Error> {
        let Some(when) = &schedule.when else { return Ok(()) };
        self.watch(schedule, when).await?;
        let now = self.0.clock.now();
        let next = self.0.memory().watched.get(&schedule.name).and_then(|watched| watched.next);
        if next.is_some_and(|next| next <= now) { self.fire_due(schedule, when, now).await } else { Ok(()) }
    }

    /// Tells the store of a schedule that is new here, or has another plan than before.
    async fn watch(&self, schedule: &Schedule, when: &When) -> Result<(), store::Error> {
        let plan = format!("{} {}", when.expression(), when.zone());
        if self.0.memory().watched.get(&schedule.name).is_some_and(|watched| watched.plan == plan) {
            return Ok(());
        }
        let state = self.0.store.watch(&schedule.name, &plan, self.0.clock.now()).await?;
        let next = when.next(state.considered);
        self.0.memory().watched.insert(schedule.name.clone(), Watched { plan, next });
        Ok(())
    }

    /// Begins every fire that is owed now.
    async fn fire_due(&self, schedule: &Arc<Schedule>, when: &When, now: Timestamp) -> Result<(), store::Error> {
        let name = &schedule.name;
        let Some(state) = self.0.store.state(name).await? else {
            self.0.memory().watched.remove(name); // the store lost it: it is watched anew
            return Ok(());
        };
        // Not asked of a paused one: what is due meanwhile is not owed, and is let go when the pause ends.
        let owed = state.paused.is_none().then(|| owed(when, schedule.catch_up, state.considered, now));
        let Owed { pass, fire } = owed.unwrap_or_default();
        if let Some(upto) = pass {
            tracing::info!(schedule = name, upto = %upto.rfc3339(), "missed fires are not made up for");
            self.0.store.pass(name, upto).await?;
        }
        for due in fire {
            let begin = Begin { fire: FireId::of_minute(due), due: Some(due), by: self.0.by.clone() };
            match self.0.store.begin(name, &begin).await? {
                Begun::Yours(fire) => self.0.posting.begin(schedule, fire),
                // Somebody asked for this very fire before it was due.
                Begun::There(fire) if fire.due.is_none() => self.0.store.pass(name, due).await?,
                Begun::There(_) | Begun::Passed => {} // somebody else was first
                Begun::Paused => break,               // in this very moment
                Begun::Crowded | Begun::Unknown => return Ok(()), // it stays owed
            }
        }
        if let Some(watched) = self.0.memory().watched.get_mut(name) {
            watched.next = when.next(now);
        }
        Ok(())
    }

    /// Goes on with fires that others left, or that this very process does not know it began.
    async fn sweep(&self, loaded: &Loaded, now: Timestamp) -> Result<(), store::Error> {
        for state in self.0.store.states().await? {
            let Some(schedule) = loaded.schedules.get(&state.name) else { continue };
            let open = || state.fires.iter().filter(|fire| fire.report.is_none());
            for mine in open().filter(|fire| fire.by == self.0.by) {
                self.0.posting.begin(schedule, mine.clone());
            }
            if open().any(|fire| fire.until <= now) {
                for fire in self.0.store.take_over(&state.name, &self.0.by).await? {
                    tracing::info!(schedule = state.name, fire = %fire.id, "goes on with a fire that was left");
                    self.0.posting.begin(schedule, fire);
                }
            }
        }
        Ok(())
    }
}

impl Inner {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
