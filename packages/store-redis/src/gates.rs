//! Gates: verdicts, and lists of gates. How a run comes to wait, and what falls when nobody decides, is in
//! `lua/lib/verdict.lua`, in the steps of others.

use async_trait::async_trait;
use torpor_core::gate::{Decide, Decided, Decision, Filter, GateStore, Listed, Page, Pending, Standing};
use torpor_core::{Position, RunId, SessionKey, Timestamp, store};

use crate::Store;
use crate::link::Lane;
use crate::pages::{self, Found, MAX_PAGE_BYTES, Part};
use crate::record;
use crate::reply::Reply;
use crate::script::{Args, Script, script};
use crate::shard::Shard;

/// Most gates on one page.
const MAX_PAGE: usize = 200;

/// How often a shard is asked again for one page, because it found nothing among as many gates as it looks at in one step.
const MAX_LOOKS: usize = 50;

static DECIDE: Script = script!("decide", ["stream", "queue", "gates", "hooks", "log", "record", "verdict"]);
static LIST: Script = script!(reads "list_gates", []);

fn unreadable(what: impl Into<String>) -> store::Error {
    store::Error::Unreadable(what.into())
}

#[async_trait]
impl GateStore for Store {
    async fn decide(&self, decide: Decide) -> Result<Decided, store::Error> {
        let Decide { run, gate, decision } = decide;
        let json = serde_json::to_vec(&decision).map_err(|e| store::Error::Failed(e.to_string()))?;
        let args = Args::new().text(run.as_str()).maybe_number(gate).text(decision.action.as_str()).owned(json);
        let Some((shard, mut answer)) = self.ask_all(Lane::Data, &DECIDE, &args).await? else {
            return Ok(Decided::Unknown);
        };
        let decided = match answer.text()?.as_str() {
            "unknown" => Decided::Unknown,
            "closed" => Decided::Closed,
            "several" => Decided::Several(numbers(answer.list()?)?),
            "conflict" => Decided::Conflict { gate: answer.number()?, earlier: decision_of(&answer.bytes()?)? },
            "repeated" => Decided::Repeated { gate: answer.number()?, record: Box::new(record::read(answer.list()?)?) },
            "recorded" => {
                // What happened is told before the record is read: that may be what cannot be read.
                let gate = answer.number()?;
                let record = record::read(answer.list()?);
                self.tell_verdict(shard, &run, record.as_ref().ok().map(|record| &record.session));
                Decided::Recorded { gate, record: Box::new(record?), position: Position(answer.number()?) }
            }
            "lost" => return Err(unreadable(format!("run {run} has no session"))),
            other => return Err(unreadable(format!("the answer of `decide` is {other:?}"))),
        };
        Ok(decided)
    }

    async fn gates(&self, filter: &Filter) -> Result<Page, store::Error> {
        let limit = filter.limit.clamp(1, MAX_PAGE);
        let shards: Vec<Shard> = match &filter.tenant {
            Some(tenant) => vec![self.shards.of_tenant(tenant)],
            None => self.shards.all().collect(),
        };
        let mut cursor = filter.cursor.clone();
        for _ in 0..MAX_LOOKS {
            let ask = |shard| {
                let below = pages::below(cursor.as_deref(), shard);
                async move { Ok::<_, store::Error>((shard, self.gates_of(shard, filter, below?, limit).await?)) }
            };
            let parts = futures::future::try_join_all(shards.iter().copied().map(ask)).await?;
            let (gates, next) = pages::merge(parts, limit);
            let next = next.map(|next| next.to_string());
            if !gates.is_empty() || next.is_none() {
                return Ok(Page { gates, next });
            }
            cursor = next;
        }
        Ok(Page { gates: Vec::new(), next: cursor })
    }
}

impl Store {
    /// What one shard has for a page.
    async fn gates_of(
        &self,
        shard: Shard,
        filter: &Filter,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Part<Listed>, store::Error> {
        let args = Args::new()
            .maybe(filter.tenant.as_deref())
            .maybe(filter.run.as_ref().map(RunId::as_str))
            .maybe(filter.pending.map(|pending| if pending { "1" } else { "0" }))
            .maybe_number(below)
            .number(limit as u64)
            .number(MAX_PAGE_BYTES as u64);
        let mut answer = self.run(Lane::Data, shard, &LIST, args).await?;
        let stopped = answer.maybe_number()?;
        let mut gates = answer.list()?;
        let mut found = Vec::with_capacity(gates.len());
        while gates.len() > 0 {
            found.push(listed(gates.list()?)?);
        }
        Ok(Part { found, stopped })
    }

    /// Tells those who wait in this process what the server tells everybody else.
    fn tell_verdict(&self, shard: Shard, run: &RunId, session: Option<&SessionKey>) {
        let prefix = self.shards.prefix(shard);
        self.news.tell(&format!("{prefix}r:{run}"));
        if let Some(session) = session {
            self.news.tell(&format!("{prefix}h:{}", session.digest()));
        }
    }
}

fn numbers(mut list: Reply) -> Result<Vec<u64>, store::Error> {
    let mut found = Vec::with_capacity(list.len());
    while list.len() > 0 {
        found.push(list.number()?);
    }
    Ok(found)
}

fn decision_of(json: &[u8]) -> Result<Decision, store::Error> {
    serde_json::from_slice(json).map_err(|e| unreadable(format!("a gate's decision: {e}")))
}

/// Reads one gate of a list.
fn listed(mut it: Reply) -> Result<Found<Listed>, store::Error> {
    let row = it.number()?;
    let id = it.text()?;
    let (tenant, session) = (it.text()?, it.text()?);
    let (gate, state, question) = (it.number()?, it.text()?, it.bytes()?);
    let (requested_at, expires_at) = (Timestamp(it.number()?), it.maybe_number()?.map(Timestamp));
    let (decision, decided) = (it.maybe_bytes()?, it.maybe_number()?);
    let standing = match (state.as_str(), decision, decided) {
        ("pending", ..) => Standing::Pending,
        ("decided", Some(decision), Some(at)) => Standing::Decided(decision_of(&decision)?, Timestamp(at)),
        ("closed", ..) => Standing::Closed,
        _ => return Err(unreadable(format!("a gate's state {state:?}"))),
    };
    let bytes = question.len();
    let question = serde_json::from_slice(&question).map_err(|e| unreadable(format!("a gate's question: {e}")))?;
    let item = Listed {
        run: RunId::parse(&id).ok_or_else(|| unreadable(format!("{id:?} is not a run id")))?,
        session: SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?,
        gate: Pending { gate, question, requested_at, expires_at },
        standing,
    };
    Ok(Found { row, bytes, item })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use torpor_core::entry::{self, Body, SCHEMA};

    use super::*;

    /// The script writes the entry of a verdict by itself; it must be the one that the program would write.
    #[test]
    fn the_script_knows_the_default_verdict_and_the_schema() {
        let lua = include_str!("lua/lib/verdict.lua");
        let expiry = serde_json::to_string(&Decision::expiry()).unwrap();
        assert!(lua.contains(&format!("local EXPIRY = '{expiry}'")), "{expiry}");
        assert!(lua.contains(&format!("local SCHEMA = '{SCHEMA}'")));
        let run = RunId::generate();
        let body = Body::GateDecided { run: run.clone(), gate: 7, decision: Decision::expiry() };
        let written = format!(r#"{{"type":"gate_decided","run":"{run}","gate":7,{}"#, &expiry[1..]);
        assert_eq!(String::from_utf8(entry::encode(&body).unwrap()).unwrap(), written);
    }
}
