//! What all store seams share: the error, with its retry decision.

/// Why a store could not answer. Never carries connection strings.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It cannot be reached or is overloaded now; the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What it holds was written by a newer build, which can read it.
    #[error("the store holds data of a newer build: {0}")]
    Newer(String),
    /// What it holds cannot be read: it is damaged.
    #[error("the store holds data this build cannot read: {0}")]
    Unreadable(String),
    /// A bug, or a store that refuses for a lasting reason (disk full, read-only).
    #[error("the store failed: {0}")]
    Failed(String),
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
