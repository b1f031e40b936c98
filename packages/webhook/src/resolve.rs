//! Names to addresses, with a judge: what comes out of here may be connected to.
//!
//! Owns: asking the system's resolver, and leaving out what is not allowed. Must not know: what is sent.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::allow::Allow;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why a name gave no address. Travels inside the client's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("the name has no address")]
    NoAddress,
    #[error("none of the name's addresses is allowed")]
    Refused,
}

/// The resolver of the client that sends.
pub(crate) struct Judged(pub(crate) Arc<Allow>);

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = Arc::clone(&self.0);
        Box::pin(async move {
            // The client puts the port of the URL in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|_| Unreachable::NoAddress)?;
            let judged = judge(&allow, name.as_str(), found)?;
            Ok(Box::new(judged.into_iter()) as Addrs)
        })
    }
}

/// What of these may be connected to.
fn judge(allow: &Allow, host: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, Unreachable> {
    let mut found = found.peekable();
    if found.peek().is_none() {
        return Err(Unreachable::NoAddress);
    }
    let judged: Vec<SocketAddr> = found.filter(|a| allow.permits(host, a.ip())).take(MAX_ADDRESSES).collect();
    if judged.is_empty() { Err(Unreachable::Refused) } else { Ok(judged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(allow: &str, host: &str, addresses: &[&str]) -> Result<Vec<String>, Unreachable> {
        let found = addresses.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0));
        let judged = judge(&Allow::parse(allow).unwrap(), host, found);
        judged.map(|all| all.iter().map(|a| a.ip().to_string()).collect())
    }

    #[test]
    fn only_what_is_allowed_is_left() {
        assert_eq!(judged("", "h", &[]), Err(Unreachable::NoAddress));
        assert_eq!(judged("", "h", &["127.0.0.1", "::1", "169.254.169.254"]), Err(Unreachable::Refused));
        assert_eq!(judged("", "h", &["10.0.0.1", "93.184.216.34"]), Ok(vec!["93.184.216.34".into()]));
        assert_eq!(judged("h", "h", &["10.0.0.1", "169.254.169.254"]), Ok(vec!["10.0.0.1".into()]));
        assert_eq!(judged("10.0.0.0/8", "h", &["10.0.0.1"]), Ok(vec!["10.0.0.1".into()]));
    }
}
