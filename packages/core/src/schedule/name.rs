//! How schedules, their items and their fires are named.
//!
//! Owns: the rule for those names, which become parts of session ids, file names and prompts. Must not know: when
//! anything is due, or what an item asks for.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Longest name of a schedule or of an item, in characters. A session id made of both and a fire's stays within
/// [`MAX_ID_CHARS`](crate::id::MAX_ID_CHARS).
pub const MAX_NAME: usize = 64;

/// Longest id of a fire, in characters.
pub const MAX_FIRE: usize = 100;

/// A name that breaks the rule. The text says what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {max} letters, digits, `.`, `_` and `-`, beginning with a letter or digit")]
pub struct InvalidName {
    max: usize,
}

/// Checks the name of a schedule or of an item.
///
/// # Errors
/// [`InvalidName`] says what was expected.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    check(name, MAX_NAME)
}

/// Such a name is one path segment and one word of a prompt, whatever is around it.
fn check(name: &str, max: usize) -> Result<(), InvalidName> {
    let good = name.len() <= max
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if good { Ok(()) } else { Err(InvalidName { max }) }
}

/// Names one fire of a schedule: whoever fires under the same id fires the same runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FireId(Arc<str>);

impl FireId {
    /// The id that somebody chose.
    ///
    /// # Errors
    /// [`InvalidName`] says what was expected.
    pub fn new(id: &str) -> Result<Self, InvalidName> {
        check(id, MAX_FIRE).map(|()| Self(id.into()))
    }

    /// The id of the fire that is due in the minute of `at`: the same for everybody who knows the time,
    /// `20261120T0200Z`.
    #[must_use]
    pub fn of_minute(at: Timestamp) -> Self {
        Self(format!("{}Z", digits(at).get(..13).unwrap_or_default()).into())
    }

    /// The id of a fire that was asked for at this instant, and not by the schedule's own time.
    #[must_use]
    pub fn by_hand(at: Timestamp) -> Self {
        Self(format!("by-hand-{}", digits(at)).into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `20261120T112129999Z`.
fn digits(at: Timestamp) -> String {
    at.rfc3339().chars().filter(char::is_ascii_alphanumeric).collect()
}

impl fmt::Display for FireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_and_one_path_segment() {
        for good in ["nightly", "a", "7", "Review-2.x_y", &"x".repeat(MAX_NAME)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "-x", "_x", "a/b", "a b", "a\n", "ü", "a:b", &"x".repeat(MAX_NAME + 1)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(FireId::new(&"x".repeat(MAX_FIRE)).is_ok());
        assert!(FireId::new("2026-11-20T02:00Z").unwrap_err().to_string().contains("1 to 100 letters"));
    }

    #[test]
    fn a_minute_has_one_id_and_every_made_id_is_a_valid_one() {
        let at = Timestamp::parse_rfc3339("2026-11-20T02:00:00Z").unwrap();
        assert_eq!(FireId::of_minute(at).as_str(), "20261120T0200Z");
        assert_eq!(FireId::of_minute(Timestamp(at.0 + 59_999)), FireId::of_minute(at));
        assert_eq!(FireId::by_hand(Timestamp(at.0 + 1)).as_str(), "by-hand-20261120T020000001Z");
        for id in [FireId::of_minute(at), FireId::by_hand(at)] {
            assert_eq!(FireId::new(id.as_str()), Ok(id));
        }
    }
}
