//! Frames over a tokio byte stream. Both ends use it.
//!
//! Owns: buffering of reads and writes. Must not know: what frames mean.

use std::io::{self, IoSlice};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::frame::{Frame, HEADER};

/// Bytes asked of the stream at a time.
const READ_AHEAD: usize = 256 * 1024;
/// Payloads from this size on are written from where they are; smaller ones are collected first.
const DIRECT: usize = 4 * 1024;
/// Collected bytes that are written without waiting for more.
const COLLECTED: usize = 64 * 1024;

/// Reads frames.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    buf: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from `from`.
    pub fn new(from: R) -> Self {
        Self { from, buf: BytesMut::new() }
    }

    /// The next frame; `None` at a clean end. Cancellation safe.
    ///
    /// # Errors
    /// `UnexpectedEof` inside a frame, `InvalidData` for bytes that are no frame, or what the stream reports.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let decoded = Frame::decode(&mut self.buf).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if decoded.is_some() {
                return Ok(decoded);
            }
            if self.buf.capacity() - self.buf.len() < READ_AHEAD / 4 {
                self.buf.reserve(READ_AHEAD);
            }
            if self.from.read_buf(&mut self.buf).await? == 0 {
                return if self.buf.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the channel ended inside a frame"))
                };
            }
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    buf: BytesMut,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to `to`.
    pub fn new(to: W) -> Self {
        Self { to, buf: BytesMut::new() }
    }

    /// Takes a frame. It may stay in the buffer until [`Self::flush`]. Not cancellation safe.
    ///
    /// # Errors
    /// What the stream reports.
    pub async fn push(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.payload.len() < DIRECT {
            frame.encode(&mut self.buf);
            if self.buf.len() >= COLLECTED {
                self.drain().await?;
            }
            return Ok(());
        }
        self.drain().await?;
        let header: [u8; HEADER] = frame.header();
        let mut both = Buf::chain(&header[..], &frame.payload[..]);
        while both.has_remaining() {
            let mut parts = [IoSlice::new(&[]); 2];
            let n = both.chunks_vectored(&mut parts);
            let written = self.to.write_vectored(&parts[..n]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            both.advance(written);
        }
        Ok(())
    }

    /// Everything taken so far is handed to the stream.
    ///
    /// # Errors
    /// What the stream reports.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.to.flush().await
    }

    /// Writes what comes through `queue`, flushing whenever nothing more is waiting, until every sender is gone; then ends
    /// the stream.
    ///
    /// # Errors
    /// What the stream reports.
    pub async fn drain_queue(mut self, mut queue: mpsc::Receiver<Frame>) -> io::Result<()> {
        while let Some(frame) = queue.recv().await {
            self.push(&frame).await?;
            while let Ok(frame) = queue.try_recv() {
                self.push(&frame).await?;
            }
            self.flush().await?;
        }
        self.to.shutdown().await
    }

    async fn drain(&mut self) -> io::Result<()> {
        while self.buf.has_remaining() {
            let n = self.to.write(&self.buf).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.buf.advance(n);
        }
        self.buf.clear();
        Ok(())
    }
}
