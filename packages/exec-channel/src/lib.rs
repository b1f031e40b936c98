//! The exec channel: how a brain talks to the hands over any byte stream.
//!
//! Owns: the frame format, the messages, flow control, and the client that shares one connection between all sessions
//! of a process, redials a broken one and re-attaches by call id.
//! Must not know: where the byte stream comes from ([`Dial`] supplies it), how the hands run a command, or what a tool
//! does.

pub mod client;
mod connection;
mod exec;
pub mod frame;
pub mod message;
mod seam;
pub mod wire;

pub use client::{Client, Dial, Error, Options, Session, Source, Stream};
pub use connection::MAX_STREAMS;
pub use exec::{Chunk, Exec};
