//! Replacing a file's content in one step.
//!
//! Owns: temporary file, sync, rename, and keeping what the old file was (mode, owner, being a link's target).
//! Must not know where the content comes from.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::{Context, open, path};

/// Links followed from a path to the file it stands for; as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Writes `content` to `target`, which the model wrote as `given`. A reader sees the old content or the new, never a
/// part, also after a crash. A link stays a link: what it points to is replaced.
///
/// # Errors
/// A text for the model. The old content is untouched then. A cancelled call fails here at the latest.
pub(crate) fn replace(ctx: &Context, given: &str, target: &Path, content: &[u8]) -> Result<(), String> {
    let file = follow(target).map_err(|e| path::failure(ctx, "write", given, target, &e))?;
    let old = existing(ctx, given, &file)?;
    let explain = |e: io::Error| path::failure(ctx, "write", given, &file, &e);
    let parent = file.parent().ok_or_else(|| format!("{given} is a directory, not a file."))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".torpor-")
        .suffix(".tmp")
        // Less the umask, as for any new file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent)
        .map_err(explain)?;
    temporary.write_all(content).map_err(explain)?;
    if let Some(old) = old {
        if temporary.as_file().metadata().is_ok_and(|new| (new.uid(), new.gid()) != (old.uid(), old.gid())) {
            // Only root may give files away. Elsewhere the new content belongs to whoever wrote it.
            let _ = fchown(temporary.as_file(), Some(old.uid()), Some(old.gid()));
        }
        // After the owner, which a change of would clear bits. Set-id bits go, as they do on any write.
        let mode = Permissions::from_mode(old.mode() & 0o777);
        temporary.as_file().set_permissions(mode).map_err(explain)?;
    }
    temporary.as_file().sync_all().map_err(explain)?;
    ctx.check_cancelled()?;
    temporary.persist(&file).map_err(|e| explain(e.error))?;
    // The content is in place. Some file systems cannot sync a directory, and there is nothing better to do then.
    if let Ok(directory) = File::open(parent) {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// The old file, if there is one, after making sure that it may be written: a rename would not ask.
fn existing(ctx: &Context, given: &str, file: &Path) -> Result<Option<fs::Metadata>, String> {
    match fs::symlink_metadata(file) {
        Ok(meta) => {
            open::check_kind(given, &meta)?;
            match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(file) {
                Ok(_) => Ok(Some(meta)),
                // A program that is running can be replaced, only not overwritten.
                Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => Ok(Some(meta)),
                Err(e) => Err(path::failure(ctx, "write", given, file, &e)),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(path::failure(ctx, "write", given, file, &e)),
    }
}

/// The file at the end of a chain of links, whether it exists or not.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut file = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&file) {
            Ok(to) => file = file.parent().unwrap_or_else(|| Path::new("/")).join(to),
            // Not a link, or not there.
            Err(_) => return Ok(file),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}
