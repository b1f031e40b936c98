//! The contents of files: the same bytes whoever writes them, because they are made of what the log and the message say and
//! of nothing else.

use serde::{Deserialize, Serialize};
use torpor_core::answer::{Answer, GateShown, Standing};
use torpor_core::entry::RunTotals;
use torpor_core::gate::Pending;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::{RunId, SessionKey, Timestamp};

/// What is said of a run that ended without an entry, because the build that claimed it could not read it.
const UNREADABLE: &str = "its stored form cannot be read by the build that claimed it";

/// A run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    pub(crate) session: SessionKey,
    pub(crate) run: RunId,
    pub(crate) status: Status,
    pub(crate) outcome: Outcome,
    pub(crate) spent: RunTotals,
    pub(crate) at: Timestamp,
}

impl Ended {
    /// How a run ended that left no entry: it was cancelled before it began, or it could not be read.
    pub(crate) fn without_entry(status: Status) -> (Outcome, RunTotals) {
        let outcome = match status {
            Status::Cancelled => Outcome::Cancelled {},
            Status::Aborted => Outcome::Aborted {},
            _ => Outcome::failed(FailReason::DeadLetter, UNREADABLE),
        };
        (outcome, RunTotals::default())
    }

    /// The result: what HTTP answers for this run.
    pub(crate) fn result(&self) -> Vec<u8> {
        let standing = Standing::new(self.status, Some(&self.outcome), &[]);
        json(&Answer::new(standing, &self.session, &self.run, &self.spent))
    }

    /// The marker that says that the result is there.
    pub(crate) fn marker(&self) -> Vec<u8> {
        json(&Marker {
            status: self.status,
            session_id: self.session.session().to_owned(),
            run_id: self.run.as_str().to_owned(),
            finished_at: self.at.rfc3339(),
        })
    }

    /// Whether it ended well.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.status, Status::Done | Status::Solved)
    }
}

/// The done-marker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    status: Status,
    session_id: String,
    run_id: String,
    finished_at: String,
}

/// When the run ended that a marker is of; `None` for what is no marker.
pub(crate) fn finished_at(marker: &[u8]) -> Option<Timestamp> {
    let marker: Marker = serde_json::from_slice(marker).ok()?;
    Timestamp::parse_rfc3339(&marker.finished_at)
}

/// What a person is asked: the first gate by itself, for readers that know of one only, and all of them.
pub(crate) fn gate(session: &SessionKey, run: &RunId, gates: &[Pending]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Gate<'a> {
        status: Status,
        session_id: &'a str,
        run_id: &'a RunId,
        gate_id: Option<u64>,
        gate: Option<GateShown<'a>>,
        gates: Vec<GateShown<'a>>,
    }
    json(&Gate {
        status: Status::Paused,
        session_id: session.session(),
        run_id: run,
        gate_id: gates.first().map(|gate| gate.gate),
        gate: gates.first().map(GateShown::of),
        gates: gates.iter().map(GateShown::of).collect(),
    })
}

/// One line of JSON.
fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and maps with string keys always serialise.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
