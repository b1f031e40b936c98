//! The `torpor` binary: entry points, configuration, wiring, exit codes.
//!
//! The only crate that knows all others. It decides nothing about runs; it puts parts together.

mod cli;
mod client;
mod config;
mod demo;
mod doctor;
mod run;
mod runtime;
mod serve;
mod telemetry;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The hands are this same program, started by itself: one build is enough on one machine.
    if let Some(code) = torpor_hands::entry(std::env::args_os()) {
        return code;
    }
    cli::main()
}
