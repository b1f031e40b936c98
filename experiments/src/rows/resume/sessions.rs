//! Long sessions, written through the store's own seams before any server runs.
//!
//! Owns: logs that look like a long piece of work: model calls, each with one command. Must not know: how they are
//! resumed.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use torpor_core::clock::{Clock as _, SystemClock};
use torpor_core::entry::{self, Body, RunTotals, ToolEnding};
use torpor_core::envelope::Spec;
use torpor_core::log::{Append, SessionLog};
use torpor_core::message::{Assistant, Block, StopReason, ToolResult, Usage};
use torpor_core::outcome::Outcome;
use torpor_core::queue::{Enqueued, Expects, NewRun, WorkQueue};
use torpor_core::{Epoch, Position, RunId, SessionKey, WorkerId, sandbox};

/// Entries of one append.
const BATCH: usize = 200;
/// Entries of one model call with one command: intent and outcome of both.
const STEP: u64 = 4;
/// Steps that a checkpoint keeps. With itself and the end of the run that makes a tail of 20.
const KEPT_STEPS: u64 = 4;
/// Bytes that a command said.
const RESULT: usize = 500;

/// How a session is to be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From a checkpoint near its end.
    Checkpointed,
    /// From its first entry.
    Whole,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpointed => "checkpoint and a tail of 20",
            Self::Whole => "no checkpoint",
        })
    }
}

/// What was built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Their ids, in the order they were asked for.
    pub(crate) sessions: Vec<String>,
    pub(crate) entries: f64,
    pub(crate) bytes_of_json: f64,
    /// On the disk or, in Redis, in memory.
    pub(crate) bytes_kept: f64,
    pub(crate) seconds: f64,
}

/// What sessions are written to.
pub(crate) trait Store: SessionLog + WorkQueue {}

impl<T: SessionLog + WorkQueue> Store for T {}

/// Long enough that no claim lapses while its log is written.
const LEASE: Duration = Duration::from_secs(600);

/// Builds sessions of so many entries in a data folder.
pub(crate) async fn build_embedded(data: &Path, wanted: &[(u64, Kind)]) -> anyhow::Result<Built> {
    let options = torpor_store_embedded::Options { lease: LEASE, ..Default::default() };
    let store = torpor_store_embedded::Store::open(data, options)?;
    let mut built = build(&store, wanted).await?;
    drop(store);
    built.bytes_kept = std::fs::metadata(data.join("store.db")).context("store.db")?.len() as f64;
    Ok(built)
}

/// Builds sessions of so many entries in Redis; what they take there is for its owner to say.
pub(crate) async fn build_in_redis(url: &str, prefix: &str, wanted: &[(u64, Kind)]) -> anyhow::Result<Built> {
    let address = torpor_store_redis::Address::parse(url)?;
    let options = torpor_store_redis::Options { lease: LEASE, prefix: prefix.to_owned(), ..Default::default() };
    let store = torpor_store_redis::Store::connect(&address, options).await?;
    build(&store, wanted).await
}

async fn build(store: &dyn Store, wanted: &[(u64, Kind)]) -> anyhow::Result<Built> {
    let mut built = Built::default();
    let began = Instant::now();
    for (n, (entries, kind)) in wanted.iter().enumerate() {
        let id = format!("long-{n}-{entries}");
        let mut writer = Writer::begin(store, &id).await?;
        writer.session(*entries, *kind).await?;
        built.entries += writer.head.0 as f64;
        built.bytes_of_json += writer.bytes as f64;
        built.sessions.push(id);
    }
    built.seconds = began.elapsed().as_secs_f64();
    Ok(built)
}

struct Writer<'a> {
    store: &'a dyn Store,
    session: SessionKey,
    run: RunId,
    epoch: Epoch,
    head: Position,
    waiting: Vec<Body>,
    bytes: usize,
}

impl<'a> Writer<'a> {
    async fn begin(store: &'a dyn Store, id: &str) -> anyhow::Result<Self> {
        let (session, run) = (SessionKey::new(torpor_core::id::DEFAULT_TENANT, id)?, RunId::generate());
        let new = NewRun {
            run_id: run.clone(),
            session: session.clone(),
            spec: Spec::prompt("a long piece of work"),
            idempotency: None,
            expects: Expects::New,
            not_before: None,
            trace: None,
            priority: 0,
            interrupt: false,
            claim_for: Some(WorkerId::generate("experiments")),
        };
        match store.enqueue(new).await? {
            Enqueued::Claimed(lease) => {
                let (epoch, head) = (lease.epoch, lease.head.position);
                Ok(Self { store, session, run, epoch, head, waiting: Vec::new(), bytes: 0 })
            }
            other => bail!("a fresh run was not claimed: {other:?}"),
        }
    }

    /// Where the next entry will stand.
    fn next(&self) -> Position {
        Position(self.head.0 + self.waiting.len() as u64 + 1)
    }

    async fn push(&mut self, body: Body) -> anyhow::Result<()> {
        self.waiting.push(body);
        if self.waiting.len() >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let bodies = std::mem::take(&mut self.waiting);
        for body in &bodies {
            self.bytes += entry::encode(body)?.len();
        }
        let append = Append {
            session: self.session.clone(),
            epoch: self.epoch,
            after: self.head,
            write_id: uuid::Uuid::new_v4(),
            at: SystemClock.now(),
            bodies,
        };
        self.head = self.store.append(append).await?;
        Ok(())
    }

    async fn session(&mut self, entries: u64, kind: Kind) -> anyhow::Result<()> {
        let run = self.run.clone();
        // Besides the steps: the start, a last request with its answer, the end, and the checkpoint.
        let steps = (entries - 4 - u64::from(kind == Kind::Checkpointed)) / STEP;
        self.push(Body::RunStarted {
            run: run.clone(),
            prompt: "a long piece of work".into(),
            model: "anthropic/claude-opus-4-8".into(),
            workdir: Some("/workspace".into()),
            tools: vec!["bash".into()],
            item: None,
        })
        .await?;
        let mut keep_from = self.next();
        for step in 0..steps {
            if step + KEPT_STEPS == steps {
                keep_from = self.next();
            }
            self.step(step).await?;
        }
        if kind == Kind::Checkpointed {
            let summary = "So far: many commands, all fine.".to_owned();
            self.push(Body::Checkpoint { summary, keep_from, open_run: None }).await?;
        }
        self.push(requested(&run)).await?;
        self.push(answered(&run, Block::Text { text: "done".into() }, StopReason::EndTurn)).await?;
        let outcome = Outcome::Done {
            verdict: None,
            result: None,
            response: Some("done".into()),
            stop_reason: Some("end_turn".into()),
        };
        self.push(Body::RunEnded { run, outcome, spent: RunTotals::default() }).await?;
        self.flush().await
    }

    /// A model call that asks for a command, and the command.
    async fn step(&mut self, step: u64) -> anyhow::Result<()> {
        let run = self.run.clone();
        let (tool_use, input) = (format!("toolu_{step:08}"), json!({"command": format!("make step-{step}")}));
        self.push(requested(&run)).await?;
        let block = Block::ToolUse { id: tool_use.clone(), name: "bash".into(), input: input.clone() };
        self.push(answered(&run, block, StopReason::ToolUse)).await?;
        let call = self.next();
        let sandbox = Some(sandbox::Identity { name: "local".into(), incarnation: "earlier".into() });
        let name = "bash".to_owned();
        self.push(Body::ToolRequested { run: run.clone(), tool_use: tool_use.clone(), name, input, sandbox }).await?;
        let result = ToolResult::text("o".repeat(RESULT));
        self.push(Body::ToolEnded { run, tool_use, call: Some(call), ending: ToolEnding::Finished, result }).await
    }
}

fn requested(run: &RunId) -> Body {
    Body::ModelRequested { run: run.clone(), fingerprint: "0".repeat(64), estimate: 1000, cost: None }
}

fn answered(run: &RunId, block: Block, stop: StopReason) -> Body {
    let usage = Usage { input: 1000, output: 50, ..Usage::default() };
    Body::ModelAnswered {
        run: run.clone(),
        message: Assistant { blocks: vec![block], stop, usage },
        attempts: 1,
        cost: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_checkpoint_leaves_a_tail_of_twenty_whatever_the_length() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = [(100, Kind::Checkpointed), (1_001, Kind::Checkpointed), (100, Kind::Whole)];
        let built = build_embedded(dir.path(), &wanted).await.unwrap();
        assert!(built.bytes_kept > built.bytes_of_json, "{built:?}");
        let store = torpor_store_embedded::Store::open(dir.path(), Default::default()).unwrap();
        for ((entries, kind), id) in wanted.into_iter().zip(&built.sessions) {
            let key = SessionKey::new(torpor_core::id::DEFAULT_TENANT, id).unwrap();
            let opened = store.open(&key).await.unwrap().unwrap();
            assert!(opened.head.position.0.abs_diff(entries) < STEP, "{:?}", opened.head);
            let tail = opened.tail.len() as u64;
            assert_eq!(tail, if kind == Kind::Checkpointed { 20 } else { opened.head.position.0 });
        }
    }
}
