//! The body of an answer, with the ways it can go wrong.
//!
//! Owns: the timing and the end of a body. Must not know: what is in it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::record::Guard;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Proper,
    /// The connection is closed in the middle.
    Cut,
    /// Nothing more ever comes.
    Hang,
}

/// A body in pieces.
#[derive(Debug)]
pub(crate) struct Answer {
    pieces: VecDeque<Bytes>,
    end: End,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    /// A turn of the loop between the last piece and a cut, in which the piece is sent.
    flushed: bool,
    guard: Option<Guard>,
}

impl Answer {
    pub(crate) fn whole(body: impl Into<Bytes>) -> Self {
        Self::new([body.into()].into(), End::Proper, Duration::ZERO)
    }

    pub(crate) fn new(pieces: VecDeque<Bytes>, end: End, pause: Duration) -> Self {
        Self { pieces, end, pause, sleep: None, flushed: false, guard: None }
    }

    /// Ties the end of the answer to the request's record.
    pub(crate) fn guarded(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(sleep) = &mut self.sleep {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
        if let Some(piece) = self.pieces.pop_front() {
            if !self.pause.is_zero() && !self.pieces.is_empty() {
                self.sleep = Some(Box::pin(tokio::time::sleep(self.pause)));
            }
            if self.pieces.is_empty()
                && self.end == End::Proper
                && let Some(guard) = &mut self.guard
            {
                guard.finished = true;
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Proper => Poll::Ready(None),
            End::Hang => Poll::Pending,
            End::Cut if self.flushed => Poll::Ready(Some(Err(io::Error::other("scripted cut")))),
            End::Cut => {
                self.flushed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.end == End::Proper
    }

    fn size_hint(&self) -> SizeHint {
        match self.pieces.front() {
            Some(only) if self.pieces.len() == 1 && self.end == End::Proper => Full::new(only.clone()).size_hint(),
            _ => SizeHint::default(),
        }
    }
}
