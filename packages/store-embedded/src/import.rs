//! Imports: entries are stored as garbage under a new row, and stop being garbage when the session is made.
//!
//! So a crash, or a client that goes away, leaves nothing that would have to be undone: the collector finds it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use torpor_core::entry::{self, SCHEMA};
use torpor_core::session::{History, Import, ImportError, Importer, Mark, Stored};
use torpor_core::{Epoch, Position, SessionKey, Timestamp, store};

use crate::Store;
use crate::fault::Fault;
use crate::fork;
use crate::history;
use crate::lock::Folder;
use crate::record::sql;
use crate::remove;
use crate::writer::{Batch, Writer};

/// The rows of imports that are under way in this process.
#[derive(Debug, Default)]
pub(crate) struct Staged(Mutex<HashSet<i64>>);

impl Staged {
    pub(crate) fn has(&self, row: i64) -> bool {
        self.lock().contains(&row)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row that the collector leaves alone for as long as this lives.
struct Held {
    staged: Arc<Staged>,
    row: i64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.staged.lock().remove(&self.row);
    }
}

struct Incoming {
    // The order matters: the folder is released last.
    writer: Arc<Writer>,
    _folder: Arc<Folder>,
    import: Import,
    wishes: Option<String>,
    history: History,
    last_epoch: Epoch,
    held: Held,
}

/// Why the name cannot be used, if it cannot.
fn refused(conn: &Connection, key: &SessionKey) -> Result<Option<ImportError>, Fault> {
    let taken = conn
        .prepare_cached("SELECT 1 FROM session WHERE tenant = ?1 AND session = ?2")?
        .exists([key.tenant(), key.session()])?;
    Ok(if taken {
        Some(ImportError::Taken)
    } else {
        remove::is_forgetting(conn, key)?.then_some(ImportError::Forgetting)
    })
}

fn begin(b: &mut Batch<'_>, key: &SessionKey, staged: &Arc<Staged>) -> Result<Result<Held, ImportError>, Fault> {
    if let Some(refused) = refused(b.conn, key)? {
        return Ok(Err(refused));
    }
    let row = b.next_session();
    staged.lock().insert(row);
    let held = Held { staged: Arc::clone(staged), row };
    b.conn.prepare_cached("INSERT INTO garbage (source, above) VALUES (?1, 0)")?.execute([row])?;
    Ok(Ok(held))
}

fn put(conn: &Connection, row: i64, entries: &[Stored], marks: &[Mark]) -> Result<(), Fault> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO entry (session, position, epoch, at_ms, schema, write_id, body) \
         VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6)",
    )?;
    for it in entries {
        insert.execute(params![row, sql(it.position.0), sql(it.epoch.0), sql(it.at.0), it.schema, it.body])?;
    }
    history::note(conn, row, marks)
}

/// What a session needs to be one.
struct Whole {
    row: i64,
    import: Import,
    wishes: Option<String>,
    mark: Mark,
}

fn finish(b: &Batch<'_>, closing: Option<Stored>, it: &Whole) -> Result<Result<Position, ImportError>, Fault> {
    let key = &it.import.session;
    if let Some(refused) = refused(b.conn, key)? {
        return Ok(Err(refused));
    }
    let head = closing.as_ref().map_or(it.mark.position, |entry| entry.position);
    put(b.conn, it.row, closing.as_slice(), &[])?;
    b.conn.prepare_cached("DELETE FROM garbage WHERE source = ?1")?.execute([it.row])?;
    b.conn
        .prepare_cached(
            "INSERT INTO session (id, tenant, session, head, epoch, resume_from, owned, progressed, latest_run, \
             wishes, next_gate, created_ms, updated_ms, born) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0, ?7, ?8, ?9, ?10, ?5)",
        )?
        .execute(params![
            it.row,
            key.tenant(),
            key.session(),
            sql(head.0),
            // Not that of its entries: whoever wrote them wrote to another store.
            sql(b.state.epoch_floor),
            sql(it.mark.resume_from.0),
            it.wishes,
            sql(it.mark.next_gate),
            sql(it.import.created_at.0),
            sql(b.now())
        ])?;
    Ok(Ok(head))
}

impl Store {
    pub(crate) async fn begin_import(&self, import: Import) -> Result<Box<dyn Importer>, ImportError> {
        let (key, staged) = (import.session.clone(), Arc::clone(&self.staged));
        let held = self.writer.write(move |b| begin(b, &key, &staged)).await??;
        Ok(Box::new(Incoming {
            writer: Arc::clone(&self.writer),
            _folder: Arc::clone(&self.folder),
            wishes: fork::encode(import.wishes.clone()).map_err(store::Error::from)?,
            import,
            history: History::default(),
            last_epoch: Epoch(0),
            held,
        }))
    }
}

#[async_trait]
impl Importer for Incoming {
    async fn push(&mut self, entries: Vec<Stored>) -> Result<(), ImportError> {
        let mut marks = Vec::new();
        for entry in &entries {
            marks.extend(self.history.take(entry).map_err(ImportError::Refused)?);
            self.last_epoch = entry.epoch;
        }
        let row = self.held.row;
        Ok(self.writer.write(move |b| put(b.conn, row, &entries, &marks)).await?)
    }

    async fn finish(self: Box<Self>) -> Result<Position, ImportError> {
        let mark = self.history.mark();
        let closing = match self.history.closing() {
            None => None,
            Some(body) => {
                let body = entry::encode(&body).map_err(|e| store::Error::Failed(e.to_string()))?;
                let body = String::from_utf8(body).map_err(|e| store::Error::Failed(e.to_string()))?;
                Some((mark.position.next(), body))
            }
        };
        let epoch = self.last_epoch;
        let whole = Whole { row: self.held.row, import: self.import.clone(), wishes: self.wishes.clone(), mark };
        self.writer
            .write(move |b| {
                let at = Timestamp(b.now());
                let closing = closing.map(|(position, body)| Stored { position, at, epoch, schema: SCHEMA, body });
                finish(b, closing, &whole)
            })
            .await?
    }
}
