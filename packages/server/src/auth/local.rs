//! Whether a request was meant for this machine: what an open server has instead of keys.
//!
//! Owns: the guard against web pages. A page in a browser on this machine can post to any address of it, and one whose
//! name is made to point at it can read the answers as well. Both show where they come from: in `Origin`, and in
//! `Host`. Must not know: when this is asked.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Uri};

/// Whether nothing in the request names another place than this machine.
pub(super) fn is_meant(uri: &Uri, headers: &HeaderMap) -> bool {
    let text = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap_or("not text"));
    let hosts = uri.authority().map(|a| a.as_str()).into_iter().chain(text(HOST)).filter(|h| !h.is_empty());
    let hosts: Option<Vec<Named>> = hosts.map(Named::read).collect();
    let Some(hosts) = hosts else { return false };
    let mut origins = text(ORIGIN).map(|o| o.split_once("://").map_or("no place", |(_, host)| host));
    hosts.iter().all(Named::cannot_be_pointed_here)
        && origins.all(|o| Named::read(o).is_some_and(|o| o.is_this_machine() || hosts.contains(&o)))
}

/// What stands before the port.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Address(IpAddr),
    Name(String),
}

impl Named {
    /// Reads a `host` or `host:port`.
    fn read(host: &str) -> Option<Self> {
        let is_port = |text: &str| {
            text.is_empty() || text.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()))
        };
        if let Some((address, rest)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            return address.parse().ok().filter(|_| is_port(rest)).map(Self::Address);
        }
        let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
        let name = name.to_ascii_lowercase();
        is_port(port).then(|| name.parse().map_or(Self::Name(name), Self::Address))
    }

    /// Whether this cannot be a name that somebody on the internet points here: an address, a name without a dot, or one
    /// below `localhost`.
    fn cannot_be_pointed_here(&self) -> bool {
        match self {
            Self::Address(_) => true,
            Self::Name(name) => is_label(name) || name.ends_with(".localhost"),
        }
    }

    /// Whether a page from there is a page of this machine. An address of another, or a name without a dot in somebody's
    /// network, is as good a place for a page as any.
    fn is_this_machine(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

fn is_label(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_names_another_place_is_not_meant() {
        for (host, origin, meant) in [
            (None, None, true),
            (Some("localhost"), None, true),
            (Some("LocalHost:8080"), None, true),
            (Some("127.0.0.1:8080"), Some("http://localhost:3000"), true),
            (Some("[::1]:8080"), Some("http://[::1]:8080"), true),
            (Some("10.0.0.1:8080"), None, true),
            (Some("torpor.localhost"), None, true),
            (Some("my-machine:8080"), None, true),
            (Some("user@my-machine"), None, false),
            (Some("evil.example:8080"), None, false),
            (Some("localhost.evil.example"), None, false),
            (Some("127.0.0.1.evil.example"), None, false),
            (Some("localhost:80@evil.example"), None, false),
            (Some("[::1].evil.example"), None, false),
            (Some("127.0.0.1:8080"), Some("https://evil.example"), false),
            (Some("127.0.0.1:8080"), Some("null"), false),
            (Some("127.0.0.1:8080"), Some(""), false),
            // A page may lie at an address, too, or at a name of the network that this machine is in.
            (Some("127.0.0.1:8080"), Some("http://203.0.113.5"), false),
            (Some("localhost:8080"), Some("http://[2001:db8::1]:8080"), false),
            (Some("localhost:8080"), Some("http://intranet"), false),
            (Some("localhost:8080"), Some("http://[::ffff:127.0.0.1]:3000"), true),
            (Some("10.0.0.1:8080"), Some("http://10.0.0.1:3000"), true),
            (Some("my-machine:8080"), Some("http://My-Machine"), true),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(HOST, host), (ORIGIN, origin)] {
                value.map(|v| headers.insert(name, HeaderValue::from_str(v).unwrap()));
            }
            assert_eq!(is_meant(&Uri::from_static("/runs"), &headers), meant, "{host:?} {origin:?}");
        }
        assert!(!is_meant(&Uri::from_static("http://evil.example/runs"), &HeaderMap::new()));
    }
}
