//! How much of the machine a session uses.
//!
//! Owns: measuring folders, free space and memory. Must not know: what is done about it. Everything here blocks.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the smallest file or folder counts, in bytes: nobody fills a disk with empty ones.
const MIN_FILE: u64 = 4_096;
/// Files that must be left to be made where a file system counts them.
const MIN_FILES: u64 = 10_000;

/// Bytes on disk below some folders. Stops counting beyond `enough`. Links are not followed, and a file with several
/// names counts once; a folder that may not be read counts as empty.
pub(super) fn disk(folders: &[PathBuf], enough: u64) -> u64 {
    let (mut bytes, mut open) = (0u64, folders.to_vec());
    let mut linked = HashSet::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                open.push(entry.path());
            } else if meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += (meta.blocks() * 512).max(MIN_FILE);
            if bytes > enough {
                return bytes;
            }
        }
    }
    bytes
}

/// Whether the file system of a folder has fewer than `least` bytes left, or hardly any files.
///
/// # Errors
/// What the file system reports.
pub(super) fn is_full(folder: &Path, least: u64) -> io::Result<bool> {
    let s = rustix::fs::statvfs(folder)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize) < least || (s.f_files > 0 && s.f_favail < MIN_FILES.min(s.f_files / 100)))
}

/// Memory in bytes that processes hold, without counting twice what they share; by what is shown of each where that is
/// not to be had.
pub(super) fn memory(processes: &[(i32, u64)]) -> u64 {
    let share = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let kib: u64 = text.lines().find_map(|l| l.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())?;
        Some(kib * 1024)
    };
    processes.iter().map(|(pid, resident)| share(*pid).unwrap_or(*resident)).sum()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn disk_counts_what_is_stored_once_and_stops_when_it_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("deep/er")).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(a.join("deep/er/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(a.join("deep/er/file"), b.join("same")).unwrap();
        symlink("/usr", b.join("link")).unwrap();
        fs::File::create(b.join("sparse")).unwrap().set_len(1 << 40).unwrap();
        let used = disk(&[a.clone(), b], u64::MAX);
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
        for n in 0..100 {
            fs::write(a.join(n.to_string()), "").unwrap();
        }
        assert!(disk(std::slice::from_ref(&a), u64::MAX) > used + 90 * MIN_FILE, "empty files count");
        assert!(disk(&[a], 50_000) < 2 << 20);
    }

    #[test]
    fn free_space_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_full(dir.path(), 1).unwrap() && is_full(dir.path(), u64::MAX).unwrap());
        assert!(is_full(&dir.path().join("missing"), 1).is_err());
    }

    #[test]
    fn memory_is_that_of_the_processes() {
        let own = std::process::id().cast_signed();
        assert!((1 << 20..1 << 30).contains(&memory(&[(own, 0)])));
        assert_eq!(memory(&[(i32::MAX, 7)]), 7);
    }
}
