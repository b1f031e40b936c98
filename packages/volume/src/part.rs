//! The folder of a tenant: no two tenants have the same one, and none leads elsewhere.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use torpor_core::id::hex;

/// Longest folder name that spells a tenant out, in bytes; file systems allow 255.
const MAX_SPELT: usize = 200;

/// The name of a tenant's folder. Letters, digits, `-`, `_` and `.` stand for themselves, every other byte (and a dot at
/// the beginning) as `%` and two hexadecimal digits; a tenant whose name becomes too long has `%-` and its SHA-256.
pub(crate) fn folder(tenant: &str) -> String {
    let mut name = String::with_capacity(tenant.len());
    for (n, byte) in tenant.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && n > 0) {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02x}"); // writing to a string cannot fail
        }
    }
    if name.len() <= MAX_SPELT { name } else { format!("%-{}", hex(&Sha256::digest(tenant))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_stand_for_themselves() {
        for (tenant, want) in [
            ("acme", "acme"),
            ("Acme-2_b.c", "Acme-2_b.c"),
            ("..", "%2e."),
            (".", "%2e"),
            ("a/b", "a%2fb"),
            ("a%2fb", "a%252fb"),
            ("ü", "%c3%bc"),
            ("a b", "a%20b"),
        ] {
            assert_eq!(folder(tenant), want);
        }
        assert!(folder(&"ü".repeat(256)).starts_with("%-"));
    }

    proptest! {
        #[test]
        fn no_two_tenants_share_a_folder(a in "[a-c./% -]{1,5}|.{200,256}", b in "[a-c./% -]{1,5}|.{200,256}") {
            prop_assert_eq!(folder(&a) == folder(&b), a == b);
            let name = folder(&a);
            prop_assert!(!name.contains('/') && name != "." && name != ".." && name.len() <= 255 && !name.starts_with('.'));
        }
    }
}
