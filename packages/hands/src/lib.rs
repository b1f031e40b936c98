//! The hands: the supervisor in the sandbox. It executes what brains ask for, once each, and remembers the outcome.
//!
//! Owns: the daemon (socket, journal, fence, running calls and their output) and the domains in which commands run
//! confined. Must not know: models, logs, queues, or who decides what may run.
//!
//! Processes: one **daemon** per state folder; below it one **domain** per session, in which a small init process
//! forks one worker a call. Only the daemon holds the socket and the journal; nothing a command does reaches them.

pub mod cgroup;
pub mod cli;
mod confine;
pub mod daemon;
mod domain;
mod journal;
pub mod level;
mod output;
pub mod settings;
pub mod socket;

use std::ffi::OsString;
use std::process::ExitCode;

pub use level::Level;
pub use settings::{Limits, Settings};

/// First argument that makes a program the daemon.
pub const DAEMON_ARG: &str = "__hands-daemon";
/// First argument that makes a program a domain.
pub const DOMAIN_ARG: &str = "__hands-domain";
/// First argument that makes a program try the levels of confinement and print the best one.
pub const PROBE_ARG: &str = "__hands-probe";

/// Whether a program whose first argument this is should hand over to [`main_entry`].
#[must_use]
pub fn is_ours(first: &std::ffi::OsStr) -> bool {
    [DAEMON_ARG, DOMAIN_ARG, PROBE_ARG].iter().any(|a| first == *a)
}

/// Runs as daemon, domain, probe or attachment, depending on the arguments (without the program's name). To be called
/// before the program has started any thread.
#[must_use]
pub fn main_entry(args: impl Iterator<Item = OsString>) -> ExitCode {
    cli::run(args.collect())
}
