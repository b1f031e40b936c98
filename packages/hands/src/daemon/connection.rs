//! One connection of a brain.
//!
//! Owns: the handshake, one task a request, flow control of what is sent. Must not know: what a session decides.
//!
//! A connection is only an attachment: when it breaks, its tasks end and the calls go on.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use torpor_exec_channel::MAX_STREAMS;
use torpor_exec_channel::frame::{Frame, Kind, MAX_DATA, STDIN_WINDOW};
use torpor_exec_channel::message::{
    About, Attach, Call as Request, Code, Ended, Forget, Hello, Open, PROTOCOL, Refused, Watch, from_frame, to_frame,
};
use torpor_exec_channel::wire::{Reader, Writer};

use super::bash::Input;
use super::session::{Attached, Session};
use super::sessions::Sessions;
use crate::output::{Cursor, Output, Piece, Source};

/// Frames that may wait to be written; who wants to send more waits.
const QUEUED: usize = 8;
/// Most credit that a stream may pile up, in bytes.
const MAX_CREDIT: usize = 64 * 1024 * 1024;
/// How long a brain may take to say hello.
const HELLO_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// What the reading task knows of one request.
struct Slot {
    credit: Arc<Semaphore>,
    input: Option<mpsc::UnboundedSender<Bytes>>, // bounded by `input_left`
    input_left: Arc<AtomicUsize>,
    task: Option<AbortHandle>,
}

type Slots = Arc<Mutex<HashMap<u32, Slot>>>;

fn lock(slots: &Slots) -> MutexGuard<'_, HashMap<u32, Slot>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves a connection until it ends.
pub(super) async fn serve(stream: UnixStream, sessions: Arc<Sessions>) {
    let (read, write) = stream.into_split();
    let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
    match timeout(HELLO_WITHIN, greet(&mut reader, &mut writer, &sessions)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false) | Err(_)) | Err(_) => return,
    }
    let (out, queue) = mpsc::channel(QUEUED);
    let writing = tokio::spawn(writer.drain_queue(queue)); // the reading side sees it if that breaks
    let connection = Connection { out, sessions, slots: Slots::default() };
    if let Err(why) = connection.read(reader).await {
        eprintln!("torpor-hands: connection: {why}");
    }
    // Nobody reads any more: the watchers end, what they watch does not.
    for (_, slot) in lock(&connection.slots).drain() {
        if let Some(task) = slot.task {
            task.abort();
        }
    }
    writing.abort();
}

async fn greet<R, W>(reader: &mut Reader<R>, writer: &mut Writer<W>, sessions: &Sessions) -> io::Result<bool>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(first) = reader.next().await? else { return Ok(false) };
    let theirs = match (first.kind, from_frame::<Hello>(&first)) {
        (Kind::Hello, Ok(hello)) => hello,
        (kind, _) => return Err(io::Error::other(format!("expected a Hello frame first, got {kind:?}"))),
    };
    let program = format!("torpor-hands {}", env!("CARGO_PKG_VERSION"));
    let same = theirs.protocol == PROTOCOL;
    let welcome = if same {
        sessions.expected(theirs.settings.as_deref())
    } else {
        let (who, version) = (theirs.program, theirs.protocol);
        Err(sessions.other_version(format!("{who} speaks exec channel {version}, {program} speaks {PROTOCOL}")))
    };
    let answer = match &welcome {
        Ok(()) => {
            let hello = Hello { protocol: PROTOCOL, program, settings: None, hands: Some(sessions.hands()) };
            to_frame(Kind::Hello, 0, &hello)
        }
        Err(refused) => to_frame(Kind::Refused, 0, refused),
    };
    writer.push(&answer).await?;
    writer.flush().await?;
    Ok(welcome.is_ok())
}

struct Connection {
    out: mpsc::Sender<Frame>,
    sessions: Arc<Sessions>,
    slots: Slots,
}

impl Connection {
    async fn read<R: AsyncRead + Unpin>(&self, mut reader: Reader<R>) -> Result<(), String> {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(e.to_string()),
                Err(_) => return Ok(()), // the brain is gone
            };
            match frame.kind {
                Kind::Open | Kind::Call | Kind::Attach | Kind::Status | Kind::Cancel | Kind::Forget => {
                    self.request(frame)?
                }
                Kind::Credit => {
                    let n = frame.read_credit().map_err(|e| e.to_string())? as usize;
                    if let Some(slot) = lock(&self.slots).get(&frame.stream) {
                        if slot.credit.available_permits() + n > MAX_CREDIT {
                            return Err(format!("more than {MAX_CREDIT} bytes of credit on one stream"));
                        }
                        slot.credit.add_permits(n);
                    }
                }
                Kind::Stdin => {
                    if let Some(slot) = lock(&self.slots).get_mut(&frame.stream) {
                        let n = frame.payload.len();
                        let spend = |left: usize| left.checked_sub(n);
                        if slot.input_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err() {
                            return Err("more input than was granted".into());
                        }
                        if let Some(input) = &slot.input {
                            let _ = input.send(frame.payload); // an error: the command takes none
                        }
                    }
                }
                Kind::StdinEof => {
                    if let Some(slot) = lock(&self.slots).get_mut(&frame.stream) {
                        slot.input = None;
                    }
                }
                Kind::Detach => {
                    if let Some(Slot { task: Some(task), .. }) = lock(&self.slots).remove(&frame.stream) {
                        task.abort();
                    }
                }
                Kind::Ping => {
                    // Waiting here would let a brain that does not read stop its own requests: it already has.
                    let _ = self.out.send(Frame::empty(Kind::Pong, 0)).await;
                }
                Kind::Pong => {}
                other => return Err(format!("a {other:?} frame is not for the hands")),
            }
        }
    }

    /// Starts the task of a request.
    fn request(&self, frame: Frame) -> Result<(), String> {
        let stream = frame.stream;
        let mut slots = lock(&self.slots);
        if slots.contains_key(&stream) || stream == 0 {
            return Err(format!("stream {stream} is in use"));
        }
        if slots.len() >= MAX_STREAMS {
            return Err(format!("more than {MAX_STREAMS} requests on one connection"));
        }
        let credit = Arc::new(Semaphore::new(0));
        let (input, from) = mpsc::unbounded_channel();
        let left = Arc::new(AtomicUsize::new(STDIN_WINDOW as usize));
        let slot = Slot { credit: credit.clone(), input: Some(input), input_left: left.clone(), task: None };
        slots.insert(stream, slot);
        let input = Input { from, left, credit: self.out.clone(), stream };
        let server = Server {
            stream,
            out: self.out.clone(),
            sessions: self.sessions.clone(),
            slots: self.slots.clone(),
            credit,
        };
        let task = tokio::spawn(server.serve(frame, input));
        if let Some(slot) = slots.get_mut(&stream) {
            slot.task = Some(task.abort_handle());
        }
        Ok(())
    }
}

/// Serves one request.
struct Server {
    stream: u32,
    out: mpsc::Sender<Frame>,
    sessions: Arc<Sessions>,
    slots: Slots,
    credit: Arc<Semaphore>,
}

/// The connection is gone.
struct Gone;

impl Server {
    async fn serve(self, frame: Frame, input: Input) {
        let answered = self.answer(frame, input).await;
        lock(&self.slots).remove(&self.stream);
        let Ok(last) = answered else { return };
        let _ = self.out.send(last).await;
    }

    /// Serves the request; its last frame.
    async fn answer(&self, frame: Frame, input: Input) -> Result<Frame, Gone> {
        match self.act(frame, input).await? {
            Ok(frame) => Ok(frame),
            Err(refused) => Ok(to_frame(Kind::Refused, self.stream, &refused)),
        }
    }

    async fn act(&self, frame: Frame, input: Input) -> Result<Result<Frame, Refused>, Gone> {
        let kind = frame.kind;
        // Decisions are made in tasks of their own: a connection that breaks now must not cut one in two.
        let sessions = self.sessions.clone();
        let stream = self.stream;
        let decided = tokio::spawn(async move { decide(&sessions, &frame, stream, input).await });
        let decided = match decided.await {
            Ok(decided) => decided,
            Err(_) => Err(Refused { code: Code::Failed, message: format!("{kind:?} failed"), current: None }),
        };
        let (session, position, watch, attached) = match decided {
            Ok(Decided::Answer(frame)) => return Ok(Ok(frame)),
            Ok(Decided::Attached { session, position, watch, attached }) => (session, position, watch, attached),
            Err(refused) => return Ok(Err(refused)),
        };
        let ended = match attached {
            Attached::Live(call) => {
                let _watching = call.watch();
                if let Some(watch) = watch
                    && let Some(output) = call.output().await
                {
                    self.replay(&output, watch).await?;
                }
                Ended::clone(&*call.wait().await)
            }
            Attached::Over(ended) => {
                if let Some(watch) = watch.filter(|w| w.from < ended.output.total) {
                    let (text, segments) = session.outputs.paths(position);
                    self.replay(&Output::reopen(&text, &segments, ended.output), watch).await?;
                }
                *ended
            }
        };
        Ok(Ok(to_frame(Kind::Ended, self.stream, &ended)))
    }

    /// Sends output from an offset until it has ended, as fast as credit comes.
    async fn replay(&self, output: &Output, watch: Watch) -> Result<(), Gone> {
        self.credit.add_permits((watch.window as usize).min(MAX_CREDIT));
        let (mut cursor, mut changes) = (Cursor::new(watch.from), output.changes());
        loop {
            // At least one byte of credit, and as much of a full frame as there is.
            let Ok(permit) = self.credit.acquire().await else { return Err(Gone) };
            let most = (1 + self.credit.available_permits()).min(MAX_DATA);
            let at = cursor.at();
            let frame = match output.read(&mut cursor, most) {
                Ok(Piece::End) => return Ok(()),
                Ok(Piece::Wait) => {
                    drop(permit);
                    if changes.changed().await.is_err() {
                        return Err(Gone);
                    }
                    continue;
                }
                Ok(Piece::Gap(length)) => {
                    drop(permit);
                    Frame::gap(self.stream, at, length)
                }
                Ok(Piece::Data(source, payload)) => {
                    permit.forget();
                    self.credit.forget_permits(payload.len() - 9); // without the offset and the first byte's
                    let kind = if source == Source::Stdout { Kind::Stdout } else { Kind::Stderr };
                    Frame { kind, stream: self.stream, payload: payload.into() }
                }
                Err(e) => {
                    eprintln!("torpor-hands: stored output: {e}");
                    return Ok(()); // the end still comes, with what the model is told
                }
            };
            self.out.send(frame).await.map_err(|_| Gone)?;
        }
    }
}

enum Decided {
    Answer(Frame),
    Attached { session: Arc<Session>, position: u64, watch: Option<Watch>, attached: Attached },
}

async fn decide(sessions: &Sessions, frame: &Frame, stream: u32, input: Input) -> Result<Decided, Refused> {
    let bad = |message| Refused { code: Code::Invalid, message, current: None };
    match frame.kind {
        Kind::Open => {
            let open: Open = from_frame(frame).map_err(bad)?;
            let session = sessions.get(&open.session).await?;
            let opened = session.open(&open).await?;
            Ok(Decided::Answer(to_frame(Kind::Opened, stream, &opened)))
        }
        Kind::Call => {
            let request: Request = from_frame(frame).map_err(bad)?;
            let session = sessions.get(&request.id.session).await?;
            let (position, watch) = (request.id.position.0, request.watch);
            let input = request.stdin.then_some(input);
            let attached = session.call(request, input).await?;
            Ok(Decided::Attached { session, position, watch, attached })
        }
        Kind::Attach => {
            let attach: Attach = from_frame(frame).map_err(bad)?;
            let session = sessions.get(&attach.id.session).await?;
            let position = attach.id.position.0;
            let attached = session.attach(attach.epoch, position).await?;
            Ok(Decided::Attached { session, position, watch: attach.watch, attached })
        }
        Kind::Status => {
            let about: About = from_frame(frame).map_err(bad)?;
            let session = sessions.get(&about.id.session).await?;
            let state = session.status(about.epoch, about.id.position.0).await?;
            Ok(Decided::Answer(to_frame(Kind::State, stream, &state)))
        }
        Kind::Forget => {
            let forget: Forget = from_frame(frame).map_err(bad)?;
            let forgotten = sessions.get(&forget.session).await?.forget(forget.epoch).await?;
            Ok(Decided::Answer(to_frame(Kind::Forgotten, stream, &forgotten)))
        }
        _ => {
            let about: About = from_frame(frame).map_err(bad)?;
            let session = sessions.get(&about.id.session).await?;
            session.cancel(about.epoch, about.id.position.0).await?;
            Ok(Decided::Answer(to_frame(Kind::Done, stream, &())))
        }
    }
}
