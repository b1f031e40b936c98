//! Seam: what happens, told to whoever counts or records it.
//!
//! Owns: the events and what they carry. They are made where the thing happens and mean the same to every observer;
//! none carries a prompt, an argument, an answer or a credential. Must not know: any exporter, any format.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::{RunId, SessionKey};
use crate::message::{StopReason, Usage};
use crate::model;
use crate::outcome::{FailReason, Outcome, Status};
use crate::price::Usd;
use crate::trace::Context;

/// Is told what happens.
///
/// `observe` is called on the hot path, from any thread: it must not block, wait or fail.
pub trait Observer: Send + Sync + 'static {
    /// Something happened, just now.
    fn observe(&self, event: &Event<'_>);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn observe(&self, _: &Event<'_>) {}
}

/// Several watch.
pub struct Several(pub Vec<Arc<dyn Observer>>);

impl Observer for Several {
    fn observe(&self, event: &Event<'_>) {
        self.0.iter().for_each(|observer| observer.observe(event));
    }
}

/// A part of a trace that has just ended.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Where in the trace.
    pub context: &'a Context,
    /// The span that it is a part of; `None` for a root.
    pub parent: Option<&'a Context>,
    /// How long it took.
    pub took: Duration,
}

/// Whose work something is.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The run.
    pub run: &'a RunId,
    /// Its session.
    pub session: &'a SessionKey,
}

/// Things of which there are so many at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// HTTP connections.
    Connections,
    /// HTTP requests that are not answered yet.
    Requests,
    /// Followers of event streams.
    Followers,
    /// Leaves at work.
    Leaves,
}

/// How one request to a model ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// With a whole answer.
    Answered,
    /// With an error.
    Failed,
    /// It did not fit the model's window.
    TooLong,
    /// It was given up: the run was cancelled, handed back or out of time.
    Interrupted,
}

impl Sent {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::TooLong, Self::Interrupted];

    /// A stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TooLong => "too_long",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How a tool call ended, as far as its leaf knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// With a result.
    Finished,
    /// With a result that is an error.
    Error,
    /// It was refused before anything happened.
    Refused,
    /// The sandbox was lost with it.
    Lost,
    /// The leaf ended first; the call may go on.
    Left,
}

impl Called {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Finished, Self::Error, Self::Refused, Self::Lost, Self::Left];

    /// A stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Error => "error",
            Self::Refused => "refused",
            Self::Lost => "sandbox_lost",
            Self::Left => "left",
        }
    }
}

/// How an attempt to send a webhook, or to write files, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// The receiver has it.
    Sent,
    /// It failed, and is tried again.
    Failed,
    /// It failed, and is not tried again.
    GivenUp,
}

impl Posted {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sent, Self::Failed, Self::GivenUp];

    /// A stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// One more of these.
    Entered(Level),
    /// One less.
    Left(Level),
    /// A request was answered; the head of a streamed answer counts.
    Request {
        /// Its place in the trace.
        span: Span<'a>,
        /// The route's template; `None` when no route matched.
        route: Option<&'a str>,
        /// The method, as it was sent.
        method: &'a str,
        /// The answer's status; 499 for a client that did not wait for it.
        status: u16,
    },
    /// A run was accepted; repeated posts of it do not count.
    Accepted,
    /// A run was claimed.
    Claimed {
        /// Whose.
        work: Work<'a>,
        /// How long it had waited since it was accepted, at its first claim.
        waited: Option<Span<'a>>,
        /// Another leaf had begun it.
        took_over: bool,
    },
    /// A leaf ended, however it did.
    Leaf {
        /// Its place in the trace.
        span: Span<'a>,
        /// Whose.
        work: Work<'a>,
        /// The run's model, once it is known.
        model: Option<&'a model::Ref>,
        /// The run's outcome if it ended with this leaf.
        outcome: Option<&'a Outcome>,
    },
    /// A run ended.
    Ended {
        /// With this status.
        status: Status,
        /// For this reason, if it failed.
        reason: Option<FailReason>,
        /// Since it was accepted.
        took: Duration,
    },
    /// A lease was lost to another owner.
    LeaseLost,
    /// A run was given up.
    DeadLetter,
    /// One request to a model ended. A call is one or more of them.
    ModelRequest {
        /// Which model.
        model: &'a model::Ref,
        /// How it ended.
        ended: Sent,
        /// Whether it repeats a failed one.
        retry: bool,
        /// How long it took.
        took: Duration,
        /// Tokens, if there was an answer.
        usage: Option<Usage>,
        /// What it cost, if there was an answer and its price is known.
        cost: Option<Usd>,
    },
    /// A call of a model ended, after all its requests.
    ModelCall {
        /// Its place in the trace.
        span: Span<'a>,
        /// Whose.
        work: Work<'a>,
        /// Which model.
        model: &'a model::Ref,
        /// How it ended.
        ended: Sent,
        /// Tokens and why the model stopped, if there was an answer.
        answer: Option<(Usage, StopReason)>,
    },
    /// A tool call ended.
    ToolCall {
        /// Its place in the trace.
        span: Span<'a>,
        /// Whose.
        work: Work<'a>,
        /// The tool's name; `other` for one that there is not.
        tool: &'static str,
        /// The model's id of the use.
        id: &'a str,
        /// How it ended.
        ended: Called,
    },
    /// An attempt to send a webhook ended.
    Webhook {
        /// How.
        ended: Posted,
        /// How long it took.
        took: Duration,
    },
    /// An attempt to write a run's files ended.
    Files {
        /// How.
        ended: Posted,
        /// How long it took.
        took: Duration,
    },
    /// The store wrote what several callers had asked for.
    Commit {
        /// So many.
        commands: usize,
        /// How long it took.
        took: Duration,
        /// Whether it is durable.
        stored: bool,
    },
}

/// One of a [`Level`], for as long as this lives.
pub struct Present {
    observer: Arc<dyn Observer>,
    level: Level,
}

impl Present {
    /// One more.
    #[must_use]
    pub fn new(observer: Arc<dyn Observer>, level: Level) -> Self {
        observer.observe(&Event::Entered(level));
        Self { observer, level }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.observer.observe(&Event::Left(self.level));
    }
}

/// The end of a run as an event.
#[must_use]
pub fn ended(outcome: &Outcome, accepted: Timestamp, now: Timestamp) -> Event<'static> {
    let reason = if let Outcome::Failed { reason, .. } = outcome { Some(*reason) } else { None };
    Event::Ended { status: outcome.status(), reason, took: now.since(accepted) }
}
