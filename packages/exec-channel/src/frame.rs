//! Frames: `[u32 length][u8 kind][u32 stream][payload]`, big-endian, `length` counting what follows it.
//!
//! Owns: the byte format and its limits, sans I/O. Must not know: what a payload means.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest payload of a frame, in bytes: room for the largest tool input that a request body can carry.
pub const MAX_PAYLOAD: usize = 12 * 1024 * 1024;
/// Longest run of command output in one frame, in bytes.
pub const MAX_DATA: usize = 128 * 1024;
/// Bytes of input that may be sent to a command before its first credit, and that may be under way at any time.
pub const STDIN_WINDOW: u32 = 256 * 1024;
/// Bytes before the payload.
pub const HEADER: usize = 9;
/// Bytes of the header that `length` counts.
const COUNTED: usize = HEADER - 4;

/// What a frame is. The numbers are the wire format: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame in both directions: version and who is speaking. JSON.
    Hello = 1,
    /// Binds a session, raises its fence. JSON.
    Open = 2,
    /// Answer to `Open`. JSON.
    Opened = 3,
    /// Starts a call or attaches to it. JSON.
    Call = 4,
    /// Attaches to a call, never starts it. JSON.
    Attach = 5,
    /// Asks what became of a call. JSON.
    Status = 6,
    /// Answer to `Status`. JSON.
    State = 7,
    /// Ends a running call. JSON.
    Cancel = 8,
    /// Answer to `Cancel`: nothing of the call runs any more. JSON `null`.
    Done = 9,
    /// The reader of a stream has gone; the call goes on. Empty.
    Detach = 10,
    /// Input for a command. Raw.
    Stdin = 11,
    /// End of the input. Empty.
    StdinEof = 12,
    /// Output: `[u64 offset]` in the merged output, then raw bytes.
    Stdout = 13,
    /// The same for standard error.
    Stderr = 14,
    /// Output that was not kept: `[u64 offset][u64 length]`.
    Gap = 15,
    /// The call is over. JSON. Last frame of its stream.
    Ended = 16,
    /// The request was refused. JSON. Last frame of its stream.
    Refused = 17,
    /// `[u32 bytes]` more may be sent on this stream.
    Credit = 18,
    /// Are you there? Empty.
    Ping = 19,
    /// Yes. Empty.
    Pong = 20,
    /// Ends a session and removes what is kept of it. JSON.
    Forget = 21,
    /// Answer to `Forget`. JSON.
    Forgotten = 22,
}

impl Kind {
    /// Every kind, in wire order.
    pub const ALL: [Self; 22] = [
        Self::Hello,
        Self::Open,
        Self::Opened,
        Self::Call,
        Self::Attach,
        Self::Status,
        Self::State,
        Self::Cancel,
        Self::Done,
        Self::Detach,
        Self::Stdin,
        Self::StdinEof,
        Self::Stdout,
        Self::Stderr,
        Self::Gap,
        Self::Ended,
        Self::Refused,
        Self::Credit,
        Self::Ping,
        Self::Pong,
        Self::Forget,
        Self::Forgotten,
    ];

    fn from_wire(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n).checked_sub(1)?).copied()
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Which request it belongs to. The client chooses the numbers; 0 is the connection itself.
    pub stream: u32,
    /// The rest.
    pub payload: Bytes,
}

/// Bytes that are no frame. The connection cannot go on after one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length outside the limits.
    #[error("frame length {0} is outside {COUNTED}..={max}", max = MAX_PAYLOAD + COUNTED)]
    Length(usize),
    /// A number that names no kind.
    #[error("frame kind {0} is unknown (this side knows 1..={max})", max = Kind::ALL.len())]
    Kind(u8),
    /// A payload that is too short for its kind.
    #[error("payload of a {kind:?} frame has {got} bytes, expected at least {want}")]
    Short {
        /// The frame's kind.
        kind: Kind,
        /// Bytes it has.
        got: usize,
        /// Bytes it needs.
        want: usize,
    },
}

impl Frame {
    /// A frame without payload.
    #[must_use]
    pub fn empty(kind: Kind, stream: u32) -> Self {
        Self { kind, stream, payload: Bytes::new() }
    }

    /// Grants `bytes` more on `stream`.
    #[must_use]
    pub fn credit(stream: u32, bytes: u32) -> Self {
        Self { kind: Kind::Credit, stream, payload: Bytes::copy_from_slice(&bytes.to_be_bytes()) }
    }

    /// Says that `length` bytes from `offset` on were not kept.
    #[must_use]
    pub fn gap(stream: u32, offset: u64, length: u64) -> Self {
        let mut payload = BytesMut::with_capacity(16);
        payload.put_u64(offset);
        payload.put_u64(length);
        Self { kind: Kind::Gap, stream, payload: payload.freeze() }
    }

    /// The granted bytes of a `Credit` frame.
    ///
    /// # Errors
    /// [`Malformed::Short`].
    pub fn read_credit(&self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok((&self.payload[..]).get_u32())
    }

    /// Offset and length of a `Gap` frame.
    ///
    /// # Errors
    /// [`Malformed::Short`].
    pub fn read_gap(&self) -> Result<(u64, u64), Malformed> {
        self.need(16)?;
        let mut p = &self.payload[..];
        Ok((p.get_u64(), p.get_u64()))
    }

    /// Offset and bytes of a `Stdout` or `Stderr` frame.
    ///
    /// # Errors
    /// [`Malformed::Short`].
    pub fn read_output(&self) -> Result<(u64, Bytes), Malformed> {
        self.need(8)?;
        Ok(((&self.payload[..]).get_u64(), self.payload.slice(8..)))
    }

    /// The nine bytes that go before the payload.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        // A payload beyond the limit is refused by the peer; saturating keeps this total.
        let length = u32::try_from(self.payload.len() + COUNTED).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(&length.to_be_bytes());
        out[4] = self.kind as u8;
        out[5..].copy_from_slice(&self.stream.to_be_bytes());
        out
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(HEADER + self.payload.len());
        out.put_slice(&self.header());
        out.put_slice(&self.payload);
    }

    /// Takes the next frame off the front of `buf`; `None` means that more bytes are needed. The payload shares the
    /// buffer's memory.
    ///
    /// # Errors
    /// [`Malformed`], judged by the header alone, before any of the payload has been buffered.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        let Some(header) = buf.get(..HEADER) else {
            // A wrong length is told from its four bytes alone, so that nobody waits for the rest of it.
            if let Some(mut four) = buf.get(..4) {
                check_length(four.get_u32() as usize)?;
            }
            return Ok(None);
        };
        let mut h = header;
        let length = check_length(h.get_u32() as usize)?;
        let kind = h.get_u8();
        let kind = Kind::from_wire(kind).ok_or(Malformed::Kind(kind))?;
        let stream = h.get_u32();
        if buf.len() < 4 + length {
            return Ok(None);
        }
        buf.advance(HEADER);
        Ok(Some(Self { kind, stream, payload: buf.split_to(length - COUNTED).freeze() }))
    }

    fn need(&self, want: usize) -> Result<(), Malformed> {
        match self.payload.len() {
            got if got < want => Err(Malformed::Short { kind: self.kind, got, want }),
            _ => Ok(()),
        }
    }
}

fn check_length(length: usize) -> Result<usize, Malformed> {
    if (COUNTED..=MAX_PAYLOAD + COUNTED).contains(&length) { Ok(length) } else { Err(Malformed::Length(length)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let one = (0..Kind::ALL.len(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, stream, payload)| Frame { kind: Kind::ALL[kind], stream, payload: payload.into() });
        prop::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn frames_survive_any_chunking(sent in frames(), cuts in prop::collection::vec(1usize..200, 1..40)) {
            let mut wire = BytesMut::new();
            sent.iter().for_each(|f| f.encode(&mut wire));
            let (mut buf, mut got, mut cuts) = (BytesMut::new(), Vec::new(), cuts.iter().cycle());
            while !wire.is_empty() {
                let n = (*cuts.next().unwrap()).min(wire.len());
                buf.extend_from_slice(&wire.split_to(n));
                while let Some(f) = Frame::decode(&mut buf).unwrap() {
                    got.push(f);
                }
            }
            prop_assert!(buf.is_empty());
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(f)) = Frame::decode(&mut buf) {
                let _ = (f.read_credit(), f.read_gap(), f.read_output());
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_named() {
        let length = |n: u32| n.to_be_bytes().to_vec();
        let kind = |k: u8| [&5u32.to_be_bytes()[..], &[k, 0, 0, 0, 0]].concat();
        for (bytes, want) in [
            (length(0), Malformed::Length(0)),
            (length(4), Malformed::Length(4)),
            (length(u32::MAX), Malformed::Length(u32::MAX as usize)),
            (kind(0), Malformed::Kind(0)),
            (kind(23), Malformed::Kind(23)),
        ] {
            assert_eq!(Frame::decode(&mut BytesMut::from(&bytes[..])), Err(want));
        }
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for (i, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i + 1);
        }
    }
}
