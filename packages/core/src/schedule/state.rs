//! What is kept of one schedule, and how it changes.
//!
//! Owns: the rule by which a fire happens once. It is written down here, where it can be tested without a store, so that
//! a store has only to read a state, change it and write it back in one atomic step. Must not know: any store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::FireId;
use super::report::Report;
use crate::clock::Timestamp;

/// How long whoever began a fire has to post its items, before another may do it.
pub const CLAIM: Duration = Duration::from_secs(60);
/// Fires of a schedule that are kept.
pub const KEEP_FIRES: usize = 20;
/// Most fires of a schedule that are begun and not finished.
pub const MAX_OPEN: usize = 8;

/// What is kept of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Its name.
    pub name: String,
    /// The plan that it was last watched by: another one owes nothing from before.
    pub plan: String,
    /// Nothing that was due up to here is owed.
    pub considered: Timestamp,
    /// Since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Timestamp>,
    /// Its last fires, the newest first.
    #[serde(default)]
    pub fires: Vec<Fire>,
}

/// A fire that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fire {
    /// Its id.
    pub id: FireId,
    /// When it was due; `None` for one that somebody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// When it was begun, by the store's clock.
    pub begun_at: Timestamp,
    /// How often somebody set out to post its items.
    pub attempts: u32,
    /// Who did last.
    pub by: String,
    /// Until when nobody else may, by the store's clock.
    pub until: Timestamp,
    /// What became of it; `None` while it is not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// A fire that is to be begun.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Its id.
    pub fire: FireId,
    /// When it was due; `None` for one that somebody asked for.
    pub due: Option<Timestamp>,
    /// Who begins it: whoever asks again is recognised. Unique to a process.
    pub by: String,
}

/// What became of a begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is the caller's, who posts its items now.
    Yours(Fire),
    /// It was begun before, by somebody else or to its end.
    There(Fire),
    /// It was due before what is owed: it was begun long ago, or passed over.
    Passed,
    /// The schedule is paused, and nobody asked for this fire.
    Paused,
    /// As many fires of the schedule are under way as there may be: try again later.
    Crowded,
    /// Nothing is kept of the schedule: it must be watched first.
    Unknown,
}

impl State {
    /// A schedule that is watched for the first time.
    #[must_use]
    pub fn new(name: &str, plan: &str, at: Timestamp) -> Self {
        Self { name: name.to_owned(), plan: plan.to_owned(), considered: at, paused: None, fires: Vec::new() }
    }

    /// See [`ScheduleStore::watch`](super::ScheduleStore::watch).
    pub fn watch(&mut self, plan: &str, at: Timestamp) {
        if self.plan != plan {
            plan.clone_into(&mut self.plan);
            self.pass(at);
        }
    }

    /// See [`ScheduleStore::begin`](super::ScheduleStore::begin); `now` is the store's clock.
    pub fn begin(&mut self, begin: &Begin, now: Timestamp) -> Begun {
        if let Some(there) = self.fires.iter().find(|fire| fire.id == begin.fire) {
            let mine = there.report.is_none() && there.by == begin.by;
            return if mine { Begun::Yours(there.clone()) } else { Begun::There(there.clone()) };
        }
        match begin.due {
            Some(due) if due <= self.considered => return Begun::Passed,
            Some(_) if self.paused.is_some() => return Begun::Paused,
            _ => {}
        }
        if self.open() >= MAX_OPEN {
            return Begun::Crowded;
        }
        let fire = Fire {
            id: begin.fire.clone(),
            due: begin.due,
            begun_at: now,
            attempts: 1,
            by: begin.by.clone(),
            until: now.after(CLAIM),
            report: None,
        };
        self.fires.insert(0, fire.clone());
        self.trim();
        if let Some(due) = begin.due {
            self.pass(due);
        }
        Begun::Yours(fire)
    }

    /// See [`ScheduleStore::finish`](super::ScheduleStore::finish).
    pub fn finish(&mut self, id: &FireId, report: &Report) -> bool {
        let open = self.fires.iter_mut().find(|fire| fire.id == *id && fire.report.is_none());
        let finished = open.map(|fire| fire.report = Some(report.clone())).is_some();
        self.trim();
        finished
    }

    /// See [`ScheduleStore::pass`](super::ScheduleStore::pass).
    pub fn pass(&mut self, upto: Timestamp) {
        self.considered = self.considered.max(upto);
    }

    /// See [`ScheduleStore::pause`](super::ScheduleStore::pause).
    pub fn pause(&mut self, at: Timestamp) {
        self.paused.get_or_insert(at);
    }

    /// See [`ScheduleStore::resume`](super::ScheduleStore::resume).
    pub fn resume(&mut self, at: Timestamp) {
        if self.paused.take().is_some() {
            self.pass(at);
        }
    }

    /// See [`ScheduleStore::take_over`](super::ScheduleStore::take_over); `now` is the store's clock.
    pub fn take_over(&mut self, by: &str, now: Timestamp) -> Vec<Fire> {
        let lapsed = self.fires.iter_mut().filter(|fire| fire.report.is_none() && fire.until <= now);
        lapsed
            .map(|fire| {
                fire.attempts = fire.attempts.saturating_add(1);
                by.clone_into(&mut fire.by);
                fire.until = now.after(CLAIM);
                fire.clone()
            })
            .collect()
    }

    /// Whoever had begun something is gone: the store knows that nobody else uses it.
    pub fn void_claims(&mut self) {
        self.fires.iter_mut().for_each(|fire| fire.until = Timestamp(0));
    }

    /// How many fires are not finished.
    #[must_use]
    pub fn open(&self) -> usize {
        self.fires.iter().filter(|fire| fire.report.is_none()).count()
    }

    /// Lets the oldest go that are finished.
    fn trim(&mut self) {
        while self.fires.len() > KEEP_FIRES {
            let Some(oldest) = self.fires.iter().rposition(|fire| fire.report.is_some()) else { return };
            self.fires.remove(oldest);
        }
    }
}
