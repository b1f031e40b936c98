//! The output of one command: a bounded file that the model can read, and what is needed to replay it.
//!
//! Owns: the cap, the tail beyond it, which byte came from which stream, and reading from an offset while the command
//! runs and after it has ended. Must not know: connections, or how the command is run.
//!
//! `output` holds the first [`OUTPUT_CAP`] bytes of both streams in order of arrival; if there was more, a notice and
//! the last [`TAIL`] bytes follow. `segments` says which run of bytes came from where: a big-endian `u32` each, the top
//! bit set for standard error.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use torpor_exec_channel::message::Extent;

/// Bytes of a command's output that are kept from its start.
pub(crate) const OUTPUT_CAP: u64 = 64 * 1024 * 1024;
/// Bytes kept from its end when it is longer than that.
pub(crate) const TAIL: usize = 64 * 1024;
/// Runs of bytes from one stream that are kept apart in the first part.
const MAX_SEGMENTS: usize = 1 << 18;
/// Marks a segment of standard error.
const STDERR: u32 = 1 << 31;

/// Where a byte came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What stands at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The offset as eight big-endian bytes, then bytes of one stream: the payload of a frame.
    Data(Source, Vec<u8>),
    /// So many bytes were not kept.
    Gap(u64),
    /// Nothing yet.
    Wait,
    /// Nothing more will come.
    End,
}

/// How far a reader has come.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    at: u64,
    segment: usize,
    segment_at: u64,
}

impl Cursor {
    /// A reader that begins at `at`.
    pub(crate) fn new(at: u64) -> Self {
        Self { at, ..Self::default() }
    }

    /// Where it stands.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }
}

/// What is said of a finished output.
#[derive(Debug)]
pub(crate) struct Summary {
    /// What was kept.
    pub(crate) extent: Extent,
    /// Lines, a last one without line break included.
    pub(crate) lines: u64,
    /// The last bytes, at least what a result can show.
    pub(crate) tail: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,      // none before the first byte, after the disk refused a write, and once swept
    create: Option<PathBuf>, // where the first byte makes it
    extent: Extent,
    tail_at: u64, // where the tail stands in the file
    segments: Vec<u32>,
    full: bool,
    finished: bool,
    newlines: u64,
    last: Option<u8>,
    tail: Vec<u8>,           // up to twice TAIL, so that trimming is rare
    tail_segments: Vec<u32>, // of what is in `tail`
}

/// The output of one command.
#[derive(Debug)]
pub(crate) struct Output {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    segments_path: PathBuf,
}

impl Output {
    /// A fresh output. Its files are made when there is something to put into them.
    pub(crate) fn create(output: PathBuf, segments: PathBuf) -> Self {
        let inner = Inner { create: Some(output), ..Inner::default() };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(()), segments_path: segments }
    }

    /// The output of a call that has ended. Files that were swept are one gap.
    pub(crate) fn reopen(output: &Path, segments: &Path, extent: Extent) -> Self {
        let mut inner = Inner { extent, finished: true, ..Inner::default() };
        if let Ok((file, list)) = File::open(output).and_then(|f| Ok((f, read_segments(segments)?))) {
            let size = file.metadata().map_or(0, |m| m.len());
            inner.tail_at = size.saturating_sub(extent.tail);
            (inner.file, inner.segments) = (Some(file), list);
        }
        if inner.file.is_none() {
            (inner.extent.head, inner.extent.tail) = (0, 0);
        }
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(()), segments_path: segments.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes that arrived. After [`Self::finish`] they are dropped.
    pub(crate) fn append(&self, source: Source, data: &[u8]) {
        let mut o = self.lock();
        if o.finished || data.is_empty() {
            return;
        }
        o.extent.total += data.len() as u64;
        o.newlines += data.iter().map(|b| u64::from(*b == b'\n')).sum::<u64>();
        o.last = data.last().copied();
        let room = usize::try_from(OUTPUT_CAP - o.extent.head).unwrap_or(usize::MAX);
        let (kept, rest) = data.split_at(if o.full { 0 } else { room.min(data.len()) });
        let lost = o.keep(source, kept);
        if lost {
            o.keep_tail(source, kept);
        }
        if !rest.is_empty() {
            o.full = true;
            o.keep_tail(source, rest);
        }
        drop(o);
        self.changed.send_replace(());
    }

    /// No more will come. Writes the tail and the segments.
    pub(crate) fn finish(&self) -> Summary {
        let mut o = self.lock();
        o.finished = true;
        o.trim_tail(TAIL);
        o.write_tail();
        let bytes: Vec<u8> = o.segments.iter().flat_map(|s| s.to_be_bytes()).collect();
        if o.extent.total > 0 && write_new(&self.segments_path, &bytes).is_err() {
            // Without them a replay would guess: it says that the bytes are missing instead. The file stays readable.
            o.segments.clear();
        }
        let lines = o.newlines + u64::from(o.last.is_some_and(|b| b != b'\n'));
        let tail = o.last_bytes();
        o.tail = Vec::new();
        let summary = Summary { extent: o.extent, lines, tail };
        drop(o);
        self.changed.send_replace(());
        summary
    }

    /// Something may have changed since the receiver last looked.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What stands at the cursor, at most `max` bytes of it; moves the cursor. Blocking, from the page cache as a rule.
    ///
    /// # Errors
    /// What the file system reports.
    pub(crate) fn read(&self, cursor: &mut Cursor, max: usize) -> io::Result<Piece> {
        let o = self.lock();
        let (head, tail, total) = (o.extent.head, o.extent.tail, o.extent.total);
        if cursor.at >= total || (cursor.at >= head && !o.finished) {
            return Ok(if o.finished { Piece::End } else { Piece::Wait });
        }
        let tail_from = total - tail;
        if cursor.at >= head && cursor.at < tail_from {
            let gap = tail_from - cursor.at;
            cursor.at = tail_from;
            return Ok(Piece::Gap(gap));
        }
        // Segments count kept bytes: what was left out between head and tail is not among them.
        let in_tail = cursor.at >= head;
        let kept_at = if in_tail { head + (cursor.at - tail_from) } else { cursor.at };
        let segment = loop {
            let Some(segment) = o.segments.get(cursor.segment) else {
                let gap = total - cursor.at;
                cursor.at = total;
                return Ok(Piece::Gap(gap));
            };
            let len = u64::from(segment & !STDERR);
            if kept_at < cursor.segment_at + len {
                break segment;
            }
            (cursor.segment, cursor.segment_at) = (cursor.segment + 1, cursor.segment_at + len);
        };
        let left = cursor.segment_at + u64::from(segment & !STDERR) - kept_at;
        let wanted = max.min(usize::try_from(left).unwrap_or(usize::MAX));
        let at = if in_tail { o.tail_at + (cursor.at - tail_from) } else { cursor.at };
        let file = o.file.as_ref().ok_or_else(|| io::Error::other("the stored output is gone"))?;
        let bytes = read_behind(&cursor.at.to_be_bytes(), file, at, wanted)?;
        cursor.at += bytes.len() as u64 - 8;
        let source = if segment & STDERR == 0 { Source::Stdout } else { Source::Stderr };
        Ok(Piece::Data(source, bytes))
    }
}

impl Inner {
    /// Writes to the first part; `true` if that part is closed and the bytes were not taken.
    fn keep(&mut self, source: Source, data: &[u8]) -> bool {
        if data.is_empty() {
            return false;
        }
        if let Some(path) = self.create.take() {
            self.file = open_new(&path).ok();
        }
        let at = self.extent.head;
        let written = self.file.as_ref().is_some_and(|f| f.write_all_at(data, at).is_ok());
        if !written || !push_segment(&mut self.segments, source, data.len(), MAX_SEGMENTS) {
            self.full = true;
            return true;
        }
        self.extent.head += data.len() as u64;
        false
    }

    fn keep_tail(&mut self, source: Source, data: &[u8]) {
        let data = &data[data.len().saturating_sub(TAIL)..];
        self.tail.extend_from_slice(data);
        push_segment(&mut self.tail_segments, source, data.len(), usize::MAX);
        if self.tail.len() > 2 * TAIL {
            self.trim_tail(TAIL);
        }
    }

    fn trim_tail(&mut self, to: usize) {
        let mut cut = self.tail.len().saturating_sub(to);
        self.tail.drain(..cut);
        let mut whole = 0;
        for s in &mut self.tail_segments {
            let len = (*s & !STDERR) as usize;
            if len > cut {
                *s -= u32::try_from(cut).unwrap_or(0);
                break;
            }
            (cut, whole) = (cut - len, whole + 1);
        }
        self.tail_segments.drain(..whole);
    }

    /// Puts the tail behind the first part, with a notice in between if something is missing there.
    fn write_tail(&mut self) {
        let missing = self.extent.total - self.extent.head - self.tail.len() as u64;
        let notice = if missing == 0 {
            String::new()
        } else {
            format!("\n[{missing} bytes of the output are missing here: it was too large to be stored]\n")
        };
        self.tail_at = self.extent.head + notice.len() as u64;
        let Some(file) = &self.file else { return };
        let (head, tail_at) = (self.extent.head, self.tail_at);
        let written = file.set_len(head).is_ok()
            && file.write_all_at(notice.as_bytes(), head).is_ok()
            && file.write_all_at(&self.tail, tail_at).is_ok();
        if written {
            self.extent.tail = self.tail.len() as u64;
            self.segments.append(&mut self.tail_segments);
        } else {
            let _ = file.set_len(head);
        }
    }

    /// What a result is made of: the end of what is known.
    fn last_bytes(&self) -> Vec<u8> {
        if self.tail.len() >= TAIL || self.extent.head == 0 {
            return self.tail.clone();
        }
        // Little or nothing went beyond the first part; the end of that comes before it.
        let contiguous = self.extent.total == self.extent.head + self.tail.len() as u64;
        let want = if contiguous { (TAIL - self.tail.len()) as u64 } else { 0 };
        let from = self.extent.head.saturating_sub(want);
        let mut bytes = vec![0; usize::try_from(self.extent.head - from).unwrap_or(0)];
        let read = self.file.as_ref().is_some_and(|f| f.read_exact_at(&mut bytes, from).is_ok());
        if !read {
            bytes.clear();
        }
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}

/// Adds a run of bytes; joins it with the last one if that came from the same stream. `false` if there is no room.
fn push_segment(list: &mut Vec<u32>, source: Source, len: usize, most: usize) -> bool {
    let mark = if source == Source::Stderr { STDERR } else { 0 };
    let len = u32::try_from(len).unwrap_or(STDERR - 1);
    let room = list.len() < most;
    match list.last_mut() {
        Some(last) if *last & STDERR == mark && (*last & !STDERR) + len < STDERR => *last += len,
        _ if room => list.push(mark | len),
        _ => return false,
    }
    true
}

/// Up to `wanted` bytes of a file behind `prefix`, without zeroing the buffer first.
fn read_behind(prefix: &[u8], file: &File, at: u64, wanted: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(prefix.len() + wanted);
    bytes.extend_from_slice(prefix);
    if rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stored output is shorter than it was"));
    }
    bytes.truncate(prefix.len() + wanted); // an allocation may be larger than what was asked for
    Ok(bytes)
}

/// Opens a file that is to be made, in a folder that may have to be made.
fn open_new(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    File::options().read(true).write(true).create(true).truncate(true).open(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    open_new(path)?.write_all_at(bytes, 0)
}

fn read_segments(path: &Path) -> io::Result<Vec<u32>> {
    let limit = (MAX_SEGMENTS + 2 * TAIL) as u64 * 4;
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source() -> impl Strategy<Value = Source> {
        prop_oneof![Just(Source::Stdout), Just(Source::Stderr)]
    }

    /// Everything from `from` on, by stream, and the size of the gaps.
    fn replay(output: &Output, from: u64, max: usize) -> (Vec<u8>, Vec<u8>, u64) {
        let (mut out, mut err, mut missing) = (Vec::new(), Vec::new(), 0);
        let mut cursor = Cursor::new(from);
        loop {
            let at = cursor.at();
            match output.read(&mut cursor, max).unwrap() {
                Piece::Data(source, bytes) => {
                    assert_eq!(bytes[..8], at.to_be_bytes());
                    assert!(bytes.len() > 8 && bytes.len() <= 8 + max);
                    if source == Source::Stdout { &mut out } else { &mut err }.extend_from_slice(&bytes[8..]);
                }
                Piece::Gap(n) => missing += n,
                Piece::Wait | Piece::End => return (out, err, missing),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_byte_comes_back_from_its_own_stream(
            writes in prop::collection::vec((source(), prop::collection::vec(any::<u8>(), 1..50)), 0..30),
            from in 0u64..600, max in 1usize..40,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (path, segments) = (dir.path().join("c/output"), dir.path().join("segments"));
            let output = Output::create(path.clone(), segments.clone());
            let (mut want, mut at) = ((Vec::new(), Vec::new()), 0);
            for (source, data) in &writes {
                output.append(*source, data);
                let kept = data.iter().enumerate().filter(|(i, _)| at + *i as u64 >= from).map(|(_, b)| *b);
                if *source == Source::Stdout { want.0.extend(kept) } else { want.1.extend(kept) }
                at += data.len() as u64;
            }
            let want = (want.0, want.1, 0);
            prop_assert_eq!(&replay(&output, from, max), &want);
            let summary = output.finish();
            prop_assert_eq!(&replay(&output, from, max), &want);
            prop_assert_eq!(&replay(&Output::reopen(&path, &segments, summary.extent), from, max), &want);
            let all: Vec<u8> = writes.iter().flat_map(|(_, d)| d.clone()).collect();
            prop_assert_eq!(fs::read(&path).unwrap_or_default(), &all[..]);
            prop_assert_eq!(summary.tail, all);
        }
    }

    #[test]
    fn what_goes_beyond_the_bounds_is_a_gap_between_head_and_tail() {
        let dir = tempfile::tempdir().unwrap();
        let (path, segments) = (dir.path().join("output"), dir.path().join("segments"));
        let output = Output::create(path.clone(), segments.clone());
        // One byte from either stream in turn: the segments run out long before the cap does.
        let pairs = MAX_SEGMENTS / 2 + 3 * TAIL;
        for _ in 0..pairs {
            output.append(Source::Stdout, b"o");
            output.append(Source::Stderr, b"\n");
        }
        let Summary { extent, lines, tail } = output.finish();
        assert_eq!(extent, Extent { total: 2 * pairs as u64, head: MAX_SEGMENTS as u64, tail: TAIL as u64 });
        assert_eq!((lines, tail.len()), (pairs as u64, TAIL));
        for output in [&output, &Output::reopen(&path, &segments, extent)] {
            let (out, err, missing) = replay(output, 0, 1000);
            assert_eq!((out.len(), err.len()), ((MAX_SEGMENTS + TAIL) / 2, (MAX_SEGMENTS + TAIL) / 2));
            assert_eq!(missing, extent.total - extent.head - extent.tail);
            assert!(out.iter().all(|b| *b == b'o') && err.iter().all(|b| *b == b'\n'));
        }
        fs::remove_file(&path).unwrap();
        let swept = replay(&Output::reopen(&path, &segments, extent), 5, 1000);
        assert_eq!(swept, (vec![], vec![], extent.total - 5));
    }
}
