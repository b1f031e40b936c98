//! Entries as scripts answer them.
//!
//! Owns: the form in which `lua/lib/log.lua` answers an entry. Must not know: what entries mean, or who asked for them.

use torpor_core::entry::{self, DecodeError, Entry};
use torpor_core::session::Stored;
use torpor_core::{Epoch, Position, Timestamp, store};

use crate::reply::Reply;

/// Most entries that one read answers.
pub(crate) const MAX_READ: usize = 10_000;

/// Bytes of entries after which a read ends; it always holds one entry, however large.
pub(crate) const MAX_READ_BYTES: usize = 256 << 10;

/// An entry with its body as it is stored.
struct Raw {
    position: Position,
    at: Timestamp,
    epoch: Epoch,
    schema: u16,
    body: Vec<u8>,
}

fn raw(mut it: Reply) -> Result<Raw, store::Error> {
    let position = Position(it.number()?);
    let (epoch, at) = (Epoch(it.number()?), Timestamp(it.number()?));
    let schema = it.number()?;
    let schema = u16::try_from(schema)
        .map_err(|_| store::Error::Unreadable(format!("entry {position}: its schema is {schema}")))?;
    Ok(Raw { position, at, epoch, schema, body: it.bytes()? })
}

/// Reads every part of a list as an entry.
///
/// # Errors
/// [`store::Error::Unreadable`] for one that this build cannot read.
pub(crate) fn entries(list: Reply) -> Result<Vec<Entry>, store::Error> {
    all(list, |it| {
        let body = entry::decode(it.schema, &it.body).map_err(|e| unreadable(it.position, &e))?;
        Ok(Entry { position: it.position, at: it.at, epoch: it.epoch, body })
    })
}

/// As [`entries`], with the bodies as they are stored.
///
/// # Errors
/// [`store::Error::Unreadable`] for one that is not text.
pub(crate) fn stored(list: Reply) -> Result<Vec<Stored>, store::Error> {
    all(list, |it| {
        let body = String::from_utf8(it.body)
            .map_err(|_| store::Error::Unreadable(format!("entry {}: its body is not UTF-8", it.position)))?;
        Ok(Stored { position: it.position, at: it.at, epoch: it.epoch, schema: it.schema, body })
    })
}

fn all<T>(mut list: Reply, read: impl Fn(Raw) -> Result<T, store::Error>) -> Result<Vec<T>, store::Error> {
    let mut found = Vec::with_capacity(list.len());
    while list.len() > 0 {
        found.push(read(raw(list.list()?)?)?);
    }
    Ok(found)
}

fn unreadable(position: Position, e: &DecodeError) -> store::Error {
    let what = format!("entry {position}: {e}");
    match e {
        DecodeError::Newer { .. } => store::Error::Newer(what),
        _ => store::Error::Unreadable(what),
    }
}
