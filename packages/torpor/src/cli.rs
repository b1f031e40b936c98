//! The command line: what can be said, and which exit code it ends with.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Config, Overrides, ProcessEnv, Raw, Refused};
use crate::{demo, dispatch, doctor, gates, keys, run, runs, schedules, serve, sessions, worker};

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
Every command has examples: `torpor help COMMAND`. People get tables, colours and progress on a terminal (NO_COLOR turns \
colours off); machines get --json on standard output. What is said besides goes to standard error.

Exit codes:
   0  success
   1  the run, or a check, did not end well
   3  the run waits for a verdict (`torpor gates`)
  64  bad usage or configuration, or the server refused the request
  69  a service that is needed cannot be reached, or is busy: try again
  70  something else went wrong
 130  stopped by Ctrl-C
 141  whoever read the output has gone

Examples:
  torpor demo
  torpor run 'Which of these files has no tests?' --workspace .
  torpor serve";

#[derive(Subcommand)]
enum Command {
    /// Start the runtime: HTTP server, worker and store in one process
    Serve(ServeArgs),
    /// Work on what is queued, and end when nothing is left to do
    Worker(worker::Arguments),
    /// Submit one run, follow it, and print its outcome
    Run(run::Arguments),
    /// Post every item of a schedule file as an async run, once a fire (for cron and CronJobs)
    Dispatch(dispatch::Arguments),
    /// List, show, follow and cancel runs, send messages to them, and drive those again that were given up
    Runs(runs::Arguments),
    /// List what waits for a verdict, and approve, reject or abort it
    Gates(gates::Arguments),
    /// List, show, pause, resume and fire the schedules of a server
    Schedules(schedules::Arguments),
    /// List, show, fork, export, import and delete sessions
    Sessions(sessions::Arguments),
    /// Make, list, rotate and end API keys
    Keys(keys::Arguments),
    /// See it work: a review, a fan-out, a gate, and a brain killed in the middle of a command
    Demo(demo::Arguments),
    /// Check this machine and configuration, and say what to do about what is wrong
    Doctor(doctor::Arguments),
    /// Print the completions of a shell
    #[command(after_help = "\
Examples:
  torpor completions bash > ~/.local/share/bash-completion/completions/torpor
  torpor completions zsh > ~/.zfunc/_torpor          # with `fpath+=~/.zfunc` before compinit in ~/.zshrc
  torpor completions fish > ~/.config/fish/completions/torpor.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
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
#[command(after_help = "\
Settings are flags over environment over the file that --config names. Ctrl-C or SIGTERM hands back what is under way, \
in good order; a second one stops at once. Either way nothing is lost.

Examples:
  torpor serve
  torpor serve --port 9000 --data-dir /srv/torpor
  torpor serve --print-config
  TORPOR_MODEL=openai/gpt-5 OPENAI_API_KEY=… torpor serve")]
struct ServeArgs {
    #[command(flatten)]
    settings: Settings,
}

/// The settings of a command that works with all of them.
#[derive(Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    sources: Sources,
    /// Show the merged settings with their sources, secrets masked, and exit
    #[arg(long)]
    print_config: bool,
    /// With --print-config: as JSON
    #[arg(long, requires = "print_config")]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

impl Settings {
    /// The checked configuration; `None` if it was to be shown, which is done then.
    pub(crate) fn config(&self) -> Result<Option<Config>, Error> {
        let raw = self.sources.raw(&self.overrides);
        let checked = Config::from_raw(&raw);
        if self.print_config {
            if self.json {
                println!("{:#}", crate::config::show_json(&raw));
            } else {
                print!("{}", crate::config::show(&raw));
            }
            return Ok(checked.map(|_| None)?);
        }
        Ok(Some(checked?))
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    /// The run, or a check, did not end well.
    NotWell,
    /// The run waits for a verdict.
    Waiting,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::NotWell => 1,
            Self::Waiting => 3,
            Self::Interrupted => 130,
        }
    }
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
        Command::Worker(args) => worker::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Dispatch(args) => dispatch::main(&args),
        Command::Runs(args) => runs::main(&args),
        Command::Gates(args) => gates::main(&args),
        Command::Schedules(args) => schedules::main(&args),
        Command::Sessions(args) => sessions::main(&args),
        Command::Keys(args) => keys::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Completions { shell } => {
            // In one piece, so that a reader who goes early is no error.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "torpor", &mut script);
            crate::ui::say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(Exit::Success)
        }
    };
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(e) => {
            for line in e.to_string().lines() {
                eprintln!("torpor: {line}");
            }
            ExitCode::from(e.code())
        }
    }
}

fn serve_command(args: &ServeArgs) -> Result<Exit, Error> {
    match args.settings.config()? {
        Some(config) => serve::main(config),
        None => Ok(Exit::Success),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        fn walk(command: &clap::Command, path: &str, wrong: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name()).trim().to_owned();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = help.split_once("Example").is_some_and(|(_, rest)| rest.contains("torpor "));
            if !example || command.get_about().is_none_or(|about| about.to_string().is_empty()) {
                wrong.push(path.clone());
            }
            for argument in command.get_arguments().filter(|a| a.get_help().is_none()) {
                wrong.push(format!("{path}: {}", argument.get_id()));
            }
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(|c| walk(c, &path, wrong));
        }
        let mut wrong = Vec::new();
        walk(&super::Cli::command(), "", &mut wrong);
        assert!(wrong.is_empty(), "without an example, a description or a help text: {wrong:#?}");
    }
}
