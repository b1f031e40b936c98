//! The command line: what can be said, and which exit code it ends with.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Overrides, ProcessEnv, Raw, Refused};
use crate::{demo, doctor, keys, run, runs, serve};

/// A scale-to-zero runtime for AI agents.
///
/// On one machine this binary is the whole runtime: an embedded store, a worker and a sandbox, with no server to
/// install. Start with `torpor demo`.
#[derive(Parser)]
#[command(name = "torpor", version, max_term_width = 110, after_help = AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "\
Exit codes: 0 success; 1 the run (or a check) did not end well; 64 bad usage or configuration;
69 a service that is needed cannot be reached; 70 something else went wrong.";

#[derive(Subcommand)]
enum Command {
    /// Start the runtime: HTTP server, worker and store in one process
    Serve(ServeArgs),
    /// Submit one run, follow it, and print its outcome
    Run(run::Arguments),
    /// List, show and cancel runs
    Runs(runs::Arguments),
    /// Make, list, rotate and end API keys
    Keys(keys::Arguments),
    /// See it work: a review, a fan-out, and a brain killed in the middle of a command
    Demo(demo::Arguments),
    /// Check this machine and configuration, and say what to do about what is wrong
    Doctor(doctor::Arguments),
}

/// Where settings come from.
#[derive(Args, Default)]
pub(crate) struct Sources {
    /// TOML file with settings; keys are the flag names with `_` for `-`
    #[arg(long, value_name = "FILE", env = "TORPOR_CONFIG")]
    config: Option<PathBuf>,
}

impl Sources {
    /// The environment, and this file if any.
    pub(crate) fn of(config: Option<PathBuf>) -> Self {
        Self { config }
    }

    /// Merges everything that was said.
    pub(crate) fn raw(&self, overrides: &Overrides) -> Raw {
        Raw::gather(overrides, &ProcessEnv, self.config.as_deref())
    }

    /// The checked configuration.
    pub(crate) fn config(&self, overrides: &Overrides) -> Result<Config, Refused> {
        Config::from_raw(&self.raw(overrides))
    }
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    sources: Sources,
    /// Show the merged settings with their sources, secrets masked, and exit
    #[arg(long)]
    print_config: bool,
    /// With --print-config: as JSON
    #[arg(long, requires = "print_config")]
    json: bool,
    #[command(flatten)]
    settings: Overrides,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    /// The run, or a check, did not end well.
    NotWell,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Bad usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// A service that is needed cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<Refused> for Error {
    fn from(r: Refused) -> Self {
        Self::Usage(r.to_string())
    }
}

impl Error {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Other(_) => 70,
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 64 } else { 0 });
        }
    };
    let ended = match cli.command {
        Command::Serve(args) => serve_command(&args),
        Command::Run(args) => run::main(&args),
        Command::Runs(args) => runs::main(&args),
        Command::Keys(args) => keys::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Doctor(args) => doctor::main(&args),
    };
    match ended {
        Ok(Exit::Success) => ExitCode::SUCCESS,
        Ok(Exit::NotWell) => ExitCode::FAILURE,
        Err(e) => {
            for line in e.to_string().lines() {
                eprintln!("torpor: {line}");
            }
            ExitCode::from(e.code())
        }
    }
}

fn serve_command(args: &ServeArgs) -> Result<Exit, Error> {
    let raw = args.sources.raw(&args.settings);
    let checked = Config::from_raw(&raw);
    if args.print_config {
        if args.json {
            println!("{:#}", crate::config::show_json(&raw));
        } else {
            print!("{}", crate::config::show(&raw));
        }
        return Ok(checked.map(|_| Exit::Success)?);
    }
    serve::main(checked?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
