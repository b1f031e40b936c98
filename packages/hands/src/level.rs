//! How far commands are confined.
//!
//! Owns: the levels, their names and order. Must not know: how a level is reached.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A level of confinement. Later ones confine less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Namespaces, a root of their own, Landlock, system call filter, limits.
    Full,
    /// Landlock and system call filter, on the real paths. Names of other processes can be seen. Not for the root user.
    Reduced,
    /// Limits only. A command can do whatever the user of the hands can.
    Unconfined,
}

impl Level {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Reduced => "reduced",
            Self::Unconfined => "unconfined",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Full, Self::Reduced, Self::Unconfined]
            .into_iter()
            .find(|l| l.as_str() == s)
            .ok_or_else(|| format!("level `{s}` is unknown; expected `full`, `reduced` or `unconfined`"))
    }
}
