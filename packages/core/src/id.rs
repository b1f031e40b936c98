//! Identifiers. Tenant and session are never confused: every derived key is a hash over length-prefixed parts,
//! so `a/b`, `a-b` and tenant `a` + session `b` are three sessions.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest session id, tenant or idempotency key, in characters.
pub const MAX_ID_CHARS: usize = 256;

/// The tenant of a caller that names none.
pub const DEFAULT_TENANT: &str = "default";

/// Why an id was refused. The text names what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// No characters at all.
    #[error("must not be empty")]
    Empty,
    /// More than [`MAX_ID_CHARS`] characters.
    #[error("must be at most {MAX_ID_CHARS} characters, got {0}")]
    TooLong(usize),
    /// A control character.
    #[error("must not contain control characters")]
    Control,
}

/// Checks the rule for session ids, tenants and idempotency keys: 1–256 characters, no control characters.
///
/// # Errors
/// [`InvalidId`] says which part of the rule was broken.
pub fn check_id(id: &str) -> Result<(), InvalidId> {
    if id.is_empty() {
        return Err(InvalidId::Empty);
    }
    let n = id.chars().count();
    if n > MAX_ID_CHARS {
        return Err(InvalidId::TooLong(n));
    }
    if id.chars().any(char::is_control) {
        return Err(InvalidId::Control);
    }
    Ok(())
}

/// One session of one tenant. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionKey {
    tenant: Arc<str>,
    session: Arc<str>,
}

impl SessionKey {
    /// A checked key.
    ///
    /// # Errors
    /// [`InvalidId`] when either part breaks the rule of [`check_id`].
    pub fn new(tenant: &str, session: &str) -> Result<Self, InvalidId> {
        check_id(tenant)?;
        check_id(session)?;
        Ok(Self { tenant: tenant.into(), session: session.into() })
    }

    /// The tenant that owns the session.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The session id as the client wrote it.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// 32 hexadecimal digits that stand for this key in paths and on the exec channel: the first half of
    /// SHA-256 over the length-prefixed parts. Injective up to a 128-bit collision.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut h = Sha256::new();
        for part in [&self.tenant, &self.session] {
            h.update((part.len() as u64).to_be_bytes());
            h.update(part.as_bytes());
        }
        hex(&h.finalize()[..16])
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.tenant, self.session)
    }
}

/// Lower-case hexadecimal of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// An opaque, path-safe run id. Time-ordered when generated here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Arc<str>);

impl RunId {
    /// A fresh id.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("run_{}", uuid::Uuid::now_v7().simple()).into())
    }

    /// Takes an id that a client sent; anything that could not be one of ours is `None`.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        let ok = (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        ok.then(|| Self(s.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The process that claims work: unique per process start, so that two incarnations are never taken for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// A fresh id that carries `label` (a host or pod name) for people.
    #[must_use]
    pub fn generate(label: &str) -> Self {
        let label: String =
            label.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect();
        Self(format!("{label}-{}", uuid::Uuid::new_v4().simple()).into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for WorkerId {
    fn from(s: &str) -> Self {
        Self(s.into())
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Place of an entry in a session's log. The first entry is 1; 0 means "before the first".
    Position
}
counter! {
    /// How often a session has changed hands. Raised by the store at every claim; a lower one is refused.
    Epoch
}

/// Names one tool call for ever: the session's digest and the position of its intent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallId {
    /// [`SessionKey::digest`].
    pub session: String,
    /// Where the intent stands in the log.
    pub position: Position,
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session, self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_that_look_alike_stay_apart() {
        let keys = [("a", "b"), ("default", "a/b"), ("default", "a-b"), ("a/b", "b"), ("a", "/b"), ("ab", "b")];
        let digests: HashSet<_> =
            keys.iter().filter_map(|(t, s)| SessionKey::new(t, s).ok()).map(|k| k.digest()).collect();
        assert_eq!(digests.len(), keys.len());
    }

    #[test]
    fn ids_are_checked() {
        assert_eq!(check_id(""), Err(InvalidId::Empty));
        assert_eq!(check_id("a\nb"), Err(InvalidId::Control));
        assert_eq!(check_id(&"ü".repeat(257)), Err(InvalidId::TooLong(257)));
        assert_eq!(check_id(&"ü".repeat(256)), Ok(()));
        assert!(RunId::parse("../x").is_none());
        assert_eq!(RunId::parse(RunId::generate().as_str()).map(|r| r.as_str().len()), Some(36));
    }
}
