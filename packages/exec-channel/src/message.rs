//! The messages inside control frames, as JSON.
//!
//! Owns: what brain and hands say to each other. Unknown fields are let through, so that a later side may say more
//! under the same protocol number. Must not know: how either side acts on it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use torpor_core::message::ToolResult;
use torpor_core::sandbox::LastCall;
use torpor_core::{CallId, Epoch, RunId, trace};

use crate::frame::{Frame, Kind};

/// Version of frames and messages together. A peer with another one is refused by name.
pub const PROTOCOL: u32 = 2;

/// First frame in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Program and version of the sender, for people.
    pub program: String,
    /// Digest of the settings that the brain expects the hands to have, where it started them itself. Idle hands with
    /// others make room for new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    /// Said by the hands only.
    #[serde(default)]
    pub hands: Option<Hands>,
}

/// What the hands say of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hands {
    /// Unique per start.
    pub incarnation: String,
    /// How commands are confined: `full`, `reduced` or `unconfined`.
    pub level: String,
    /// What a session may use, and who holds it to that. For people; names no path.
    #[serde(default)]
    pub limits: String,
    /// Process id in the hands' own namespace.
    pub pid: u32,
}

/// Binds a session to its workspace and raises its fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// The session's digest.
    pub session: String,
    /// The caller's epoch.
    pub epoch: Epoch,
    /// Epochs up to here are those of earlier lives of the session's id, which are to be forgotten first.
    #[serde(default)]
    pub born: Epoch,
    /// A directory to work in instead of a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,
}

/// A directory to work in, and where the caller may choose one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// The directory: absolute.
    pub path: String,
    /// Directories one of which it must be or lie below, links resolved.
    pub roots: Vec<String>,
}

/// Answer to [`Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// Working directory as commands see it.
    pub workdir: String,
    /// The last of the session's calls that the hands know of, by position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastCall>,
}

/// Starts a call or attaches to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Names it for ever.
    pub id: CallId,
    /// The caller's epoch.
    pub epoch: Epoch,
    /// The incarnation that the intent names.
    pub incarnation: String,
    /// Tool name.
    pub tool: String,
    /// Its arguments.
    pub input: Value,
    /// Stream the output; without it only the result travels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// Whether `Stdin` frames follow. Only honoured where the call starts.
    #[serde(default)]
    pub stdin: bool,
    /// The run that asks for it, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The trace that it is part of; a command finds it in its environment. Only honoured where the call starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<trace::Context>,
}

/// Attaches to a call, never starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// Which call.
    pub id: CallId,
    /// The caller's epoch.
    pub epoch: Epoch,
    /// Stream the output too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
}

/// How output is to be streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// First byte of the merged output that is wanted.
    pub from: u64,
    /// Bytes that may be sent before the first `Credit`.
    pub window: u32,
}

/// Asks for the state of a call ([`Kind::Status`]) or ends it ([`Kind::Cancel`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Which call.
    pub id: CallId,
    /// The caller's epoch.
    pub epoch: Epoch,
}

/// Ends a session and removes what is kept of it. The answer is [`torpor_core::sandbox::Forgotten`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forget {
    /// The session's digest.
    pub session: String,
    /// The fence from now on: above every earlier owner's epoch.
    pub epoch: Epoch,
}

/// What the hands know of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Nothing.
    Unknown,
    /// It runs.
    Running,
    /// It is over; its result is kept.
    Ended,
    /// It was begun by an earlier incarnation, and how it ended is not known.
    Lost,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// A file or search tool gave its answer.
    Answered,
    /// The command exited.
    Code(i32),
    /// A signal ended the command.
    Signal(i32),
    /// It ran longer than its time limit, in seconds, and was killed.
    Timeout(u64),
    /// It was cancelled and killed.
    Cancelled,
    /// Its session went beyond a limit and was ended. The text says which.
    Over(String),
    /// It could not be started.
    NotStarted,
    /// What became of it is not known. The text says why.
    Lost(String),
}

/// What was kept of the merged output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extent {
    /// Bytes the command wrote.
    pub total: u64,
    /// Bytes kept from the start.
    pub head: u64,
    /// Bytes kept from the end, after the gap.
    pub tail: u64,
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// What the model is told; absent for [`Exit::Lost`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ToolResult>,
    /// What was kept of the output.
    #[serde(default)]
    pub output: Extent,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The session has a newer owner.
    Fenced,
    /// Another protocol version.
    Version,
    /// The session was never opened here.
    NotOpen,
    /// Attach to a call that is not known.
    UnknownCall,
    /// The call's id was used before, for another tool or other arguments.
    Conflict,
    /// The request makes no sense or is not allowed.
    Invalid,
    /// Too many of something; asking again later may help.
    Busy,
    /// The hands failed (a full disk, for instance); asking again may help.
    Failed,
}

/// A request was refused. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
    /// The highest epoch seen, with [`Code::Fenced`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Epoch>,
}

/// Puts `message` into a frame.
#[must_use]
pub fn to_frame<T: Serialize>(kind: Kind, stream: u32, message: &T) -> Frame {
    // Every message is made of plain fields and cannot fail to serialise; an empty payload would be refused by name.
    Frame { kind, stream, payload: serde_json::to_vec(message).unwrap_or_default().into() }
}

/// Reads the message of a control frame.
///
/// # Errors
/// A text that names the kind and what was wrong.
pub fn from_frame<T: DeserializeOwned>(frame: &Frame) -> Result<T, String> {
    serde_json::from_slice(&frame.payload).map_err(|e| format!("{:?} message: {e}", frame.kind))
}
