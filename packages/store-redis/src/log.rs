//! The session log: appending, opening, reading, and waiting for more.
//!
//! Owns: how a log is read in pages. Must not know: what entries mean.

use std::time::Duration;

use async_trait::async_trait;
use torpor_core::entry::Entry;
use torpor_core::log::{Append, AppendError, Head, Opened, SessionLog};
use torpor_core::{Epoch, Position, SessionKey, store};

use crate::Store;
use crate::append::Encoded;
use crate::durable::Done;
use crate::entries::{self, MAX_READ, MAX_READ_BYTES};
use crate::link::Lane;
use crate::script::{Args, Script, script};

/// A tail is fetched in pages that end after so many bytes; one page is usual.
const OPEN_BYTES: usize = 4 << 20;

/// How often a tail that changes under the reader, because its session was removed and made again, is read anew.
const OPEN_TRIES: usize = 3;

/// Whoever waits looks by itself so often at least: news may be lost.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

static READ: Script = script!(reads "read", ["log"]);
static HEAD: Script = script!(reads "head", []);

/// A part of a session's log, with its marks at that moment.
struct Page {
    life: u64,
    head: Head,
    entries: Vec<Entry>,
}

impl Store {
    /// Up to `limit` entries from `from` on, or from where a resuming brain begins; `None` where there is no such session.
    async fn page(
        &self,
        session: &SessionKey,
        from: Option<Position>,
        limit: usize,
        bytes: usize,
    ) -> Result<Option<Page>, store::Error> {
        let args = Args::new().text(session.digest()).maybe_number(from.map(|p| p.0));
        let args = args.number(limit as u64).number(bytes as u64);
        let mut reply = self.run(Lane::Data, self.shards.of_tenant(session.tenant()), &READ, args).await?;
        if reply.len() == 0 {
            return Ok(None);
        }
        let life = reply.number()?;
        let head = Head {
            position: Position(reply.number()?),
            epoch: Epoch(reply.number()?),
            resume_from: Position(reply.number()?),
            next_gate: reply.number()?,
        };
        let entries = entries::entries(reply.list()?)?;
        // Somebody may have taken entries away by hand. A log with a hole means nothing.
        let first = from.unwrap_or(head.resume_from).0.max(1);
        for (entry, want) in entries.iter().zip(first..) {
            if entry.position.0 != want {
                return Err(store::Error::Unreadable(format!("{session:?}: entry {want} is missing")));
            }
        }
        Ok(Some(Page { life, head, entries }))
    }

    /// Tells those who wait in this process that a session's log has grown.
    pub(crate) fn tell_grown(&self, session: &SessionKey) {
        self.news.tell(&self.channel_of(session));
    }

    fn channel_of(&self, session: &SessionKey) -> String {
        format!("{}h:{}", self.shards.prefix(self.shards.of_tenant(session.tenant())), session.digest())
    }
}

#[async_trait]
impl SessionLog for Store {
    async fn append(&self, append: Append) -> Result<Position, AppendError> {
        let session = append.session.clone();
        let encoded = Encoded::new(append)?;
        let (script, changes) = (encoded.script(), encoded.changes());
        let synced = self.synced.as_ref().filter(|_| encoded.is_intent());
        let (args, asked) = encoded.args()?;
        let shard = self.shards.of_tenant(session.tenant());
        let last = match synced {
            None => asked.answer(self.run(Lane::Data, shard, script, args).await?)?,
            Some(synced) => {
                let step = synced.run(shard, script, args, self.script_time());
                let Done { reply, safe } = self.observed(script, step).await?;
                let last = asked.answer(reply)?;
                safe?; // it is stored, but perhaps not for good: to be repeated
                last
            }
        };
        self.tell_grown(&session);
        if let Some(run) = changes {
            self.tell_changed(shard, &run);
        }
        Ok(last)
    }

    async fn open(&self, session: &SessionKey) -> Result<Option<Opened>, store::Error> {
        for _ in 0..OPEN_TRIES {
            let Some(first) = self.page(session, None, MAX_READ, OPEN_BYTES).await? else { return Ok(None) };
            // Entries are never changed, so the first page's head bounds a tail that is consistent with it.
            let Page { life, head, entries: mut tail } = first;
            loop {
                let next = tail.last().map_or(head.resume_from, |last: &Entry| last.position.next());
                if next > head.position {
                    return Ok(Some(Opened { head, tail }));
                }
                let page = self.page(session, Some(next), MAX_READ, OPEN_BYTES).await?;
                match page.filter(|page| page.life == life) {
                    Some(page) if page.entries.is_empty() => {
                        return Err(store::Error::Unreadable(format!("{session:?}: entry {next} is missing")));
                    }
                    Some(page) => {
                        tail.extend(page.entries.into_iter().take_while(|entry| entry.position <= head.position));
                    }
                    None => break,
                }
            }
        }
        Err(store::Error::Unavailable(format!("{session:?} was removed and made again while it was read")))
    }

    async fn wait_beyond(
        &self,
        session: &SessionKey,
        after: Position,
        max: Duration,
    ) -> Result<Position, store::Error> {
        // Watching comes before looking, so that no append falls between the two.
        let mut growth = self.news.watch(&self.channel_of(session));
        let deadline = self.clock.now().after(max);
        loop {
            let args = Args::new().text(session.digest());
            let shard = self.shards.of_tenant(session.tenant());
            let head = Position(self.run(Lane::Control, shard, &HEAD, args).await?.number()?);
            let now = self.clock.now();
            if head > after || now >= deadline {
                return Ok(head);
            }
            tokio::select! {
                () = growth.changed() => {}
                () = self.clock.sleep(deadline.since(now).min(LOOK)) => {}
            }
        }
    }

    async fn read(&self, session: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, store::Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let page = self.page(session, Some(from), limit.min(MAX_READ), MAX_READ_BYTES).await?;
        Ok(page.map(|page| page.entries).unwrap_or_default())
    }
}
