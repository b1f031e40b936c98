//! Reading a file line by line in bounded memory, whatever the length of its lines.
//!
//! Owns: skipping, reading and counting lines. Must not know what they are for.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, Ordering};

/// Why reading stopped early.
#[derive(Debug)]
pub(crate) enum Stop {
    Cancelled,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// What [`LineReader::line`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, and whether a line break ended it.
    Whole { ended: bool },
    /// The line is longer than was asked for; the reader stands in its middle.
    TooLong,
    /// There is no further line.
    End,
}

/// A count that may have been given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Exact(u64),
    AtLeast(u64),
}

/// A line ends with a line feed or at the end of the file; a line feed at the end starts no further line.
pub(crate) struct LineReader<'c, R> {
    inner: R,
    cancelled: &'c AtomicBool,
    /// Bytes have been consumed since the last line break.
    mid_line: bool,
}

impl<'c, R: BufRead> LineReader<'c, R> {
    pub(crate) fn new(inner: R, cancelled: &'c AtomicBool) -> Self {
        Self { inner, cancelled, mid_line: false }
    }

    /// The next bytes without consuming them; empty at the end of the file.
    pub(crate) fn peek(&mut self) -> Result<&[u8], Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled);
        }
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        // Already filled: this reads nothing.
        Ok(self.inner.fill_buf()?)
    }

    /// Skips up to `n` lines; fewer only if the file has no more.
    pub(crate) fn skip(&mut self, n: u64) -> Result<u64, Stop> {
        let mut skipped = 0;
        while skipped < n {
            let chunk = self.peek()?;
            if chunk.is_empty() {
                skipped += u64::from(std::mem::take(&mut self.mid_line));
                break;
            }
            let breaks = count_breaks(chunk);
            let (used, mid_line) = if skipped + breaks < n {
                (chunk.len(), chunk.last() != Some(&b'\n'))
            } else {
                let nth = usize::try_from(n - skipped - 1).unwrap_or(usize::MAX);
                let last = chunk.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(nth);
                (last.map_or(chunk.len(), |(at, _)| at + 1), false)
            };
            skipped = (skipped + breaks).min(n);
            self.mid_line = mid_line;
            self.inner.consume(used);
        }
        Ok(skipped)
    }

    /// Reads a line into `line` (without its line break) if it is at most `cap` bytes long.
    pub(crate) fn line(&mut self, cap: usize, line: &mut Vec<u8>) -> Result<Line, Stop> {
        line.clear();
        loop {
            let chunk = self.peek()?;
            if chunk.is_empty() {
                let any = std::mem::take(&mut self.mid_line);
                return Ok(if any { Line::Whole { ended: false } } else { Line::End });
            }
            let at = chunk.iter().position(|b| *b == b'\n');
            let part = &chunk[..at.unwrap_or(chunk.len())];
            if line.len() + part.len() > cap {
                let used = cap - line.len();
                line.extend_from_slice(&part[..used]);
                self.inner.consume(used);
                self.mid_line = true;
                return Ok(Line::TooLong);
            }
            line.extend_from_slice(part);
            let used = part.len() + usize::from(at.is_some());
            self.inner.consume(used);
            self.mid_line = at.is_none();
            if at.is_some() {
                return Ok(Line::Whole { ended: true });
            }
        }
    }

    /// Counts the lines from here to the end of the file (one that was begun included), looking at no more than
    /// about `budget` bytes.
    pub(crate) fn count_rest(&mut self, budget: u64) -> Result<Count, Stop> {
        let (mut lines, mut seen) = (0, 0u64);
        loop {
            let chunk = self.peek()?;
            if chunk.is_empty() {
                return Ok(Count::Exact(lines + u64::from(std::mem::take(&mut self.mid_line))));
            }
            if seen >= budget {
                // Either the line that was begun or a new one goes on here.
                return Ok(Count::AtLeast(lines + 1));
            }
            lines += count_breaks(chunk);
            let (used, mid_line) = (chunk.len(), chunk.last() != Some(&b'\n'));
            seen += used as u64;
            self.mid_line = mid_line;
            self.inner.consume(used);
        }
    }

    /// Bytes from here to the end of the line, its line break not counted, looking at about `budget` at most.
    pub(crate) fn rest_of_line(&mut self, budget: u64) -> Result<Count, Stop> {
        let mut length = 0u64;
        loop {
            let chunk = self.peek()?;
            if chunk.is_empty() {
                self.mid_line = false;
                return Ok(Count::Exact(length));
            }
            if length >= budget {
                return Ok(Count::AtLeast(length));
            }
            let at = chunk.iter().position(|b| *b == b'\n');
            let used = at.map_or(chunk.len(), |at| at + 1);
            length += at.unwrap_or(chunk.len()) as u64;
            self.inner.consume(used);
            self.mid_line = at.is_none();
            if at.is_some() {
                return Ok(Count::Exact(length));
            }
        }
    }
}

fn count_breaks(chunk: &[u8]) -> u64 {
    chunk.iter().filter(|b| **b == b'\n').count() as u64
}
