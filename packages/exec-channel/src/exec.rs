//! A call whose output is streamed, as the brain reads it.
//!
//! Owns: the place in the output, credit for what was read, and going on at the next byte when a connection breaks.
//! Must not know: how a connection is had.

use bytes::Bytes;
use torpor_core::Epoch;

use crate::client::{Client, Error, Source, WINDOW, answer, count_break};
use crate::connection::Replies;
use crate::frame::Kind;
use crate::message::{Attach, Call, Ended, Watch};

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

/// What begins a stream, and begins it again.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Starts the call where it was not.
    Call(Call),
    /// Never starts it.
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
    /// Sends the request, to be answered from byte `at` of the output on.
    pub(crate) async fn begin(client: Source, request: Request, epoch: Epoch, at: u64) -> Result<Self, Error> {
        let mut breaks = 0;
        let replies = Self::send(&client, &request, at, &mut breaks).await?;
        Ok(Self { client, request, epoch, replies, at, taken: 0, breaks, resumed: false })
    }

    async fn send(client: &Client, request: &Request, from: u64, breaks: &mut u32) -> Result<Replies, Error> {
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
