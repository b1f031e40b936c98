//! Putting another journal in the place of one, in a single step.
//!
//! Owns: which calls a journal that has grown leaves out, and what a forgotten session keeps. Must not know: what asks
//! for it.
//!
//! The new journal is written beside the old one, synced, and renamed onto it: a crash leaves one of the two, whole.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use torpor_core::Epoch;

use super::{Journal, Known, Past, Record, encode, intact, invalid, replay};

/// Bytes from which on a journal is worth compacting. What is left is at most half of it, unless calls that run need
/// more.
pub(super) const COMPACT_AT: u64 = 16 * 1024 * 1024;

impl Journal {
    /// Forgets everything but the fence.
    ///
    /// # Errors
    /// What the file system reports; the journal is then as it was.
    pub(crate) async fn forget(&mut self, fence: Epoch) -> io::Result<()> {
        let line = encode(&Record::Fence { epoch: fence })?;
        self.replace(move |_| Ok(line)).await.map(drop)
    }

    /// Whether it has grown since it was last compacted, as far as that is worth it.
    pub(crate) fn has_grown(&self) -> bool {
        self.len >= self.compact_at
    }

    /// Leaves out the oldest calls that are over; `live` are those that are not. What is known from now on.
    ///
    /// # Errors
    /// What the file system reports; the journal is then as it was.
    pub(crate) async fn compact(&mut self, live: HashSet<u64>) -> io::Result<Past> {
        // If this fails it is not tried again at every call.
        self.compact_at = 2 * self.len;
        let past = self.replace(move |old| compacted(old, &live, COMPACT_AT / 2)).await?;
        self.compact_at = COMPACT_AT.max(2 * self.len);
        Ok(past)
    }

    /// Puts what `make` makes of the old bytes in their place.
    async fn replace(&mut self, make: impl FnOnce(&[u8]) -> io::Result<Vec<u8>> + Send + 'static) -> io::Result<Past> {
        let (path, file, len) = (self.path.clone(), self.file.clone(), self.len);
        let done = tokio::task::spawn_blocking(move || {
            let mut old = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut old, 0)?;
            let new = make(&old)?;
            let (past, good) = replay(&new).map_err(|at| invalid(format!("byte {at} of a new journal")))?;
            let beside = beside(&path);
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&beside)?;
            file.write_all_at(&new, 0)?;
            file.sync_all()?;
            fs::rename(&beside, &*path)?;
            if let Some(dir) = path.parent() {
                // Renamed: from here on the new file is the journal, whether the folder could be synced or not. A
                // crash that brings the old one back brings back the same fence and more calls.
                let _ = File::open(dir).and_then(|d| d.sync_all());
            }
            Ok::<_, io::Error>((past, file, good))
        });
        let (past, file, len) = done.await.map_err(io::Error::other)??;
        (self.file, self.len) = (Arc::new(file), len);
        Ok(past)
    }
}

fn beside(path: &std::path::Path) -> PathBuf {
    path.with_extension("new")
}

/// The same journal without its oldest calls, so that the ends of the others take at most `most` bytes.
fn compacted(old: &[u8], live: &HashSet<u64>, most: u64) -> io::Result<Vec<u8>> {
    let (past, _) = replay(old).map_err(|at| invalid(format!("the journal is broken at byte {at}")))?;
    let mut positions: Vec<(u64, u64)> = past.calls.iter().map(|(at, known)| (*at, size(known))).collect();
    positions.sort_unstable_by(|a, b| b.cmp(a));
    let (mut left, mut floor) = (most, past.floor);
    for (position, size) in positions {
        let Some(rest) = left.checked_sub(size) else {
            floor = floor.max(position);
            break;
        };
        left = rest;
    }
    let mut new = Vec::new();
    if let Some(workspace) = past.opened {
        new.extend(encode(&Record::Opened { workspace })?);
    }
    new.extend(encode(&Record::Fence { epoch: past.fence })?);
    new.extend(encode(&Record::Floor { position: floor })?);
    for line in old.split_inclusive(|b| *b == b'\n') {
        let Some(json) = line.strip_suffix(b"\n").and_then(intact) else { break };
        let position = match serde_json::from_slice(json)? {
            Record::Opened { .. } | Record::Fence { .. } | Record::Floor { .. } => continue,
            Record::Accepted { position, .. } | Record::Cancelled { position } | Record::Ended { position, .. } => {
                position
            }
        };
        if position > floor || live.contains(&position) {
            new.extend_from_slice(line);
        }
    }
    Ok(new)
}

/// About how many bytes of a journal a call takes.
fn size(known: &Known) -> u64 {
    const ACCEPTED: u64 = 256;
    match known {
        Known::Ended { place, .. } => ACCEPTED + place.len as u64,
        Known::Open { .. } | Known::Cancelled => ACCEPTED,
    }
}

#[cfg(test)]
mod tests {
    use torpor_core::message::ToolResult;
    use torpor_exec_channel::message::{Ended, Exit, Extent};

    use super::*;

    fn accepted(position: u64) -> Record {
        let (epoch, incarnation, tool) = (Epoch(3), "i".into(), "bash".into());
        Record::Accepted { position, epoch, incarnation, tool, digest: format!("d{position}") }
    }

    fn ended(position: u64, text: &str) -> Record {
        let result = Some(ToolResult::text(text));
        Record::Ended { position, ended: Ended { exit: Exit::Code(0), result, output: Extent::default() } }
    }

    async fn journal(dir: &std::path::Path, calls: u64, bytes: usize) -> Journal {
        let (mut journal, _) = Journal::load(&dir.join("journal")).unwrap();
        for r in [Record::Opened { workspace: Some("/w".into()) }, Record::Fence { epoch: Epoch(3) }, accepted(1)] {
            journal.append(&r).await.unwrap();
        }
        for position in 2..=calls {
            journal.append(&accepted(position)).await.unwrap();
            journal.append(&ended(position, &"x".repeat(bytes))).await.unwrap();
        }
        journal
    }

    #[tokio::test]
    async fn a_forgotten_journal_keeps_the_fence_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(dir.path(), 4, 10).await;
        journal.forget(Epoch(9)).await.unwrap();
        journal.append(&accepted(2)).await.unwrap();
        let (_, past) = Journal::load(&dir.path().join("journal")).unwrap();
        assert_eq!((past.opened, past.fence, past.floor), (None, Epoch(9), 0));
        assert_eq!(past.calls.len(), 1);
    }

    #[tokio::test]
    async fn a_journal_that_has_grown_leaves_out_its_oldest_calls_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(dir.path(), 40, 500_000).await;
        assert!(journal.has_grown());
        let past = journal.compact(HashSet::from([1])).await.unwrap();
        assert!(!journal.has_grown() && journal.len <= COMPACT_AT / 2 + 500_000);
        let (again, reloaded) = Journal::load(&dir.path().join("journal")).unwrap();
        assert_eq!(reloaded.calls, past.calls);
        assert_eq!((reloaded.opened, reloaded.fence), (Some(Some("/w".into())), Epoch(3)));
        // What runs stays, whatever its age; of the others the newest, without a gap.
        assert!(matches!(past.calls[&1], Known::Open { .. }));
        assert!(past.floor > 20 && (2..=past.floor).all(|p| !past.calls.contains_key(&p)));
        for position in past.floor + 1..=40 {
            let Known::Ended { place, .. } = past.calls[&position].clone() else { panic!("{position} has ended") };
            assert_eq!(again.ended(place).unwrap().exit, Exit::Code(0));
        }
    }

    #[tokio::test]
    async fn a_new_journal_that_was_not_finished_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        journal(dir.path(), 4, 10).await;
        fs::write(dir.path().join("journal.new"), b"half a li").unwrap();
        let (mut journal, past) = Journal::load(&dir.path().join("journal")).unwrap();
        assert_eq!((past.calls.len(), past.fence), (4, Epoch(3)));
        journal.forget(Epoch(4)).await.unwrap();
        assert!(!dir.path().join("journal.new").exists());
    }
}
