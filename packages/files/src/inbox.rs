//! The inbox: a folder of the shared volume whose files become runs, for those who have nothing but files.
//!
//! Owns: what is looked at, claimed and submitted when, and what becomes of what is no task. Must not know: what makes an
//! envelope acceptable, or when a run's files are written (see `writer`).
//!
//! A task is claimed by moving it to a name that nobody else can make: of any number of processes that watch the same
//! folder one succeeds, and the name says from then on which submit it is. So whoever dies in between is made good by
//! anybody who finds the file in `running`: the same claim is the same run, however often it is submitted. When the run ends,
//! the order to write its files, which is stored with its end, moves the task as well.

mod verdict;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use torpor_core::clock::{Clock, Timestamp};
use torpor_core::entry::RunTotals;
use torpor_core::envelope::MAX_INPUTS_BYTES;
use torpor_core::gate::GateStore;
use torpor_core::outcome::Outcome;
use torpor_core::run::Record;
use torpor_core::volume::{Error, Kind, Listed, Place, Task, Volume};
use torpor_core::webhook::State;
use torpor_core::{RunId, store};

use crate::form::Ended;
use crate::task::{self, DONE, Dropped, FAILED, PENDING, Places as _, RUNNING};
use crate::writer::Writer;

/// How often the folder is looked at. Nothing on a network volume tells of a change.
const EVERY: Duration = Duration::from_secs(1);

/// Most names that are looked at in a folder at once. Of more, which come first is not said.
const MAX_NAMES: usize = 10_000;

/// Most files that one look claims, refuses or submits, so that a flood delays nobody's verdict.
const BATCH: usize = 64;

/// A task that another process has claimed is left to it for so long; then it is submitted here too, which makes no second
/// run.
const GRACE: Duration = Duration::from_secs(30);

/// Who takes what a task asks for.
#[async_trait]
pub trait Submit: Send + Sync + 'static {
    /// Takes a task's envelope as an asynchronous run of this tenant. The same claim and envelope are the same run.
    /// Cancellation: whether it was taken is unknown; submit it again.
    ///
    /// # Errors
    /// Why it was not taken.
    async fn submit(&self, envelope: Value, task: &Task, tenant: &str) -> Result<Taken, Refused>;
}

/// A task that was taken.
#[derive(Debug, Clone)]
pub enum Taken {
    /// As this run.
    Run(RunId),
    /// As this run, which has ended.
    Ended(Box<Record>),
    /// As a run that has been, and whose record has expired.
    Expired,
}

/// A task that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong, for whoever dropped it.
    pub detail: String,
    /// It may be taken later.
    pub passing: bool,
}

/// Watches one folder.
pub struct Inbox {
    /// The folder.
    pub folder: Place,
    /// Whose runs its tasks become.
    pub tenant: String,
    /// The files.
    pub volume: Arc<dyn Volume>,
    /// Where tasks go.
    pub submit: Arc<dyn Submit>,
    /// Where verdicts go.
    pub gates: Arc<dyn GateStore>,
    /// Writes what nobody wrote.
    pub writer: Writer,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What is known of the tasks in `running`, by their claims.
#[derive(Debug, Default)]
struct Seen {
    /// The run that one became.
    runs: HashMap<String, RunId>,
    /// When one is submitted, if it is still there then.
    due: HashMap<String, Timestamp>,
    /// Whether the folder was looked at before.
    before: bool,
    /// Whether the volume was away when it was looked at last.
    away: bool,
}

impl Inbox {
    /// Watches until it is dropped, at any point: whoever comes next goes on.
    pub async fn run(&self) {
        let mut seen = Seen::default();
        loop {
            match self.look(&mut seen).await {
                Ok(()) => seen.away = false,
                Err(e) if !std::mem::replace(&mut seen.away, true) => {
                    tracing::warn!(error = %e, "the inbox cannot be looked at; it is tried again");
                }
                Err(_) => {}
            }
            self.clock.sleep(EVERY).await;
        }
    }

    /// One look at everything.
    async fn look(&self, seen: &mut Seen) -> Result<(), Error> {
        let mut left = BATCH;
        let mut pending = self.names(PENDING).await?;
        pending.sort_by(|a, b| a.name.cmp(&b.name));
        for Listed { name, kind } in pending {
            if left == 0 {
                break;
            }
            match task::dropped(&name) {
                Dropped::Unfinished => continue,
                Dropped::Task(task) if kind == Kind::File => self.claim(&name, task, seen).await?,
                Dropped::Task(_) => self.refuse(&name, "it is not a regular file").await?,
                Dropped::Other(why) => self.refuse(&name, why).await?,
            }
            left -= 1;
        }
        self.look_at_running(seen, &mut left).await
    }

    async fn look_at_running(&self, seen: &mut Seen, left: &mut usize) -> Result<(), Error> {
        let running = self.names(RUNNING).await?;
        let known = running.iter().filter_map(|it| task::running(&it.name));
        let (verdicts, tasks): (Vec<_>, Vec<_>) = known.partition(|(.., is_verdict)| *is_verdict);
        let now = self.clock.now();
        let first = if std::mem::replace(&mut seen.before, true) { now.after(GRACE) } else { now };
        let there: HashMap<&str, ()> = tasks.iter().map(|(_, claim, _)| (claim.as_str(), ())).collect();
        seen.runs.retain(|claim, _| there.contains_key(claim.as_str()));
        seen.due.retain(|claim, _| there.contains_key(claim.as_str()));
        for (name, claim, _) in &tasks {
            if seen.runs.contains_key(claim) || *seen.due.entry(claim.clone()).or_insert(first) > now || *left == 0 {
                continue;
            }
            *left -= 1;
            self.enter(&self.task(name.clone(), claim.clone()), seen).await?;
        }
        for (name, claim, _) in verdicts {
            if let Some(run) = seen.runs.get(&claim).filter(|_| *left > 0) {
                *left -= 1;
                self.decide(&self.task(name, claim), run).await?;
            }
        }
        Ok(())
    }

    /// The names in one of the four folders, which are made where they are missing.
    async fn names(&self, folder: &str) -> Result<Vec<Listed>, Error> {
        match self.volume.list(&task::folder(&self.folder, folder), MAX_NAMES).await {
            Err(Error::Missing) => {
                for folder in [PENDING, RUNNING, DONE, FAILED] {
                    self.volume.make(&task::folder(&self.folder, folder)).await?;
                }
                Ok(Vec::new())
            }
            answer => answer,
        }
    }

    fn task(&self, name: String, claim: String) -> Task {
        Task { inbox: self.folder.clone(), name, claim }
    }

    /// Takes a task out of `pending`, if nobody else does.
    async fn claim(&self, dropped: &OsStr, name: String, seen: &mut Seen) -> Result<(), Error> {
        let task = self.task(name, task::claim());
        if self.volume.rename(&task::folder(&self.folder, PENDING).join(dropped), &task.running()).await? {
            seen.due.insert(task.claim.clone(), self.clock.now());
            self.enter(&task, seen).await?;
        }
        Ok(())
    }

    /// Submits a claimed task. What is wrong with it for good puts it among the failed.
    async fn enter(&self, task: &Task, seen: &mut Seen) -> Result<(), Error> {
        let bytes = match self.volume.read(&task.running(), MAX_INPUTS_BYTES).await {
            Ok(bytes) => bytes,
            Err(Error::Missing) => return Ok(()), // it is over already
            Err(Error::Refused(why)) => return self.reject(task, &format!("the file {why}")).await,
            Err(e) => return Err(e),
        };
        let envelope = match read(&bytes) {
            Ok(envelope) => envelope,
            Err(why) => return self.reject(task, &why).await,
        };
        match self.submit.submit(envelope, task, &self.tenant).await {
            Ok(Taken::Run(run)) => {
                seen.runs.insert(task.claim.clone(), run);
            }
            Ok(Taken::Ended(record)) => return self.end(task, *record, seen).await,
            Ok(Taken::Expired) => {
                let why = "its run has been, and its record has expired; drop it again to have it done again";
                return self.reject(task, why).await;
            }
            Err(Refused { detail, passing: true }) => {
                tracing::info!(task = task.name, detail, "a task is not taken now; it is tried again");
                seen.due.insert(task.claim.clone(), self.clock.now().after(EVERY));
            }
            Err(Refused { detail, passing: false }) => return self.reject(task, &detail).await,
        }
        Ok(())
    }

    /// The run has ended, and the task is still here: it is moved by whoever has the order to, unless nobody has any more.
    async fn end(&self, task: &Task, record: Record, seen: &mut Seen) -> Result<(), Error> {
        let is_ordered = record.files.as_ref().is_some_and(|it| it.state == State::Pending);
        let Record { run_id: run, session, status, outcome, spent, ended_at, .. } = record;
        if is_ordered {
            seen.runs.insert(task.claim.clone(), run);
            return Ok(());
        }
        let (outcome, spent): (Outcome, RunTotals) = match outcome {
            Some(outcome) => (outcome, spent),
            None => Ended::without_entry(status),
        };
        let ended = Ended { session, run, status, outcome, spent, at: ended_at.unwrap_or_default() };
        self.writer.write_task(task, &ended).await
    }

    /// A claimed task never becomes a run.
    async fn reject(&self, task: &Task, why: &str) -> Result<(), Error> {
        tracing::warn!(task = task.name, why, "a task was refused");
        self.volume.publish(&task.reason(FAILED), format!("{why}\n").into_bytes()).await?;
        self.volume.rename(&task.running(), &task.over(FAILED)).await?;
        for stale in [task.result(FAILED), task.over(DONE), task.result(DONE), task.reason(DONE), task.verdict()] {
            self.volume.remove(&stale).await?;
        }
        Ok(())
    }

    /// Moves what is no task out of the way, unopened.
    async fn refuse(&self, name: &OsStr, why: &str) -> Result<(), Error> {
        tracing::warn!(?name, why, "something in the inbox is no task");
        let (put, reason) = task::refused(&self.folder, name);
        match self.volume.publish(&reason, format!("{why}\n").into_bytes()).await {
            Ok(()) | Err(Error::Refused(_)) => {} // a name too long to append to is moved all the same
            Err(e) => return Err(e),
        }
        match self.volume.rename(&task::folder(&self.folder, PENDING).join(name), &put).await {
            Err(Error::Refused(why)) => {
                tracing::warn!(?name, why, "something in the inbox cannot be moved out of the way");
                Ok(())
            }
            moved => moved.map(drop),
        }
    }
}

/// An envelope, or why it is none.
fn read(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| format!("the file must be UTF-8, and is not from byte {} on", e.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|e| format!("the file must be JSON: {e}"))
}

/// What the store could not do is tried again with the next look.
fn later(e: &store::Error) -> Error {
    Error::Away(e.to_string())
}
