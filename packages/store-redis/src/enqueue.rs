//! Accepting a run: what is sent, and what is made of the answer.
//!
//! Owns: the arguments of `lua/enqueue.lua`. Must not know: where the run stands then (`lua/lib/queue.lua`).

use sha2::{Digest as _, Sha256};
use torpor_core::entry::RunTotals;
use torpor_core::envelope::Wishes;
use torpor_core::id::hex;
use torpor_core::log::Head;
use torpor_core::outcome::Status;
use torpor_core::queue::{Enqueued, Expects, Lease, NewRun};
use torpor_core::run::Record;
use torpor_core::webhook::Channel;
use torpor_core::{Epoch, Position, Timestamp, WorkerId, store, trace};

use crate::record;
use crate::reply::Reply;
use crate::script::{Args, Script, script};

pub(crate) static ENQUEUE: Script =
    script!("enqueue", ["stream", "queue", "dead", "gates", "hooks", "settle", "record", "lease"]);

/// The script's arguments.
///
/// # Errors
/// [`store::Error::Failed`] when what was asked cannot be encoded.
pub(crate) fn args(new: &NewRun, lease_ms: u64, max_queued: u64) -> Result<Args, store::Error> {
    let failed = |e: serde_json::Error| store::Error::Failed(e.to_string());
    let wishes = Some(new.spec.wishes()).filter(|_| new.expects == Expects::New).filter(|w| *w != Wishes::default());
    let wishes = wishes.map(|w| serde_json::to_string(&w)).transpose().map_err(failed)?;
    let (mut webhook, mut files) = (None, None);
    for to in new.spec.destinations() {
        match to.channel() {
            Channel::Webhook => webhook = Some(to.encode()?),
            Channel::Files => files = Some(to.encode()?),
        }
    }
    let expects = match new.expects {
        Expects::New => "new",
        Expects::Existing => "existing",
        Expects::Ungated => "ungated",
    };
    let idempotency = new.idempotency.as_ref();
    Ok(Args::new()
        .text(new.run_id.as_str())
        .text(new.session.digest())
        .text(new.session.tenant())
        .text(new.session.session())
        .text(expects)
        .maybe(idempotency.map(|it| key(new.session.tenant(), &it.key)))
        .maybe(idempotency.map(|it| &it.body_hash))
        .owned(serde_json::to_vec(&new.spec).map_err(failed)?)
        .maybe(wishes)
        .maybe(webhook)
        .number(new.not_before.map_or(0, |t| t.0))
        .signed(new.priority.into())
        .flag(new.interrupt)
        .maybe(new.trace.as_ref().map(trace::Context::traceparent))
        .maybe(new.trace.as_ref().and_then(trace::Context::tracestate))
        .maybe(new.claim_for.as_ref().map(WorkerId::as_str))
        .number(lease_ms)
        .number(max_queued)
        .maybe(files))
}

/// Under which key a tenant's idempotency key is kept: SHA-256 over the length-prefixed parts.
fn key(tenant: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    for part in [tenant, key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Reads the script's answer.
///
/// # Errors
/// [`store::Error::Failed`] when the run id is taken, [`store::Error::Unreadable`] when what the answer tells of cannot be read.
pub(crate) fn answer(new: NewRun, mut reply: Reply) -> Result<Enqueued, store::Error> {
    Ok(match reply.text()?.as_str() {
        "created" => Enqueued::Created(Box::new(record(new, &mut reply, None)?)),
        "claimed" => Enqueued::Claimed(Box::new(lease(new, &mut reply)?)),
        "existing" => Enqueued::Existing(Box::new(record::read(reply.list()?)?)),
        "gated" => Enqueued::GatePending(Box::new(record::read(reply.list()?)?)),
        "expired" => Enqueued::Expired,
        "conflict" => Enqueued::Conflict,
        "no session" => Enqueued::NoSession,
        "forgetting" => Enqueued::Forgetting,
        "full" => Enqueued::Full,
        "taken" => return Err(store::Error::Failed(format!("the run id {} is taken", new.run_id))),
        other => return Err(store::Error::Unreadable(format!("the answer of `enqueue` is {other:?}"))),
    })
}

fn lease(mut new: NewRun, reply: &mut Reply) -> Result<Lease, store::Error> {
    let worker = new.claim_for.take();
    let worker =
        worker.ok_or_else(|| store::Error::Unreadable("the answer of `enqueue`: nobody claimed".to_owned()))?;
    let mut head = Head::default();
    let record = record(new, reply, Some(&mut head))?;
    let born = Epoch(reply.maybe_number()?.unwrap_or(0));
    Ok(Lease { record, epoch: head.epoch, born, worker, head, attempt: 1, cancel: false })
}

/// The record as it is stored. With a lease the marks of the session follow.
fn record(mut new: NewRun, reply: &mut Reply, claimed: Option<&mut Head>) -> Result<Record, store::Error> {
    let now = Timestamp(reply.number()?);
    if let Some(wishes) = reply.maybe_bytes()? {
        let wishes: Wishes = serde_json::from_slice(&wishes)
            .map_err(|e| store::Error::Unreadable(format!("wishes of {:?}: {e}", new.session)))?;
        new.spec.inherit(&wishes);
    }
    let is_claimed = claimed.is_some();
    let mut log_from = None;
    if let Some(head) = claimed {
        *head = Head {
            epoch: Epoch(reply.number()?),
            position: Position(reply.number()?),
            resume_from: Position(reply.number()?),
            next_gate: reply.number()?,
        };
        log_from = Some(head.position.next());
    }
    Ok(Record {
        run_id: new.run_id,
        session: new.session,
        spec: new.spec,
        status: if is_claimed { Status::Running } else { Status::Queued },
        outcome: None,
        spent: RunTotals::default(),
        attempts: u32::from(is_claimed),
        created_at: now,
        started_at: is_claimed.then_some(now),
        ended_at: None,
        log_from,
        trace: new.trace,
        gates: Vec::new(),
        webhook: None,
        files: None,
        redrive_of: None,
        redriven_as: None,
        version: 1,
    })
}
