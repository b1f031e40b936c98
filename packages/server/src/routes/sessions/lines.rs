//! A session as a file: lines of JSON, the first about the session, one for each entry, the last with a checksum.
//!
//! Owns: how the lines look, and that nothing is missing between them. Must not know: what entries mean, or how lines
//! travel.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use torpor_core::envelope::Wishes;
use torpor_core::id::hex;
use torpor_core::session::Stored;
use torpor_core::{Epoch, Position, Timestamp};

/// What the first line says that this is.
const FORMAT: &str = "torpor-session";

/// The version of the format that this build writes, and the only one that it reads.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct First {
    format: String,
    version: u32,
    session_id: String,
    created_at: String,
    #[serde(default)]
    wishes: Wishes,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry<'a> {
    position: Position,
    at_ms: Timestamp,
    epoch: Epoch,
    schema: u16,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Last {
    entries: u64,
    sha256: String,
}

/// One line, by what it is about.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line<'a> {
    Session(Box<First>),
    #[serde(borrow)]
    Entry(Entry<'a>),
    End(Last),
}

/// Writes the lines.
#[derive(Debug, Default)]
pub(super) struct Writer {
    hash: Sha256,
    entries: u64,
}

/// What the first line says of the session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct About {
    pub(super) session_id: String,
    pub(super) created_at: Timestamp,
    pub(super) wishes: Wishes,
}

impl Writer {
    pub(super) fn first(&mut self, about: About) -> serde_json::Result<Vec<u8>> {
        self.line(&Line::Session(Box::new(First {
            format: FORMAT.to_owned(),
            version: VERSION,
            session_id: about.session_id,
            created_at: about.created_at.rfc3339(),
            wishes: about.wishes,
        })))
    }

    pub(super) fn entry(&mut self, it: &Stored) -> serde_json::Result<Vec<u8>> {
        self.entries += 1;
        let body = serde_json::from_str(&it.body)?;
        let Stored { position, at, epoch, schema, .. } = *it;
        self.line(&Line::Entry(Entry { position, at_ms: at, epoch, schema, body }))
    }

    pub(super) fn last(self) -> serde_json::Result<Vec<u8>> {
        let sha256 = hex(&self.hash.clone().finalize());
        let entries = self.entries;
        Self::default().line(&Line::End(Last { entries, sha256 }))
    }

    fn line(&mut self, line: &Line<'_>) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        Ok(bytes)
    }
}

/// What a line was.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    Session(Box<About>),
    Entry(Stored),
    End,
}

/// Reads the lines.
#[derive(Debug, Default)]
pub(super) struct Reader {
    hash: Sha256,
    lines: u64,
    ended: bool,
}

impl Reader {
    /// Reads the next line, without its line break.
    pub(super) fn line(&mut self, bytes: &[u8]) -> Result<Read, String> {
        self.lines += 1;
        let n = self.lines;
        let wrong = |what: String| format!("line {n}: {what}");
        if self.ended {
            return Err(wrong("nothing may follow the line `end`".into()));
        }
        let line: Line<'_> = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        let hash = self.hash.clone();
        self.hash.update(bytes);
        self.hash.update(b"\n");
        match (line, n) {
            (Line::Session(first), 1) => about(*first).map(|about| Read::Session(Box::new(about))).map_err(wrong),
            (_, 1) => Err(wrong("the first line must be `session`".into())),
            (Line::Session(_), _) => Err(wrong("only the first line may be `session`".into())),
            (Line::Entry(entry), _) => Ok(Read::Entry(Stored {
                position: entry.position,
                at: entry.at_ms,
                epoch: entry.epoch,
                schema: entry.schema,
                body: entry.body.get().to_owned(),
            })),
            (Line::End(last), _) => {
                let entries = n - 2;
                if last.entries != entries {
                    return Err(wrong(format!("it counts {} entries, there are {entries}", last.entries)));
                }
                if last.sha256 != hex(&hash.finalize()) {
                    return Err(wrong("`sha256` is not that of the lines before: the file was changed".into()));
                }
                self.ended = true;
                Ok(Read::End)
            }
        }
    }

    /// How many lines were read.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether the last line was read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}

fn about(first: First) -> Result<About, String> {
    if first.format != FORMAT {
        return Err(format!("`format` must be {FORMAT:?}, got {:?}", first.format));
    }
    if first.version != VERSION {
        return Err(format!("the format has version {}, this build reads {VERSION}", first.version));
    }
    let created_at = Timestamp::parse_rfc3339(&first.created_at)
        .ok_or_else(|| format!("`createdAt` must be an RFC 3339 time, got {:?}", first.created_at))?;
    Ok(About { session_id: first.session_id, created_at, wishes: first.wishes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(entries: u64) -> Vec<Vec<u8>> {
        let mut writer = Writer::default();
        let about = About { session_id: "s".into(), created_at: Timestamp(5), wishes: Wishes::default() };
        let mut lines = vec![writer.first(about).unwrap()];
        for n in 1..=entries {
            let body = format!(r#"{{"type":"checkpoint","summary":"\u0001 {n}","keep_from":1}}"#);
            let it = Stored { position: Position(n), at: Timestamp(n), epoch: Epoch(2), schema: 2, body };
            lines.push(writer.entry(&it).unwrap());
        }
        lines.push(writer.last().unwrap());
        lines
    }

    fn read(lines: &[Vec<u8>]) -> Result<Vec<Read>, String> {
        let mut reader = Reader::default();
        let read: Vec<Read> =
            lines.iter().map(|l| reader.line(l.strip_suffix(b"\n").unwrap())).collect::<Result<_, _>>()?;
        if reader.has_ended() { Ok(read) } else { Err("cut off".into()) }
    }

    #[test]
    fn what_was_written_is_read() {
        let lines = file(2);
        assert!(lines.iter().all(|l| l.iter().filter(|b| **b == b'\n').count() == 1));
        assert!(lines[0].starts_with(br#"{"session":{"format":"torpor-session","version":1,"sessionId":"s","#));
        assert!(lines[1].starts_with(br#"{"entry":{"position":1,"atMs":1,"epoch":2,"schema":2,"body":{"type""#));
        let read = read(&lines).unwrap();
        let [Read::Session(about), Read::Entry(one), Read::Entry(_), Read::End] = &read[..] else { panic!("{read:?}") };
        assert_eq!((about.session_id.as_str(), about.created_at), ("s", Timestamp(5)));
        assert_eq!(one.body, r#"{"type":"checkpoint","summary":"\u0001 1","keep_from":1}"#, "byte for byte");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let of = |text: &str| vec![format!("{text}\n").into_bytes()];
        let mut doubled = file(1);
        doubled.push(doubled[2].clone());
        let mut missing = file(2);
        missing.remove(1);
        for (lines, says) in [
            (of(""), "line 1: "),
            (of("{"), "line 1: EOF"),
            (of(r#"{"entry":{"position":1,"atMs":1,"epoch":2,"schema":2,"body":{}}}"#), "the first line must be"),
            (of(r#"{"other":{}}"#), "unknown variant `other`"),
            (
                of(r#"{"session":{"format":"x","version":1,"sessionId":"s","createdAt":"2026-01-01T00:00:00Z"}}"#),
                "`format`",
            ),
            (
                of(r#"{"session":{"format":"torpor-session","version":2,"sessionId":"s","createdAt":"x"}}"#),
                "version 2, this build reads 1",
            ),
            (
                of(r#"{"session":{"format":"torpor-session","version":1,"sessionId":"s","createdAt":"x"}}"#),
                "`createdAt`",
            ),
            (doubled, "line 4: nothing may follow"),
            (missing, "line 3: it counts 2 entries, there are 1"),
            (file(3)[..4].to_vec(), "cut off"),
        ] {
            let refused = read(&lines).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    proptest! {
        /// Whatever happens to one byte of a file is noticed.
        #[test]
        fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), by in 1u8..) {
            let lines = file(3);
            let mut bytes = lines.concat();
            let at = at.index(bytes.len());
            bytes[at] = bytes[at].wrapping_add(by);
            let changed: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            let whole = changed.iter().all(|l| l.ends_with(b"\n"));
            prop_assert!(!whole || read(&changed).is_err());
        }
    }
}
