//! `run_leaf()`: the loop that turns a claimed run into an outcome.
//!
//! It reads the tail of the session's log, decides the next step, **writes the intent, performs the effect, writes
//! the outcome**. It holds nothing that is not in the log, so it can die between any two lines and another brain
//! goes on from there.
//!
//! Owns: the turn loop, what the model is told, budgets, the tool step, resume.
//! Must not know: HTTP, any store, any provider, any sandbox; it sees only the seams of `torpor-core`.

mod approval;
mod catalogue;
mod check;
mod compaction;
mod finish;
mod forget;
mod inputs;
mod leaf;
mod model_step;
mod output;
mod prompt;
mod settings;
mod state;
mod tool_step;
mod watch;
mod went_back;
mod writer;

pub use check::{Refused, check};
pub use forget::{NotForgotten, forget};
pub use leaf::{Deps, LeafEnd, Stop, StopHandle, give_up, is_exhausted, run_leaf};
pub use settings::{Limits, RetryPolicy, Settings, UnknownModel};
