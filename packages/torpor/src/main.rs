//! The `torpor` binary: entry points, configuration, wiring, exit codes.
//!
//! The only crate that knows all others. It decides nothing about runs; it puts parts together.

mod cli;
mod client;
mod config;
mod demo;
mod dispatch;
mod doctor;
mod follow;
mod gates;
mod keys;
mod keys_file;
mod pages;
mod run;
mod runs;
mod runtime;
mod schedule_files;
mod schedules;
mod serve;
mod sessions;
mod stores;
mod telemetry;
mod ui;
mod watched_file;
mod watching;
mod webhooks;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The hands are this same program, started by itself: one build is enough on one machine.
    if std::env::args_os().nth(1).is_some_and(|first| torpor_hands::is_ours(&first)) {
        return torpor_hands::main_entry(std::env::args_os().skip(1));
    }
    cli::main()
}
