//! The daemon's socket.
//!
//! Owns: its name, paths that are too long for a socket address, and connecting. Must not know: frames.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

/// Name of the socket inside the state folder.
pub const NAME: &str = "sock";
/// Name of the file whose lock makes the daemon the only one.
pub const LOCK: &str = "lock";
/// Bytes of a path that fit into a socket address, with the final NUL.
const SUN_PATH: usize = 107;

/// A path to the socket that is short enough, and what must stay open while it is used.
pub(crate) fn address(state: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let path = state.join(NAME);
    if path.as_os_str().len() <= SUN_PATH {
        return Ok((path, None));
    }
    let dir = File::open(state)?;
    Ok((format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()).into(), Some(dir)))
}

/// Connects to the daemon of a state folder.
///
/// # Errors
/// What the system reports: `NotFound` or `ConnectionRefused` where no daemon runs.
pub async fn connect(state: &Path) -> io::Result<UnixStream> {
    let (path, dir) = address(state)?;
    let stream = UnixStream::connect(path).await;
    drop(dir);
    stream
}
