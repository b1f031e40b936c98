//! Seam: sessions as such: listing, forking, removing, and moving them from one store to another.
//!
//! A session is a log and a few marks beside it. A fork shares the entries of another up to a position and goes on from
//! there; nothing is copied. What runs, and what entries mean, is said elsewhere.

mod history;

use async_trait::async_trait;

pub use history::{History, Mark};

use crate::clock::Timestamp;
use crate::entry::{self, Body, DecodeError};
use crate::envelope::Wishes;
use crate::id::{Epoch, Position, RunId, SessionKey};
use crate::store;

/// Sessions whose entries one history may hold, the newest included: what reading it can cost.
pub const MAX_HISTORY_PARTS: usize = 64;

/// A session in a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Whose and which.
    pub session: SessionKey,
    /// One life of the id: a session that is removed and made again has another.
    pub life: u64,
    /// Position of the last entry; 0 where there is none.
    pub head: Position,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its log last grew, or a run was last accepted for it.
    pub updated_at: Timestamp,
    /// The session that it was forked from, under the name that this had then.
    pub forked_from: Option<Origin>,
    /// How many sessions were forked from it and are still there.
    pub forks: u64,
    /// The run whose turn it is; `None` while nothing is queued, running or paused.
    pub front: Option<RunId>,
    /// Gates that wait for a verdict.
    pub pending_gates: u64,
}

/// A place in another session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its id; the tenant is the same.
    pub session: String,
    /// The last entry that is shared.
    pub position: Position,
}

/// Which sessions to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// At most so many (1–200).
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The sessions.
    pub sessions: Vec<Summary>,
    /// Where the next page begins; `None` at the end. Opaque.
    pub next: Option<String>,
}

/// A fork to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The session to fork.
    pub from: SessionKey,
    /// The last entry that the new one shares.
    pub position: Position,
    /// The new one; of the same tenant.
    pub into: SessionKey,
}

/// What became of a fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forked {
    /// There is a new session.
    Created,
    /// The very same fork came before.
    Existing,
    /// The new id is another session's.
    Taken,
    /// The new id was a session's whose sandbox has not forgotten it yet: ask again later.
    Forgetting,
    /// The log has no such position; its last one is this.
    OutOfRange(Position),
    /// Its history would have more than [`MAX_HISTORY_PARTS`] parts.
    TooDeep,
    /// There is no session to fork.
    Unknown,
}

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed(Removed),
    /// This run of it is queued, running or paused, or about to be.
    Busy(RunId),
    /// There is no such session.
    Unknown,
}

/// What a removal removed, and what it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Entries that nobody can read any more, those included that this session shared with no other that lives.
    pub entries: u64,
    /// Records of runs, with their idempotency keys.
    pub runs: u64,
    /// Gates.
    pub gates: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Entries of its own that stay because forks share them.
    pub kept: u64,
    /// How many forks that are.
    pub kept_for: u64,
    /// The epoch at which its hands must forget it; `None` if it never had any.
    pub forget: Option<Epoch>,
}

/// A session that is gone and that its hands must still forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToForget {
    /// Whose and which it was.
    pub session: SessionKey,
    /// Above the epochs of all who owned it.
    pub epoch: Epoch,
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub position: Position,
    /// When its writer wrote it.
    pub at: Timestamp,
    /// The epoch under which it was written.
    pub epoch: Epoch,
    /// The version of its body's schema.
    pub schema: u16,
    /// Its body, in JSON on one line.
    pub body: String,
}

impl Stored {
    /// Reads the body.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(&self) -> Result<Body, DecodeError> {
        entry::decode(self.schema, self.body.as_bytes())
    }
}

/// A session that comes from elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Whose and which it is to be here.
    pub session: SessionKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// What its further runs inherit.
    pub wishes: Wishes,
}

/// Why something was not imported.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportError {
    /// There is a session with this id.
    #[error("the session id is taken")]
    Taken,
    /// The id was a session's whose sandbox has not forgotten it yet: try again later.
    #[error("the sandbox has not forgotten the last session with this id")]
    Forgetting,
    /// An entry cannot be one. The text names it and says what is wrong.
    #[error("{0}")]
    Refused(String),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// An import under way. Nothing of it can be seen before [`Importer::finish`]; dropped earlier, nothing stays of it.
#[async_trait]
pub trait Importer: Send {
    /// Takes the next entries, in order from position 1.
    async fn push(&mut self, entries: Vec<Stored>) -> Result<(), ImportError>;

    /// Makes the session, in one atomic step that is durable when this returns. A run that was under way in the log is
    /// ended there as cancelled, by one more entry. Answers the log's head.
    ///
    /// Cancellation: whether the session is there is unknown; look.
    async fn finish(self: Box<Self>) -> Result<Position, ImportError>;
}

/// Sessions as such.
///
/// Promises, each a case of the conformance suite:
/// - A fork has the entries of its origin up to the position, at the same positions, and what would be kept beside a
///   log of just these: where resume begins, the number of the next gate. It inherits what further runs inherit, as
///   far as that is carried ([`Wishes::carried`]). It lives on its own: what either writes, the other never sees. Any position from 1
///   to the head can be forked, whatever the origin is doing.
/// - A removal is one atomic step: the session, its runs, gates, dead letters and idempotency keys are gone, and so is
///   every entry that no other session shares. Shared entries stay readable in the forks, and go with the last of
///   them. One that is not idle is left as it is.
/// - **A removed session is over for whoever owned it**: epochs of later sessions with its id lie above all of its own,
///   and above the one at which its hands forget it. Until [`SessionStore::forgotten`] says that they did, nobody can
///   make a session with this id. [`SessionStore::to_forget`] names it until then, in this process and the next.
/// - What is imported is a session as if it had been made here, except that its runs have no records and it has never
///   had hands.
/// - Lists are from the newest to the oldest, and every session stands in them once.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// A session in a few words.
    async fn session(&self, session: &SessionKey) -> Result<Option<Summary>, store::Error>;

    /// One page of sessions. A cursor that this store did not make is [`store::Error::Failed`].
    async fn sessions(&self, filter: &Filter) -> Result<Page, store::Error>;

    /// What further runs of a session inherit.
    async fn wishes(&self, session: &SessionKey) -> Result<Option<Wishes>, store::Error>;

    /// Makes a fork. Idempotent. Cancellation: whether it was made is unknown; repeat it.
    async fn fork(&self, fork: &Fork) -> Result<Forked, store::Error>;

    /// Removes a session. Cancellation: whether it was removed is unknown.
    async fn remove(&self, session: &SessionKey) -> Result<Removal, store::Error>;

    /// Removes up to `limit` sessions that are idle and were last updated at or before `since`; answers how many.
    async fn remove_idle(&self, since: Timestamp, limit: usize) -> Result<u64, store::Error>;

    /// Sessions that are gone and that their hands must still forget, the oldest first.
    async fn to_forget(&self, limit: usize) -> Result<Vec<ToForget>, store::Error>;

    /// The hands have forgotten. Idempotent.
    async fn forgotten(&self, what: &ToForget) -> Result<(), store::Error>;

    /// Entries as they are stored, as [`SessionLog::read`](crate::log::SessionLog::read) gives them. None when the
    /// session's life is not `life` any more.
    async fn stored(
        &self,
        session: &SessionKey,
        life: u64,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Stored>, store::Error>;

    /// Begins an import.
    async fn import(&self, import: Import) -> Result<Box<dyn Importer>, ImportError>;
}
