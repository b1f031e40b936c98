//! Appending: what a batch of entries means for its session and its run, worked out before it is sent.
//!
//! Owns: the arguments of `lua/lib/append.lua`. Must not know: what becomes of the run (`lib/queue.lua`) and of gates (`lib/gates.lua`).
//!
//! The script checks what depends on the session; what is wrong with a batch in itself goes with it as text, so that a writer who
//! was overtaken hears that first.

use torpor_core::entry::{self, Body, SCHEMA};
use torpor_core::log::{Append, AppendError};
use torpor_core::outcome::Status;
use torpor_core::{Epoch, Position, RunId, store};

use crate::reply::Reply;
use crate::script::{Args, Script, script};

/// Largest append, in bytes of its bodies together.
pub(crate) const MAX_APPEND_BYTES: usize = 256 * 1024 * 1024;

/// Most entries of one append: what the server does in one step.
pub(crate) const MAX_APPEND_ENTRIES: usize = 10_000;

/// For entries that leave their run where it is, which most do: a script costs what it carries.
static APPEND: Script = script!("append", ["log", "append"]);

/// For those that end or park it.
static APPEND_LAST: Script =
    script!("append_last", ["log", "stream", "queue", "dead", "gates", "hooks", "settle", "verdict", "append"]);

/// An append with its bodies in their stored form.
#[derive(Debug)]
pub(crate) struct Encoded {
    append: Append,
    bodies: Vec<Vec<u8>>,
}

impl Encoded {
    /// Encodes and checks what can be checked without the store.
    ///
    /// # Errors
    /// [`store::Error::Failed`] for a batch that is empty or too large.
    pub(crate) fn new(append: Append) -> Result<Self, store::Error> {
        if append.bodies.is_empty() {
            return Err(store::Error::Failed("an append must carry at least one entry".to_owned()));
        }
        if append.bodies.len() > MAX_APPEND_ENTRIES {
            let got = append.bodies.len();
            return Err(store::Error::Failed(format!(
                "an append must carry at most {MAX_APPEND_ENTRIES} entries, got {got}"
            )));
        }
        let mut bodies = Vec::with_capacity(append.bodies.len());
        for body in &append.bodies {
            bodies.push(entry::encode(body).map_err(|e| store::Error::Failed(e.to_string()))?);
        }
        let bytes: usize = bodies.iter().map(Vec::len).sum();
        if bytes > MAX_APPEND_BYTES {
            return Err(store::Error::Failed(format!(
                "an append must be at most {MAX_APPEND_BYTES} bytes, got {bytes}"
            )));
        }
        Ok(Self { append, bodies })
    }

    /// The run that the batch ends or parks: its record changes with it.
    pub(crate) fn changes(&self) -> Option<RunId> {
        let changes = |body: &&Body| matches!(body, Body::RunEnded { .. } | Body::GateRequested { .. });
        self.append.bodies.iter().rev().find(changes).and_then(Body::run).cloned()
    }

    /// The script that appends it.
    pub(crate) fn script(&self) -> &'static Script {
        if self.changes().is_some() { &APPEND_LAST } else { &APPEND }
    }

    /// Whether something is about to be done whose intent this is.
    pub(crate) fn is_intent(&self) -> bool {
        self.append.bodies.iter().any(|body| {
            matches!(body, Body::ModelRequested { .. } | Body::SummaryRequested { .. } | Body::ToolRequested { .. })
        })
    }

    /// The script's arguments, and how to read its answer.
    ///
    /// # Errors
    /// [`store::Error::Failed`] when a question cannot be encoded.
    pub(crate) fn args(self) -> Result<(Args, Asked), store::Error> {
        let Self { append, bodies } = self;
        let effects = effects(&append);
        let (status, ended_at) = effects.ended.map_or(("", None), |(status, at)| (status.as_str(), Some(at)));
        let mut args = Args::new()
            .text(append.session.digest())
            .number(append.epoch.0)
            .number(append.after.0)
            .text(append.write_id.to_string())
            .number(append.at.0)
            .number(u64::from(SCHEMA))
            .maybe(effects.run.map(RunId::as_str))
            .maybe(effects.wrong.as_deref())
            .flag(effects.progressed)
            .flag(effects.handed)
            .maybe_number(effects.resume_from)
            .text(status)
            .maybe_number(ended_at)
            .number(effects.marks.len() as u64)
            .number(effects.gates.len() as u64)
            .number(bodies.len() as u64)
            .number(effects.first_gate);
        for mark in effects.marks {
            args = args.number(mark.position).maybe_number(mark.resume_from).maybe_number(mark.next_gate);
        }
        for (question, expires_at) in effects.gates {
            let question = serde_json::to_vec(question).map_err(|e| store::Error::Failed(e.to_string()))?;
            args = args.owned(question).maybe_number(expires_at);
        }
        let asked = Asked {
            epoch: append.epoch,
            after: append.after,
            last: Position(append.after.0.saturating_add(bodies.len() as u64)),
        };
        Ok((bodies.into_iter().fold(args, Args::owned), asked))
    }
}

/// What was asked, for reading the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    epoch: Epoch,
    after: Position,
    last: Position,
}

impl Asked {
    /// Reads the script's answer.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn answer(self, mut reply: Reply) -> Result<Position, AppendError> {
        match reply.text()?.as_str() {
            "ok" => Ok(self.last),
            "fenced" => Err(AppendError::Fenced { mine: self.epoch, current: Epoch(reply.number()?) }),
            "conflict" => Err(AppendError::Conflict { head: Position(reply.number()?), after: self.after }),
            "wrong" => Err(store::Error::Failed(reply.lossy()?).into()),
            other => Err(store::Error::Unreadable(format!("the answer of `append` is {other:?}")).into()),
        }
    }
}

/// A place where something beside the log changes; what is absent is as the session has it.
struct Mark {
    position: u64,
    resume_from: Option<u64>,
    next_gate: Option<u64>,
}

/// What a batch of entries does beside being stored.
#[derive(Default)]
struct Effects<'a> {
    run: Option<&'a RunId>,
    wrong: Option<String>,
    resume_from: Option<u64>,
    progressed: bool,
    /// From here on, hands may know the session.
    handed: bool,
    marks: Vec<Mark>,
    ended: Option<(Status, u64)>,
    first_gate: u64,
    /// The gates at the end of the batch: what is asked, and when it expires.
    gates: Vec<(&'a torpor_core::gate::Question, Option<u64>)>,
}

fn effects(append: &Append) -> Effects<'_> {
    let mut effects = Effects::default();
    for (body, position) in append.bodies.iter().zip(append.after.0.saturating_add(1)..) {
        if let Err(wrong) = effects.take(body, position) {
            effects.wrong = Some(wrong);
            break;
        }
    }
    effects
}

impl<'a> Effects<'a> {
    /// The next entry, or what is wrong with it.
    fn take(&mut self, body: &'a Body, position: u64) -> Result<(), String> {
        if let Some(run) = body.run() {
            let owned = *self.run.get_or_insert(run);
            if owned != run {
                return Err(format!("an entry names run {run}, but the lease is for {owned}"));
            }
            if self.ended.is_some() {
                return Err(format!("an entry of run {run} follows its end"));
            }
        }
        self.progressed |= body.is_progress();
        if !self.gates.is_empty() && !matches!(body, Body::GateRequested { .. }) {
            return Err("an entry follows a gate: a gate parks the run".to_owned());
        }
        match body {
            Body::Checkpoint { keep_from, .. } => {
                // The checkpoint itself must be among what a resuming brain reads.
                if keep_from.0 == 0 || keep_from.0 > position {
                    return Err(format!("a checkpoint at {position} must keep from 1 to {position}, got {keep_from}"));
                }
                self.resume_from = Some(keep_from.0);
                self.marks.push(Mark { position, resume_from: self.resume_from, next_gate: None });
            }
            Body::RunStarted { workdir, .. } => self.handed |= workdir.is_some(),
            Body::RunEnded { outcome, .. } => self.ended = Some((outcome.status(), position)),
            Body::GateRequested { gate, question, expires_at, .. } => {
                if self.gates.is_empty() {
                    self.first_gate = *gate;
                }
                let next = self.first_gate.saturating_add(self.gates.len() as u64);
                if *gate != next {
                    return Err(format!("a gate has the number {gate}, the session's next is {next}"));
                }
                self.gates.push((question, expires_at.map(|at| at.0)));
                self.marks.push(Mark {
                    position,
                    resume_from: self.resume_from,
                    next_gate: Some(next.saturating_add(1)),
                });
            }
            Body::GateDecided { .. } => return Err("verdicts are written by the store".to_owned()),
            _ => {}
        }
        Ok(())
    }
}
