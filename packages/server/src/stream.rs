//! A connection's bytes, with a note of what they are doing.
//!
//! Owns: when a head began and since when the client has not been reading. Must not know: what is done about it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

/// What a connection is doing. One task writes and reads it, so the order of the marks is never in question; they
/// are atomic only because that task may move between threads.
#[derive(Debug)]
pub(crate) struct Activity {
    epoch: Instant,
    /// A request is with its handler, or its answer is on the way.
    busy: AtomicBool,
    /// The rest of the request will not be read: what still comes is to be thrown away.
    abandoned: AtomicBool,
    /// Marks are milliseconds since `epoch`, plus one; 0 is "not so".
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    idle_since: AtomicU64,
}

/// What a connection is doing at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// The client leaves an answer unread since then.
    Unread(Instant),
    /// A handler has the request, or its answer is on the way.
    Handling,
    /// A head has begun and is not complete.
    Head(Instant),
    /// Nothing, since then.
    Idle(Instant),
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            busy: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
        })
    }

    fn mark(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, mark: u64) -> Instant {
        self.epoch + Duration::from_millis(mark.saturating_sub(1))
    }

    pub(crate) fn doing(&self) -> Doing {
        let (blocked, head) = (self.blocked_since.load(Relaxed), self.head_since.load(Relaxed));
        if blocked != 0 {
            Doing::Unread(self.instant(blocked))
        } else if self.busy.load(Relaxed) {
            Doing::Handling
        } else if head != 0 {
            Doing::Head(self.instant(head))
        } else {
            Doing::Idle(self.instant(self.idle_since.load(Relaxed)))
        }
    }

    /// A handler gets a request.
    pub(crate) fn begin(&self) {
        self.head_since.store(0, Relaxed);
        self.busy.store(true, Relaxed);
    }

    /// The handler has answered.
    pub(crate) fn answer(&self, abandoned: bool) {
        self.abandoned.store(abandoned, Relaxed);
    }

    /// The answer has been handed over.
    pub(crate) fn end(&self) {
        self.idle_since.store(self.mark(), Relaxed);
        self.busy.store(false, Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }

    fn has_read(&self) {
        if !self.busy.load(Relaxed) && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.mark(), Relaxed);
        }
    }

    fn has_tried_to_write(&self, blocked: bool) {
        let since = self.blocked_since.load(Relaxed);
        if blocked && since == 0 {
            self.blocked_since.store(self.mark(), Relaxed);
        } else if !blocked && since != 0 {
            self.blocked_since.store(0, Relaxed);
        }
    }
}

/// A socket that keeps its [`Activity`] up to date.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) socket: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    pub(crate) fn new(socket: TcpStream, activity: Arc<Activity>) -> Self {
        Self { socket, activity }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.activity.has_tried_to_write(written.is_pending());
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.activity.has_tried_to_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
