//! What can go wrong between this crate and SQLite, and what callers are told of it.
//!
//! Must not know: which operation failed.

use rusqlite::ErrorCode;
use torpor_core::entry::DecodeError;
use torpor_core::{log, store};

/// A failure inside one operation.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite said no.
    Database(rusqlite::Error),
    /// Already in the caller's words.
    Store(store::Error),
}

impl Fault {
    /// What cannot be read, if it is the data that is wrong and not the database.
    pub(crate) fn unreadable(self) -> Result<String, Self> {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
        match self {
            Self::Store(store::Error::Unreadable(what) | store::Error::Newer(what)) => Ok(what),
            Self::Database(
                e
                @ (FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)),
            ) => Ok(e.to_string()),
            other => Err(other),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(e: rusqlite::Error) -> Self {
        Self::Database(e)
    }
}

impl From<store::Error> for Fault {
    fn from(e: store::Error) -> Self {
        Self::Store(e)
    }
}

impl From<DecodeError> for Fault {
    fn from(e: DecodeError) -> Self {
        Self::Store(match e {
            DecodeError::Newer { .. } => store::Error::Newer(e.to_string()),
            _ => store::Error::Unreadable(e.to_string()),
        })
    }
}

impl From<Fault> for store::Error {
    fn from(fault: Fault) -> Self {
        if let Fault::Store(e @ Self::Newer(_)) = fault {
            return e;
        }
        match fault.unreadable() {
            Ok(what) => Self::Unreadable(what),
            Err(Fault::Store(e)) => e,
            Err(Fault::Database(e)) => {
                let text = e.to_string();
                match e.sqlite_error_code() {
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Unavailable(text),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Unreadable(text),
                    _ => Self::Failed(text),
                }
            }
        }
    }
}

impl From<Fault> for log::AppendError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

/// The same error with `what` in front, for people who have to find the file.
pub(crate) fn describe(what: &str, fault: Fault) -> store::Error {
    match store::Error::from(fault) {
        store::Error::Unavailable(e) => store::Error::Unavailable(format!("{what}: {e}")),
        store::Error::Newer(e) => store::Error::Newer(format!("{what}: {e}")),
        store::Error::Unreadable(e) => store::Error::Unreadable(format!("{what}: {e}")),
        store::Error::Failed(e) => store::Error::Failed(format!("{what}: {e}")),
    }
}
