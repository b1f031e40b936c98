//! Webhooks: what a receiver is told, the seam that keeps it until it was told, and the seam that tells it. Files on the
//! shared volume are written the same way, so that they too come about whoever dies: a message is then the order to
//! bring them up to date.
//!
//! Owns: the form of a message, and who promises what about it. Must not know: how anything is sent, how it is signed,
//! which addresses may be reached, what is written to a file, when a failed one is tried again.
//!
//! A message is *thin*: it says that something happened, and where to look. Whoever receives it fetches the record with
//! a key of their own, so that a wrong or stolen address learns ids and nothing else.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{Position, RunId, SessionKey};
use crate::outcome::Status;
use crate::store;
use crate::volume;

mod told;

pub use told::Told;

/// Longest URL, in bytes.
pub const MAX_URL_BYTES: usize = 2_048;
/// Longest name of a secret, in bytes.
pub const MAX_SECRET_NAME_BYTES: usize = 128;

/// Whom a run wants to be told of what becomes of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Where to post. It may be known to the caller only (a capability in its path): it is shown to nobody.
    pub url: String,
    /// The name of the secret that signs, never the secret; `None` is the tenant's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<String>,
}

/// Not a secret of ours, but perhaps one of the receiver's: no log line and no error shows it.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("secret_ref", &self.secret_ref).finish_non_exhaustive()
    }
}

/// The ways by which messages leave. Each is claimed for itself, so that neither waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Over HTTP.
    Webhook,
    /// To files on the shared volume.
    Files,
}

impl Channel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Webhook, Self::Files];

    /// The name used in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Files => "files",
        }
    }

    /// The channel with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == text)
    }

    /// Whether messages of this kind leave this way. A decided gate is news for files alone: one of them says what is
    /// asked, and must not say it any longer.
    #[must_use]
    pub fn carries(self, kind: Kind) -> bool {
        self == Self::Files || kind != Kind::Decided
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a receiver.
    Webhook(Target),
    /// To these files.
    Files(volume::Target),
}

impl Destination {
    /// The way there.
    #[must_use]
    pub fn channel(&self) -> Channel {
        match self {
            Self::Webhook(_) => Channel::Webhook,
            Self::Files(_) => Channel::Files,
        }
    }

    /// Its stored form, JSON; the channel is kept beside it.
    ///
    /// # Errors
    /// What cannot be written down: a path that is not text, which no run names.
    pub fn encode(&self) -> Result<String, store::Error> {
        let json = match self {
            Self::Webhook(target) => serde_json::to_string(target),
            Self::Files(target) => serde_json::to_string(target),
        };
        json.map_err(|e| store::Error::Failed(e.to_string()))
    }

    /// Reads the stored form back. `None` for one that this build cannot read; a parser's own message would quote it.
    #[must_use]
    pub fn decode(channel: Channel, json: &[u8]) -> Option<Self> {
        match channel {
            Channel::Webhook => serde_json::from_slice(json).map(Self::Webhook).ok(),
            Channel::Files => serde_json::from_slice(json).map(Self::Files).ok(),
        }
    }
}

/// The name of a message: the same at every attempt, so that a receiver knows a repetition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Id(String);

impl Id {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("msg_{}", uuid::Uuid::new_v4().simple()))
    }

    /// One that was made by [`Id::generate`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("msg_")?;
        let hex = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The run ended, however it did.
    #[serde(rename = "run.ended")]
    Ended,
    /// The run waits for a person.
    #[serde(rename = "run.paused")]
    Paused,
    /// A gate of the run was decided.
    #[serde(rename = "gate.decided")]
    Decided,
}

impl Kind {
    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "run.ended",
            Self::Paused => "run.paused",
            Self::Decided => "gate.decided",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Ended, Self::Paused, Self::Decided].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Something that happened to a run, before it is a message.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// What.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// To which run.
    pub run: &'a RunId,
    /// Whose and which session.
    pub session: &'a SessionKey,
    /// How the run stands with it.
    pub status: Status,
    /// The gate that waits, the first of several; or the one that was decided.
    pub gate: Option<u64>,
}

impl Event<'_> {
    /// The body of the message, which is stored and sent as it is.
    #[must_use]
    pub fn body(&self, id: &Id) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            id: &'a Id,
            r#type: Kind,
            created_at: String,
            data: Data<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Data<'a> {
            run_id: &'a RunId,
            session_id: &'a str,
            tenant: &'a str,
            status: Status,
            #[serde(skip_serializing_if = "Option::is_none")]
            gate_id: Option<u64>,
        }
        let data = Data {
            run_id: self.run,
            session_id: self.session.session(),
            tenant: self.session.tenant(),
            status: self.status,
            gate_id: self.gate,
        };
        let body = Body { id, r#type: self.kind, created_at: self.at.rfc3339(), data };
        serde_json::to_string(&body).unwrap_or_default() // strings and numbers only: it always serialises
    }
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub id: Id,
    /// The run that it is about.
    pub run: RunId,
    /// Whose run that is, and so whose secrets may sign.
    pub tenant: String,
    /// Where it goes.
    pub to: Destination,
    /// What is sent; to files, what it is about.
    pub body: String,
    /// Where in its session's log the run's end stands, for a message about an end that stands there. The outcome can
    /// be read there when the record is long gone.
    pub ended_at: Option<Position>,
}

/// The right to send a message once, until its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The message.
    pub message: Message,
    /// Which attempt this is, from 1. One that a crash cut off counts.
    pub attempt: u32,
}

/// Why an attempt did not succeed. Stable names, and all that is said of it to whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The receiver answered with another status than 2xx.
    Status,
    /// The receiver did not answer in time.
    Timeout,
    /// No connection came about, or it broke.
    Connection,
    /// The host's name has no address.
    Name,
    /// The address, scheme or port is not allowed.
    Refused,
    /// The secret is not (or no longer) configured.
    Secret,
    /// The shared volume is not there, or does not answer.
    Volume,
    /// Nothing can be written at that place.
    Path,
    /// What there was to write was removed.
    Gone,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Status,
        Self::Timeout,
        Self::Connection,
        Self::Name,
        Self::Refused,
        Self::Secret,
        Self::Volume,
        Self::Path,
        Self::Gone,
    ];

    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Name => "name",
            Self::Refused => "refused",
            Self::Secret => "secret",
            Self::Volume => "volume",
            Self::Path => "path",
            Self::Gone => "gone",
        }
    }

    /// The failure with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == text)
    }
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The receiver has it.
    Sent {
        /// The receiver's answer, 2xx; files give none.
        status: Option<u16>,
    },
    /// It failed, and is tried again.
    Failed {
        /// Why.
        why: Failure,
        /// The receiver's answer, if there was one.
        status: Option<u16>,
        /// How long to wait before the next attempt.
        after: Duration,
    },
    /// It failed, and is not tried again.
    GivenUp {
        /// Why.
        why: Failure,
        /// The receiver's answer, if there was one.
        status: Option<u16>,
    },
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is sent, again perhaps, when its time has come.
    Pending,
    /// The receiver has it.
    Sent,
    /// It was tried often enough, or the receiver wants no more.
    GivenUp,
}

impl State {
    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::GivenUp => "given_up",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Sent, Self::GivenUp].into_iter().find(|s| s.as_str() == text)
    }
}

/// How the latest message about a run on a channel stands, as its record shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// What it is about.
    pub event: Kind,
    /// Where it stands.
    pub state: State,
    /// Attempts begun.
    pub attempts: u32,
    /// The receiver's last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Failure>,
}

/// The messages that are still to be sent.
///
/// Promises:
/// - A message exists exactly when what it tells of has happened: it is stored in the same atomic step as the entry that
///   ends or parks its run (or the cancel that ends it without one), once for each of the run's
///   [`destinations`](crate::envelope::Spec::destinations), and for no run that has none. Where a [`Channel`] carries
///   [`Kind::Decided`], the same holds of every verdict on a gate, the one that falls by itself included.
/// - It is sent at least once, and its id and body never change. A claim is durable before it is answered, so that every
///   attempt is counted, also one that a crash cut off.
/// - A claim keeps others off the message for its lease by the store's clock, or until its process is known to be gone.
///   Then the message can be claimed again, as the next attempt.
/// - What became of an attempt is noted by its number: a note of an earlier attempt than the latest changes nothing,
///   unless the receiver has the message. After [`Noted::Sent`] or [`Noted::GivenUp`] it is never claimed again.
/// - How the latest message about a run stands is on the run's record, for each channel. A message that is pending
///   outlives the record.
/// - A claim is answered messages of its channel alone. Among those that are due: the one that has been due longest first.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Claims up to `max` messages of a channel that are due, for `lease`, waiting up to `wait` for the first. Empty when
    /// none came. Cancellation safe in that a claim that was made but not received lapses with its lease.
    async fn claim(
        &self,
        channel: Channel,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claimed>, store::Error>;

    /// Notes what became of an attempt. `false` when it changed nothing. Idempotent.
    async fn note(&self, id: &Id, attempt: u32, what: Noted) -> Result<bool, store::Error>;
}

/// What became of a message that was sent once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Why.
    pub why: Failure,
    /// The receiver's answer, if there was one.
    pub status: Option<u16>,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
    /// The receiver wants to hear no more of this.
    pub gone: bool,
}

impl Failed {
    /// A failure without an answer.
    #[must_use]
    pub fn new(why: Failure) -> Self {
        Self { why, status: None, retry_after: None, gone: false }
    }
}

/// A target that cannot be used. The text repeats no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {message}")]
pub struct Refused {
    /// The envelope's field.
    pub field: &'static str,
    /// What is wrong with it and what was expected.
    pub message: String,
}

/// Says which targets may be named.
pub trait Admit: Send + Sync + 'static {
    /// Whether a run of this tenant may name this target. Asks nobody: what a name resolves to is checked when it is
    /// sent, every time.
    ///
    /// # Errors
    /// [`Refused`] names the field and what is wrong with it.
    fn check(&self, tenant: &str, target: &Target) -> Result<(), Refused>;
}

/// Sends the messages of a channel.
#[async_trait]
pub trait Deliver: Send + Sync + 'static {
    /// Sends a message once, within a bound of its own, and answers the receiver's status, 2xx, if it gives one.
    /// When the future is dropped, whether the receiver has the message is unknown.
    async fn deliver(&self, message: &Message) -> Result<Option<u16>, Failed>;
}

#[cfg(test)]
mod tests;
