//! `torpor dispatch`: posts every item of a schedule file as an async run, once a fire. The entry point of a Kubernetes
//! CronJob, and of any other cron.
//!
//! Owns: which fire it is, that every item is attempted, and what the whole ends with. Must not know: the format of the
//! file, or what a fire posts (`torpor_schedule` does).

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt as _;
use torpor_core::schedule::FireId;
use torpor_core::{Clock as _, SystemClock};
use torpor_schedule::{Format, Given, Invalid, Origin, Post, Schedule, fire_id};

use crate::cli::{Error, Exit};
use crate::client::{Client, Target};
use crate::follow::{Follower, Silent};
use crate::{serve, ui};

mod report;
mod send;

use report::Report;

/// The largest file that is read, in bytes.
const MAX_FILE: usize = 4 << 20;
/// Most items that are posted, or waited for, at once.
const MAX_PARALLEL: u16 = 64;

#[derive(Args)]
#[command(after_help = "\
The file is TOML or JSON: `items`, each an envelope as `POST /runs` takes it, and for all of them `name`, `tenant`, `cron` \
and `timezone`, which may be absent. __FIRE__ stands for the fire's id in any text of an item, at any depth.

A fire can be repeated: its runs are the same ones, and what was there already counts as accepted. Which fire it is: \
--fire; else --fire-job; else the last minute at which `cron` was due; else this very minute. In a CronJob, set \
TORPOR_FIRE_JOB from the pod's label `batch.kubernetes.io/job-name`: all pods of one Job are then one fire, the one that \
`torpor serve` would make for that minute.

Exit codes: 0 every item was accepted; 1 some were refused (or, with --wait, did not end well); 3 with --wait, some wait \
for a verdict; 64 the file is wrong, and nothing was posted; 69 some could not be delivered: repeat the fire; others as \
in `torpor help`.

Examples:
  torpor dispatch nightly.toml
  torpor dispatch nightly.toml --dry-run
  torpor dispatch review.json --fire release-42 --wait --json
  TORPOR_URL=http://torpor TORPOR_FIRE_JOB=nightly-29394840 torpor dispatch /config/nightly.toml")]
pub(crate) struct Arguments {
    /// Schedule file, TOML or JSON; `-` reads it from standard input
    file: String,
    /// Id of this fire, or the RFC 3339 time it is due [default: the schedule's own time]
    #[arg(long, value_name = "ID", env = "TORPOR_FIRE")]
    fire: Option<String>,
    /// Name of the Kubernetes Job that this is; one that a CronJob made names the minute it is due
    #[arg(long, value_name = "NAME", env = "TORPOR_FIRE_JOB")]
    fire_job: Option<String>,
    /// Items that are posted at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_PARALLEL)))]
    parallel: u16,
    /// How long a server that is away or busy is asked again, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    patience: u64,
    /// Show what would be posted, and post nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until every run has ended or waits for a verdict
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let ended = runtime.block_on(dispatch(args));
    runtime.shutdown_background();
    ended
}

async fn dispatch(args: &Arguments) -> Result<Exit, Error> {
    let schedule = read(&args.file)?;
    let fire = which(args, &schedule)?;
    schedule.check(&fire).map_err(|e| invalid(&args.file, e))?;
    let posts = schedule.posts(&fire);
    let json = args.target.json;
    if args.dry_run {
        report::planned(&schedule.name, &fire, &posts, json);
        return Ok(Exit::Success);
    }
    let client = args.target.client()?;
    let mut report = Report::new(&schedule.name, &fire, posts);
    let interrupted = tokio::select! {
        () = fill(&mut report, &client, args) => false,
        () = serve::told_to_stop()? => true,
    };
    report.print(json);
    if interrupted { Ok(Exit::Interrupted) } else { report.end() }
}

/// Posts what the report is about, and notes what became of each.
async fn fill(report: &mut Report, client: &Client, args: &Arguments) {
    let until = SystemClock.now().after(Duration::from_secs(args.patience));
    let parallel = usize::from(args.parallel);
    let posts: Vec<(usize, Arc<Post>)> = report.posts().cloned().enumerate().collect();
    let mut progress = Progress::new("posted", posts.len());
    let send = |(i, post): (usize, Arc<Post>)| async move {
        (i, send::deliver(client.clone(), &SystemClock, &post, until).await)
    };
    let mut sent = pin!(futures::stream::iter(posts).map(send).buffer_unordered(parallel));
    while let Some((i, sent)) = sent.next().await {
        progress.step();
        report.note(i, sent);
    }
    if !args.wait {
        return;
    }
    let runs = report.runs();
    let mut progress = Progress::new("settled", runs.len());
    let follow =
        |(i, run): (usize, String)| async move { (i, Follower::new(client.clone(), &run).settle(&mut Silent).await) };
    let mut settled = pin!(futures::stream::iter(runs).map(follow).buffer_unordered(parallel));
    while let Some((i, settled)) = settled.next().await {
        progress.step();
        report.settled(i, settled);
    }
}

/// How many of them are done.
struct Progress {
    line: ui::Progress,
    what: &'static str,
    done: usize,
    all: usize,
}

impl Progress {
    fn new(what: &'static str, all: usize) -> Self {
        let mut line = ui::Progress::default();
        line.show(&format!("0 of {all} {what}"));
        Self { line, what, done: 0, all }
    }

    fn step(&mut self) {
        self.done += 1;
        self.line.show(&format!("{} of {} {}", self.done, self.all, self.what));
    }
}

/// The fire that is meant, told to people: a wrong one would make runs again, or none.
fn which(args: &Arguments, schedule: &Schedule) -> Result<FireId, Error> {
    // A field of a pod that is not there is an empty variable.
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (fire, job) = (said(&args.fire), said(&args.fire_job));
    let name = if fire.is_some() { "--fire (or TORPOR_FIRE)" } else { "--fire-job (or TORPOR_FIRE_JOB)" };
    let given = Given { fire: fire.as_deref(), job: job.as_deref() };
    let (fire, origin) =
        fire_id(given, schedule.when.as_ref(), SystemClock.now()).map_err(|e| Error::Usage(format!("{name}: {e}")))?;
    let why = match origin {
        Origin::Given => "as you said".to_owned(),
        Origin::Due(at) => format!("due at {}", ui::short_time(&at.rfc3339())),
        Origin::Minute => {
            "this minute: there is no `cron`, and a repetition in another minute is another fire".to_owned()
        }
    };
    eprintln!("{}", ui::Paint::err().dim(&format!("{}: fire {fire} ({why})", schedule.name)));
    Ok(fire)
}

fn read(file: &str) -> Result<Schedule, Error> {
    let wrong = |e: String| Error::Usage(format!("{file}: {e}"));
    let path = Path::new(file);
    let (text, stem) = if file == "-" {
        (crate::run::stdin()?, None)
    } else {
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        (text, path.file_stem().and_then(|stem| stem.to_str()))
    };
    if text.len() > MAX_FILE {
        return Err(wrong(format!("is larger than {MAX_FILE} bytes")));
    }
    if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
        return Err(wrong("YAML is not read; write the schedule in TOML or JSON".into()));
    }
    let format = Format::of(path).unwrap_or_else(|| Format::guess(&text));
    Schedule::parse(&text, format, stem).map_err(|e| invalid(file, e))
}

fn invalid(file: &str, e: Invalid) -> Error {
    let lines: Vec<String> = e.0.iter().map(|line| format!("{file}: {line}")).collect();
    Error::Usage(lines.join("\n"))
}
