//! Small values for tests of stores and of what sits on them: runs, appends and entries with nothing special.

// A value that cannot be made is a failed test.
#![allow(clippy::expect_used, clippy::panic)]

use torpor_core::entry::{Body, RunTotals, ToolEnding};
use torpor_core::envelope::Spec;
use torpor_core::gate::Question;
use torpor_core::log::Append;
use torpor_core::message::ToolResult;
use torpor_core::outcome::Outcome;
use torpor_core::queue::{Enqueued, Expects, Idempotency, Lease, NewRun};
use torpor_core::run::Record;
use torpor_core::{Position, RunId, SessionKey, Timestamp, WorkerId};

/// A session of the tenant `acme`.
#[must_use]
pub fn key(session: &str) -> SessionKey {
    SessionKey::new("acme", session).expect("a valid key")
}

/// The first run of a session, claimed with its submit by the worker `w`.
#[must_use]
pub fn first_claimed(session: &str) -> NewRun {
    NewRun { claim_for: Some("w".into()), ..first(session) }
}

/// The first run of a session, with nothing special.
#[must_use]
pub fn first(session: &str) -> NewRun {
    NewRun {
        run_id: RunId::generate(),
        session: key(session),
        spec: Spec::prompt(format!("work of {session}")),
        idempotency: None,
        expects: Expects::New,
        not_before: None,
        priority: 0,
        interrupt: false,
        claim_for: None,
        trace: None,
    }
}

/// A further run of a session.
#[must_use]
pub fn further(session: &str) -> NewRun {
    NewRun { expects: Expects::Existing, ..first(session) }
}

/// The same run, recognised by a key.
#[must_use]
pub fn keyed(new: NewRun, key: &str, body_hash: &str) -> NewRun {
    NewRun { idempotency: Some(Idempotency { key: key.into(), body_hash: body_hash.into() }), ..new }
}

/// The record of a run that was accepted and not claimed.
pub fn created(answer: Enqueued) -> Record {
    match answer {
        Enqueued::Created(record) => *record,
        other => panic!("expected a new run, got {other:?}"),
    }
}

/// The lease of a run that was claimed with its submit.
#[must_use]
pub fn claimed(answer: Enqueued) -> Lease {
    match answer {
        Enqueued::Claimed(lease) => *lease,
        other => panic!("expected a claimed run, got {other:?}"),
    }
}

/// An append of the lease's owner.
#[must_use]
pub fn write(lease: &Lease, after: u64, bodies: Vec<Body>) -> Append {
    Append {
        session: lease.session().clone(),
        epoch: lease.epoch,
        after: Position(after),
        write_id: uuid::Uuid::new_v4(),
        at: Timestamp(1_790_000_000_000),
        bodies,
    }
}

/// An entry that is no progress.
#[must_use]
pub fn note(lease: &Lease) -> Body {
    Body::Takeover { run: lease.record.run_id.clone(), worker: WorkerId::from("w") }
}

/// An entry that is progress.
#[must_use]
pub fn progress(lease: &Lease) -> Body {
    Body::ToolEnded {
        run: lease.record.run_id.clone(),
        tool_use: "use-1".into(),
        call: None,
        ending: ToolEnding::Finished,
        result: ToolResult::text("ok"),
    }
}

/// An entry that moves where resume begins.
#[must_use]
pub fn checkpoint(keep_from: u64) -> Body {
    Body::Checkpoint { summary: "before".into(), keep_from: Position(keep_from), open_run: None }
}

/// The question that parks a run.
#[must_use]
pub fn gate(lease: &Lease, gate: u64, expires_at: Option<Timestamp>) -> Body {
    let question = Question { summary: format!("gate {gate}"), proposed_action: "do it".into(), call: None };
    Body::GateRequested { run: lease.record.run_id.clone(), gate, tool_use: "use-1".into(), question, expires_at }
}

/// The end of a run.
#[must_use]
pub fn ended(lease: &Lease, outcome: Outcome) -> Body {
    let spent = RunTotals { turns: 3, ..RunTotals::default() };
    Body::RunEnded { run: lease.record.run_id.clone(), outcome, spent }
}

/// A good outcome.
#[must_use]
pub fn done(response: &str) -> Outcome {
    Outcome::Done { verdict: None, result: None, response: Some(response.into()), stop_reason: Some("end_turn".into()) }
}
