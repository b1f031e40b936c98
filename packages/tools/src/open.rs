//! Opening a regular file, and only that.
//!
//! Owns: refusing directories, pipes and devices with a text that says what to do. Must not know what is read.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::{Context, path};

/// Opens a file for reading. A pipe or device is refused and never waited for: the check is made on what was
/// opened, so nothing can be put in its place in between.
pub(crate) fn regular(ctx: &Context, given: &str, path: &Path) -> Result<(File, Metadata), String> {
    let (file, meta) = match without_waiting(path) {
        Ok(opened) => opened,
        // A socket cannot be opened at all.
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {
            return Err(format!("{given} is not a regular file."));
        }
        Err(e) => return Err(path::failure(ctx, "read", given, path, &e)),
    };
    check_kind(given, &meta)?;
    Ok((file, meta))
}

/// Opens whatever `path` is, and never waits for the other end of a pipe.
pub(crate) fn without_waiting(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// Refuses anything that is no regular file.
pub(crate) fn check_kind(given: &str, meta: &Metadata) -> Result<(), String> {
    let kind = meta.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(format!("{given} is a directory. Use ls to list it."))
    } else if kind.is_fifo() {
        Err(format!("{given} is a named pipe, not a regular file."))
    } else if kind.is_socket() {
        Err(format!("{given} is a socket, not a regular file."))
    } else {
        Err(format!("{given} is a device, not a regular file."))
    }
}
