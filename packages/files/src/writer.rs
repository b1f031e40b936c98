//! Brings the files of a run up to date, as a message of the outbox orders it.
//!
//! Owns: which file comes and goes when. Must not know: when an attempt is repeated.
//!
//! Every step can be done again, and again by somebody else at the same time: what is written of an end is the same bytes
//! whoever writes them, and what is written of a gate is looked at once more afterwards. A process that dies in between has
//! not noted that it was done, so somebody does it again.
//!
//! A result is written first and its marker last, and a marker never stands beside a result that is not its own: the one of
//! an earlier run that had the same name goes before. An end that comes late, after the end of a later run was written under
//! the same name, changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use torpor_core::entry::Body;
use torpor_core::gate::Pending;
use torpor_core::log::SessionLog;
use torpor_core::outcome::Status;
use torpor_core::run::RunStore;
use torpor_core::volume::{Error, Place, Target, Task, Volume};
use torpor_core::webhook::{Deliver, Destination, Failed, Failure, Kind, Message, Told};
use torpor_core::{RunId, store};

use crate::form::{self, Ended};
use crate::task::{DONE, FAILED, Places as _};

/// What stands beside a result: the marker, and what a person is asked.
const MARKER: &str = ".status";
const GATE: &str = ".gate";

/// Largest marker that is looked at, in bytes; ours are much smaller.
const MAX_MARKER: usize = 64 * 1024;

/// How often a gate's file is written because the gate changed while it was.
const LOOKS: usize = 5;

/// Writes files of runs.
#[derive(Clone)]
pub struct Writer {
    /// Where records are read, for what waits.
    pub runs: Arc<dyn RunStore>,
    /// Where ends are read.
    pub log: Arc<dyn SessionLog>,
    /// Where files are written.
    pub volume: Arc<dyn Volume>,
}

#[async_trait]
impl Deliver for Writer {
    async fn deliver(&self, message: &Message) -> Result<Option<u16>, Failed> {
        let Destination::Files(target) = &message.to else { return Err(Failed::new(Failure::Refused)) };
        let Some(told) = message.told() else {
            tracing::error!(id = %message.id, "an order to write files cannot be read by this build");
            return Err(Failed::new(Failure::Gone));
        };
        match told.kind {
            Kind::Ended => {
                let ended = self.end_of(message, told).await?;
                self.write_end(target, &ended).await.map_err(|e| failed(&message.run, &e))?;
            }
            Kind::Paused | Kind::Decided => self.write_gates(&message.run, target).await?,
        }
        Ok(None)
    }
}

impl Writer {
    /// How the run ended, from the entry that says so.
    async fn end_of(&self, message: &Message, told: Told) -> Result<Ended, Failed> {
        let Told { at, session, status, .. } = told;
        let run = message.run.clone();
        let (outcome, spent) = match message.ended_at {
            None => Ended::without_entry(status),
            Some(position) => {
                let read = self.log.read(&session, position, 1).await.map_err(|e| away(&run, &e))?;
                match read.into_iter().next().map(|entry| entry.body) {
                    Some(Body::RunEnded { run: of, outcome, spent }) if of == run => (outcome, spent),
                    _ => {
                        tracing::warn!(%run, "the session was removed before its run's result was written");
                        return Err(Failed { gone: true, ..Failed::new(Failure::Gone) });
                    }
                }
            }
        };
        Ok(Ended { session, run, status, outcome, spent, at })
    }

    async fn write_end(&self, target: &Target, ended: &Ended) -> Result<(), Error> {
        if let Some(result) = &target.result {
            self.write_result(result, ended).await?;
        }
        match &target.task {
            Some(task) => self.write_task(task, ended).await,
            None => Ok(()),
        }
    }

    async fn write_result(&self, result: &Place, ended: &Ended) -> Result<(), Error> {
        let (volume, marker) = (&self.volume, result.with_suffix(MARKER));
        volume.remove(&result.with_suffix(GATE)).await?;
        let mine = ended.marker();
        match volume.read(&marker, MAX_MARKER).await {
            Ok(there) if there == mine => {}
            Ok(there) if form::finished_at(&there).is_some_and(|at| at > ended.at) => {
                tracing::info!(run = %ended.run, "a later run has written its result under the same name");
                return Ok(());
            }
            Err(Error::Missing) => {}
            Err(Error::Away(why)) => return Err(Error::Away(why)),
            // Another run's, or nothing that we wrote: it must not vouch for what comes now.
            Ok(_) | Err(Error::Refused(_)) => volume.remove(&marker).await?,
        }
        volume.publish(result, ended.result()).await?;
        volume.publish(&marker, mine).await
    }

    /// The task is over: its result beside its file, and nothing of it anywhere else.
    pub(crate) async fn write_task(&self, task: &Task, ended: &Ended) -> Result<(), Error> {
        let volume = &self.volume;
        let (to, other) = if ended.is_good() { (DONE, FAILED) } else { (FAILED, DONE) };
        volume.remove(&task.gate()).await?;
        // A result is written before its task is moved: once that is gone, another task may have its name. Only what was
        // given up and driven again has still to be written then.
        if !self.is_there(&task.running()).await? && !self.is_redrive(&ended.run).await? {
            return Ok(());
        }
        volume.publish(&task.result(to), ended.result()).await?;
        let (refused, why) = task.refused_verdict();
        let stale = [task.result(other), task.reason(other), task.reason(to), task.verdict(), refused, why];
        for place in &stale {
            volume.remove(place).await?;
        }
        // Last: whoever finds the task here finds its result beside it, and nothing elsewhere.
        if volume.rename(&task.running(), &task.over(to)).await? {
            volume.remove(&task.over(other)).await?;
        } else if !self.is_there(&task.over(to)).await? {
            volume.rename(&task.over(other), &task.over(to)).await?;
        }
        Ok(())
    }

    async fn is_there(&self, file: &Place) -> Result<bool, Error> {
        match self.volume.read(file, 0).await {
            Ok(_) | Err(Error::Refused(_)) => Ok(true),
            Err(Error::Missing) => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn is_redrive(&self, run: &RunId) -> Result<bool, Error> {
        let record = self.runs.get(run).await.map_err(|e| Error::Away(e.to_string()))?;
        Ok(record.is_some_and(|record| record.redrive_of.is_some()))
    }

    /// Writes what waits for a person, or takes away what no longer does.
    async fn write_gates(&self, run: &RunId, target: &Target) -> Result<(), Failed> {
        let places = [target.result.as_ref().map(|it| it.with_suffix(GATE)), target.task.as_ref().map(|it| it.gate())];
        let mut waiting = self.waiting(run).await?;
        for _ in 0..LOOKS {
            for place in places.iter().flatten() {
                let done = match &waiting {
                    Some((bytes, _)) => self.volume.publish(place, bytes.clone()).await,
                    None => self.volume.remove(place).await,
                };
                done.map_err(|e| failed(run, &e))?;
            }
            // It may have been decided meanwhile, and whoever was told of that was faster.
            let now = self.waiting(run).await?;
            if now == waiting {
                return Ok(());
            }
            waiting = now;
        }
        Err(Failed::new(Failure::Timeout))
    }

    /// What a run waits for, as its file says it; `None` while it waits for nobody.
    async fn waiting(&self, run: &RunId) -> Result<Option<(Vec<u8>, Vec<Pending>)>, Failed> {
        let record = self.runs.get(run).await.map_err(|e| away(run, &e))?;
        let waits = record.filter(|record| record.status == Status::Paused && !record.gates.is_empty());
        Ok(waits.map(|record| (form::gate(&record.session, run, &record.gates), record.gates)))
    }
}

/// The volume refused, or is away: what is wrong is for the operator's log, its kind for whoever asks.
fn failed(run: &RunId, e: &Error) -> Failed {
    tracing::warn!(%run, error = %e, "the files of a run could not be written");
    Failed::new(if matches!(e, Error::Away(_)) { Failure::Volume } else { Failure::Path })
}

fn away(run: &RunId, e: &store::Error) -> Failed {
    tracing::warn!(%run, error = %e, "what was to be written to a run's files could not be read");
    Failed::new(Failure::Connection)
}
