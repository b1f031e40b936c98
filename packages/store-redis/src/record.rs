//! Run records as scripts answer them.
//!
//! Owns: the form in which `lua/lib/record.lua` answers a record. Must not know: who asked for it.
//!
//! How a run ended is not kept twice: it is read from the entry that ended it or, for one that was set aside, from its dead
//! letter. What a run inherits from its session lies beside its spec as it was stored, and is merged here.

use torpor_core::entry::{self, Body, RunTotals};
use torpor_core::envelope::{Spec, Wishes};
use torpor_core::gate::Pending;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::run::Record;
use torpor_core::webhook::{Failure, Kind, Standing, State};
use torpor_core::{Position, RunId, SessionKey, Timestamp, store, trace};

use crate::reply::Reply;

/// A record, with what only lists need to know of it.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its place in lists.
    pub(crate) row: u64,
    /// The record, or why it cannot be read.
    pub(crate) record: Result<Record, store::Error>,
    /// What of it may be large, in bytes.
    pub(crate) bytes: usize,
}

/// Reads a record.
///
/// # Errors
/// [`store::Error::Unreadable`] names the run and what of it cannot be read.
pub(crate) fn read(it: Reply) -> Result<Record, store::Error> {
    found(it)?.record
}

/// Reads a record that may be unreadable, to be left out of a list.
///
/// # Errors
/// [`store::Error::Unreadable`] when the script's answer has not even the form of one.
pub(crate) fn found(mut it: Reply) -> Result<Found, store::Error> {
    let id = it.lossy()?;
    let row = it.number()?;
    let raw = Raw::take(&mut it)?;
    let bytes = raw.bytes();
    let record = raw.record(&id).map_err(|what| store::Error::Unreadable(format!("run {id}: {what}")));
    Ok(Found { row, record, bytes })
}

/// The fields as they are stored.
struct Raw {
    tenant: String,
    session: String,
    status: String,
    attempts: u64,
    version: u64,
    created: u64,
    started: Option<u64>,
    ended: Option<u64>,
    from: Option<u64>,
    spec: Vec<u8>,
    wishes: Option<Vec<u8>>,
    trace: (Option<String>, Option<String>),
    dead: Option<String>,
    ending: Option<Ending>,
    gates: Vec<Gate>,
    webhook: Option<Latest>,
    files: Option<Latest>,
    redrive_of: Option<String>,
    redriven: Option<String>,
}

/// The entry that ended a run; without a body it is missing.
struct Ending {
    schema: Option<u64>,
    body: Option<Vec<u8>>,
}

struct Gate {
    number: u64,
    question: Vec<u8>,
    requested: u64,
    expires: Option<u64>,
}

/// The latest message on a channel.
struct Latest {
    kind: String,
    state: String,
    attempts: u64,
    status: Option<u64>,
    error: Option<String>,
}

impl Raw {
    fn take(it: &mut Reply) -> Result<Self, store::Error> {
        Ok(Self {
            tenant: it.lossy()?,
            session: it.lossy()?,
            status: it.lossy()?,
            attempts: it.number()?,
            version: it.number()?,
            created: it.number()?,
            started: it.maybe_number()?,
            ended: it.maybe_number()?,
            from: it.maybe_number()?,
            spec: it.maybe_bytes()?.unwrap_or_default(),
            wishes: it.maybe_bytes()?.filter(|wishes| !wishes.is_empty()),
            trace: (it.maybe_lossy()?, it.maybe_lossy()?),
            dead: it.maybe_lossy()?,
            ending: it.maybe_list()?.map(Ending::take).transpose()?,
            gates: it.maybe_list()?.map(Gate::all).transpose()?.unwrap_or_default(),
            webhook: it.maybe_list()?.map(Latest::take).transpose()?,
            files: it.maybe_list()?.map(Latest::take).transpose()?,
            redrive_of: it.maybe_lossy()?,
            redriven: it.maybe_lossy()?,
        })
    }

    fn bytes(&self) -> usize {
        let ending = self.ending.as_ref().and_then(|e| e.body.as_ref()).map_or(0, Vec::len);
        self.spec.len() + ending + self.gates.iter().map(|gate| gate.question.len()).sum::<usize>()
    }

    fn record(self, id: &str) -> Result<Record, String> {
        let status = Status::parse(&self.status).ok_or_else(|| format!("status: {:?} is not known", self.status))?;
        let (outcome, spent) = self.outcome(status)?;
        let mut spec: Spec = serde_json::from_slice(&self.spec).map_err(|e| format!("spec: {e}"))?;
        if let Some(wishes) = &self.wishes {
            let wishes: Wishes = serde_json::from_slice(wishes).map_err(|e| format!("wishes of its session: {e}"))?;
            spec.inherit(&wishes);
        }
        let (parent, state) = &self.trace;
        let run_id = RunId::parse(id).ok_or("id: not a run id")?;
        let link = |run: Option<String>| {
            let parsed = |id: String| RunId::parse(&id).ok_or_else(|| format!("driven again: {id:?} is not a run id"));
            run.map(parsed).transpose()
        };
        Ok(Record {
            session: SessionKey::new(&self.tenant, &self.session).map_err(|e| format!("session: {e}"))?,
            spec,
            status,
            outcome,
            spent,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            created_at: Timestamp(self.created),
            started_at: self.started.map(Timestamp),
            ended_at: self.ended.map(Timestamp),
            log_from: self.from.map(Position),
            // A trace that cannot be read is no reason to lose a run.
            trace: parent.as_deref().and_then(|parent| trace::Context::parse(parent, state.as_deref())),
            gates: self.gates.into_iter().map(Gate::pending).collect::<Result<_, _>>()?,
            webhook: self.webhook.map(Latest::standing).transpose()?,
            files: self.files.map(Latest::standing).transpose()?,
            redrive_of: link(self.redrive_of)?,
            // One that went back into the queue is itself.
            redriven_as: link(self.redriven)?.filter(|by| *by != run_id),
            run_id,
            version: self.version,
        })
    }

    fn outcome(&self, status: Status) -> Result<(Option<Outcome>, RunTotals), String> {
        let nothing = RunTotals::default;
        match (&self.ending, &self.dead) {
            (Some(Ending { schema: Some(schema), body: Some(body) }), _) => {
                let schema = u16::try_from(*schema).map_err(|_| format!("outcome: its schema is {schema}"))?;
                match entry::decode(schema, body).map_err(|e| format!("outcome: {e}"))? {
                    Body::RunEnded { outcome, spent, .. } => Ok((Some(outcome), spent)),
                    _ => Err("outcome: the entry is not a run's end".to_owned()),
                }
            }
            (Some(_), _) => Err("outcome: its entry is missing".to_owned()),
            (None, _) if !status.is_terminal() => Ok((None, nothing())),
            (None, Some(reason)) => Ok((Some(Outcome::failed(FailReason::DeadLetter, reason)), nothing())),
            // It was cancelled before it started: nothing of it is in any log.
            (None, None) if status == Status::Cancelled => Ok((Some(Outcome::Cancelled {}), nothing())),
            (None, None) => Err("outcome: its entry is missing".to_owned()),
        }
    }
}

impl Ending {
    fn take(mut it: Reply) -> Result<Self, store::Error> {
        Ok(Self { schema: it.maybe_number()?, body: it.maybe_bytes()? })
    }
}

impl Gate {
    fn all(mut list: Reply) -> Result<Vec<Self>, store::Error> {
        let mut found = Vec::with_capacity(list.len());
        while list.len() > 0 {
            let mut it = list.list()?;
            found.push(Self {
                number: it.number()?,
                question: it.maybe_bytes()?.unwrap_or_default(),
                requested: it.number()?,
                expires: it.maybe_number()?,
            });
        }
        Ok(found)
    }

    fn pending(self) -> Result<Pending, String> {
        Ok(Pending {
            gate: self.number,
            question: serde_json::from_slice(&self.question).map_err(|e| format!("a gate's question: {e}"))?,
            requested_at: Timestamp(self.requested),
            expires_at: self.expires.map(Timestamp),
        })
    }
}

impl Latest {
    fn take(mut it: Reply) -> Result<Self, store::Error> {
        Ok(Self {
            kind: it.lossy()?,
            state: it.lossy()?,
            attempts: it.number()?,
            status: it.maybe_number()?,
            error: it.maybe_lossy()?,
        })
    }

    fn standing(self) -> Result<Standing, String> {
        Ok(Standing {
            event: Kind::parse(&self.kind).ok_or_else(|| format!("a message's kind {:?}", self.kind))?,
            state: State::parse(&self.state).ok_or_else(|| format!("a message's state {:?}", self.state))?,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            last_status: self.status.and_then(|status| u16::try_from(status).ok()),
            last_error: self.error.as_deref().and_then(Failure::parse),
        })
    }
}
