//! Messages that are still to be sent, or were. They are posted in the steps of others (`lua/lib/hooks.lua`).

use std::time::Duration;

use async_trait::async_trait;
use torpor_core::webhook::{Channel, Claimed, Destination, Id, Message, Noted, Outbox, State};
use torpor_core::{Position, RunId, store};

use crate::Store;
use crate::link::Lane;
use crate::reply::Reply;
use crate::script::{Args, Script, script};
use crate::shard::Shard;

/// Most messages that one claim answers.
const MAX_CLAIM: usize = 256;

/// Whoever waits looks by itself so often at least: news may be lost.
const LOOK: Duration = Duration::from_secs(1);

/// Nobody looks again sooner, unless something was posted.
const PAUSE: Duration = Duration::from_millis(5);

static CLAIM: Script = script!("claim_hooks", ["hooks"]);
static PEEK: Script = script!(reads "peek_hooks", ["hooks"]);
static NOTE: Script = script!("note_hook", ["hooks"]);

/// What a claim found.
struct Found {
    claimed: Vec<Claimed>,
    /// How long it is until the next one is due or the next claim ends, by the store's clock.
    next: Option<Duration>,
}

#[async_trait]
impl Outbox for Store {
    async fn claim(
        &self,
        channel: Channel,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claimed>, store::Error> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = self.clock.now().after(wait);
        loop {
            // Listening starts before looking, so that nothing that is posted in between is missed.
            let told = |shard| self.news.watch(&format!("{}{}", self.shards.prefix(shard), news_of(channel)));
            let mut news: Vec<_> = self.shards.all().map(told).collect();
            let Found { claimed, next } = self.look(channel, max.min(MAX_CLAIM), lease).await?;
            let now = self.clock.now();
            if !claimed.is_empty() || now >= deadline {
                return Ok(claimed);
            }
            let posted = futures::future::select_all(news.iter_mut().map(|watch| Box::pin(watch.changed())));
            // What is due already but was not to be had is somebody else's in a moment.
            let until = next.map_or(wait, |next| next.max(PAUSE)).min(deadline.since(now));
            tokio::select! {
                _ = posted => {}
                () = self.clock.sleep(until) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn note(&self, id: &Id, attempt: u32, what: Noted) -> Result<bool, store::Error> {
        // An id names its shard, behind `msg_` and a row.
        let named = id.as_str().get(20..24).and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let Some(shard) = self.shards.all().find(|shard| Some(shard.number()) == named) else { return Ok(false) };
        self.note_at(shard, id.as_str(), attempt, what).await
    }
}

/// Where news of a channel is told; the scripts say the same.
fn news_of(channel: Channel) -> &'static str {
    match channel {
        Channel::Webhook => "x",
        Channel::Files => "f",
    }
}

impl Store {
    async fn look(&self, channel: Channel, max: usize, lease: Duration) -> Result<Found, store::Error> {
        let shards: Vec<Shard> = self.shards.all().collect();
        if let [only] = shards[..] {
            return self.claim_hooks(channel, only, max, lease).await;
        }
        // Those that have been due longest go first, wherever they are.
        let peek = |shard| async move {
            let args = Args::new().text(channel.as_str()).number(max as u64);
            let mut answer = self.run(Lane::Control, shard, &PEEK, args).await?;
            let next = answer.maybe_number()?.map(Duration::from_millis);
            let (mut list, mut due) = (answer.list()?, Vec::new());
            while list.len() > 0 {
                due.push((list.number()?, shard));
            }
            Ok::<_, store::Error>((next, due))
        };
        let answers = futures::future::try_join_all(shards.iter().copied().map(peek)).await?;
        let mut next = answers.iter().filter_map(|(next, _)| *next).min();
        let mut due: Vec<_> = answers.into_iter().flat_map(|(_, due)| due).collect();
        due.sort_by_key(|(since, shard)| (*since, shard.number()));
        due.truncate(max);
        let share = |shard: &Shard| (*shard, due.iter().filter(|(_, at)| at == shard).count());
        let shares = shards.iter().map(share).filter(|(_, n)| *n > 0);
        let claims = shares.map(|(shard, n)| self.claim_hooks(channel, shard, n, lease));
        let (mut claimed, mut failed) = (Vec::new(), None);
        for found in futures::future::join_all(claims).await {
            match found {
                Ok(found) => {
                    next = next.into_iter().chain(found.next).min();
                    claimed.extend(found.claimed);
                }
                Err(e) => failed = Some(e),
            }
        }
        // What was claimed on one shard is not lost by what went wrong on another.
        match failed {
            Some(e) if claimed.is_empty() => Err(e),
            _ => Ok(Found { claimed, next }),
        }
    }

    async fn claim_hooks(
        &self,
        channel: Channel,
        shard: Shard,
        max: usize,
        lease: Duration,
    ) -> Result<Found, store::Error> {
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let args = Args::new().text(channel.as_str()).number(max as u64).number(lease);
        let mut answer = self.run(Lane::Control, shard, &CLAIM, args).await?;
        let next = answer.maybe_number()?.map(Duration::from_millis);
        let (mut list, mut claimed) = (answer.list()?, Vec::new());
        while list.len() > 0 {
            let raw = Raw::take(list.list()?)?;
            match raw.message(channel) {
                Ok(message) => claimed.push(message),
                Err(why) => {
                    tracing::error!(id = raw.id, why, "gave up a message that this build cannot read");
                    self.spoilt(shard, &raw).await?;
                }
            }
        }
        Ok(Found { claimed, next })
    }

    /// A message that cannot be read is over, for no reason that has a name.
    async fn spoilt(&self, shard: Shard, raw: &Raw) -> Result<(), store::Error> {
        let args = Args::new().text(&raw.id).number(u64::from(raw.attempt)).text(State::GivenUp.as_str());
        let args = args.text("").text("").number(0);
        self.run(Lane::Control, shard, &NOTE, args).await.map(drop)
    }

    async fn note_at(&self, shard: Shard, id: &str, attempt: u32, what: Noted) -> Result<bool, store::Error> {
        let (state, status, why, after) = match what {
            Noted::Sent { status } => (State::Sent, status, None, Duration::ZERO),
            Noted::Failed { why, status, after } => (State::Pending, status, Some(why), after),
            Noted::GivenUp { why, status } => (State::GivenUp, status, Some(why), Duration::ZERO),
        };
        let args = Args::new()
            .text(id)
            .number(u64::from(attempt))
            .text(state.as_str())
            .maybe_number(status.map(u64::from))
            .maybe(why.map(|why| why.as_str()))
            .number(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self.run(Lane::Control, shard, &NOTE, args).await?.flag()
    }
}

/// A message as it is stored.
struct Raw {
    id: String,
    run: String,
    tenant: String,
    target: Vec<u8>,
    body: String,
    ended_at: Option<u64>,
    attempt: u32,
}

impl Raw {
    fn take(mut it: Reply) -> Result<Self, store::Error> {
        Ok(Self {
            id: it.lossy()?,
            run: it.lossy()?,
            tenant: it.lossy()?,
            target: it.maybe_bytes()?.unwrap_or_default(),
            body: it.lossy()?,
            ended_at: it.maybe_number()?,
            attempt: u32::try_from(it.number()?).unwrap_or(u32::MAX),
        })
    }

    fn message(&self, channel: Channel) -> Result<Claimed, &'static str> {
        let message = Message {
            id: Id::parse(&self.id).ok_or("its id is none")?,
            run: RunId::parse(&self.run).ok_or("its run's id is none")?,
            tenant: self.tenant.clone(),
            to: Destination::decode(channel, &self.target).ok_or("its target cannot be read")?,
            body: self.body.clone(),
            ended_at: self.ended_at.map(Position),
        };
        Ok(Claimed { message, attempt: self.attempt })
    }
}
