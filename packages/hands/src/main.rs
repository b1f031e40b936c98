//! `torpor-hands`: the supervisor as a program of its own, for images.

use std::process::ExitCode;

fn main() -> ExitCode {
    torpor_hands::main_entry(std::env::args_os().skip(1))
}
