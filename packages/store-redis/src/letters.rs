//! Dead letters: listed, and driven again.
//!
//! Owns: pages across shards. Must not know: where a run stands in the queue (`lua/redrive.lua`), or when a letter goes
//! (`lua/sweep.lua`).

use async_trait::async_trait;
use torpor_core::dead_letter::{Again, Filter, Letter, LetterStore, Page, Redrive, Redriven};
use torpor_core::{RunId, SessionKey, Timestamp, store, trace};

use crate::Store;
use crate::link::Lane;
use crate::pages::{self, Found, Part};
use crate::reply::Reply;
use crate::script::{Args, Script, script};
use crate::shard::Shard;

/// Most dead letters on one page.
const MAX_PAGE: usize = 200;

/// Most dead letters that one script looks at.
const MAX_SEEN: u64 = 2_000;

/// How often a list that found too little looks further down before it answers what it has, with a cursor.
const MAX_LOOKS: usize = 25;

static LETTERS: Script = script!(reads "letters", []);
static REDRIVE: Script = script!("redrive", ["stream", "queue"]);

fn letter(mut it: Reply) -> Result<Option<Found<Letter>>, store::Error> {
    let (row, id) = (it.number()?, it.lossy()?);
    let Some(run) = RunId::parse(&id) else {
        tracing::warn!(run = id, "left out a dead letter whose run id cannot be read");
        return Ok(None);
    };
    let item = Letter {
        run,
        tenant: it.lossy()?,
        session: it.lossy()?,
        reason: it.lossy()?,
        at: Timestamp(it.maybe_number()?.unwrap_or(0)),
        unread: it.flag()?,
    };
    Ok(Some(Found { row, bytes: item.reason.len(), item }))
}

fn again(answer: &mut Reply) -> Result<Again, store::Error> {
    let (run, tenant, session) = (answer.lossy()?, answer.lossy()?, answer.lossy()?);
    let session = SessionKey::new(&tenant, &session).map_err(|e| store::Error::Unreadable(format!("session: {e}")))?;
    let run =
        RunId::parse(&run).ok_or_else(|| store::Error::Unreadable(format!("driven again: {run:?} is not a run id")))?;
    Ok(Again { run, session })
}

impl Store {
    async fn letters_of(
        &self,
        shard: Shard,
        filter: &Filter,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Part<Letter>, store::Error> {
        let args = Args::new().maybe_number(below).maybe(filter.tenant.as_deref());
        let mut answer = self.run(Lane::Data, shard, &LETTERS, args.number(limit as u64).number(MAX_SEEN)).await?;
        let mut list = answer.list()?;
        let mut found = Vec::with_capacity(list.len());
        while list.len() > 0 {
            found.extend(letter(list.list()?)?);
        }
        Ok(Part { found, stopped: answer.maybe_number()? })
    }
}

#[async_trait]
impl LetterStore for Store {
    async fn letters(&self, filter: &Filter) -> Result<Page, store::Error> {
        let limit = filter.limit.clamp(1, MAX_PAGE);
        let shards: Vec<Shard> = match &filter.tenant {
            Some(tenant) => vec![self.shards.of_tenant(tenant)],
            None => self.shards.all().collect(),
        };
        let mut cursor = filter.cursor.clone();
        for _ in 0..MAX_LOOKS {
            let ask = |shard| {
                let below = pages::below(cursor.as_deref(), shard);
                async move { Ok::<_, store::Error>((shard, self.letters_of(shard, filter, below?, limit).await?)) }
            };
            let parts = futures::future::try_join_all(shards.iter().copied().map(ask)).await?;
            let (letters, next) = pages::merge(parts, limit);
            let next = next.map(|next| next.to_string());
            if !letters.is_empty() || next.is_none() {
                return Ok(Page { letters, next });
            }
            cursor = next;
        }
        Ok(Page { letters: Vec::new(), next: cursor })
    }

    async fn redrive(&self, redrive: &Redrive) -> Result<Redriven, store::Error> {
        let args = Args::new()
            .text(redrive.run.as_str())
            .maybe(redrive.tenant.as_deref())
            .text(redrive.new_run.as_str())
            .maybe(redrive.trace.as_ref().map(trace::Context::traceparent))
            .maybe(redrive.trace.as_ref().and_then(trace::Context::tracestate))
            .number(self.options.max_queued);
        let Some((shard, mut answer)) = self.ask_all(Lane::Control, &REDRIVE, &args).await? else {
            return Ok(Redriven::Unknown);
        };
        Ok(match answer.text()?.as_str() {
            "queued" => {
                self.tell_changed(shard, &redrive.run);
                Redriven::Queued(again(&mut answer)?)
            }
            "before" => Redriven::Before(again(&mut answer)?),
            "not dead" => Redriven::NotDead,
            "no work" => Redriven::NoWork,
            "full" => Redriven::Full,
            "taken" => return Err(store::Error::Failed(format!("the run id {} is taken", redrive.new_run))),
            other => return Err(store::Error::Unreadable(format!("the answer of `redrive` is {other:?}"))),
        })
    }
}
