//! The client: one connection for all sessions of a process, redialled when it breaks.
//!
//! Owns: when to dial, how long to try, and the re-sending that makes a broken channel harmless (a call that is sent
//! again attaches, because the hands know its id). Must not know: where byte streams come from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use torpor_core::sandbox::{self, Forgotten, Identity, LastCall};
use torpor_core::{CallId, Epoch};

use crate::connection::{Connection, Replies};
use crate::exec::{Exec, Request};
use crate::frame::{Frame, Kind};
use crate::message::{About, Attach, Call, Code, Ended, Forget, Hands, Open, Opened, Refused, State, from_frame};

/// First pause between two attempts to dial; doubled up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts to dial.
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long hands that are too busy for a session are asked again: long enough for those that make room. Who has a
/// session need not hurry, and waits as long as for a connection.
const ROOM_WITHIN: Duration = Duration::from_secs(1);
/// How often a request is sent again when connection after connection breaks without an answer.
const MAX_BREAKS: u32 = 16;
/// Output that may be under way to a reader, in bytes.
pub const WINDOW: u32 = 1024 * 1024;

/// Any byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

/// Gives fresh byte streams to the hands.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A new stream; starts the hands where that is this transport's way. Cancellation safe: a dropped dial leaves at
    /// most hands that nobody is attached to.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when trying again may help, anything else when it will not.
    async fn dial(&self) -> Result<Box<dyn Stream>, Error>;
}

/// Why a request was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No connection could be had in time, or each one broke.
    #[error("{0}")]
    Unreachable(String),
    /// Hands of another version.
    #[error("{0}")]
    Version(String),
    /// Bytes that make no sense.
    #[error("exec channel: {0}")]
    Protocol(String),
    /// The session has a newer owner.
    #[error("the hands refuse epoch {mine}: the session has a newer owner (epoch {current})")]
    Fenced {
        /// The caller's epoch.
        mine: Epoch,
        /// The highest the hands have seen.
        current: Epoch,
    },
    /// There are hands, and they cannot take this now.
    #[error("{0}")]
    Busy(String),
    /// Refused for another reason.
    #[error("{}", .0.message)]
    Refused(Refused),
}

/// How patient the client is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Program and version, said in hello.
    pub program: String,
    /// The sandbox's name in [`Identity`].
    pub name: String,
    /// How long to try for a connection, and how long to ask hands again that are too busy for a request.
    pub patience: Duration,
    /// Digest of the settings that the hands must have, for a transport that starts them.
    pub settings: Option<String>,
}

/// Where sessions come from: clones share one connection.
pub type Source = Arc<Client>;

/// See the module's page.
pub struct Client {
    dial: Arc<dyn Dial>,
    options: Options,
    current: Mutex<Option<Attempt>>,
}

/// What comes of trying for a connection, for everybody who waits for it.
type Attempt = watch::Receiver<Option<Result<Arc<Connection>, Error>>>;

/// Whether an attempt is worth joining: it is under way, or it gave a connection that still works.
fn is_useful(attempt: &Attempt) -> bool {
    match &*attempt.borrow() {
        None => attempt.has_changed().is_ok(), // an error: whoever tried is gone
        Some(Ok(connection)) => !connection.is_dead(),
        Some(Err(_)) => false,
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that has not dialled yet.
    #[must_use]
    pub fn new(dial: impl Dial, options: Options) -> Source {
        Arc::new(Self { dial: Arc::new(dial), options, current: Mutex::new(None) })
    }

    /// Who answers now. Dials when there is no connection.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn hands(&self) -> Result<Hands, Error> {
        Ok(self.connection().await?.hands().clone())
    }

    /// Opens a session: its fence is at `open.epoch`, durably, when this returns.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn open(self: &Source, open: Open) -> Result<Session, Error> {
        let epoch = open.epoch;
        let (connection, opened): (_, Opened) = self.ask(Kind::Open, &open, Kind::Opened, epoch).await?;
        let incarnation = connection.hands().incarnation.clone();
        let identity = Identity { name: self.options.name.clone(), incarnation };
        let Opened { workdir, last } = opened;
        Ok(Session { client: self.clone(), open: Arc::new(open), identity, workdir, last })
    }

    /// Has the hands forget a session: see [`SandboxTransport::forget`](torpor_core::sandbox::SandboxTransport::forget).
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands cannot, or cannot be reached.
    pub async fn forget(&self, forget: Forget) -> Result<Forgotten, Error> {
        Ok(self.ask(Kind::Forget, &forget, Kind::Forgotten, forget.epoch).await?.1)
    }

    /// The connection; tries for one where there is none. All who ask meanwhile share one attempt and what comes of
    /// it, and it goes on when one of them gives up. Cancellation safe.
    async fn connection(&self) -> Result<Arc<Connection>, Error> {
        let mut attempt = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            match current.as_ref().filter(|a| is_useful(a)) {
                Some(attempt) => attempt.clone(),
                None => current.insert(self.attempt()).clone(),
            }
        };
        let gone = || Err(Error::Unreachable("the attempt to reach the hands was broken off".into()));
        let tried = attempt.wait_for(Option::is_some).await;
        tried.map_or_else(|_| gone(), |tried| tried.clone().unwrap_or_else(gone))
    }

    /// Begins to try, in a task of its own, which ends with the client.
    fn attempt(&self) -> Attempt {
        let (tell, attempt) = watch::channel(None);
        let (dial, options) = (self.dial.clone(), self.options.clone());
        tokio::spawn(async move {
            tokio::select! {
                tried = connect(&*dial, &options) => drop(tell.send(Some(tried.map(Arc::new)))),
                () = tell.closed() => {}
            }
        });
        attempt
    }

    /// Sends a request, again on a fresh connection if one breaks.
    pub(crate) async fn send<T: Serialize>(
        &self,
        kind: Kind,
        message: &T,
        window: u32,
        breaks: &mut u32,
    ) -> Result<(Arc<Connection>, Replies), Error> {
        loop {
            let connection = self.connection().await?;
            if let Some(replies) = connection.request(kind, message, window).await? {
                return Ok((connection, replies));
            }
            count_break(breaks)?;
        }
    }

    /// One request, one answer. Hands that are too busy for it are asked again.
    async fn ask<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        message: &T,
        want: Kind,
        epoch: Epoch,
    ) -> Result<(Arc<Connection>, A), Error> {
        let patience = self.options.patience;
        let patience = if kind == Kind::Open { patience.min(ROOM_WITHIN) } else { patience };
        let (until, mut pause, mut breaks) = (Instant::now() + patience, FIRST_PAUSE, 0);
        loop {
            let (connection, mut replies) = self.send(kind, message, 0, &mut breaks).await?;
            let Some(frame) = replies.next().await else {
                count_break(&mut breaks)?;
                continue;
            };
            match answer(&frame, want, epoch) {
                Err(Error::Busy(_)) if Instant::now() + pause < until => sleep(pause).await,
                done => return Ok((connection, done?)),
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// Dials until there is a connection, as long as that may help.
async fn connect(dial: &dyn Dial, options: &Options) -> Result<Connection, Error> {
    let (until, mut room_until, mut pause) = (Instant::now() + options.patience, None, FIRST_PAUSE);
    loop {
        let tried = match dial.dial().await {
            Ok(stream) => Connection::start(stream, options).await,
            Err(e) => Err(e),
        };
        match tried {
            Err(Error::Unreachable(_)) if Instant::now() + pause < until => sleep(pause).await,
            Err(Error::Busy(_))
                if Instant::now() + pause < *room_until.get_or_insert_with(|| Instant::now() + ROOM_WITHIN) =>
            {
                sleep(pause).await;
            }
            done => return done,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Counts one more connection that broke without an answer.
pub(crate) fn count_break(breaks: &mut u32) -> Result<(), Error> {
    *breaks += 1;
    if *breaks > MAX_BREAKS {
        return Err(Error::Unreachable(format!("the channel to the hands broke {MAX_BREAKS} times in a row")));
    }
    Ok(())
}

/// Reads the frame that was asked for, or the refusal that came instead.
pub(crate) fn answer<A: DeserializeOwned>(frame: &Frame, want: Kind, mine: Epoch) -> Result<A, Error> {
    if frame.kind == Kind::Refused {
        let refused: Refused = from_frame(frame).map_err(Error::Protocol)?;
        return Err(match (refused.code, refused.current) {
            (Code::Fenced, Some(current)) => Error::Fenced { mine, current },
            (Code::Busy, _) => Error::Busy(refused.message),
            _ => Error::Refused(refused),
        });
    }
    if frame.kind != want {
        return Err(Error::Protocol(format!("expected a {want:?} frame, got {:?}", frame.kind)));
    }
    from_frame(frame).map_err(Error::Protocol)
}

/// A session that was opened at one epoch, on one incarnation of the hands.
#[derive(Debug, Clone)]
pub struct Session {
    client: Source,
    open: Arc<Open>,
    identity: Identity,
    workdir: String,
    last: Option<LastCall>,
}

impl Session {
    /// The hands that opened it.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The session's digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.open.session
    }

    /// Working directory as commands see it.
    #[must_use]
    pub fn workdir(&self) -> &str {
        &self.workdir
    }

    /// The last call that the hands knew of when the session was opened.
    #[must_use]
    pub fn last_call(&self) -> Option<&LastCall> {
        self.last.as_ref()
    }

    /// Starts a call or attaches to it and waits for its end; only the result travels. Hands that do not know the
    /// session any more are told of it once. Dropping the future leaves the call running.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn call(&self, id: CallId, incarnation: String, tool: String, input: Value) -> Result<Ended, Error> {
        self.traced_call(sandbox::Call { id, incarnation, tool, input, run: None, trace: None }).await
    }

    /// Like [`Self::call`], for a run and as part of a trace.
    ///
    /// # Errors
    /// The same.
    pub async fn traced_call(&self, call: sandbox::Call) -> Result<Ended, Error> {
        let (client, epoch) = (&self.client, self.open.epoch);
        let sandbox::Call { id, incarnation, tool, input, run, trace } = call;
        let call = Call { id, epoch, incarnation, tool, input, watch: None, stdin: false, run, trace };
        let mut answered = client.ask(Kind::Call, &call, Kind::Ended, epoch).await;
        if let Err(Error::Refused(Refused { code: Code::NotOpen, .. })) = &answered {
            let _: (_, Opened) = client.ask(Kind::Open, &*self.open, Kind::Opened, epoch).await?;
            answered = client.ask(Kind::Call, &call, Kind::Ended, epoch).await;
        }
        Ok(answered?.1)
    }

    /// Starts a call or attaches to it, and streams its output from byte `from` of the merged output on.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and the like; a refusal comes from [`Exec::next`].
    pub async fn exec_stream(&self, id: CallId, tool: &str, input: Value, from: u64) -> Result<Exec, Error> {
        self.start(id, tool, input, from, false).await
    }

    /// Like [`Self::exec_stream`], with input: see [`Exec::input`]. Input is not resumed when the channel breaks; the
    /// command then reads its end.
    ///
    /// # Errors
    /// The same.
    pub async fn exec_with_input(&self, id: CallId, tool: &str, input: Value) -> Result<Exec, Error> {
        self.start(id, tool, input, 0, true).await
    }

    async fn start(&self, id: CallId, tool: &str, input: Value, from: u64, stdin: bool) -> Result<Exec, Error> {
        let (epoch, incarnation) = (self.open.epoch, self.identity.incarnation.clone());
        let call =
            Call { id, epoch, incarnation, tool: tool.to_owned(), input, watch: None, stdin, run: None, trace: None };
        Exec::begin(self.client.clone(), Request::Call(call), epoch, from).await
    }

    /// Attaches to a call and streams its output from byte `from` on; never starts it.
    ///
    /// # Errors
    /// As [`Self::exec_stream`].
    pub async fn attach(&self, id: CallId, from: u64) -> Result<Exec, Error> {
        let attach = Attach { id, epoch: self.open.epoch, watch: None };
        Exec::begin(self.client.clone(), Request::Attach(attach), self.open.epoch, from).await
    }

    /// What the hands know of a call.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn status(&self, id: CallId) -> Result<State, Error> {
        let about = About { id, epoch: self.open.epoch };
        Ok(self.client.ask(Kind::Status, &about, Kind::State, self.open.epoch).await?.1)
    }

    /// Ends a running call: nothing of it runs any more when this returns. A call that is over, or unknown, is fine.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn cancel(&self, id: CallId) -> Result<(), Error> {
        let about = About { id, epoch: self.open.epoch };
        let (_, serde::de::IgnoredAny) = self.client.ask(Kind::Cancel, &about, Kind::Done, self.open.epoch).await?;
        Ok(())
    }
}
