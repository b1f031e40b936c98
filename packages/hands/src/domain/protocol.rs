//! What daemon and domain say to each other over a sequenced-packet socket pair: one JSON message a packet, with file
//! descriptors beside it. Anything large travels in a memory file.
//!
//! Owns: the messages and how they are packed. Must not know: what either side does with them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use torpor_core::message::ToolResult;

use crate::level::Level;

/// Largest packet in bytes.
const MAX_PACKET: usize = 64 * 1024;
/// Most descriptors beside one message: job, report, and the three standard streams.
pub(crate) const MAX_FDS: usize = 5;
/// Largest report in bytes.
const MAX_REPORT: u64 = 8 * 1024 * 1024;

/// What a domain is to be: the first message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) level: Level,
    /// An empty folder for the new root to be built on.
    pub(crate) staging: PathBuf,
    /// The four folders of the session, as the daemon sees them.
    pub(crate) workspace: PathBuf,
    pub(crate) tmp: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) outputs: PathBuf,
    pub(crate) network: bool,
    pub(crate) readable: Vec<PathBuf>,
    pub(crate) path: String,
    /// Most processes and threads, and the largest file in bytes.
    pub(crate) processes: u64,
    pub(crate) file_size: u64,
    /// The control group that the domain is to enter.
    pub(crate) cgroup: Option<PathBuf>,
}

/// Where a domain's folders are as seen from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) workspace: PathBuf,
    pub(crate) tmp: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) outputs: PathBuf,
}

impl Setup {
    /// The folders as seen from inside.
    pub(crate) fn inside(&self) -> Inside {
        match self.level {
            Level::Full => Inside {
                workspace: "/workspace".into(),
                tmp: "/tmp".into(),
                home: "/home/agent".into(),
                outputs: "/outputs".into(),
            },
            Level::Reduced | Level::Unconfined => Inside {
                workspace: self.workspace.clone(),
                tmp: self.tmp.clone(),
                home: self.home.clone(),
                outputs: self.outputs.clone(),
            },
        }
    }
}

/// From the daemon. The descriptors of `Start`: job, report and, for a command, stdin, stdout, stderr.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToDomain {
    Setup(Box<Setup>),
    Start {
        call: u64,
    },
    /// Ask politely.
    Term {
        call: u64,
    },
    /// Kill the call's processes, all of them.
    Kill {
        call: u64,
    },
    /// Say how many processes there are.
    Count,
}

/// From the domain.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromDomain {
    Ready,
    /// The confinement could not be set up. The text says at which step.
    Failed {
        message: String,
    },
    /// The call's worker is gone; its report is written.
    Ended {
        call: u64,
    },
    Count {
        processes: usize,
    },
}

/// What a worker is to do; in the first memory file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Bash {
        command: String,
        /// For the command's environment.
        traceparent: Option<String>,
    },
    Tool {
        name: String,
        input: Value,
    },
}

/// What became of it; in the second memory file. An empty one: the worker was killed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Exited(i32),
    Signalled(i32),
    NotStarted(String),
    Answer(ToolResult),
}

/// Sends a message. `WouldBlock` if the socket is full and not blocking.
pub(crate) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    if packet.len() > MAX_PACKET {
        return Err(io::Error::other(format!("a message of {} bytes does not fit a packet", packet.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    sendmsg(socket, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; `None` when the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&packet[..got.bytes])?, fds)))
}

/// A memory file that holds `content`.
pub(crate) fn memory(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file.into())
}

/// Reads the job that `fd` holds.
pub(crate) fn read_job(fd: impl AsFd) -> io::Result<Job> {
    Ok(serde_json::from_slice(&content(fd, u64::MAX)?)?)
}

/// Writes a worker's report.
pub(crate) fn write_report(fd: impl AsFd, report: &Report) -> io::Result<()> {
    File::from(fd.as_fd().try_clone_to_owned()?).write_all_at(&serde_json::to_vec(report)?, 0)
}

/// Reads a worker's report; `None` if it wrote none.
pub(crate) fn read_report(fd: impl AsFd) -> io::Result<Option<Report>> {
    let bytes = content(fd, MAX_REPORT)?;
    if bytes.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&bytes)?)) }
}

fn content(fd: impl AsFd, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    let size = file.metadata()?.len();
    if size > limit {
        return Err(io::Error::other(format!("{size} bytes, at most {limit} are read")));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
