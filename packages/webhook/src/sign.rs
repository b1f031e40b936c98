//! Signatures after the Standard Webhooks specification, so that receivers can use the libraries there are.
//!
//! Owns: the form of a secret and of a signature. Must not know: whose secret it is, or what is sent.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// How a secret begins whose bytes are written in base64.
const ENCODED: &str = "whsec_";
/// Fewest and most bytes of a key. The specification asks for 24 to 64; secrets that a receiver made up may be longer.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=256;

/// What a receiver and we know. Its `Debug` form shows nothing of it.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads `whsec_` and base64, or any other text as the key's own bytes.
    ///
    /// # Errors
    /// A sentence that says what was expected, and nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = match text.strip_prefix(ENCODED) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| format!("expected base64 behind {ENCODED}"))?,
            None => text.as_bytes().to_vec(),
        };
        if !KEY_BYTES.contains(&key.len()) {
            let (min, max) = (KEY_BYTES.start(), KEY_BYTES.end());
            return Err(format!("expected a key of {min} to {max} bytes, got {}", key.len()));
        }
        Ok(Self(key))
    }

    /// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; the timestamp is in seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the specification's own libraries are tested with, and one that was made with Python's `hmac`.
    #[test]
    fn signatures_are_those_of_the_reference() {
        let encoded = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        assert_eq!(
            encoded.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        let raw = Secret::parse("twenty-four bytes or more").unwrap();
        assert_eq!(raw.sign("msg_1", 1, "{\"ä\":1}"), "v1,an6ZYJHsn6mOpvGyvO/mGteSNsTQLfQK0OFwzSu8B6c=");
    }

    #[test]
    fn secrets_that_are_none_are_refused_without_being_shown() {
        for bad in ["", "hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_not base64 hunter2", &"hunter2".repeat(99)] {
            let e = Secret::parse(bad).unwrap_err();
            assert!(e.starts_with("expected ") && !e.contains("hunter2"), "{e}");
        }
        assert_eq!(format!("{:?}", Secret::parse(&"hunter2".repeat(9)).unwrap()), "Secret(…)");
    }
}
