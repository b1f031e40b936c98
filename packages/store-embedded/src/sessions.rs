//! The seam for sessions as such: who they are, one or a page, and what is done to them.

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use torpor_core::envelope::Wishes;
use torpor_core::session::{
    Filter, Fork, Forked, Import, ImportError, Importer, Origin, Page, Removal, SessionStore, Stored, Summary, ToForget,
};
use torpor_core::{Position, RunId, SessionKey, Timestamp, store};

use crate::fault::Fault;
use crate::history::{self, Most};
use crate::record::{maybe, number, parse_cursor, sql, unreadable};
use crate::{Store, fork, remove};

/// Most sessions on one page.
const MAX_PAGE: usize = 200;

const COLUMNS: &str = "SELECT id, tenant, session, head, created_ms, updated_ms, parent_id, forked_at, front_run, \
                       (SELECT count(*) FROM session f WHERE f.parent = session.id), \
                       iif(front_run IS NULL, 0, \
                       (SELECT count(*) FROM gate g WHERE g.session = session.id AND g.state = 'pending')) \
                       FROM session";

fn read(row: &Row<'_>) -> Result<Summary, Fault> {
    let (tenant, session): (String, String) = (row.get(1)?, row.get(2)?);
    let (parent, forked_at): (Option<String>, _) = (row.get(6)?, maybe(row, 7)?);
    Ok(Summary {
        session: SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?,
        life: number(row, 0)?,
        head: Position(number(row, 3)?),
        created_at: Timestamp(number(row, 4)?),
        updated_at: Timestamp(number(row, 5)?),
        forked_from: parent.zip(forked_at).map(|(session, at)| Origin { session, position: Position(at) }),
        forks: number(row, 9)?,
        front: row.get::<_, Option<String>>(8)?.as_deref().and_then(RunId::parse),
        pending_gates: number(row, 10)?,
    })
}

fn summary(conn: &Connection, key: &SessionKey) -> Result<Option<Summary>, Fault> {
    let mut query = conn.prepare_cached(&format!("{COLUMNS} WHERE tenant = ?1 AND session = ?2"))?;
    let mut rows = query.query([key.tenant(), key.session()])?;
    rows.next()?.map(read).transpose()
}

fn list(conn: &Connection, filter: &Filter) -> Result<Page, Fault> {
    let limit = filter.limit.clamp(1, MAX_PAGE);
    let before = filter.cursor.as_deref().map(parse_cursor).transpose()?.unwrap_or(i64::MAX);
    let tenant = if filter.tenant.is_some() { "tenant = ?3" } else { "?3 IS NULL" };
    let mut query = conn.prepare_cached(&format!("{COLUMNS} WHERE id < ?1 AND {tenant} ORDER BY id DESC LIMIT ?2"))?;
    let mut rows = query.query(params![before, sql(limit as u64 + 1), filter.tenant])?;
    let mut page = Page { sessions: Vec::new(), next: None };
    while let Some(row) = rows.next()? {
        if page.sessions.len() == limit {
            page.next = page.sessions.last().map(|last| format!("{:x}", last.life));
            break;
        }
        page.sessions.push(read(row)?);
    }
    Ok(page)
}

fn stored(conn: &Connection, key: &SessionKey, life: u64, from: Position, limit: usize) -> Result<Vec<Stored>, Fault> {
    // One instant for all statements: nothing is removed between them.
    let together = conn.unchecked_transaction()?;
    let found: Option<(i64, u64, Option<u64>)> = {
        let mut query =
            together.prepare_cached("SELECT id, head, forked_at FROM session WHERE tenant = ?1 AND session = ?2")?;
        let mut rows = query.query([key.tenant(), key.session()])?;
        rows.next()?.map(|row| Ok::<_, Fault>((row.get(0)?, number(row, 1)?, maybe(row, 2)?))).transpose()?
    };
    let Some((row, head, forked_at)) = found.filter(|(row, ..)| sql(life) == *row) else { return Ok(Vec::new()) };
    history::read(&together, (row, forked_at), from, Position(head), Most::page(limit), history::stored)
}

#[async_trait]
impl SessionStore for Store {
    async fn session(&self, session: &SessionKey) -> Result<Option<Summary>, store::Error> {
        let session = session.clone();
        self.readers.read(move |conn| summary(conn, &session)).await
    }

    async fn sessions(&self, filter: &Filter) -> Result<Page, store::Error> {
        let filter = filter.clone();
        self.readers.read(move |conn| list(conn, &filter)).await
    }

    async fn wishes(&self, session: &SessionKey) -> Result<Option<Wishes>, store::Error> {
        let session = session.clone();
        self.readers.read(move |conn| fork::wishes(conn, &session)).await
    }

    async fn fork(&self, fork: &Fork) -> Result<Forked, store::Error> {
        let fork = fork.clone();
        self.writer.write(move |b| fork::fork(b, &fork)).await
    }

    async fn remove(&self, session: &SessionKey) -> Result<Removal, store::Error> {
        let session = session.clone();
        let removal = self.writer.write(move |b| remove::remove(b, &session)).await?;
        if let Removal::Removed(_) = &removal {
            self.sweep_up().await;
        }
        Ok(removal)
    }

    async fn remove_idle(&self, since: Timestamp, limit: usize) -> Result<u64, store::Error> {
        let rows = self.readers.read(move |conn| remove::idle(conn, since, limit)).await?;
        let removed = self.writer.write(move |b| remove::remove_idle(b, &rows, since)).await?;
        self.sweep_up().await;
        Ok(removed)
    }

    async fn to_forget(&self, limit: usize) -> Result<Vec<ToForget>, store::Error> {
        self.readers.read(move |conn| remove::to_forget(conn, limit)).await
    }

    async fn forgotten(&self, what: &ToForget) -> Result<(), store::Error> {
        let what = what.clone();
        self.writer.write(move |b| remove::forgotten(b, &what)).await
    }

    async fn stored(
        &self,
        session: &SessionKey,
        life: u64,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Stored>, store::Error> {
        let session = session.clone();
        self.readers.read(move |conn| stored(conn, &session, life, from, limit)).await
    }

    async fn import(&self, import: Import) -> Result<Box<dyn Importer>, ImportError> {
        self.begin_import(import).await
    }
}

impl Store {
    /// Removes what nobody can reach any more. What a failure leaves, the next sweep finds.
    pub(crate) async fn sweep_up(&self) {
        loop {
            let staged = std::sync::Arc::clone(&self.staged);
            match self.writer.write(move |b| remove::collect(b, &staged)).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => {
                    return tracing::warn!(error = %e, "what was removed could not be swept up; the next sweep will");
                }
            }
        }
    }
}
