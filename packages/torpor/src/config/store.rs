//! Which store there is: the settings of the shared one, and what only makes sense with it.

use std::path::Path;

use torpor_store_redis::{Address, Durability, Tls};
use torpor_worker::Claims;

use super::Reader;

/// Longest prefix of keys, in bytes.
const MAX_PREFIX: usize = 64;

/// A store that processes share.
#[derive(Debug, Clone)]
pub(crate) struct Redis {
    pub(crate) address: Address,
    pub(crate) prefix: String,
    pub(crate) shards: u16,
    pub(crate) durability: Durability,
    pub(crate) tls: Tls,
}

/// The shared store, if there is one.
pub(super) fn read_redis(r: &mut Reader<'_>) -> Option<Redis> {
    // Checked although there may be no address: a value that is malformed is malformed.
    let prefix = r.parse("TORPOR_REDIS_PREFIX", "1 to 64 letters, digits, `-`, `_`, `.` or `:`", |text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        ((1..=MAX_PREFIX).contains(&text.len()) && text.chars().all(plain)).then(|| text.to_owned())
    });
    let shards = u16::try_from(r.number("TORPOR_REDIS_SHARDS", 1, 256)).unwrap_or(1);
    let durability =
        r.parse("TORPOR_REDIS_DURABILITY", "off, synced, or synced:N for N replicas, at most 16", |text| {
            let replicas = |text: &str| text.parse::<u16>().ok().filter(|n| *n <= 16);
            match text.split_once(':') {
                None if text == "off" => Some(Durability::Off),
                None if text == "synced" => Some(Durability::Synced { replicas: 0 }),
                Some(("synced", n)) => Some(Durability::Synced { replicas: replicas(n)? }),
                _ => None,
            }
        });
    let tls = read_tls(r);
    let url = r.text("REDIS_URL").filter(|text| !text.is_empty())?;
    match Address::parse(url) {
        Ok(address) => Some(Redis {
            address,
            prefix: prefix.unwrap_or_default(),
            shards,
            durability: durability.unwrap_or(Durability::Off),
            tls,
        }),
        Err(e) => {
            r.problem("REDIS_URL", e);
            None
        }
    }
}

/// Who vouches for the server, and what this process shows to it.
fn read_tls(r: &mut Reader<'_>) -> Tls {
    const CERTIFICATE: &str = "TORPOR_REDIS_CERT_FILE";
    let authorities = read_file(r, "TORPOR_REDIS_CA_FILE");
    let (certificate, key) = (read_file(r, CERTIFICATE), read_file(r, "TORPOR_REDIS_KEY_FILE"));
    let mut tls = Tls::default();
    if let Some(authorities) = authorities {
        match tls.clone().trusting(authorities) {
            Ok(trusting) => tls = trusting,
            Err(e) => r.problem("TORPOR_REDIS_CA_FILE", e),
        }
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => match tls.clone().showing(certificate, key) {
            Ok(showing) => tls = showing,
            Err(e) => r.problem(CERTIFICATE, e),
        },
        (None, None) => {}
        // A file that cannot be read was named before.
        _ if r.text(CERTIFICATE).is_some() && r.text("TORPOR_REDIS_KEY_FILE").is_some() => {}
        _ => r.problem(CERTIFICATE, "a certificate and its key (TORPOR_REDIS_KEY_FILE) go together"),
    }
    tls
}

fn read_file(r: &mut Reader<'_>, name: &str) -> Option<Vec<u8>> {
    let path = r.text(name).filter(|text| !text.is_empty())?.to_owned();
    std::fs::read(Path::new(&path)).map_err(|e| r.problem(name, format_args!("{path}: {e}"))).ok()
}

/// What `torpor serve` claims.
pub(super) fn read_claims(r: &mut Reader<'_>) -> Claims {
    let choices = [("all", Claims::All), ("sync", Claims::Handed)];
    let claims = r.one_of("TORPOR_SERVE_WORKER", &choices).unwrap_or(Claims::All);
    if claims == Claims::Handed && r.text("REDIS_URL").is_none_or(str::is_empty) {
        r.problem(
            "TORPOR_SERVE_WORKER",
            "sync leaves work to `torpor worker`, which cannot share the embedded store; set REDIS_URL, or use all",
        );
    }
    claims
}

/// What people may see of the address: where it leads, and no password.
pub(super) fn shown(url: &str) -> String {
    Address::parse(url).map_or_else(|_| "***".to_owned(), |address| address.to_string())
}
