//! Messages that are still to be sent, or were: posted in the step in which what they tell of happens.
//!
//! A claim is a row's `leased` and the time of its end in `due_ms`. A claim never outlives the process, so opening the
//! store makes every claimed message due at once.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use torpor_core::envelope::Spec;
use torpor_core::outcome::Status;
use torpor_core::webhook::{
    Channel, Claimed, Destination, Event, Failure, Id, Kind, Message, Noted, Outbox, Standing, State,
};
use torpor_core::{Position, RunId, SessionKey, Timestamp, store};

use crate::Store;
use crate::fault::Fault;
use crate::record::{maybe, number, sql, text, unreadable};
use crate::writer::Batch;

/// Most messages that one claim answers.
const MAX_CLAIM: usize = 256;

/// A run as far as a message needs to know it.
pub(crate) struct About<'a> {
    /// Its row.
    pub(crate) row: i64,
    pub(crate) run: &'a RunId,
    pub(crate) targets: Targets,
}

/// Where messages about a run go, as it is stored; nothing is posted without one.
#[derive(Default)]
pub(crate) struct Targets {
    pub(crate) webhook: Option<String>,
    pub(crate) files: Option<String>,
}

impl Targets {
    /// Reads `webhook, files` from `column` on.
    pub(crate) fn of(row: &Row<'_>, column: usize) -> rusqlite::Result<Self> {
        Ok(Self { webhook: row.get(column)?, files: row.get(column + 1)? })
    }

    /// What a run wishes for.
    pub(crate) fn from_spec(spec: &Spec) -> Result<Self, store::Error> {
        let mut targets = Self::default();
        for to in spec.destinations() {
            let stored = Some(to.encode()?);
            match to.channel() {
                Channel::Webhook => targets.webhook = stored,
                Channel::Files => targets.files = stored,
            }
        }
        Ok(targets)
    }

    fn each(&self) -> impl Iterator<Item = (Channel, &str)> {
        let all = [(Channel::Webhook, &self.webhook), (Channel::Files, &self.files)];
        all.into_iter().filter_map(|(channel, stored)| Some((channel, stored.as_deref()?)))
    }
}

/// What happened to a run.
pub(crate) struct News {
    pub(crate) kind: Kind,
    pub(crate) status: Status,
    pub(crate) gate: Option<u64>,
    /// Where its end stands in the log.
    pub(crate) ended_at: Option<Position>,
}

/// Posts what happened to a run to whoever wants to be told.
pub(crate) fn post(b: &mut Batch<'_>, about: &About<'_>, news: &News) -> Result<(), Fault> {
    for (channel, target) in about.targets.each().filter(|(channel, _)| channel.carries(news.kind)) {
        post_to(b, about, news, channel, target)?;
    }
    Ok(())
}

fn post_to(
    b: &mut Batch<'_>,
    About { row, run, .. }: &About<'_>,
    &News { kind, status, gate, ended_at }: &News,
    channel: Channel,
    target: &str,
) -> Result<(), Fault> {
    let (tenant, session): (String, String) = b
        .conn
        .prepare_cached("SELECT s.tenant, s.session FROM run r JOIN session s ON s.id = r.session WHERE r.id = ?1")?
        .query_row([row], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let session = SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?;
    let (id, now) = (Id::generate(), b.now());
    let body = Event { kind, at: Timestamp(now), run, session: &session, status, gate }.body(&id);
    b.conn
        .prepare_cached(
            "INSERT INTO message (webhook_id, channel, run, tenant, kind, target, body, ended_position, state, \
             attempts, leased, due_ms, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', 0, 0, ?9, ?9)",
        )?
        .execute(params![
            id.as_str(),
            channel.as_str(),
            run.as_str(),
            tenant,
            kind.as_str(),
            target,
            body,
            ended_at.map(|p| sql(p.0)),
            sql(now)
        ])?;
    b.posted();
    Ok(())
}

/// Whoever held a claim is gone with their process.
pub(crate) fn void_claims(conn: &Connection) -> Result<(), Fault> {
    conn.execute("UPDATE message SET leased = 0, due_ms = 0 WHERE leased = 1", [])?;
    Ok(())
}

/// What a claim found.
struct Found {
    claimed: Vec<Claimed>,
    /// When the next one is due, or the next claim lapses.
    next: Option<u64>,
}

fn claim(b: &Batch<'_>, channel: Channel, max: usize, lease: Duration) -> Result<Found, Fault> {
    let now = Timestamp(b.now());
    let due: Vec<i64> = b
        .conn
        .prepare_cached(
            "SELECT id FROM message WHERE channel = ?3 AND state = 'pending' AND due_ms <= ?1 \
             ORDER BY due_ms, id LIMIT ?2",
        )?
        .query_map(params![sql(now.0), sql(max.min(MAX_CLAIM) as u64), channel.as_str()], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    let mut take = b.conn.prepare_cached(
        "UPDATE message SET attempts = attempts + 1, leased = 1, due_ms = ?2 WHERE id = ?1 \
         RETURNING webhook_id, run, tenant, target, body, attempts, ended_position",
    )?;
    let mut spoilt = b.conn.prepare_cached("UPDATE message SET state = 'given_up', leased = 0 WHERE id = ?1")?;
    let mut claimed = Vec::with_capacity(due.len());
    for id in due {
        match take
            .query_row(params![id, sql(now.after(lease).0)], |r| Ok(message(r, channel)))?
            .map_err(Fault::unreadable)
        {
            Ok(message) => claimed.push(message),
            Err(Ok(why)) => {
                tracing::error!(row = id, why, "gave up a message that this build cannot read");
                spoilt.execute([id])?;
            }
            Err(Err(fault)) => return Err(fault),
        }
    }
    let next = b
        .conn
        .prepare_cached("SELECT min(due_ms) FROM message WHERE channel = ?1 AND state = 'pending'")?
        .query_row([channel.as_str()], |r| r.get::<_, Option<i64>>(0))?;
    Ok(Found { claimed, next: next.map(|ms| u64::try_from(ms).unwrap_or(0)) })
}

/// Reads `webhook_id, run, tenant, target, body, attempts, ended_position`.
fn message(row: &Row<'_>, channel: Channel) -> Result<Claimed, Fault> {
    let (id, run): (String, String) = (row.get(0)?, row.get(1)?);
    let message = Message {
        id: Id::parse(&id).ok_or_else(|| unreadable(format!("{id:?} is not a message's id")))?,
        run: RunId::parse(&run).ok_or_else(|| unreadable(format!("{run:?} is not a run id")))?,
        tenant: row.get(2)?,
        to: Destination::decode(channel, text(row, 3)?)
            .ok_or_else(|| unreadable(format!("the target of message {id}")))?,
        body: row.get(4)?,
        ended_at: maybe(row, 6)?.map(Position),
    };
    Ok(Claimed { message, attempt: row.get(5)? })
}

fn note(b: &mut Batch<'_>, id: &Id, attempt: u32, what: Noted) -> Result<bool, Fault> {
    let found: Option<(i64, String)> = b
        .conn
        .prepare_cached(
            "SELECT id, run FROM message WHERE webhook_id = ?1 AND state = 'pending' AND (attempts = ?2 OR ?3)",
        )?
        // That it was received is true whoever says so.
        .query_row(params![id.as_str(), attempt, matches!(what, Noted::Sent { .. })], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let Some((row, run)) = found else { return Ok(false) };
    let (state, due, status, error) = match what {
        Noted::Sent { status } => (State::Sent, b.now(), status, None),
        Noted::Failed { why, status, after } => {
            (State::Pending, Timestamp(b.now()).after(after).0, status, Some(why.as_str()))
        }
        Noted::GivenUp { why, status } => (State::GivenUp, b.now(), status, Some(why.as_str())),
    };
    b.conn
        .prepare_cached(
            "UPDATE message SET state = ?2, leased = 0, due_ms = ?3, last_status = ?4, last_error = ?5 WHERE id = ?1",
        )?
        .execute(params![row, state.as_str(), sql(due), status, error])?;
    let of_record = b.conn.prepare_cached("UPDATE run SET version = version + 1 WHERE run_id = ?1")?.execute([&run])?;
    if of_record == 0 && state != State::Pending {
        // The record has expired meanwhile, and nobody can ask any more.
        b.conn.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([row])?;
    }
    if let Some(run) = RunId::parse(&run) {
        b.changed(&run);
    }
    if state == State::Pending {
        b.posted(); // whoever waits for the next one learns when that is
    }
    Ok(true)
}

/// A run's record is gone; what is still to be sent stays.
pub(crate) fn forget(conn: &Connection, run: &str) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM message WHERE run = ?1 AND state <> 'pending'")?.execute([run])?;
    Ok(())
}

/// Messages of a channel that are due or being sent.
pub(crate) fn due(conn: &Connection, channel: Channel, now: u64) -> Result<u64, Fault> {
    let n: i64 = conn
        .prepare_cached(
            "SELECT count(*) FROM message WHERE channel = ?1 AND state = 'pending' AND (due_ms <= ?2 OR leased = 1)",
        )?
        .query_row(params![channel.as_str(), sql(now)], |r| r.get(0))?;
    Ok(u64::try_from(n).unwrap_or(0))
}

/// How the latest message about a run on this channel stands.
pub(crate) fn standing(conn: &Connection, run: &str, channel: Channel) -> Result<Option<Standing>, Fault> {
    let mut query = conn.prepare_cached(
        "SELECT kind, state, attempts, last_status, last_error FROM message WHERE run = ?1 AND channel = ?2 \
         ORDER BY id DESC LIMIT 1",
    )?;
    let mut rows = query.query([run, channel.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (kind, state): (String, String) = (row.get(0)?, row.get(1)?);
    let error: Option<String> = row.get(4)?;
    Ok(Some(Standing {
        event: Kind::parse(&kind).ok_or_else(|| unreadable(format!("a message's kind {kind:?}")))?,
        state: State::parse(&state).ok_or_else(|| unreadable(format!("a message's state {state:?}")))?,
        attempts: u32::try_from(number(row, 2)?).unwrap_or(u32::MAX),
        last_status: row.get(3)?,
        last_error: error.as_deref().and_then(Failure::parse),
    }))
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
            let mut posted = pin!(self.signals.posted.notified());
            posted.as_mut().enable();
            let Found { claimed, next } = self.writer.write(move |b| claim(b, channel, max, lease)).await?;
            let now = self.clock.now();
            if !claimed.is_empty() || now >= deadline {
                return Ok(claimed);
            }
            let wake = Timestamp(next.unwrap_or(u64::MAX)).min(deadline);
            tokio::select! {
                () = &mut posted => {}
                () = self.clock.sleep(wake.since(now)) => {}
            }
        }
    }

    async fn note(&self, id: &Id, attempt: u32, what: Noted) -> Result<bool, store::Error> {
        let id = id.clone();
        self.writer.write(move |b| note(b, &id, attempt, what)).await
    }
}
