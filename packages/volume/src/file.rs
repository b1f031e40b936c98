//! Reading, publishing, removing and moving files, with what `beneath` opens.
//!
//! A file comes to stand under its name in one step: it is written under another one in the same folder, synced, renamed, and
//! the folder is synced. All of it goes through the folder that was opened once, so nothing that happens to the path
//! meanwhile leads it elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, fsync, mkdirat, open, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use torpor_core::volume::{Error, Kind, Listed, Place};

use crate::beneath::{FILE_MODE, FOLDER_MODE, away, explain, retry};
use crate::{Inner, leftover, part};

/// Deepest path.
const MAX_DEPTH: usize = 64;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
const ONLY_PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl Inner {
    /// The root as it is now: it may have been mounted anew.
    pub(crate) fn root(&self) -> Result<OwnedFd, Error> {
        let flags = ONLY_PATH | OFlags::DIRECTORY;
        retry(|| open(&self.root, flags, Mode::empty()))
            .map_err(|e| Error::Away(format!("{}: {}", self.root.display(), std::io::Error::from(e))))
    }

    /// Whose part of the volume it is, open, and the path in it. `None` when a tenant's part is not there and is not made.
    fn base(&self, place: &Place, make: bool) -> Result<Option<OwnedFd>, Error> {
        if place.path.components().count() > MAX_DEPTH {
            return Err(Error::Refused(format!("has more than {MAX_DEPTH} parts")));
        }
        let root = self.root()?;
        let Some(tenant) = &place.tenant else { return Ok(Some(root)) };
        let folder = part::folder(tenant);
        let found = self.folder(root.as_fd(), Path::new(&folder), true, make)?;
        Ok(found)
    }

    /// A folder below `base`, made with those above it if need be. `None` when it is not there and is not made.
    fn folder(&self, base: BorrowedFd<'_>, path: &Path, plain: bool, make: bool) -> Result<Option<OwnedFd>, Error> {
        if path.as_os_str().is_empty() {
            return openat(base, ".", FOLDER, Mode::empty()).map(Some).map_err(explain);
        }
        match self.resolver.open(base, path, FOLDER, plain) {
            Ok(found) => return Ok(Some(found)),
            Err(Errno::NOENT) if !make => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(explain(e)),
        }
        let (parent, name) = (path.parent().unwrap_or_else(|| Path::new("")), path.file_name().unwrap_or_default());
        // As deep as the path is; its depth is bounded.
        let Some(parent) = self.folder(base, parent, plain, true)? else { return Err(Error::Missing) };
        match retry(|| mkdirat(&parent, name, FOLDER_MODE)) {
            Ok(()) => sync(parent.as_fd())?,
            Err(Errno::EXIST) => {} // somebody else was faster, or it is something else: the next step sees which
            Err(e) => return Err(explain(e)),
        }
        match self.resolver.open(base, path, FOLDER, plain) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Err(Error::Refused("goes through a symbolic link that leads nowhere".to_owned())),
            Err(e) => Err(explain(e)),
        }
    }

    /// The folder that a file is in, and the file's name.
    fn parent<'p>(&self, place: &'p Place, make: bool) -> Result<Option<(OwnedFd, &'p OsStr)>, Error> {
        let Some(name) = place.path.file_name() else {
            return Err(Error::Refused("must name a file".to_owned()));
        };
        let Some(base) = self.base(place, make)? else { return Ok(None) };
        let above = place.path.parent().unwrap_or_else(|| Path::new(""));
        let folder = self.folder(base.as_fd(), above, place.plain, make)?;
        Ok(folder.map(|folder| (folder, name)))
    }

    pub(crate) fn read(&self, place: &Place, max: usize) -> Result<Vec<u8>, Error> {
        let base = self.base(place, false)?.ok_or(Error::Missing)?;
        let open = |flags| self.resolver.open(base.as_fd(), &place.path, flags, place.plain).map_err(explain);
        // A look first: opening a pipe or a device may have an effect.
        check_regular(&fstat(open(ONLY_PATH)?).map_err(away)?)?;
        let file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        let before = fstat(&file).map_err(away)?;
        check_regular(&before)?;
        let too_large = || Error::Refused(format!("must be at most {max} bytes"));
        if usize::try_from(before.st_size).map_or(true, |size| size > max) {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(before.st_size).unwrap_or(0));
        let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        (&file).take(most).read_to_end(&mut bytes).map_err(|e| Error::Away(e.to_string()))?;
        let after = fstat(&file).map_err(away)?;
        if !is_same(&before, &after) || u64::try_from(after.st_size).ok() != u64::try_from(bytes.len()).ok() {
            let advice = "was written to while it was read: write under another name and rename";
            return Err(Error::Refused(advice.to_owned()));
        }
        if bytes.len() > max { Err(too_large()) } else { Ok(bytes) }
    }

    pub(crate) fn publish(&self, place: &Place, bytes: &[u8]) -> Result<(), Error> {
        let (folder, name) = self.parent(place, true)?.ok_or(Error::Missing)?;
        let draft = leftover::name();
        let written = write(folder.as_fd(), &draft, bytes).and_then(|written| {
            retry(|| renameat(&folder, &*draft, &folder, name)).map_err(explain)?;
            Ok(written)
        });
        match written {
            Ok(written) => {
                sync(folder.as_fd())?;
                self.leftovers.sweep(folder.as_fd(), &written);
                Ok(())
            }
            Err(e) => {
                let _ = unlinkat(&folder, &*draft, AtFlags::empty()); // it is swept later if this fails
                Err(e)
            }
        }
    }

    pub(crate) fn remove(&self, place: &Place) -> Result<(), Error> {
        let Some((folder, name)) = self.parent(place, false)? else { return Ok(()) };
        match retry(|| unlinkat(&folder, name, AtFlags::empty())) {
            Ok(()) => sync(folder.as_fd()),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(explain(e)),
        }
    }

    pub(crate) fn rename(&self, from: &Place, to: &Place) -> Result<bool, Error> {
        let Some((source, old)) = self.parent(from, false)? else { return Ok(false) };
        // Nothing is made for what is not there.
        if matches!(statat(&source, old, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            return Ok(false);
        }
        let (target, new) = self.parent(to, true)?.ok_or(Error::Missing)?;
        match retry(|| renameat(&source, old, &target, new)) {
            Ok(()) => {
                sync(target.as_fd())?;
                sync(source.as_fd())?;
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(explain(e)),
        }
    }

    pub(crate) fn make(&self, place: &Place) -> Result<(), Error> {
        let base = self.base(place, true)?.ok_or(Error::Missing)?;
        self.folder(base.as_fd(), &place.path, place.plain, true).map(drop)
    }

    pub(crate) fn list(&self, place: &Place, max: usize) -> Result<Vec<Listed>, Error> {
        let base = self.base(place, false)?.ok_or(Error::Missing)?;
        let folder = self.folder(base.as_fd(), &place.path, place.plain, false)?.ok_or(Error::Missing)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder).map_err(away)? {
            let entry = entry.map_err(away)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || leftover::is_leftover(name) {
                continue;
            }
            if found.len() == max {
                break;
            }
            let of_type = match entry.file_type() {
                // Some file systems do not say.
                FileType::Unknown => match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(it) => FileType::from_raw_mode(it.st_mode),
                    Err(_) => continue, // it is gone already
                },
                known => known,
            };
            let kind = match of_type {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Folder,
                _ => Kind::Other,
            };
            found.push(Listed { name: OsString::from(name), kind });
        }
        Ok(found)
    }
}

/// Writes a new file, durably but for its name.
fn write(folder: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<Stat, Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(retry(|| openat(folder, name, flags, FILE_MODE)).map_err(explain)?);
    let failed = |e: std::io::Error| Error::Away(e.to_string());
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fstat(&file).map_err(away)
}

/// Makes what happened to a folder's names durable. Some file systems cannot be asked to; there it is not for us to say.
fn sync(folder: BorrowedFd<'_>) -> Result<(), Error> {
    match retry(|| fsync(folder)) {
        Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(away(e)),
    }
}

fn check_regular(it: &Stat) -> Result<(), Error> {
    match FileType::from_raw_mode(it.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Error::Refused("is a folder".to_owned())),
        _ => Err(Error::Refused("is not a regular file".to_owned())),
    }
}

/// Whether nobody has written to a file between two looks, as far as its times tell. That it lost its name meanwhile does
/// not count.
fn is_same(a: &Stat, b: &Stat) -> bool {
    let of = |it: &Stat| (it.st_size, it.st_mtime, it.st_mtime_nsec);
    of(a) == of(b)
}
