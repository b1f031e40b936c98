//! Opening what is below a folder, so that nothing leads out of it: not `..`, not a link, and not one that somebody puts
//! in the way between two looks.
//!
//! Owns: the two ways to do it, and what went wrong in words. Must not know: what is done with what was opened.
//!
//! The kernel does it in one step (`openat2` with `RESOLVE_BENEATH`): a link that stays inside is followed, one that leads
//! out is refused, however often the tree changes meanwhile. Where it cannot (before Linux 5.6, behind an old seccomp
//! filter, in some sandboxes), every part of the path is opened by itself, relative to the one before, and no link is
//! followed at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use torpor_core::volume::Error;

/// How often a path is resolved anew because something was moved while the kernel walked along it.
const TRIES: u32 = 64;

/// Rights of new folders and files, before the process' mask.
pub(crate) const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);
pub(crate) const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// Which way is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// The kernel's, where there is one.
    Kernel,
    /// Step by step.
    Steps,
}

/// Set once the kernel has said that it cannot.
static NO_KERNEL: AtomicBool = AtomicBool::new(false);

impl Resolver {
    /// Opens what stands at `path` below `base`. With `plain`, no part of it may be a link. The last part is not made.
    pub(crate) fn open(self, base: BorrowedFd<'_>, path: &Path, flags: OFlags, plain: bool) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if self == Self::Steps || NO_KERNEL.load(Relaxed) {
            return steps(base, path, flags);
        }
        let links = if plain { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::NO_MAGICLINKS };
        for _ in 0..TRIES {
            match openat2(base, path, flags, Mode::empty(), ResolveFlags::BENEATH | links) {
                Err(Errno::AGAIN | Errno::INTR) => {} // something was moved meanwhile
                Err(Errno::NOSYS | Errno::OPNOTSUPP) => {
                    NO_KERNEL.store(true, Relaxed);
                    return steps(base, path, flags);
                }
                // What a filter says that does not know the call; if it was meant, the steps are told the same.
                Err(Errno::PERM) => return steps(base, path, flags),
                answer => return answer,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Opens one part after the other, each relative to the one before. No link is followed.
fn steps(base: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts = path.components().peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(Errno::XDEV) };
        let from = at.as_ref().map_or(base, AsFd::as_fd);
        let flags = if parts.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC } else { flags };
        let opened = retry(|| openat(from, name, flags | OFlags::NOFOLLOW, Mode::empty()))?;
        at = Some(opened);
    }
    at.ok_or(Errno::INVAL)
}

/// Repeats what a signal interrupted.
pub(crate) fn retry<T>(mut what: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match what() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// What an error of the system means for whoever named the place.
pub(crate) fn explain(e: Errno) -> Error {
    let refused = |text: &str| Error::Refused(text.to_owned());
    match e {
        Errno::NOENT => Error::Missing,
        Errno::XDEV => refused("leads out of the shared volume, or out of the tenant's part of it"),
        Errno::LOOP => refused("goes through a symbolic link that is not followed"),
        Errno::NOTDIR => refused("goes through something that is not a folder"),
        Errno::ISDIR | Errno::NOTEMPTY => refused("is a folder"),
        Errno::NXIO | Errno::NODEV => refused("is not a regular file"),
        Errno::ACCESS | Errno::PERM => refused("may not be used by this program: its rights forbid it"),
        Errno::NAMETOOLONG => refused("has a part whose name is too long"),
        other => away(other),
    }
}

/// The volume itself is the problem.
pub(crate) fn away(e: Errno) -> Error {
    Error::Away(io::Error::from(e).to_string())
}
