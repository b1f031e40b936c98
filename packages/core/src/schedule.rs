//! Seam: what is kept of schedules, so that every fire happens once, whoever watches them and whatever dies meanwhile.
//!
//! Owns: how things are named, and who promises what. Must not know: when anything is due, what a fire posts, or what
//! the files say: they are with whoever watches.

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::store;

mod name;
mod report;
mod state;

pub use name::{FireId, InvalidName, MAX_FIRE, MAX_NAME, check_name};
pub use report::{Accepted, KEEP_REFUSALS, KEEP_RUNS, Refusal, Report};
pub use state::{Begin, Begun, CLAIM, Fire, KEEP_FIRES, MAX_OPEN, State};

/// Most schedules that a store keeps the state of; beyond them those go that were due longest ago.
pub const KEEP_STATES: usize = 1_000;

/// What is kept of schedules.
///
/// Promises, each a case of the conformance suite; every change is one atomic step, **durable when it returns**, and
/// harmless when it is repeated:
/// - A fire is begun by one caller, whoever else tries: under its id, and not after a later one of its schedule was begun
///   or passed over.
/// - Whoever begins a fire has [`CLAIM`] to finish it, by the store's clock. Then another may take it over; what it posts
///   is the same, so it harms nobody if both do.
/// - Nothing that is due is begun from the moment a pause has returned; what was due meanwhile is not made up for.
/// - A schedule has at most [`MAX_OPEN`] fires that are not finished, and the last [`KEEP_FIRES`] are kept.
#[async_trait]
pub trait ScheduleStore: Send + Sync + 'static {
    /// What is kept of all schedules, by name.
    async fn states(&self) -> Result<Vec<State>, store::Error>;

    /// What is kept of one schedule.
    async fn state(&self, name: &str) -> Result<Option<State>, store::Error>;

    /// A schedule is watched from `at` on, and is due by this plan. What is new, or has another plan than before, owes
    /// nothing from before `at`. Answers its state.
    async fn watch(&self, name: &str, plan: &str, at: Timestamp) -> Result<State, store::Error>;

    /// Begins a fire.
    async fn begin(&self, name: &str, begin: &Begin) -> Result<Begun, store::Error>;

    /// Notes what became of a fire; the first note counts. `false` when there is no such fire, or it is finished.
    async fn finish(&self, name: &str, fire: &FireId, report: &Report) -> Result<bool, store::Error>;

    /// Nothing up to `upto` is owed any more.
    async fn pass(&self, name: &str, upto: Timestamp) -> Result<(), store::Error>;

    /// Pauses a schedule; `None` when nothing is kept of it.
    async fn pause(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error>;

    /// Ends a pause; `None` when nothing is kept of it.
    async fn resume(&self, name: &str, at: Timestamp) -> Result<Option<State>, store::Error>;

    /// The fires of a schedule that somebody began and did not finish in time; they are the caller's from now on.
    async fn take_over(&self, name: &str, by: &str) -> Result<Vec<Fire>, store::Error>;
}
