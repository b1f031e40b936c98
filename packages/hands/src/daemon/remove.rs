//! Removing a folder that commands filled.
//!
//! Owns: doing so whatever they left: folders without permissions, or nested deeper than a call stack. Must not know:
//! whose folder it is.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Passes over what is left, one a level of nesting. Beyond it, something must be filling the folder all the time.
const MAX_PASSES: u32 = 1_000_000;

/// Moves the folder `from` into `trash` if it is there, and removes `trash` with all that it holds; how many files and
/// folders went. To be repeated after a crash or an error, and then goes on where that was. Blocking.
///
/// What still writes there (a command of a daemon that was killed, and that is about to die too) writes into the trash.
///
/// # Errors
/// What the file system reports.
pub(super) fn remove(from: &Path, trash: &Path) -> io::Result<u64> {
    if !from.symlink_metadata().is_ok_and(|m| m.is_dir()) && !trash.try_exists()? {
        return Ok(0);
    }
    fs::create_dir_all(trash)?;
    let run = uuid::Uuid::new_v4().simple();
    let mut names = (0u64..).map(|n| trash.join(format!("{run}-{n}")));
    let mut lift = |folder: &Path| match names.next() {
        Some(name) => fs::rename(folder, name),
        None => Err(io::Error::other("out of names")),
    };
    unless_gone(lift(from))?;
    let mut removed = 0;
    for _ in 0..MAX_PASSES {
        let mut found = false;
        for entry in fs::read_dir(trash)? {
            let (entry, path) = entry.map(|e| (e.file_type(), e.path()))?;
            found = true;
            removed += if entry?.is_dir() { empty(&path, &mut lift)? } else { unlink(&path)? };
        }
        if !found {
            unless_gone(fs::remove_dir(trash))?;
            return Ok(removed);
        }
    }
    Err(io::Error::other(format!("{} is being filled while it is removed", trash.display())))
}

/// Removes a folder of the trash. Folders in it are lifted into the trash first, so that depth costs nothing.
fn empty(folder: &Path, lift: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<u64> {
    open_up(folder)?;
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let (entry, path) = entry.map(|e| (e.file_type(), e.path()))?;
        if entry?.is_dir() {
            open_up(&path)?; // a folder that is moved is written to: its parent changes
            unless_gone(lift(&path))?;
        } else {
            removed += unlink(&path)?;
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(removed + 1),
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => Ok(removed), // the next pass comes back to it
        Err(e) => unless_gone(Err(e)).map(|()| removed),
    }
}

/// Commands may take their own permissions away; the daemon is the owner, and nothing follows links here.
fn open_up(folder: &Path) -> io::Result<()> {
    unless_gone(fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
}

fn unlink(file: &Path) -> io::Result<u64> {
    unless_gone(fs::remove_file(file)).map(|()| 1)
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder as commands may leave it: links out, folders without permissions, and more levels than a stack bears.
    fn leaf(dir: &Path) -> std::path::PathBuf {
        let leaf = dir.join("leaf");
        fs::create_dir_all(leaf.join("a/b/c")).unwrap();
        fs::write(leaf.join("a/b/c/file"), "x").unwrap();
        fs::write(dir.join("outside"), "kept").unwrap();
        symlink(dir, leaf.join("a/link")).unwrap();
        symlink("nowhere", leaf.join("a/b/dangling")).unwrap();
        for locked in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(leaf.join(locked), fs::Permissions::from_mode(0o000)).unwrap();
        }
        leaf
    }

    #[test]
    fn what_commands_left_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (leaf, trash) = (leaf(dir.path()), dir.path().join("trash"));
        assert_eq!(remove(&leaf, &trash).unwrap(), 7);
        assert_eq!(remove(&leaf, &trash).unwrap(), 0);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["outside"]);
    }

    #[test]
    fn depth_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (leaf, trash) = (dir.path().join("leaf"), dir.path().join("trash"));
        let deep = "d/".repeat(1_000);
        fs::create_dir_all(leaf.join(&deep)).unwrap();
        for _ in 0..9 {
            // Paths have a bound, nesting has none.
            fs::create_dir_all(dir.path().join("next").join(&deep)).unwrap();
            fs::rename(&leaf, dir.path().join("next").join(&deep).join("d")).unwrap();
            fs::rename(dir.path().join("next"), &leaf).unwrap();
        }
        assert!(remove(&leaf, &trash).unwrap() > 10_000);
        assert!(!leaf.exists() && !trash.exists());
    }

    #[test]
    fn a_removal_that_was_broken_off_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let (first, trash) = (leaf(dir.path()), dir.path().join("trash"));
        // Died after the folder was moved; then it was made anew.
        fs::create_dir(&trash).unwrap();
        fs::rename(&first, trash.join("0")).unwrap();
        let second = leaf(dir.path());
        assert_eq!(remove(&second, &trash).unwrap(), 14);
        assert!(!trash.exists() && dir.path().join("outside").exists());
    }
}
