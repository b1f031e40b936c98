//! The records of runs: one, a page, waiting for a change, and taking away what is too old.

use std::time::Duration;

use async_trait::async_trait;
use torpor_core::outcome::Status;
use torpor_core::run::{Filter, Page, Record, RunStore};
use torpor_core::{RunId, SessionKey, store};

use crate::Store;
use crate::link::Lane;
use crate::log::LOOK;
use crate::pages::{self, MAX_PAGE_BYTES, Part};
use crate::record;
use crate::script::{Args, Script, script};
use crate::shard::Shard;

/// Most records on one page.
const MAX_PAGE: usize = 200;

/// Most runs that one script looks at: a few milliseconds of the server's time.
const MAX_SEEN: u64 = 2_000;

/// How often a list that found too little looks further down before it answers what it has, with a cursor.
const MAX_LOOKS: usize = 25;

/// Records that one step of a sweep removes.
const SWEEP_STEP: u64 = 200;

/// Longer than any store lives, in milliseconds: what is kept so long is kept for ever.
const MAX_KEPT_MS: u64 = 1 << 50;

/// The rows of a millisecond: see `next_row` of `lua/prelude.lua`.
const ROWS_PER_MS: u64 = 2_048;

static RECORD: Script = script!(reads "record", ["gates", "hooks", "record"]);
static LATEST: Script = script!(reads "latest", ["gates", "hooks", "record"]);
static LIST: Script = script!(reads "list", ["gates", "hooks", "record"]);
static SWEEP: Script = script!("sweep", ["gates", "hooks", "forget"]);
static PING: Script = script!("ping", []);

impl Store {
    /// Where the record of a run is, and itself if it has at least this version.
    async fn found(&self, run: &RunId, least: u64) -> Result<Option<(Shard, Option<Record>)>, store::Error> {
        let found = self.ask_all(Lane::Data, &RECORD, &Args::new().text(run.as_str()).number(least)).await?;
        let Some((shard, mut reply)) = found else { return Ok(None) };
        let record = reply.maybe_list()?.map(record::read).transpose()?;
        Ok(Some((shard, record)))
    }

    /// Tells those who wait in this process that a record has changed.
    pub(crate) fn tell_changed(&self, shard: Shard, run: &RunId) {
        self.news.tell(&self.channel_of_run(shard, run));
    }

    fn channel_of_run(&self, shard: Shard, run: &RunId) -> String {
        format!("{}r:{run}", self.shards.prefix(shard))
    }

    async fn part(&self, shard: Shard, filter: &Filter, cursor: Option<&str>, limit: usize) -> Answer {
        let row = |row: u64| format!("{row:016x}");
        let after = filter.created_after.map(|t| t.0);
        let args = Args::new()
            .maybe(pages::below(cursor, shard)?.map(row))
            .maybe(after.map(|ms| row(ms.saturating_mul(ROWS_PER_MS))))
            .maybe(filter.tenant.as_deref())
            .maybe(filter.status.map(Status::as_str))
            .maybe_number(after)
            .number(limit as u64)
            .number(MAX_PAGE_BYTES as u64)
            .number(MAX_SEEN);
        let mut reply = self.run(Lane::Data, shard, &LIST, args).await?;
        let mut records = reply.list()?;
        let mut found = Vec::with_capacity(records.len());
        while records.len() > 0 {
            let record::Found { row, record, bytes } = record::found(records.list()?)?;
            found.push(pages::Found { row, bytes, item: (record, bytes) });
        }
        Ok((shard, Part { found, stopped: reply.maybe_number()? }))
    }
}

/// What one shard answered: each record, or why it cannot be read, with its size.
type Answer = Result<(Shard, Part<(Result<Record, store::Error>, usize)>), store::Error>;

#[async_trait]
impl RunStore for Store {
    async fn get(&self, run: &RunId) -> Result<Option<Record>, store::Error> {
        Ok(self.found(run, 0).await?.and_then(|(_, record)| record))
    }

    async fn latest(&self, session: &SessionKey) -> Result<Option<Record>, store::Error> {
        let args = Args::new().text(session.digest());
        let mut reply = self.run(Lane::Data, self.shards.of_tenant(session.tenant()), &LATEST, args).await?;
        reply.maybe_list()?.map(record::read).transpose()
    }

    async fn list(&self, filter: &Filter) -> Result<Page, store::Error> {
        let limit = filter.limit.clamp(1, MAX_PAGE);
        let mut page = Page { runs: Vec::new(), next: filter.cursor.clone() };
        let (mut bytes, mut left_out, mut first_left_out) = (0, 0, None);
        for _ in 0..MAX_LOOKS {
            let cursor = page.next.take();
            let ask = |shard| self.part(shard, filter, cursor.as_deref(), limit - page.runs.len());
            let parts = match &filter.tenant {
                Some(tenant) => vec![ask(self.shards.of_tenant(tenant)).await?],
                None => futures::future::try_join_all(self.shards.all().map(ask)).await?,
            };
            let (found, next) = pages::merge(parts, limit - page.runs.len());
            page.next = next.map(|next| next.to_string());
            for (record, size) in found {
                bytes += size;
                match record {
                    Ok(record) => page.runs.push(record),
                    Err(e) => {
                        left_out += 1;
                        first_left_out.get_or_insert(e);
                    }
                }
            }
            if page.next.is_none() || page.runs.len() >= limit || bytes >= MAX_PAGE_BYTES {
                break;
            }
        }
        if let Some(first) = first_left_out {
            tracing::warn!(runs = left_out, %first, "left out of a list what this build cannot read");
        }
        Ok(page)
    }

    async fn wait(&self, run: &RunId, seen: u64, max: Duration) -> Result<Option<Record>, store::Error> {
        let deadline = self.clock.now().after(max);
        // With one shard it is known where the news will come from. Watching comes before looking, so that no change falls
        // between the two.
        let mut shards = self.shards.all();
        let mut home = shards.next().filter(|_| shards.next().is_none());
        let mut changes = home.map(|shard| self.news.watch(&self.channel_of_run(shard, run)));
        loop {
            let now = self.clock.now();
            let least = if now < deadline { seen.saturating_add(1) } else { 0 };
            let shard = match self.found(run, least).await? {
                Some((shard, None)) => shard,
                found => return Ok(found.and_then(|(_, record)| record)),
            };
            if home.replace(shard) != Some(shard) {
                changes = Some(self.news.watch(&self.channel_of_run(shard, run)));
                continue;
            }
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.clock.sleep(deadline.since(now).min(LOOK)) => {}
            }
        }
    }

    async fn ping(&self) -> Result<(), store::Error> {
        let ask = |shard| self.run(Lane::Control, shard, &PING, Args::new());
        futures::future::try_join_all(self.shards.all().map(ask)).await.map(drop)
    }

    async fn sweep(&self) -> Result<u64, store::Error> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(MAX_KEPT_MS).min(MAX_KEPT_MS);
        let mut removed = 0;
        self.sweep_up().await;
        for shard in self.shards.all() {
            loop {
                let args = Args::new()
                    .number(ms(self.options.result_ttl))
                    .number(ms(self.options.dead_letter_ttl))
                    .number(self.options.max_dead_letters)
                    .number(SWEEP_STEP);
                let mut step = self.run(Lane::Control, shard, &SWEEP, args).await?;
                removed += step.number()?;
                if !step.flag()? {
                    break;
                }
            }
        }
        Ok(removed)
    }
}
