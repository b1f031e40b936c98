//! The secret of a key: `tpr_<id>_<256 random bits>`, and the digest that is kept of it.
//!
//! A digest is one plain SHA-256. Slow, salted hashes protect what people make up; nobody can go through 2^256 secrets,
//! and a fast hash keeps the price of a wrong one small.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::id::hex;

/// How every secret begins, so that scanners of repositories and logs can find one that leaked.
const PREFIX: &str = "tpr_";
const ID_CHARS: usize = 16;
const RANDOM_CHARS: usize = 64;

/// Names a key without being a secret: 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

impl Id {
    /// A fresh id.
    #[must_use]
    pub fn generate() -> Self {
        Self(hex(&Uuid::new_v4().as_bytes()[..ID_CHARS / 2]).into())
    }

    /// Reads an id; anything that could not be one is `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_hex(text, ID_CHARS).then(|| Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept of a secret. Comparing two takes the same time wherever they differ.
#[derive(Clone)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a secret's text.
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !is_hex(text, RANDOM_CHARS) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | std::hint::black_box(a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl Eq for Digest {}

/// Not a secret, but nothing that belongs into a log either.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// A secret on its way to the person who asked for it: shown once, kept nowhere.
pub struct Secret(String);

impl Secret {
    /// A fresh secret of this key. Its 256 bits come from three random UUIDs (366 random bits of the system's source),
    /// folded by SHA-256.
    #[must_use]
    pub fn generate(id: &Id) -> Self {
        let mut hash = Sha256::new();
        for _ in 0..3 {
            hash.update(Uuid::new_v4().as_bytes());
        }
        Self(format!("{PREFIX}{id}_{}", hex(&hash.finalize())))
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// The text, for the one answer that carries it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret that somebody showed, as far as anything is done with it.
#[derive(Debug, Clone)]
pub struct Presented {
    /// Which key it claims to be of.
    pub id: Id,
    /// Its digest.
    pub digest: Digest,
}

impl Presented {
    /// Reads what has the form of a secret; anything else is `None`, without the price of a hash.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (id, random) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let id = Id::parse(id)?;
        is_hex(random, RANDOM_CHARS).then(|| Self { id, digest: Digest::of(text) })
    }
}

fn is_hex(text: &str, chars: usize) -> bool {
    text.len() == chars && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_is_read_back_and_never_shown_by_accident() {
        let id = Id::generate();
        let secret = Secret::generate(&id);
        let read = Presented::read(secret.expose()).unwrap();
        assert_eq!((&read.id, &read.digest), (&id, &secret.digest()));
        assert_eq!(secret.expose().len(), 85);
        assert_ne!(Secret::generate(&id).digest(), secret.digest());
        assert_eq!(Digest::parse(&secret.digest().to_hex()), Some(secret.digest()));
        let shown = format!("{secret:?} {read:?}");
        assert!(!shown.contains(&secret.expose()[21..]) && !shown.contains(&secret.digest().to_hex()), "{shown}");
    }

    #[test]
    fn what_is_no_secret_is_not_read() {
        let good = Secret::generate(&Id::generate()).expose().to_owned();
        for bad in [
            "",
            "tpr_",
            "tpr__",
            &good[1..],
            &good[..84],
            &good.to_uppercase(),
            &format!("{good}0"),
            &format!(" {good}"),
        ] {
            assert!(Presented::read(bad).is_none(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_upsets_the_reader(text in "(tpr_)?[0-9a-f_]{0,90}.{0,5}") {
            if let Some(read) = Presented::read(&text) {
                let begins = format!("tpr_{}_", read.id);
                prop_assert!(text.starts_with(&begins));
            }
        }
    }
}
