//! The journal of one session: what was accepted, how it ended, and the fence.
//!
//! Owns: the file format (one record a line, `<8 hex digits of SHA-256> <JSON>`), loading, and the order of writes.
//! Must not know: what a call does.
//!
//! A record that something is about to depend on (all but `Ended`) is synced, with all before it, before
//! its append returns. An `Ended` is written, and synced by whatever comes next: when the whole machine dies in between,
//! the call is lost, which is what everybody is told then, and is not run again. So a crash can tear only what follows
//! the last synced record: loading drops a broken end, and refuses a file that is broken before that.

mod rewrite;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use torpor_core::Epoch;
use torpor_exec_channel::message::Ended;

/// Largest journal that is loaded, in bytes.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of a line before its JSON.
const SUM: usize = 9;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Record {
    /// The session was bound to a workspace (`None`: one of its own).
    Opened {
        /// As the caller named it.
        workspace: Option<String>,
    },
    /// Lower epochs are refused from now on.
    Fence {
        /// The highest epoch seen.
        epoch: Epoch,
    },
    /// A call is about to have effects.
    Accepted {
        /// Its position.
        position: u64,
        /// Who asked.
        epoch: Epoch,
        /// Which start of the hands runs it.
        incarnation: String,
        /// Tool name.
        tool: String,
        /// Stands for tool and arguments: who asks for this position with another one does not mean this call.
        digest: String,
    },
    /// A call that nobody has asked for yet is not to be run.
    Cancelled {
        /// Its position.
        position: u64,
    },
    /// Calls up to here may have been left out of the journal: one that is not in it is not known any more, and not to
    /// be run.
    Floor {
        /// The last position of which that is so.
        position: u64,
    },
    /// A call is over.
    Ended {
        /// Its position.
        position: u64,
        /// How.
        ended: Ended,
    },
}

impl Record {
    /// Whether something depends on it as soon as it is appended.
    fn is_synced(&self) -> bool {
        !matches!(self, Self::Ended { .. })
    }
}

/// Where the JSON of a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    at: u64,
    len: usize,
}

/// What the journal knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// Accepted, and no end was written.
    Open {
        /// By this start of the hands.
        incarnation: String,
        /// What was asked for.
        digest: String,
    },
    /// Over.
    Ended {
        /// Where the record stands.
        place: Place,
        /// What was asked for.
        digest: String,
    },
    /// Cancelled before anybody asked for it.
    Cancelled,
}

impl Known {
    /// What was asked for.
    pub(crate) fn digest(&self) -> Option<&str> {
        match self {
            Self::Open { digest, .. } | Self::Ended { digest, .. } => Some(digest),
            Self::Cancelled => None,
        }
    }
}

/// What a journal says when it is loaded.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The workspace, if the session was ever opened.
    pub(crate) opened: Option<Option<String>>,
    /// The fence.
    pub(crate) fence: Epoch,
    /// Calls by position.
    pub(crate) calls: HashMap<u64, Known>,
    /// Calls up to this position may have been left out.
    pub(crate) floor: u64,
}

/// An open journal.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: Arc<PathBuf>,
    file: Arc<File>,
    len: u64,
    compact_at: u64,
}

impl Journal {
    /// Opens or creates the journal at `path`. Blocking.
    ///
    /// # Errors
    /// What the file system reports; `InvalidData` for a file that is broken before its end.
    pub(crate) fn load(path: &Path) -> io::Result<(Self, Past)> {
        let fresh = !path.try_exists()?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if fresh {
            file.sync_all()?;
            if let Some(dir) = path.parent() {
                File::open(dir)?.sync_all()?;
            }
        }
        let size = file.metadata()?.len();
        if size > MAX_BYTES {
            return Err(invalid(format!("{} has {size} bytes, at most {MAX_BYTES} are read", path.display())));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        let (past, len) = replay(&bytes).map_err(|at| invalid(format!("{} is broken at byte {at}", path.display())))?;
        if len < size {
            file.set_len(len)?;
            file.sync_all()?;
        }
        let path = Arc::new(path.to_owned());
        Ok((Self { path, file: Arc::new(file), len, compact_at: rewrite::COMPACT_AT.max(2 * len) }, past))
    }

    /// Appends a record, and syncs it unless it is an `Ended`. When this fails, nothing was appended: the next append takes its place.
    ///
    /// Not cancellation safe by itself: the caller holds the session's lock and drives it to its end.
    ///
    /// # Errors
    /// What the file system reports.
    pub(crate) async fn append(&mut self, record: &Record) -> io::Result<Place> {
        let (line, synced) = (encode(record)?, record.is_synced());
        let place = Place { at: self.len + SUM as u64, len: line.len() - SUM - 1 };
        let (file, at, written) = (self.file.clone(), self.len, line.len() as u64);
        let write = move || {
            let done = file.write_all_at(&line, at).and_then(|()| if synced { file.sync_data() } else { Ok(()) });
            if done.is_err() {
                let _ = file.set_len(at);
            }
            done
        };
        if synced {
            tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
        } else {
            write()?; // into the page cache
        }
        self.len += written;
        Ok(place)
    }

    /// Reads an `Ended` record back. Blocking, one page from the cache as a rule.
    ///
    /// # Errors
    /// What the file system reports; `InvalidData` if something else stands there.
    pub(crate) fn ended(&self, place: Place) -> io::Result<Ended> {
        let mut bytes = vec![0; place.len];
        self.file.read_exact_at(&mut bytes, place.at)?;
        match serde_json::from_slice(&bytes)? {
            Record::Ended { ended, .. } => Ok(ended),
            other => Err(invalid(format!("expected an end in the journal, found {other:?}"))),
        }
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn checksum(json: &[u8]) -> String {
    torpor_core::id::hex(&Sha256::digest(json)[..4])
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(record)?;
    let mut line = checksum(&json).into_bytes();
    line.push(b' ');
    line.extend_from_slice(&json);
    line.push(b'\n');
    Ok(line)
}

/// The JSON of a line whose checksum is right.
fn intact(line: &[u8]) -> Option<&[u8]> {
    let (sum, json) = line.split_at_checked(SUM)?;
    (sum[SUM - 1] == b' ' && sum[..SUM - 1] == *checksum(json).as_bytes()).then_some(json)
}

/// What the records say and where the good part ends; the offset of the damage if a synced record follows it, or of a
/// record that is whole and makes no sense.
fn replay(bytes: &[u8]) -> Result<(Past, u64), usize> {
    let (mut past, mut at) = (Past::default(), 0);
    while let Some(n) = bytes[at..].iter().position(|b| *b == b'\n') {
        let Some(json) = intact(&bytes[at..at + n]) else { break };
        // Whole, and yet not understood: it was not torn, another version wrote it.
        let record = serde_json::from_slice(json).map_err(|_| at)?;
        let place = Place { at: (at + SUM) as u64, len: n - SUM };
        match record {
            Record::Opened { workspace } => past.opened = Some(workspace),
            Record::Fence { epoch } => past.fence = past.fence.max(epoch),
            Record::Accepted { position, incarnation, digest, .. } => {
                past.calls.insert(position, Known::Open { incarnation, digest });
            }
            Record::Cancelled { position } => {
                past.calls.insert(position, Known::Cancelled);
            }
            Record::Floor { position } => past.floor = past.floor.max(position),
            Record::Ended { position, .. } => {
                let Some(known) = past.calls.get_mut(&position) else { return Err(at) };
                let Some(digest) = known.digest() else { return Err(at) };
                *known = Known::Ended { place, digest: digest.to_owned() };
            }
        }
        at += n + 1;
    }
    let damaged = &bytes[at..];
    let unsynced = |json: &[u8]| serde_json::from_slice(json).is_ok_and(|r: Record| !r.is_synced());
    if !damaged.split(|b| *b == b'\n').skip(1).filter_map(intact).all(unsynced) {
        return Err(at);
    }
    Ok((past, at as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use torpor_core::message::ToolResult;
    use torpor_exec_channel::message::{Exit, Extent};

    use super::*;

    fn records() -> Vec<Record> {
        let ended = Ended {
            exit: Exit::Code(0),
            result: Some(ToolResult::text("line\nline ünïcode")),
            output: Extent { total: 3, head: 3, tail: 0 },
        };
        vec![
            Record::Opened { workspace: None },
            Record::Fence { epoch: Epoch(3) },
            accepted(7),
            Record::Ended { position: 7, ended },
            accepted(9),
        ]
    }

    fn accepted(position: u64) -> Record {
        let (epoch, incarnation, tool) = (Epoch(3), "i".into(), "bash".into());
        Record::Accepted { position, epoch, incarnation, tool, digest: format!("d{position}") }
    }

    fn open(position: u64) -> Known {
        Known::Open { incarnation: "i".into(), digest: format!("d{position}") }
    }

    fn file() -> Vec<u8> {
        records().iter().flat_map(|r| encode(r).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_was_appended_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, past) = Journal::load(&path).unwrap();
        assert!(past.opened.is_none() && past.calls.is_empty());
        for r in records() {
            journal.append(&r).await.unwrap();
        }
        let (again, past) = Journal::load(&path).unwrap();
        assert_eq!((past.opened, past.fence), (Some(None), Epoch(3)));
        assert_eq!(past.calls[&9], open(9));
        let Known::Ended { place, digest } = past.calls[&7].clone() else { panic!("7 has ended") };
        assert_eq!(digest, "d7");
        assert_eq!(again.ended(place).unwrap().exit, Exit::Code(0));
    }

    proptest! {
        #[test]
        fn a_torn_end_costs_the_torn_record_only(cut in 0usize..2000, garbage in prop::collection::vec(any::<u8>(), 0..40)) {
            let whole = file();
            let cut = cut.min(whole.len());
            let kept = whole[..cut].iter().filter(|b| **b == b'\n').count();
            let good: usize = records()[..kept].iter().map(|r| encode(r).unwrap().len()).sum();
            let torn = [&whole[..cut], &garbage].concat();
            // Garbage may complete a line, never make it valid.
            let (_, len) = replay(&torn).unwrap();
            prop_assert_eq!(len, good as u64);
        }
    }

    #[test]
    fn damage_in_the_middle_is_refused() {
        let mut bytes = file();
        bytes[20] ^= 1;
        assert_eq!(replay(&bytes).unwrap_err(), 0);
    }

    #[test]
    fn whole_records_that_make_no_sense_are_refused_and_not_cut_off() {
        let line = |json: &str| format!("{} {json}\n", checksum(json.as_bytes())).into_bytes();
        for strange in [line(r#"{"later":{}}"#), encode(&records()[3]).unwrap()] {
            assert_eq!(replay(&strange).unwrap_err(), 0);
        }
    }

    #[test]
    fn ends_that_were_not_synced_yet_may_be_lost_in_any_order() {
        let line = |r: &Record| encode(r).unwrap();
        let records = records();
        let synced: Vec<u8> = records[..3].iter().flat_map(line).collect();
        let torn = vec![0; 70];
        let (past, len) = replay(&[&synced[..], &torn, b"\n", &line(&records[3])].concat()).unwrap();
        assert_eq!((past.calls[&7].clone(), len), (open(7), synced.len() as u64));
    }
}
