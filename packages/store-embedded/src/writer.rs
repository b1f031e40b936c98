//! The writer: one thread, one connection, group commit.
//!
//! Commands that arrive while a commit is on its way to the disk share the next one. Each runs in a savepoint, so
//! that one failing takes no other with it, and each is answered only after the COMMIT of its batch. This knows
//! nothing of what the commands do.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use torpor_core::observe::{Event, Observer};
use torpor_core::queue::LeaseKey;
use torpor_core::{Clock, RunId, SessionKey, WorkerId, store};

use crate::Options;
use crate::cancel::Told;
use crate::fault::Fault;
use crate::gates;
use crate::leases::{Held, Leases};
use crate::record;
use crate::waiters::{Readers, Waiters};

/// Commands that may wait; further callers wait for room.
const PENDING: usize = 1_024;

/// Commands that share one commit.
const BATCH: usize = 256;

/// What a removal leaves behind about rows and epochs; see the layout.
const SESSION_ROW: &str = "SELECT CAST(max(value) AS INTEGER) FROM meta WHERE name = 'session_row'";
const EPOCH_FLOOR: &str = "SELECT CAST(max(value) AS INTEGER) FROM meta WHERE name = 'epoch'";

/// What the writer tells those who wait.
pub(crate) struct Signals {
    /// A run became claimable.
    pub(crate) ready: Notify,
    /// A message became due, or is due at another time than it was.
    pub(crate) posted: Notify,
    /// No later than this something becomes claimable by the passing of time; `u64::MAX` for never.
    pub(crate) due: watch::Sender<u64>,
    /// Waiters for a run's record.
    pub(crate) waiters: Arc<Waiters>,
    /// Waiters for a session's log.
    pub(crate) readers: Arc<Readers>,
    /// What the owners of leases are to be told.
    pub(crate) told: Told,
}

/// What the writer keeps in memory beside the database.
pub(crate) struct State {
    pub(crate) leases: Leases,
    /// No later than this the first delayed run or gate is due.
    pub(crate) delayed: Option<u64>,
    /// The last run row that was given out.
    pub(crate) last_row: i64,
    /// The last session row that was given out.
    pub(crate) last_session: i64,
    /// Where the epochs of new sessions begin: above those of all that were removed.
    pub(crate) epoch_floor: u64,
    pub(crate) queue: Bound,
    pub(crate) lease_ms: u64,
    pub(crate) clock: Arc<dyn Clock>,
}

/// How many runs there may be in the queue.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) max: u64,
    /// So many there are at most.
    pub(crate) at_most: u64,
    /// Until then it is taken to be full, if it was full.
    pub(crate) full_until: u64,
}

impl State {
    /// Reads from the database what has to be known in memory.
    pub(crate) fn load(conn: &Connection, options: &Options) -> Result<Self, Fault> {
        let number = |query: &str| -> Result<i64, Fault> {
            Ok(conn.query_row(query, [], |r| r.get::<_, Option<i64>>(0))?.unwrap_or(0))
        };
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        let at_most = unsigned(number("SELECT count(*) FROM queue")?);
        Ok(Self {
            leases: Leases::default(),
            delayed: first_delayed(conn)?,
            last_row: number("SELECT max(id) FROM run")?,
            last_session: number("SELECT max(id) FROM session")?.max(number(SESSION_ROW)?),
            epoch_floor: unsigned(number(EPOCH_FLOOR)?),
            queue: Bound { max: options.max_queued, at_most, full_until: 0 },
            lease_ms: u64::try_from(options.lease.as_millis()).unwrap_or(u64::MAX).max(1),
            clock: Arc::clone(&options.clock),
        })
    }

    /// After a rollback, which undid what was worked out about due times as well. Too early is harmless.
    fn reload_delayed(&mut self, conn: &Connection) {
        self.delayed = first_delayed(conn).unwrap_or(Some(0));
    }

    fn next_due(&self) -> u64 {
        [self.leases.next_end(), self.delayed].into_iter().flatten().min().unwrap_or(u64::MAX)
    }
}

/// When the first delayed run or gate is due.
pub(crate) fn first_delayed(conn: &Connection) -> Result<Option<u64>, Fault> {
    let due: Option<Option<i64>> = conn
        .prepare_cached("SELECT min(due_ms) FROM queue WHERE state = 'delayed'")?
        .query_row([], |r| r.get(0))
        .optional()?;
    let due = due.flatten().map(|ms| u64::try_from(ms).unwrap_or(0));
    Ok([due, gates::first_expiry(conn)?].into_iter().flatten().min())
}

/// What has to happen once the batch is on the disk.
#[derive(Default)]
struct After {
    ready: bool,
    posted: bool,
    recheck_due: bool,
    changed: Vec<RunId>,
    told: Vec<(WorkerId, LeaseKey)>,
    grown: Vec<(SessionKey, u64)>,
    removed: Vec<SessionKey>,
    over: Vec<(RunId, Held)>,
    offered: Vec<Held>,
}

impl After {
    fn lengths(&self) -> [usize; 6] {
        let removed = self.removed.len();
        [self.changed.len(), self.told.len(), self.grown.len(), self.over.len(), self.offered.len(), removed]
    }

    /// Forgets what a command that failed had announced. (A wake-up too many is harmless.)
    fn truncate(&mut self, [changed, told, grown, over, offered, removed]: [usize; 6]) {
        self.removed.truncate(removed);
        self.grown.truncate(grown);
        self.changed.truncate(changed);
        self.told.truncate(told);
        self.over.truncate(over);
        self.offered.truncate(offered);
    }
}

/// What a command works on.
pub(crate) struct Batch<'c> {
    /// The writing connection, in a transaction.
    pub(crate) conn: &'c Connection,
    pub(crate) state: &'c mut State,
    after: After,
    /// SQLite gave the whole transaction up: nothing more may run in it.
    doomed: Option<store::Error>,
}

impl Batch<'_> {
    /// The store's clock, in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        self.state.clock.now().0
    }

    /// A run became claimable now.
    pub(crate) fn ready(&mut self) {
        self.after.ready = true;
    }

    /// A message was posted, or put off.
    pub(crate) fn posted(&mut self) {
        self.after.posted = true;
    }

    /// A run becomes claimable at `due`.
    pub(crate) fn delayed(&mut self, due: u64) {
        self.state.delayed = Some(self.state.delayed.map_or(due, |d| d.min(due)));
    }

    /// Nothing was claimable: those who wait should wait for the true next instant.
    pub(crate) fn recheck_due(&mut self) {
        self.after.recheck_due = true;
    }

    /// The record of this run changed.
    pub(crate) fn changed(&mut self, run: &RunId) {
        self.after.changed.push(run.clone());
    }

    /// The log of this session has a new head.
    pub(crate) fn grown(&mut self, session: &SessionKey, head: u64) {
        self.after.grown.push((session.clone(), head));
    }

    /// This session is gone; whoever waits for its log waits for nothing.
    pub(crate) fn removed(&mut self, session: &SessionKey) {
        self.after.removed.push(session.clone());
    }

    /// The row of a new session. No row is ever given out twice.
    pub(crate) fn next_session(&mut self) -> i64 {
        self.state.last_session = self.state.last_session.saturating_add(1);
        self.state.last_session
    }

    /// The owner of this lease is to hear that its run is to be cancelled.
    pub(crate) fn told(&mut self, worker: WorkerId, key: LeaseKey) {
        self.after.told.push((worker, key));
    }

    /// This lease is over.
    pub(crate) fn over(&mut self, run: &RunId, held: Held) {
        self.after.over.push((run.clone(), held));
    }

    /// This lease has expired and its run is in the queue again.
    pub(crate) fn offered(&mut self, held: Held) {
        self.after.offered.push(held);
    }

    /// Runs `command` so that its failure leaves nothing behind.
    fn isolated<T>(&mut self, command: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, store::Error> {
        if let Some(e) = &self.doomed {
            return Err(e.clone());
        }
        let conn = self.conn;
        let before = self.after.lengths();
        let run = |sql| conn.prepare_cached(sql).and_then(|mut s| s.execute([]));
        let result = run("SAVEPOINT command").map_err(Fault::from).and_then(|_| command(self));
        let result = result.and_then(|value| {
            run("RELEASE command")?;
            Ok(value)
        });
        result.map_err(|fault| {
            let error = store::Error::from(fault);
            self.after.truncate(before);
            let undone =
                !conn.is_autocommit() && run("ROLLBACK TO command").and_then(|_| run("RELEASE command")).is_ok();
            if undone {
                self.state.reload_delayed(conn);
            } else {
                self.doomed = Some(error.clone());
            }
            error
        })
    }
}

/// A command on its way through the writer.
trait Command: Send {
    fn run(&mut self, batch: &mut Batch<'_>);
    fn reply(self: Box<Self>, committed: Result<(), store::Error>);
}

struct Call<F, T> {
    work: Option<F>,
    result: Option<Result<T, store::Error>>,
    reply: oneshot::Sender<Result<T, store::Error>>,
}

impl<F, T> Command for Call<F, T>
where
    F: FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) {
        if let Some(work) = self.work.take() {
            self.result = Some(batch.isolated(work));
        }
    }

    fn reply(self: Box<Self>, committed: Result<(), store::Error>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(stopped()),
            (Err(e), _) => Err(e),
        };
        let _ = self.reply.send(result); // the caller may be gone
    }
}

fn stopped() -> store::Error {
    store::Error::Unavailable("its writer thread has stopped".to_owned())
}

/// The handle to the thread.
pub(crate) struct Writer {
    commands: Option<mpsc::Sender<Box<dyn Command>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        conn: Connection,
        state: State,
        signals: Arc<Signals>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, store::Error> {
        let (commands, inbox) = mpsc::channel(PENDING);
        signals.due.send_replace(state.next_due());
        let thread = std::thread::Builder::new()
            .name("store-write".to_owned())
            .spawn(move || serve(&conn, state, inbox, &signals, &*observer))
            .map_err(|e| store::Error::Failed(format!("cannot start the writer thread: {e}")))?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// Runs one command and waits until what it did is durable. A dropped future leaves it unknown whether the
    /// command ran.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, store::Error> {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { work: Some(work), result: None, reply });
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        commands.send(call).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a writer that panicked has nothing to tell
        }
    }
}

fn serve(
    conn: &Connection,
    mut state: State,
    mut inbox: mpsc::Receiver<Box<dyn Command>>,
    signals: &Signals,
    observer: &dyn Observer,
) {
    let mut commands = Vec::with_capacity(BATCH);
    while inbox.blocking_recv_many(&mut commands, BATCH) > 0 {
        let mut batch = Batch { conn, state: &mut state, after: After::default(), doomed: None };
        let began = Instant::now();
        let committed = commit(&mut batch, &mut commands);
        let (took, stored) = (began.elapsed(), committed.is_ok());
        observer.observe(&Event::Commit { commands: commands.len(), took, stored });
        let after = std::mem::take(&mut batch.after);
        match &committed {
            Ok(()) => settle_memory(&mut state, &after),
            Err(e) => {
                tracing::error!(error = %e, commands = commands.len(), "the store could not commit");
                state.reload_delayed(conn);
            }
        }
        publish_due(&state, signals, after.recheck_due);
        for command in commands.drain(..) {
            command.reply(committed.clone());
        }
        announce(conn, signals, &after);
    }
}

/// Runs the commands in one transaction. On `Err` nothing of it is stored, unless the disk failed while the commit
/// was being synced: then that is not known.
fn commit(batch: &mut Batch<'_>, commands: &mut [Box<dyn Command>]) -> Result<(), store::Error> {
    let run = |sql| batch.conn.prepare_cached(sql).and_then(|mut s| s.execute([])).map_err(Fault::from);
    run("BEGIN IMMEDIATE")?;
    for command in &mut *commands {
        command.run(batch);
    }
    let conn = batch.conn;
    let run = |sql| conn.prepare_cached(sql).and_then(|mut s| s.execute([])).map_err(Fault::from);
    let result = match batch.doomed.take() {
        Some(e) => Err(e),
        None => run("COMMIT").map(|_| ()).map_err(store::Error::from),
    };
    if result.is_err()
        && !conn.is_autocommit()
        && let Err(e) = run("ROLLBACK")
    {
        tracing::error!(error = %store::Error::from(e), "the store could not roll back");
    }
    result
}

fn settle_memory(state: &mut State, after: &After) {
    for held in &after.offered {
        state.leases.offered(held);
    }
    for (run, held) in &after.over {
        state.leases.remove(run, held);
    }
}

/// Before the replies: whoever hears that nothing is claimable sleeps until this instant.
fn publish_due(state: &State, signals: &Signals, exact: bool) {
    let due = state.next_due();
    signals.due.send_if_modified(|published| {
        // An instant that is too early wakes a waiter for nothing once; one that is too late would lose a run.
        let news = due < *published || (exact && due != *published);
        if news {
            *published = due;
        }
        news
    });
}

fn announce(conn: &Connection, signals: &Signals, after: &After) {
    for run in after.changed.iter().filter(|run| signals.waiters.any(run)) {
        match record::by_run_id(conn, run) {
            Ok(Some(record)) => signals.waiters.publish(record),
            Ok(None) => {}
            Err(e) => tracing::warn!(run = %run, error = %store::Error::from(e), "cannot hand out a changed record"),
        }
    }
    for (session, head) in &after.grown {
        signals.readers.publish(session, *head);
    }
    for session in &after.removed {
        signals.readers.forget(session);
    }
    for (worker, key) in &after.told {
        signals.told.tell(worker, key.clone());
    }
    if after.ready {
        signals.ready.notify_one();
    }
    if after.posted {
        signals.posted.notify_waiters();
    }
}
