//! Verdicts as files: beside the gate that a task waits at.

use torpor_core::RunId;
use torpor_core::envelope::{self, Verdict};
use torpor_core::gate::{Decide, Decided};
use torpor_core::volume::{Error, Task};

use super::{Inbox, later, read};
use crate::task::Places as _;

/// Largest verdict, in bytes: its words are bounded by themselves.
const MAX_VERDICT: usize = 128 * 1024;

impl Inbox {
    /// Takes a verdict to its gate. One that is not taken is put beside it, with the reason.
    pub(super) async fn decide(&self, task: &Task, run: &RunId) -> Result<(), Error> {
        let bytes = match self.volume.read(&task.verdict(), MAX_VERDICT).await {
            Ok(bytes) => bytes,
            Err(Error::Missing) => return Ok(()), // somebody else takes it
            Err(Error::Refused(why)) => return self.refuse_verdict(task, &format!("the file {why}")).await,
            Err(e) => return Err(e),
        };
        let parsed = read(&bytes).and_then(|json| envelope::read_verdict(json).map_err(|e| e.to_string()));
        let Verdict { gate, decision } = match parsed {
            Ok(verdict) => verdict,
            Err(why) => return self.refuse_verdict(task, &why).await,
        };
        let decided = self.gates.decide(Decide { run: run.clone(), gate, decision }).await.map_err(|e| later(&e))?;
        let why = match decided {
            Decided::Recorded { gate, .. } | Decided::Repeated { gate, .. } => {
                tracing::info!(%run, gate, "a verdict came as a file");
                return self.volume.remove(&task.verdict()).await;
            }
            Decided::Conflict { gate, earlier } => {
                format!("gate {gate} was decided before: {}", earlier.action.as_str())
            }
            Decided::Closed => "the run has ended, or is being ended: its gates take no verdict".to_owned(),
            Decided::Several(gates) => {
                let gates: Vec<String> = gates.iter().map(u64::to_string).collect();
                format!("`gateId` is required: gates {} wait", gates.join(", "))
            }
            Decided::Unknown => "the run has no such gate".to_owned(),
        };
        self.refuse_verdict(task, &why).await
    }

    async fn refuse_verdict(&self, task: &Task, why: &str) -> Result<(), Error> {
        tracing::warn!(task = task.name, why, "a verdict was refused");
        let (put, reason) = task.refused_verdict();
        self.volume.publish(&reason, format!("{why}\n").into_bytes()).await?;
        self.volume.rename(&task.verdict(), &put).await.map(drop)
    }
}
