//! The seam for sessions as such: who they are, one or a page, forks, removal, and what the hands must still forget.
//!
//! Owns: what is asked of which shard, and sweeping up. Must not know: which keys make up a session (`lua/lib/session.lua`,
//! `lua/remove.lua`).

use async_trait::async_trait;
use torpor_core::envelope::Wishes;
use torpor_core::session::{
    Filter, Fork, Forked, Import, ImportError, Importer, MAX_HISTORY_PARTS, Origin, Page, Removal, Removed,
    SessionStore, Stored, Summary, ToForget,
};
use torpor_core::{Epoch, Position, RunId, SessionKey, Timestamp, store};

use crate::Store;
use crate::entries::{self, MAX_READ, MAX_READ_BYTES};
use crate::import;
use crate::link::Lane;
use crate::pages::{self, Found, Part};
use crate::reply::Reply;
use crate::script::{Args, Script, script};
use crate::shard::Shard;

/// Most sessions on one page.
const MAX_PAGE: usize = 200;

/// Most sessions that one call answers.
const MAX_TO_FORGET: usize = 1_000;

/// Records that one step of a removal takes away: what it may cost the server's other clients.
const REMOVE_RECORDS: u64 = 200;

/// Entries that one step of the collector removes.
const COLLECT: u64 = 500;

/// How often a fork is tried whose origin is removed and made again under it.
const FORK_TRIES: usize = 3;

static SESSION: Script = script!(reads "session", ["log", "session", "gates"]);
static SESSIONS: Script = script!(reads "sessions", ["log", "session", "gates"]);
static WISHES: Script = script!(reads "wishes", []);
static STORED: Script = script!(reads "stored", ["log"]);
static FORK: Script = script!("fork", ["log", "session"]);
static IDLE: Script = script!(reads "idle", []);
static REMOVE: Script = script!("remove", ["gates", "hooks", "forget", "log", "session"]);
static TO_FORGET: Script = script!(reads "to_forget", []);
static FORGOTTEN: Script = script!("forgotten", []);
static COLLECT_SCRIPT: Script = script!("collect", []);

fn unreadable(what: impl Into<String>) -> store::Error {
    store::Error::Unreadable(what.into())
}

fn key(tenant: &str, session: &str) -> Result<SessionKey, store::Error> {
    SessionKey::new(tenant, session).map_err(|e| unreadable(format!("session: {e}")))
}

fn run(id: &str) -> Result<RunId, store::Error> {
    RunId::parse(id).ok_or_else(|| unreadable(format!("{id:?} is not a run id")))
}

fn summary(mut it: Reply) -> Result<Summary, store::Error> {
    let session = key(&it.text()?, &it.text()?)?;
    let (life, head) = (it.number()?, Position(it.number()?));
    let (created_at, updated_at) = (Timestamp(it.number()?), Timestamp(it.number()?));
    let forked_from = it.maybe_text()?.zip(it.maybe_number()?.map(Position));
    Ok(Summary {
        session,
        life,
        head,
        created_at,
        updated_at,
        forked_from: forked_from.map(|(session, position)| Origin { session, position }),
        forks: it.maybe_number()?.unwrap_or(0),
        front: it.maybe_text()?.as_deref().map(run).transpose()?,
        pending_gates: it.number()?,
    })
}

/// Wishes as a session that was not made by a run keeps them; `None` for nothing.
pub(crate) fn carried(wishes: Wishes) -> Result<Option<String>, store::Error> {
    let wishes = wishes.carried();
    let text = (wishes != Wishes::default()).then(|| serde_json::to_string(&wishes)).transpose();
    text.map_err(|e| store::Error::Failed(e.to_string()))
}

impl Store {
    fn shard_of(&self, session: &SessionKey) -> Shard {
        self.shards.of_tenant(session.tenant())
    }

    async fn page_of(&self, shard: Shard, filter: &Filter, limit: usize) -> Result<Part<Summary>, store::Error> {
        let below = pages::below(filter.cursor.as_deref(), shard)?;
        let args = Args::new().maybe(below.map(|life| format!("{life:016x}"))).maybe(filter.tenant.as_deref());
        let mut answer = self.run(Lane::Data, shard, &SESSIONS, args.number(limit as u64)).await?;
        let mut list = answer.list()?;
        let mut found = Vec::with_capacity(list.len());
        while list.len() > 0 {
            let item = summary(list.list()?)?;
            found.push(Found { row: item.life, bytes: 0, item });
        }
        Ok(Part { found, stopped: answer.maybe_number()? })
    }

    /// The life of a session, and what its further runs inherit.
    async fn inherited(&self, session: &SessionKey) -> Result<Option<(u64, Wishes)>, store::Error> {
        let args = Args::new().text(session.digest());
        let mut answer = self.run(Lane::Data, self.shard_of(session), &WISHES, args).await?;
        if answer.len() == 0 {
            return Ok(None);
        }
        let life = answer.number()?;
        let wishes = answer.maybe_bytes()?.map(|json| serde_json::from_slice(&json)).transpose();
        let wishes: Option<Wishes> = wishes.map_err(|e| unreadable(format!("wishes of {session:?}: {e}")))?;
        Ok(Some((life, wishes.unwrap_or_default())))
    }

    /// Removes a session, with its records little by little; `None` if it was used since then.
    async fn remove_session(
        &self,
        shard: Shard,
        digest: &str,
        since: Option<Timestamp>,
    ) -> Result<Option<Removal>, store::Error> {
        let mut all = Removed::default();
        loop {
            let args = Args::new().text(digest).number(REMOVE_RECORDS).maybe_number(since.map(|t| t.0));
            let mut answer = self.run(Lane::Data, shard, &REMOVE, args).await?;
            let word = answer.text()?;
            match word.as_str() {
                "unknown" => return Ok(Some(Removal::Unknown)),
                "busy" => return Ok(Some(Removal::Busy(run(&answer.text()?)?))),
                "used" => return Ok(None),
                "records" | "removed" => {
                    all.runs += answer.number()?;
                    all.gates += answer.number()?;
                    all.dead_letters += answer.number()?;
                }
                other => return Err(unreadable(format!("the answer of `remove` is {other:?}"))),
            }
            if word == "removed" {
                all.entries = answer.number()?;
                all.kept = answer.number()?;
                all.kept_for = answer.number()?;
                all.forget = answer.maybe_number()?.map(Epoch);
                return Ok(Some(Removal::Removed(all)));
            }
        }
    }

    /// Removes what nobody can reach any more. What a failure leaves, the next sweep finds.
    pub(crate) async fn sweep_up(&self) {
        for shard in self.shards.all() {
            loop {
                let more = match self.run(Lane::Data, shard, &COLLECT_SCRIPT, Args::new().number(COLLECT)).await {
                    Ok(mut answer) => answer.flag(),
                    Err(e) => Err(e),
                };
                match more {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => {
                        return tracing::warn!(error = %e, "what was removed could not be swept up; the next sweep will");
                    }
                }
            }
        }
    }
}

#[async_trait]
impl SessionStore for Store {
    async fn session(&self, session: &SessionKey) -> Result<Option<Summary>, store::Error> {
        let args = Args::new().text(session.digest());
        let answer = self.run(Lane::Data, self.shard_of(session), &SESSION, args).await?;
        if answer.len() == 0 { Ok(None) } else { summary(answer).map(Some) }
    }

    async fn sessions(&self, filter: &Filter) -> Result<Page, store::Error> {
        let limit = filter.limit.clamp(1, MAX_PAGE);
        let shards: Vec<Shard> = match &filter.tenant {
            Some(tenant) => vec![self.shards.of_tenant(tenant)],
            None => self.shards.all().collect(),
        };
        let ask = |shard| async move { self.page_of(shard, filter, limit).await.map(|part| (shard, part)) };
        let parts = futures::future::try_join_all(shards.into_iter().map(ask)).await?;
        let (sessions, next) = pages::merge(parts, limit);
        Ok(Page { sessions, next: next.map(|next| next.to_string()) })
    }

    async fn wishes(&self, session: &SessionKey) -> Result<Option<Wishes>, store::Error> {
        Ok(self.inherited(session).await?.map(|(_, wishes)| wishes))
    }

    async fn fork(&self, fork: &Fork) -> Result<Forked, store::Error> {
        for _ in 0..FORK_TRIES {
            let Some((life, wishes)) = self.inherited(&fork.from).await? else { return Ok(Forked::Unknown) };
            let args = Args::new()
                .text(fork.from.digest())
                .text(fork.into.digest())
                .text(fork.into.session())
                .number(fork.position.0)
                .number(life)
                .maybe(carried(wishes)?)
                .number(MAX_HISTORY_PARTS as u64);
            let mut answer = self.run(Lane::Data, self.shard_of(&fork.from), &FORK, args).await?;
            return Ok(match answer.text()?.as_str() {
                "created" => Forked::Created,
                "existing" => Forked::Existing,
                "taken" => Forked::Taken,
                "forgetting" => Forked::Forgetting,
                "out of range" => Forked::OutOfRange(Position(answer.number()?)),
                "too deep" => Forked::TooDeep,
                "unknown" => Forked::Unknown,
                "moved" => continue,
                other => return Err(unreadable(format!("the answer of `fork` is {other:?}"))),
            });
        }
        Err(store::Error::Unavailable(format!("{:?} was removed and made again while it was forked", fork.from)))
    }

    async fn remove(&self, session: &SessionKey) -> Result<Removal, store::Error> {
        let removal = self.remove_session(self.shard_of(session), &session.digest(), None).await?;
        let removal = removal.ok_or_else(|| unreadable("the answer of `remove` is \"used\""))?;
        if let Removal::Removed(_) = &removal {
            self.sweep_up().await;
        }
        Ok(removal)
    }

    async fn remove_idle(&self, since: Timestamp, limit: usize) -> Result<u64, store::Error> {
        let mut removed = 0;
        for shard in self.shards.all() {
            let args = Args::new().number(since.0).number((limit as u64).saturating_sub(removed));
            let mut idle = self.run(Lane::Data, shard, &IDLE, args).await?;
            while idle.len() > 0 {
                let digest = idle.text()?;
                if let Some(Removal::Removed(_)) = self.remove_session(shard, &digest, Some(since)).await? {
                    removed += 1;
                }
            }
        }
        self.sweep_up().await;
        Ok(removed)
    }

    async fn to_forget(&self, limit: usize) -> Result<Vec<ToForget>, store::Error> {
        let limit = limit.min(MAX_TO_FORGET);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for answer in self.run_all(Lane::Data, &TO_FORGET, &Args::new().number(limit as u64)).await {
            let (_, mut list) = answer?;
            while list.len() > 0 {
                let mut it = list.list()?;
                let since = it.number()?;
                let session = key(&it.text()?, &it.text()?)?;
                found.push((since, ToForget { session, epoch: Epoch(it.number()?) }));
            }
        }
        found.sort_by_key(|(since, _)| *since);
        Ok(found.into_iter().map(|(_, what)| what).take(limit).collect())
    }

    async fn forgotten(&self, what: &ToForget) -> Result<(), store::Error> {
        let args = Args::new().text(what.session.digest()).number(what.epoch.0);
        self.run(Lane::Data, self.shard_of(&what.session), &FORGOTTEN, args).await.map(drop)
    }

    async fn stored(
        &self,
        session: &SessionKey,
        life: u64,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Stored>, store::Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let args = Args::new().text(session.digest()).number(life).number(from.0);
        let args = args.number(limit.min(MAX_READ) as u64).number(MAX_READ_BYTES as u64);
        let mut answer = self.run(Lane::Data, self.shard_of(session), &STORED, args).await?;
        if answer.len() == 0 { Ok(Vec::new()) } else { entries::stored(answer.list()?) }
    }

    async fn import(&self, import: Import) -> Result<Box<dyn Importer>, ImportError> {
        import::begin(self, import).await
    }
}
