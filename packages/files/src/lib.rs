//! What runs are made of and answered in, as files on the shared volume.
//!
//! Owns: what stands in a result, a marker and a gate, in which order they come and go, and the inbox. Must not know: how
//! a file is opened or written (see the seam `torpor_core::volume`), when a failed attempt is repeated, or what makes an
//! envelope acceptable.
//!
//! - `writer`: brings the files of a run up to date.
//! - `form`: their contents.
//! - `task`: where what stands in an inbox.
//! - `inbox`: files that become runs.

mod form;
mod inbox;
mod task;
mod writer;

pub use inbox::{Inbox, Refused, Submit, Taken};
pub use writer::Writer;
