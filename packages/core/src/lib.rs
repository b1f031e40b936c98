//! The words that every other crate speaks: ids, log entries, envelopes, statuses, and the seams.
//!
//! Owns: types that are stored or cross a seam, their validation, and the seam traits with their promises.
//! Must not know: any I/O, any provider, any store, HTTP routing, or how a tool works.
//! When a module here grows logic that only one crate needs, it belongs in that crate.

pub mod answer;
pub mod clock;
pub mod dead_letter;
pub mod entry;
pub mod envelope;
pub mod gate;
pub mod id;
pub mod json;
pub mod key;
pub mod live;
pub mod log;
pub mod message;
pub mod model;
pub mod observe;
pub mod outcome;
pub mod price;
pub mod problem;
pub mod queue;
pub mod run;
pub mod sandbox;
pub mod schedule;
pub mod session;
pub mod store;
pub mod tool;
pub mod trace;
pub mod volume;
pub mod webhook;

pub use clock::{Clock, SystemClock, Timestamp};
pub use id::{CallId, Epoch, Position, RunId, SessionKey, WorkerId};
