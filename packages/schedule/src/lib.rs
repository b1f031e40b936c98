//! Schedules: what their files say, when they are due, and what each fire of theirs posts.
//!
//! Owns: the format of a schedule file, cron expressions in time zones, the ids of fires, the one way from an item and a
//! fire to an envelope and its session (whoever fires a schedule under the same id posts the same runs), and the scheduler,
//! which fires what is due. Must not know: how anything is posted, kept, or shown, or where files come from.

mod file;
mod fire;
mod item;
mod owed;
mod scheduler;
mod seam;
mod when;

pub use file::{CatchUp, Format, Invalid, MAX_ITEMS, Schedule};
pub use fire::{Given, Origin, fire_id};
pub use item::{PLACEHOLDER, Post};
pub use scheduler::{Deps, Fired, Scheduler, View};
pub use seam::{Loaded, Refused, Schedules, Source, Submit};
pub use when::When;
