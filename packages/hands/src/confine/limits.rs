//! Resource limits of commands.
//!
//! Owns: the numbers. Must not know: levels.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files of one process: soft and hard.
const FILES: (u64, u64) = (4_096, 65_536);
/// Largest file in bytes.
const FILE_SIZE: u64 = 16 * 1024 * 1024 * 1024;
/// Private writable memory of one process in bytes.
const MEMORY: u64 = 16 * 1024 * 1024 * 1024;

/// Sets the limits; an existing lower one stays. The kernel exempts the machine's root user from the limit on processes,
/// but not from the number of process ids in a namespace (see `root`).
pub(super) fn apply(processes: u64, file_size: u64) -> io::Result<()> {
    let file_size = file_size.min(FILE_SIZE);
    for (resource, soft, hard) in [
        (Resource::Core, 0, 0),
        (Resource::Nproc, processes, processes),
        (Resource::Nofile, FILES.0, FILES.1),
        (Resource::Fsize, file_size, file_size),
        (Resource::Data, MEMORY, MEMORY),
    ] {
        let now = getrlimit(resource);
        let hard = now.maximum.map_or(hard, |m| m.min(hard));
        let soft = soft.min(hard);
        setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })?;
    }
    Ok(())
}
