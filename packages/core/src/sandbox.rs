//! Seam: where tools run. The brain never runs one itself.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::envelope::canonical_hash;
use crate::id::{CallId, Epoch, Position, RunId, SessionKey};
use crate::message::ToolResult;
use crate::trace;

/// Which hands: an intent names them, so that nobody mistakes fresh hands for those that were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The sandbox (`local`, or `namespace/pod`).
    pub name: String,
    /// Unique per start of the hands.
    pub incarnation: String,
}

/// A sandbox to be opened for a session.
#[derive(Debug, Clone)]
pub struct Open {
    /// The session.
    pub session: SessionKey,
    /// The caller's epoch; the hands refuse anything lower from now on.
    pub epoch: Epoch,
    /// Epochs up to here are those of earlier lives of the session's id. Hands that were not told to forget one of them
    /// (there may be several, on machines of their own) do so first.
    pub born: Epoch,
    /// A directory of the sandbox to work in, instead of a fresh one.
    pub workspace: Option<String>,
}

/// One tool call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Names it for ever.
    pub id: CallId,
    /// The incarnation that the intent names.
    pub incarnation: String,
    /// Tool name.
    pub tool: String,
    /// Arguments that passed the tool's schema.
    pub input: Value,
    /// The run that asks for it, for whoever reads the hands' log.
    pub run: Option<RunId>,
    /// The span that this call is. A command finds it in its environment as `TRACEPARENT`. An attached call keeps the
    /// one that it was started with.
    pub trace: Option<trace::Context>,
}

/// The last call of a session that hands know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastCall {
    /// Where its intent stands.
    pub position: Position,
    /// The [`digest`] of what was asked for; `None` for a call that was only ever cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl LastCall {
    /// Whether an intent at its position, for this tool with these arguments, is the one that led to it.
    #[must_use]
    pub fn is(&self, tool: &str, input: &Value) -> bool {
        self.digest.as_ref().is_none_or(|d| *d == digest(tool, input))
    }
}

/// Stands for a tool and its arguments: the same for the same call, however its JSON is written.
#[must_use]
pub fn digest(tool: &str, input: &Value) -> String {
    canonical_hash(&json!([tool, input]))
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// It ran to its end (an error that the tool reports included).
    Finished(ToolResult),
    /// The hands that were asked are gone, and with them the knowledge of what became of it.
    Lost(String),
}

/// Why the sandbox could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The session has a newer owner: stop at once.
    #[error("the hands refuse epoch {mine}: the session has a newer owner (epoch {current})")]
    Fenced {
        /// The caller's epoch.
        mine: Epoch,
        /// The highest the hands have seen.
        current: Epoch,
    },
    /// There are hands, but they cannot take this now; the same call may succeed later.
    #[error("the sandbox is busy: {0}")]
    Busy(String),
    /// No sandbox could be had. The text says why and what to do.
    #[error("no sandbox: {0}")]
    None(String),
    /// It refuses this request for good (a workspace outside the allowed roots, for instance).
    #[error("{0}")]
    Refused(String),
}

/// What [`SandboxTransport::forget`] removed: this call, not those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Forgotten {
    /// Calls that the hands remembered, those that were ended for it included.
    pub calls: u64,
    /// Whether there was a workspace that the hands had made.
    pub workspace: bool,
    /// Files and folders below the workspace and its temporary folders, and stored outputs.
    pub files: u64,
}

/// Finds or starts hands.
#[async_trait]
pub trait SandboxTransport: Send + Sync + 'static {
    /// The working directory that a session will see, without any I/O. It is the same at every call.
    ///
    /// # Errors
    /// [`Error::Refused`] for a workspace that is not allowed.
    fn workdir(&self, session: &SessionKey, workspace: Option<&str>) -> Result<String, Error>;

    /// Attaches to the hands and raises their fence for the session to `epoch`, durably, before it returns. What they know
    /// of an earlier life is forgotten before, as [`SandboxTransport::forget`] does.
    async fn open(&self, open: Open) -> Result<Arc<dyn Sandbox>, Error>;

    /// Has the hands forget a session. `epoch` must lie above every earlier owner's: it becomes the session's fence,
    /// durably, before anything else happens, so that a brain that was only asleep can start nothing afterwards.
    ///
    /// Promises, when this returns:
    /// - Nothing of the session runs any more; whoever waited for a call was told that it was ended, or is fenced.
    /// - The workspace that the hands made for it is gone, and so are stored outputs and all that was remembered of its
    ///   calls. A folder that the session was *given* ([`Open::workspace`]) keeps everything.
    /// - Call ids of the session are unknown again: a later session of this name meets no old result. The fence stays,
    ///   so the later one needs an epoch that is not below `epoch`.
    ///
    /// Idempotent, and to be repeated after an error: hands that die in the middle have raised the fence or done
    /// nothing, and the repetition removes what is left. A session that was never opened is only fenced. Dropping the
    /// future may leave it done, under way or not begun.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the session has a newer owner: nothing was removed. [`Error::Busy`] and [`Error::None`]:
    /// ask again later.
    async fn forget(&self, session: &SessionKey, epoch: Epoch) -> Result<Forgotten, Error>;

    /// Whether hands can be had now, for readiness and `doctor`: a line that describes them.
    async fn probe(&self) -> Result<String, Error>;
}

/// Hands, attached for one session at one epoch.
///
/// Promises:
/// - **A call id runs at most once.** `call` of an id that the hands know attaches to it; its result is the same
///   however often it is asked for.
/// - An id unknown to an incarnation other than the one named in the call is [`Ended::Lost`], never a fresh start.
/// - A broken channel harms no command: the call re-attaches by itself.
/// - Dropping a `call` future leaves the command running; `cancel` is what ends it.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Which hands these are.
    fn identity(&self) -> &Identity;

    /// The last call of the session that the hands knew of when they were opened. Its intent was stored before they
    /// heard of it: a log that does not hold it is older than what was done for it, and whoever goes on with such a log
    /// may do things twice.
    fn last_call(&self) -> Option<&LastCall>;

    /// Starts the call or attaches to it, and waits for its end.
    async fn call(&self, call: Call) -> Result<Ended, Error>;

    /// Ends a running call: its whole process group is gone when this returns.
    async fn cancel(&self, id: &CallId) -> Result<(), Error>;
}
