//! The protocol of lease, append, takeover and hands as a state machine small enough to be walked through completely.
//!
//! Owns: the model ([`Protocol`]), the faults that it may meet ([`Faults`]), the guards that can be taken out of it one by
//! one ([`Guard`]), and what must hold in every state. Nothing ships this crate and nothing depends on it.
//! Must not know: the code that it is a model of. What stands for what: docs/specs/2026-11-20-protocol-model.md.

mod brain;
mod ends;
mod hands;
mod properties;
mod protocol;
mod scenario;
mod store;

pub use ends::every_path_ends;
pub use protocol::{Action, Protocol, State};
pub use scenario::{Faults, Guard, Scenario};
