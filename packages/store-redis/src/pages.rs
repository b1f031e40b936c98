//! Pages of lists: cut from what every shard answered, newest first, with one cursor for all of them.
//!
//! Owns: the order across shards and the form of cursors. Must not know: what is listed, or how a shard is asked.
//!
//! Within a shard a list is ordered by a number that its items have (a row, a life). Across shards equal numbers are
//! ordered by shard, so that a cursor names one place in all of them.

use std::cmp::Reverse;
use std::fmt;

use torpor_core::store;

use crate::shard::Shard;

/// A page ends with the item that reaches this many bytes: what items hold is bounded one by one, and so are many.
pub(crate) const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Where a page ended: the next one begins below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    row: u64,
    shard: u16,
}

impl Cursor {
    /// Reads what [`fmt::Display`] wrote.
    ///
    /// # Errors
    /// [`store::Error::Failed`] for anything else.
    pub(crate) fn parse(text: &str) -> Result<Self, store::Error> {
        let read = || {
            let (row, shard) = text.split_once('-')?;
            let plain = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !(plain(row) && plain(shard)) {
                return None; // no signs: the numbers are written in one way only
            }
            Some(Self { row: u64::from_str_radix(row, 16).ok()?, shard: u16::from_str_radix(shard, 16).ok()? })
        };
        read().ok_or_else(|| store::Error::Failed(format!("the cursor {text:?} was not made by this store")))
    }

    /// The next page has of this shard what lies below this number.
    pub(crate) fn below(self, shard: Shard) -> u64 {
        if shard.number() < self.shard { self.row.saturating_add(1) } else { self.row }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.row, self.shard)
    }
}

/// Below which number a shard is to look; `None` for the newest.
///
/// # Errors
/// As [`Cursor::parse`].
pub(crate) fn below(cursor: Option<&str>, shard: Shard) -> Result<Option<u64>, store::Error> {
    cursor.map(|text| Cursor::parse(text).map(|cursor| cursor.below(shard))).transpose()
}

/// An item of one shard.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// Its place within its shard.
    pub(crate) row: u64,
    /// What it adds to a page.
    pub(crate) bytes: usize,
    pub(crate) item: T,
}

/// What one shard answered.
#[derive(Debug)]
pub(crate) struct Part<T> {
    /// Newest first.
    pub(crate) found: Vec<Found<T>>,
    /// It looked down to this row, that included, and stopped there because it had enough; `None` when there is no more.
    pub(crate) stopped: Option<u64>,
}

/// One page of what the shards answered, each of which was asked for up to `limit` items, and where the next begins.
/// Such a page may be empty and not the last one, if the shards stopped without having found anything.
pub(crate) fn merge<T>(parts: Vec<(Shard, Part<T>)>, limit: usize) -> (Vec<T>, Option<Cursor>) {
    // Where one shard stopped, others must not go on: what it has below may be newer than what they have.
    let floor =
        parts.iter().filter_map(|(shard, part)| Some(Cursor { row: part.stopped?, shard: shard.number() })).max();
    let mut all: Vec<(Cursor, Found<T>)> = Vec::new();
    for (shard, part) in parts {
        let shard = shard.number();
        all.extend(part.found.into_iter().map(|found| (Cursor { row: found.row, shard }, found)));
    }
    all.sort_by_key(|(at, _)| Reverse(*at));
    let (mut page, mut bytes, mut last) = (Vec::new(), 0_usize, None);
    for (at, found) in all {
        if floor.is_some_and(|floor| at < floor) {
            break;
        }
        if page.len() == limit || bytes >= MAX_PAGE_BYTES {
            return (page, last);
        }
        bytes = bytes.saturating_add(found.bytes);
        page.push(found.item);
        last = Some(at);
    }
    (page, floor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::shard::Shards;

    /// A shard with these rows that answers up to `limit` of them below the cursor.
    fn ask(shard: Shard, rows: &[u64], cursor: Option<&str>, limit: usize) -> (Shard, Part<(u16, u64)>) {
        let below = below(cursor, shard).unwrap().unwrap_or(u64::MAX);
        let mut found: Vec<_> = rows.iter().rev().copied().filter(|row| *row < below).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let stopped = found.last().copied().filter(|_| more);
        let found = found.into_iter().map(|row| Found { row, bytes: 1, item: (shard.number(), row) }).collect();
        (shard, Part { found, stopped })
    }

    #[test]
    fn pages_of_several_shards_have_every_item_once_and_in_order() {
        let stored = [vec![1, 2, 3, 4, 7, 8], vec![2, 3, 5], vec![], vec![3, 8, 9, 10, 11, 12, 13]];
        let mut want: Vec<(u64, u16)> =
            (0..).zip(&stored).flat_map(|(n, rows)| rows.iter().map(move |row| (*row, n))).collect();
        want.sort();
        want.reverse();
        for limit in 1..20 {
            let (mut got, mut cursor): (Vec<(u64, u16)>, Option<String>) = (Vec::new(), None);
            loop {
                let parts = Shards::new("t", 4).all().zip(&stored);
                let parts = parts.map(|(shard, rows)| ask(shard, rows, cursor.as_deref(), limit)).collect();
                let (page, next) = merge(parts, limit);
                assert!(page.len() <= limit && (page.len() == limit || next.is_none()), "pages are full");
                got.extend(page.into_iter().map(|(shard, row)| (row, shard)));
                cursor = next.map(|next| next.to_string());
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(got, want, "{limit} on a page");
        }
    }

    #[test]
    fn a_shard_that_stopped_early_holds_up_what_lies_below() {
        let shards: Vec<Shard> = Shards::new("t", 2).all().collect();
        let found = |row| Found { row, bytes: 0, item: row };
        let parts = |stopped| {
            let silent = Part { found: Vec::new(), stopped };
            vec![(shards[0], silent), (shards[1], Part { found: vec![found(9), found(4)], stopped: None })]
        };
        let (page, next) = merge(parts(Some(6)), 10);
        assert_eq!((page, next.map(|c| c.to_string())), (vec![9], Some("6-0".to_owned())));
        let (page, next) = merge(parts(None), 10);
        assert_eq!((page, next), (vec![9, 4], None));
    }

    #[test]
    fn a_page_ends_with_the_item_that_makes_it_large() {
        let shard = Shards::new("t", 1).first();
        let found = |row| Found { row, bytes: MAX_PAGE_BYTES / 2 + 1, item: row };
        let part = Part { found: vec![found(3), found(2), found(1)], stopped: None };
        let (page, next) = merge(vec![(shard, part)], 10);
        assert_eq!((page, next.map(|c| c.below(shard))), (vec![3, 2], Some(2)));
    }

    #[test]
    fn cursors_are_read_back_and_foreign_ones_refused() {
        let cursor = Cursor { row: 0xabc, shard: 3 };
        assert_eq!(Cursor::parse(&cursor.to_string()).unwrap(), cursor);
        for foreign in ["", "made up", "abc", "-", "+1-0", "1--1", "1-10000", "ABC-0", "11111111111111111-0"] {
            assert!(matches!(Cursor::parse(foreign), Err(store::Error::Failed(_))), "{foreign}");
        }
    }
}
