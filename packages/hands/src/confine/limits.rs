//! Resource limits of commands.
//!
//! Owns: the numbers. Must not know: levels.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Processes and threads of one session. The kernel exempts the machine's root user from the limit, but not from the
/// number of process ids in a namespace (see `root`).
pub(super) const PROCESSES: u64 = 2_048;
/// Open files of one process: soft and hard.
const FILES: (u64, u64) = (4_096, 65_536);
/// Largest file in bytes.
const FILE_SIZE: u64 = 16 * 1024 * 1024 * 1024;
/// Private writable memory of one process in bytes.
const MEMORY: u64 = 16 * 1024 * 1024 * 1024;

/// Sets the limits; an existing lower one stays.
pub(super) fn apply() -> io::Result<()> {
    for (resource, soft, hard) in [
        (Resource::Core, 0, 0),
        (Resource::Nproc, PROCESSES, PROCESSES),
        (Resource::Nofile, FILES.0, FILES.1),
        (Resource::Fsize, FILE_SIZE, FILE_SIZE),
        (Resource::Data, MEMORY, MEMORY),
    ] {
        let now = getrlimit(resource);
        let hard = now.maximum.map_or(hard, |m| m.min(hard));
        let soft = soft.min(hard);
        setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })?;
    }
    Ok(())
}
