//! The database file: its layout, its version, and how a connection is set up.
//!
//! Owns: the tables and the pragmas. Must not know: what any operation means.
//!
//! Everything can be read with `sqlite3 store.db` while the program runs. Instants are milliseconds since the Unix
//! epoch in columns named `…_ms`; structured values are JSON text.
//!
//! | table | one row is | worth knowing |
//! |---|---|---|
//! | `meta` | a fact about the file | `schema` = layout version; a newer one is refused by name; `id` = this store and no other, made with the file |
//! | `session` | a session and the marks beside its log | `head`, `epoch` and `resume_from` make opening O(tail); `front_run` is the run whose turn it is, `owned` whether someone holds it, `progressed` whether its owner got anywhere; `first_run` and `first_hash` recognise the post that made it, also when that run's record is gone; `wishes` is what its further runs inherit, NULL for nothing; `handed` says that hands may know it; epochs up to `born` are those of earlier sessions with its name; `parent` is the row it was forked from at `forked_at`, `parent_id` what that was called |
//! | `ancestry` | a stretch of a fork's history | positions above `above` up to `upto` are kept under `source`, whose own session may be gone; its own entries begin above the last stretch |
//! | `mark` | a place where `resume_from` or `next_gate` changed | so that a fork finds its own without reading the log |
//! | `forgetting` | a removed session that its hands must still forget | nobody can make a session with its id meanwhile |
//! | `garbage` | entries nobody can reach | those of `source` above `above`, removed little by little: what a removal left, and imports that did not end |
//! | `entry` | an entry of a session's log | `write_id` stands on the first entry of each append; `schema` is the entry's own version |
//! | `run` | the record of a run | `id` ascends with acceptance and starts with the time (`created_ms << 20`), so that "created after" is a range of keys; how it ended is the entry at `ended_position`, kept once; one that ended without an entry could not be read, and `aside` says why; `redrive_of` is the run that was given up and whose work it does, `redriven` the run that does its own (itself, if it went back into the queue); `traceparent` and `tracestate` are those of the post that made it; `webhook` is whom it wants to be told and `files` what it wants to be written, NULL for nobody and nothing |
//! | `queue` | a run that has not ended | `state` is `ready`, `delayed` (until `due_ms`), `leased`, `paused` (it waits for a person) or `blocked` (behind another run of its session, `urgent` ones first). When a lease ends is kept in memory only: a lease never outlives the process |
//! | `gate` | a question to a person | `gate` is its number within the session; the entries in the log say the same, this finds them |
//! | `message` | something that a receiver is told, or was; on the channel `files`, that a run's files are to be brought up to date | `due_ms` is when it is sent next, or with `leased` when its claim lapses; `target` is a copy of the run's, which may be gone by then; `ended_position` is that of the end it is about |
//! | `dead_letter` | a run that was given up | goes with its record, which is kept for it |
//! | `api_key` | an API key without its secret | `tenant` NULL is every tenant; `sha256` is of the whole secret; `meta.keys` rises with every change. (`meta.session_row` and `meta.epoch` lie above the rows and epochs of all sessions that were removed) |
//! | `schedule` | a schedule | `state` has its last fires, what is owed and whether it is paused; `considered_ms` is a copy out of it, for order |
//! | `log` (view) | `entry` with names instead of numbers | for people |

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};
use torpor_core::store;

use crate::fault::{Fault, describe};
use crate::{outbox, schedules};

/// The layout this build writes and reads. It reads older ones by bringing them up to date.
pub(crate) const VERSION: u32 = 5;

/// Statements kept prepared per connection.
const STATEMENTS: usize = 64;

/// Pages in the write-ahead log before a commit also checkpoints it (4 KiB each).
const CHECKPOINT_PAGES: u32 = 2_000;

/// A write-ahead log that grew beyond this is cut back after a checkpoint, in bytes.
const WAL_KEEP_BYTES: u32 = 32 * 1024 * 1024;

/// Page cache of the writing connection, in KiB.
const WRITER_CACHE_KIB: u32 = 4_096;

/// Page cache of each reading connection, in KiB.
const READER_CACHE_KIB: u32 = 1_024;

/// How long a statement waits for another process that holds the file (an operator's `sqlite3`), in milliseconds.
const BUSY_MS: u32 = 2_000;

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE session (
    id          INTEGER PRIMARY KEY,
    tenant      TEXT NOT NULL,
    session     TEXT NOT NULL,
    head        INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    resume_from INTEGER NOT NULL,
    front_run   TEXT,
    owned       INTEGER NOT NULL,
    progressed  INTEGER NOT NULL,
    latest_run  INTEGER NOT NULL,
    first_run   TEXT,
    first_hash  TEXT,
    wishes      TEXT,
    next_gate   INTEGER NOT NULL DEFAULT 0,
    created_ms  INTEGER NOT NULL DEFAULT 0,
    updated_ms  INTEGER NOT NULL DEFAULT 0,
    handed      INTEGER NOT NULL DEFAULT 0,
    parent      INTEGER,
    parent_id   TEXT,
    forked_at   INTEGER,
    UNIQUE (tenant, session)
);
CREATE TABLE entry (
    session  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    schema   INTEGER NOT NULL,
    write_id TEXT,
    body     TEXT NOT NULL,
    PRIMARY KEY (session, position)
) WITHOUT ROWID;
CREATE TABLE run (
    id              INTEGER PRIMARY KEY,
    run_id          TEXT NOT NULL UNIQUE,
    session         INTEGER NOT NULL,
    tenant          TEXT NOT NULL,
    idempotency_key TEXT,
    body_hash       TEXT,
    status          TEXT NOT NULL,
    attempts        INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    started_ms      INTEGER,
    ended_ms        INTEGER,
    ended_position  INTEGER,
    spec            TEXT NOT NULL,
    cancel          INTEGER NOT NULL DEFAULT 0,
    log_from        INTEGER,
    traceparent     TEXT,
    tracestate      TEXT,
    webhook         TEXT
);
CREATE UNIQUE INDEX run_idempotency ON run (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX run_tenant ON run (tenant);
CREATE INDEX run_ended ON run (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX run_ended_status ON run (status) WHERE ended_ms IS NOT NULL;
CREATE TABLE dead_letter (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    reason TEXT NOT NULL,
    at_ms  INTEGER NOT NULL
);
";

/// The tables that version 4 added or made anew.
const NEW_IN_4: &str = "
CREATE TABLE api_key (
    id                TEXT PRIMARY KEY,
    tenant            TEXT,
    name              TEXT NOT NULL,
    scopes            TEXT NOT NULL,
    rate_per_second   INTEGER,
    rate_burst        INTEGER,
    created_ms        INTEGER NOT NULL,
    expires_ms        INTEGER,
    revoked_ms        INTEGER,
    rotated_ms        INTEGER,
    sha256            TEXT NOT NULL,
    previous_sha256   TEXT,
    previous_until_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE queue (
    run      INTEGER PRIMARY KEY,
    session  INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('ready', 'delayed', 'leased', 'blocked', 'paused')),
    due_ms   INTEGER NOT NULL,
    worker   TEXT,
    urgent   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX queue_ready ON queue (priority DESC, run) WHERE state = 'ready';
CREATE INDEX queue_delayed ON queue (due_ms) WHERE state = 'delayed';
CREATE INDEX queue_blocked ON queue (session, urgent DESC, run) WHERE state = 'blocked';
CREATE TABLE gate (
    id           INTEGER PRIMARY KEY,
    session      INTEGER NOT NULL,
    gate         INTEGER NOT NULL,
    run          TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'decided', 'closed')),
    question     TEXT NOT NULL,
    requested_ms INTEGER NOT NULL,
    expires_ms   INTEGER,
    decision     TEXT,
    decided_ms   INTEGER,
    UNIQUE (session, gate)
);
CREATE INDEX gate_run ON gate (run);
CREATE INDEX gate_pending ON gate (expires_ms) WHERE state = 'pending';
CREATE TABLE webhook (
    id          INTEGER PRIMARY KEY,
    webhook_id  TEXT NOT NULL UNIQUE,
    run         TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    kind        TEXT NOT NULL,
    target      TEXT NOT NULL,
    body        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'given_up')),
    attempts    INTEGER NOT NULL,
    leased      INTEGER NOT NULL,
    due_ms      INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    last_status INTEGER,
    last_error  TEXT
);
CREATE INDEX webhook_pending ON webhook (due_ms) WHERE state = 'pending';
CREATE INDEX webhook_run ON webhook (run);
CREATE TABLE ancestry (
    session INTEGER NOT NULL,
    above   INTEGER NOT NULL,
    upto    INTEGER NOT NULL,
    source  INTEGER NOT NULL,
    PRIMARY KEY (session, above)
) WITHOUT ROWID;
CREATE INDEX ancestry_source ON ancestry (source, upto);
CREATE TABLE mark (
    session     INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    resume_from INTEGER NOT NULL,
    next_gate   INTEGER NOT NULL,
    PRIMARY KEY (session, position)
) WITHOUT ROWID;
CREATE TABLE forgetting (
    id      INTEGER PRIMARY KEY,
    tenant  TEXT NOT NULL,
    session TEXT NOT NULL,
    epoch   INTEGER NOT NULL,
    UNIQUE (tenant, session)
);
CREATE TABLE garbage (source INTEGER PRIMARY KEY, above INTEGER NOT NULL);
CREATE INDEX session_tenant ON session (tenant);
CREATE INDEX session_parent ON session (parent) WHERE parent IS NOT NULL;
CREATE INDEX run_session ON run (session);
CREATE VIEW log AS
    SELECT s.tenant, s.session, e.position, e.epoch,
           strftime('%Y-%m-%dT%H:%M:%fZ', e.at_ms / 1000.0, 'unixepoch') AS at,
           json_extract(e.body, '$.type') AS type, e.body
    FROM session s
    JOIN (SELECT session, above, upto, source FROM ancestry
          UNION ALL SELECT id, coalesce(forked_at, 0), head, id FROM session) a ON a.session = s.id
    JOIN entry e ON e.session = a.source AND e.position > a.above AND e.position <= a.upto;
";

/// The tables that version 5 added.
const NEW_IN_5: &str = "
CREATE TABLE schedule (
    name          TEXT PRIMARY KEY,
    considered_ms INTEGER NOT NULL,
    state         TEXT NOT NULL
) WITHOUT ROWID;
";

/// What version 1 lacks. (The first runs of its sessions are not known; posting them again is a conflict.)
const FROM_1: &str = "
ALTER TABLE session ADD COLUMN first_run TEXT;
ALTER TABLE session ADD COLUMN first_hash TEXT;
ALTER TABLE session ADD COLUMN wishes TEXT;
UPDATE meta SET value = '2' WHERE name = 'schema';
";

/// What version 2 lacks.
const FROM_2: &str = "
ALTER TABLE run ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN log_from INTEGER;
UPDATE run SET log_from = 1 WHERE started_ms IS NOT NULL;
UPDATE meta SET value = '3' WHERE name = 'schema';
";

/// What version 3 lacks, before and after [`NEW_IN_4`].
const FROM_3: &str = "
ALTER TABLE session ADD COLUMN next_gate INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN updated_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN handed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN parent INTEGER;
ALTER TABLE session ADD COLUMN parent_id TEXT;
ALTER TABLE session ADD COLUMN forked_at INTEGER;
DROP VIEW log;
ALTER TABLE run ADD COLUMN traceparent TEXT;
ALTER TABLE run ADD COLUMN tracestate TEXT;
ALTER TABLE run ADD COLUMN webhook TEXT;
DROP INDEX queue_ready;
DROP INDEX queue_delayed;
DROP INDEX queue_blocked;
ALTER TABLE queue RENAME TO queue_3;
";
const AFTER_3: &str = "
INSERT INTO queue (run, session, priority, state, due_ms, worker)
    SELECT run, session, priority, state, due_ms, worker FROM queue_3;
DROP TABLE queue_3;
UPDATE session SET handed = 1,
    created_ms = coalesce((SELECT at_ms FROM entry WHERE session = id AND position = 1), latest_run >> 20),
    updated_ms = coalesce((SELECT at_ms FROM entry WHERE session = id AND position = head), latest_run >> 20);
INSERT INTO mark (session, position, resume_from, next_gate)
    SELECT session, position, json_extract(body, '$.keepFrom'), 0 FROM entry
    WHERE body LIKE '{\"type\":\"checkpoint\"%' AND CASE WHEN json_valid(body) THEN
          typeof(json_extract(body, '$.keepFrom')) = 'integer' ELSE 0 END;
UPDATE meta SET value = '4' WHERE name = 'schema';
";

/// What version 4 lacks. New files get it like old ones, on top of [`TABLES`] and [`NEW_IN_4`].
const FROM_4: &str = "
ALTER TABLE session ADD COLUMN born INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN aside TEXT;
ALTER TABLE run ADD COLUMN redrive_of TEXT;
ALTER TABLE run ADD COLUMN redriven TEXT;
UPDATE run SET aside = (SELECT reason FROM dead_letter d WHERE d.run_id = run.run_id)
    WHERE ended_ms IS NOT NULL AND ended_position IS NULL;
ALTER TABLE run ADD COLUMN files TEXT;
ALTER TABLE webhook RENAME TO message;
ALTER TABLE message ADD COLUMN channel TEXT NOT NULL DEFAULT 'webhook';
ALTER TABLE message ADD COLUMN ended_position INTEGER;
DROP INDEX webhook_pending;
DROP INDEX webhook_run;
CREATE INDEX message_pending ON message (channel, due_ms) WHERE state = 'pending';
CREATE INDEX message_run ON message (run);
UPDATE meta SET value = '5' WHERE name = 'schema';
";

/// Opens the writing connection, creates the tables in a new file, brings
/// an older one up to date, refuses a newer one, and voids every lease.
pub(crate) fn open_writer(file: &Path) -> Result<Connection, store::Error> {
    let open = || -> Result<Connection, Fault> {
        let conn = connect(file, WRITER_CACHE_KIB)?;
        let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
        if mode != "wal" {
            return Err(store::Error::Failed(format!("journal mode is {mode}, expected wal")).into());
        }
        // FULL: a commit is on the disk when it returns. NORMAL may lose the last ones when the power goes.
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
        prepare_tables(&conn)?;
        void_leases(&conn)?;
        outbox::void_claims(&conn)?;
        schedules::void_claims(&conn)?;
        Ok(conn)
    };
    open().map_err(|fault| describe(&format!("cannot open the database {}", file.display()), fault))
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(file: &Path) -> Result<Connection, store::Error> {
    let open = || -> Result<Connection, Fault> {
        let conn = connect(file, READER_CACHE_KIB)?;
        conn.pragma_update(None, "query_only", true)?;
        Ok(conn)
    };
    open().map_err(|fault| describe(&format!("cannot open the database {}", file.display()), fault))
}

fn connect(file: &Path, cache_kib: u32) -> Result<Connection, Fault> {
    let conn = Connection::open(file)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Plans do not depend on the values that are bound, so no statement is ever planned twice.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "busy_timeout", BUSY_MS)?;
    conn.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

fn prepare_tables(conn: &Connection) -> Result<(), Fault> {
    let present: Option<i64> = conn
        .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta'", [], |r| r.get(0))
        .optional()?;
    if present.is_none() {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        conn.execute_batch(TABLES)?;
        conn.execute_batch(NEW_IN_4)?;
        conn.execute_batch(NEW_IN_5)?;
        conn.execute_batch(FROM_4)?;
        conn.execute("INSERT INTO meta (name, value) VALUES ('schema', ?1)", [VERSION.to_string()])?;
        conn.execute_batch("COMMIT")?;
        return Ok(());
    }
    let found: Option<String> =
        conn.query_row("SELECT value FROM meta WHERE name = 'schema'", [], |r| r.get(0)).optional()?;
    match found.as_deref().map(str::parse::<u32>) {
        Some(Ok(VERSION)) => Ok(()),
        Some(Ok(old @ 1..VERSION)) => {
            let steps =
                [(1, FROM_1), (2, FROM_2), (3, FROM_3), (3, NEW_IN_4), (3, AFTER_3), (4, FROM_4), (4, NEW_IN_5)];
            let steps: String = steps.iter().filter(|(from, _)| *from >= old).map(|(_, step)| *step).collect();
            Ok(conn.execute_batch(&format!("BEGIN IMMEDIATE;{steps}COMMIT"))?)
        }
        Some(Ok(newer)) if newer > VERSION => Err(store::Error::Unreadable(format!(
            "its layout has version {newer}, this build reads {VERSION}: upgrade this program first"
        ))
        .into()),
        _ => Err(store::Error::Unreadable(format!(
            "its layout version is {}, this build reads {VERSION}",
            found.as_deref().unwrap_or("missing")
        ))
        .into()),
    }
}

/// The store's id: made with the file, or for a file that is older than ids.
pub(crate) fn id(conn: &Connection) -> Result<String, Fault> {
    let fresh = uuid::Uuid::new_v4().to_string();
    conn.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('id', ?1)", [fresh])?;
    Ok(conn.query_row("SELECT value FROM meta WHERE name = 'id'", [], |r| r.get(0))?)
}

/// This process holds the folder alone, so whoever held a lease is gone: it would be wrong to wait for them.
fn void_leases(conn: &Connection) -> Result<(), Fault> {
    conn.execute_batch(
        "BEGIN IMMEDIATE;
         UPDATE session SET owned = 0 WHERE id IN (SELECT session FROM queue WHERE worker IS NOT NULL);
         UPDATE queue SET worker = NULL, state = iif(state = 'leased', 'ready', state) WHERE worker IS NOT NULL;
         COMMIT",
    )?;
    Ok(())
}
