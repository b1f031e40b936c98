//! One live connection, seen from the brain's side.
//!
//! Owns: the handshake, the table of open streams, the two tasks that read and write, and the liveness check.
//! Must not know: what to do when the connection breaks (the client's matter).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::client::{Error, Options, Stream};
use crate::frame::{Frame, Kind, MAX_DATA, MAX_PAYLOAD, STDIN_WINDOW};
use crate::message::{Code, Hands, Hello, PROTOCOL, Refused, from_frame, to_frame};
use crate::wire::{Reader, Writer};

/// Most requests under way on one connection.
pub const MAX_STREAMS: usize = 16_384;
/// Frames that may wait to be written; who wants to send more waits.
const QUEUED: usize = 64;
/// How long the peer may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which a peer that owes an answer is asked whether it is there, and after which, asked, it is dead.
const PING_AFTER: Duration = Duration::from_secs(15);

/// What the reading task knows of one stream.
struct Slot {
    to: mpsc::UnboundedSender<Frame>, // bounded by `window`: data beyond it is a protocol error
    window: u64,
    stdin: Arc<Semaphore>,
}

#[derive(Default)]
struct Table {
    last: u32,
    slots: HashMap<u32, Slot>,
    dead: bool,
}

type Shared = Arc<Mutex<Table>>;

fn lock(table: &Shared) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection whose handshake is done.
pub(crate) struct Connection {
    hands: Hands,
    out: mpsc::Sender<Frame>,
    table: Shared,
    reader: AbortHandle,
}

impl Connection {
    /// Says hello on `stream` and starts the tasks that serve it.
    pub(crate) async fn start(stream: Box<dyn Stream>, options: &Options) -> Result<Self, Error> {
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
        let (program, settings) = (options.program.clone(), options.settings.clone());
        let hello = Hello { protocol: PROTOCOL, program, settings, hands: None };
        let hands = timeout(HELLO_WITHIN, async {
            let broken = |e| Error::Unreachable(format!("the channel broke during hello: {e}"));
            writer.push(&to_frame(Kind::Hello, 0, &hello)).await.map_err(broken)?;
            writer.flush().await.map_err(broken)?;
            reader.next().await.map_err(broken)?.ok_or_else(|| Error::Unreachable("the hands hung up".into()))
        })
        .await
        .map_err(|_| Error::Unreachable(format!("the hands did not say hello within {HELLO_WITHIN:?}")))??;
        let hands = read_hello(&hands)?;
        let table = Shared::default();
        let (out, queue) = mpsc::channel(QUEUED);
        tokio::spawn(writer.drain_queue(queue)); // the reading task sees it if that breaks
        let reader = tokio::spawn(read_frames(reader, table.clone(), out.downgrade())).abort_handle();
        Ok(Self { hands, out, table, reader })
    }

    /// Who is at the other end.
    pub(crate) fn hands(&self) -> &Hands {
        &self.hands
    }

    /// Whether it is of no use any more.
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.table).dead || self.out.is_closed()
    }

    /// Sends a request on a stream of its own. `None`: the connection is dead.
    pub(crate) async fn request<T: Serialize>(
        &self,
        kind: Kind,
        message: &T,
        window: u32,
    ) -> Result<Option<Replies>, Error> {
        let mut frame = to_frame(kind, 0, message);
        let size = frame.payload.len();
        if size > MAX_PAYLOAD {
            let message = format!("the request has {size} bytes, the channel carries {MAX_PAYLOAD}");
            return Err(Error::Refused(Refused { code: Code::Invalid, message, current: None }));
        }
        let (to, frames) = mpsc::unbounded_channel();
        let stdin = Arc::new(Semaphore::new(STDIN_WINDOW as usize));
        let id = {
            let mut t = lock(&self.table);
            if t.dead {
                return Ok(None);
            }
            if t.slots.len() >= MAX_STREAMS {
                return Err(Error::Busy(format!("{MAX_STREAMS} requests are under way on this channel")));
            }
            loop {
                t.last = t.last.wrapping_add(1).max(1);
                if !t.slots.contains_key(&t.last) {
                    break;
                }
            }
            let id = t.last;
            t.slots.insert(id, Slot { to, window: u64::from(window), stdin: stdin.clone() });
            id
        };
        frame.stream = id;
        let replies = Replies { id, frames, out: self.out.clone(), table: self.table.clone(), stdin, over: false };
        Ok(self.out.send(frame).await.is_ok().then_some(replies))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The writing task ends by itself once the last sender is gone, with everything written.
        self.reader.abort();
        bury(&self.table);
    }
}

fn bury(table: &Shared) {
    let mut t = lock(table);
    t.dead = true;
    for (_, slot) in t.slots.drain() {
        slot.stdin.close();
    }
}

fn read_hello(frame: &Frame) -> Result<Hands, Error> {
    if frame.kind == Kind::Refused {
        let refused: Refused = from_frame(frame).map_err(Error::Protocol)?;
        return Err(match refused.code {
            Code::Busy => Error::Busy(refused.message), // they make room, or will once they are idle
            Code::Version => Error::Version(refused.message),
            _ => Error::Refused(refused),
        });
    }
    if frame.kind != Kind::Hello {
        return Err(Error::Protocol(format!("expected a Hello frame first, got {:?}", frame.kind)));
    }
    let hello: Hello = from_frame(frame).map_err(Error::Protocol)?;
    if hello.protocol != PROTOCOL {
        let (theirs, who) = (hello.protocol, hello.program);
        return Err(Error::Version(format!("{who} speaks exec channel {theirs}, this side speaks {PROTOCOL}")));
    }
    hello.hands.ok_or_else(|| Error::Protocol("the hands did not name their incarnation".into()))
}

async fn read_frames(mut from: Reader<ReadHalf<Box<dyn Stream>>>, table: Shared, out: mpsc::WeakSender<Frame>) {
    let mut asked = false;
    loop {
        match timeout(PING_AFTER, from.next()).await {
            Ok(Ok(Some(frame))) => {
                asked = false;
                if deliver(&table, frame).is_err() {
                    break;
                }
            }
            Ok(Ok(None) | Err(_)) => break,
            Err(_) if asked => break,
            Err(_) => {
                if lock(&table).slots.is_empty() {
                    continue;
                }
                asked = true;
                let Some(out) = out.upgrade() else { break };
                // A full queue means that the peer does not read: the next silence ends it.
                let _ = out.try_send(Frame::empty(Kind::Ping, 0));
            }
        }
    }
    bury(&table);
}

/// Hands a frame to the stream it belongs to. Frames of streams that nobody reads any more are dropped.
fn deliver(table: &Shared, frame: Frame) -> Result<(), ()> {
    let mut t = lock(table);
    let Some(slot) = t.slots.get_mut(&frame.stream) else { return Ok(()) };
    match frame.kind {
        Kind::Credit => {
            let n = frame.read_credit().map_err(drop)? as usize;
            if slot.stdin.available_permits() + n > STDIN_WINDOW as usize {
                return Err(());
            }
            slot.stdin.add_permits(n);
            return Ok(());
        }
        Kind::Stdout | Kind::Stderr => {
            let n = frame.read_output().map_err(drop)?.1.len() as u64;
            slot.window = slot.window.checked_sub(n).ok_or(())?;
        }
        _ => {}
    }
    let _ = slot.to.send(frame);
    Ok(())
}

/// The answers to one request. Dropping it tells the hands that nobody reads any more; the call goes on.
pub(crate) struct Replies {
    id: u32,
    frames: mpsc::UnboundedReceiver<Frame>,
    out: mpsc::Sender<Frame>,
    table: Shared,
    stdin: Arc<Semaphore>,
    over: bool,
}

impl Replies {
    /// The next frame; `None`: the connection broke. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.recv().await?;
        self.over |= matches!(
            frame.kind,
            Kind::Ended | Kind::Refused | Kind::Opened | Kind::State | Kind::Done | Kind::Forgotten
        );
        Some(frame)
    }

    /// Lets the hands send `bytes` more.
    pub(crate) async fn grant(&self, bytes: u32) {
        if let Some(slot) = lock(&self.table).slots.get_mut(&self.id) {
            slot.window += u64::from(bytes);
        }
        let _ = self.out.send(Frame::credit(self.id, bytes)).await;
    }

    /// Sends input; waits while the command does not read. `false`: the connection broke or the command is over.
    pub(crate) async fn input(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(MAX_DATA));
            match self.stdin.acquire_many(part.len() as u32).await {
                Ok(permits) => permits.forget(),
                Err(_) => return false,
            }
            if self.out.send(Frame { kind: Kind::Stdin, stream: self.id, payload: part }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Ends the input.
    pub(crate) async fn end_input(&self) -> bool {
        self.out.send(Frame::empty(Kind::StdinEof, self.id)).await.is_ok()
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        let known = lock(&self.table).slots.remove(&self.id).is_some();
        if known && !self.over {
            let (out, frame) = (self.out.clone(), Frame::empty(Kind::Detach, self.id));
            if let Err(mpsc::error::TrySendError::Full(frame)) = out.try_send(frame)
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                runtime.spawn(async move { out.send(frame).await });
            }
        }
    }
}

/// Any byte stream.
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}
