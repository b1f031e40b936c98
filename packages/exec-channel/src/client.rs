//! The client: one connection for all sessions of a process, redialled when it breaks.
//!
//! Owns: when to dial, how long to try, and the re-sending that makes a broken channel harmless (a call that is sent
//! again attaches, because the hands know its id). Must not know: where byte streams come from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use torpor_core::sandbox::Identity;
use torpor_core::{CallId, Epoch};

use crate::connection::{Connection, Replies};
use crate::frame::{Frame, Kind};
use crate::message::{About, Attach, Call, Code, Ended, Hands, Open, Opened, Refused, State, Watch, from_frame};

/// First pause between two attempts to dial; doubled up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts to dial.
const LAST_PAUSE: Duration = Duration::from_secs(2);
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
    /// How long to try for a connection.
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
        Ok(Session { client: self.clone(), digest: open.session, epoch, identity, workdir: opened.workdir })
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
    async fn send<T: Serialize>(
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

    /// One request, one answer.
    async fn ask<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        message: &T,
        want: Kind,
        epoch: Epoch,
    ) -> Result<(Arc<Connection>, A), Error> {
        let mut breaks = 0;
        loop {
            let (connection, mut replies) = self.send(kind, message, 0, &mut breaks).await?;
            if let Some(frame) = replies.next().await {
                return Ok((connection, answer(&frame, want, epoch)?));
            }
            count_break(&mut breaks)?;
        }
    }
}

/// Dials until there is a connection, as long as that may help.
async fn connect(dial: &dyn Dial, options: &Options) -> Result<Connection, Error> {
    let (until, mut pause) = (Instant::now() + options.patience, FIRST_PAUSE);
    loop {
        let tried = match dial.dial().await {
            Ok(stream) => Connection::start(stream, options).await,
            Err(e) => Err(e),
        };
        match tried {
            Err(Error::Unreachable(_)) if Instant::now() + pause < until => sleep(pause).await,
            done => return done,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn count_break(breaks: &mut u32) -> Result<(), Error> {
    *breaks += 1;
    if *breaks > MAX_BREAKS {
        return Err(Error::Unreachable(format!("the channel to the hands broke {MAX_BREAKS} times in a row")));
    }
    Ok(())
}

fn answer<A: DeserializeOwned>(frame: &Frame, want: Kind, mine: Epoch) -> Result<A, Error> {
    if frame.kind == Kind::Refused {
        let refused: Refused = from_frame(frame).map_err(Error::Protocol)?;
        return Err(match (refused.code, refused.current) {
            (Code::Fenced, Some(current)) => Error::Fenced { mine, current },
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
    digest: String,
    epoch: Epoch,
    identity: Identity,
    workdir: String,
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
        &self.digest
    }

    /// Working directory as commands see it.
    #[must_use]
    pub fn workdir(&self) -> &str {
        &self.workdir
    }

    /// Starts a call or attaches to it and waits for its end; only the result travels. Dropping the future leaves the
    /// call running.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn call(&self, id: CallId, incarnation: String, tool: String, input: Value) -> Result<Ended, Error> {
        let call = Call { id, epoch: self.epoch, incarnation, tool, input, watch: None, stdin: false };
        let mut breaks = 0;
        loop {
            let (_, mut replies) = self.client.send(Kind::Call, &call, 0, &mut breaks).await?;
            if let Some(frame) = replies.next().await {
                return answer(&frame, Kind::Ended, self.epoch);
            }
            count_break(&mut breaks)?;
        }
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
        let (epoch, incarnation) = (self.epoch, self.identity.incarnation.clone());
        let call = Call { id, epoch, incarnation, tool: tool.to_owned(), input, watch: None, stdin };
        Exec::begin(self.client.clone(), Request::Call(call), epoch, from).await
    }

    /// Attaches to a call and streams its output from byte `from` on; never starts it.
    ///
    /// # Errors
    /// As [`Self::exec_stream`].
    pub async fn attach(&self, id: CallId, from: u64) -> Result<Exec, Error> {
        let attach = Attach { id, epoch: self.epoch, watch: None };
        Exec::begin(self.client.clone(), Request::Attach(attach), self.epoch, from).await
    }

    /// What the hands know of a call.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn status(&self, id: CallId) -> Result<State, Error> {
        let about = About { id, epoch: self.epoch };
        Ok(self.client.ask(Kind::Status, &about, Kind::State, self.epoch).await?.1)
    }

    /// Ends a running call: nothing of it runs any more when this returns. A call that is over, or unknown, is fine.
    ///
    /// # Errors
    /// [`Error::Fenced`], or when the hands refuse or cannot be reached.
    pub async fn cancel(&self, id: CallId) -> Result<(), Error> {
        let about = About { id, epoch: self.epoch };
        let (_, serde::de::IgnoredAny) = self.client.ask(Kind::Cancel, &about, Kind::Done, self.epoch).await?;
        Ok(())
    }
}

/// What a streamed call yields.
#[derive(Debug, Clone, PartialEq)]
pub enum Chunk {
    /// Standard output; `offset` counts bytes of both streams together.
    Stdout {
        /// Where it stands in the merged output.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Standard error.
    Stderr {
        /// Where it stands in the merged output.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Bytes that were not kept.
    Gap {
        /// Where they stood.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// The end. Nothing follows.
    Ended(Ended),
}

#[derive(Debug, Clone)]
enum Request {
    Call(Call),
    Attach(Attach),
}

/// A call whose output is streamed. Survives broken connections by attaching again at the next byte. Dropping it leaves
/// the call running.
pub struct Exec {
    client: Source,
    request: Request,
    epoch: Epoch,
    replies: Replies,
    at: u64,
    taken: u32,
    breaks: u32,
    resumed: bool,
}

impl Exec {
    async fn begin(client: Source, request: Request, epoch: Epoch, at: u64) -> Result<Self, Error> {
        let mut breaks = 0;
        let replies = Self::send(&client, &request, at, &mut breaks).await?;
        Ok(Self { client, request, epoch, replies, at, taken: 0, breaks, resumed: false })
    }

    async fn send(client: &Source, request: &Request, from: u64, breaks: &mut u32) -> Result<Replies, Error> {
        let watch = Some(Watch { from, window: WINDOW });
        let (_, replies) = match request {
            Request::Call(c) => client.send(Kind::Call, &Call { watch, ..c.clone() }, WINDOW, breaks).await?,
            Request::Attach(a) => client.send(Kind::Attach, &Attach { watch, ..a.clone() }, WINDOW, breaks).await?,
        };
        Ok(replies)
    }

    /// The next piece, in order, without loss or repeat. After [`Chunk::Ended`] it must not be asked again. Not
    /// cancellation safe across a reconnect.
    ///
    /// # Errors
    /// A refusal, or no connection in time. The call itself is not harmed.
    pub async fn next(&mut self) -> Result<Chunk, Error> {
        loop {
            let Some(frame) = self.replies.next().await else {
                count_break(&mut self.breaks)?;
                self.resumed = true;
                self.replies = Self::send(&self.client, &self.request, self.at, &mut self.breaks).await?;
                self.taken = 0;
                continue;
            };
            self.breaks = 0;
            let bad = |e: crate::frame::Malformed| Error::Protocol(e.to_string());
            match frame.kind {
                Kind::Stdout | Kind::Stderr => {
                    let (offset, data) = frame.read_output().map_err(bad)?;
                    self.took(data.len()).await;
                    self.at = offset + data.len() as u64;
                    return Ok(match frame.kind {
                        Kind::Stdout => Chunk::Stdout { offset, data },
                        _ => Chunk::Stderr { offset, data },
                    });
                }
                Kind::Gap => {
                    let (offset, length) = frame.read_gap().map_err(bad)?;
                    self.at = offset + length;
                    return Ok(Chunk::Gap { offset, length });
                }
                _ => return answer(&frame, Kind::Ended, self.epoch).map(Chunk::Ended),
            }
        }
    }

    /// Sends input; waits while the command does not read. `false`: the command will get no more of it (it is over, or
    /// the channel broke).
    pub async fn input(&mut self, data: Bytes) -> bool {
        !self.resumed && self.replies.input(data).await
    }

    /// Ends the input.
    pub async fn end_input(&mut self) {
        if !self.resumed {
            self.replies.end_input().await;
        }
    }

    async fn took(&mut self, bytes: usize) {
        self.taken += u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.taken >= WINDOW / 2 {
            self.replies.grant(self.taken).await;
            self.taken = 0;
        }
    }
}
