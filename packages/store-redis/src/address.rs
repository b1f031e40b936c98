//! Where the server is: reading `REDIS_URL`. Nothing here shows a password.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

/// Most hosts that one address names.
const MAX_HOSTS: usize = 64;

/// Where the server is, and how it is organised.
#[derive(Clone)]
pub struct Address(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    /// One server.
    Single(ConnectionInfo),
    /// A cluster: nodes to begin with.
    Cluster(Vec<ConnectionInfo>),
    /// Sentinels that know where the primary is.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
        tls: bool,
        /// For the primary itself.
        settings: RedisConnectionInfo,
    },
}

/// Hosts and ways only: a user, a password and a query are nobody's business.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts =
            |all: &[ConnectionInfo]| all.iter().map(|info| info.addr().to_string()).collect::<Vec<_>>().join(",");
        match &self.0 {
            Kind::Single(info) => write!(f, "{}", info.addr()),
            Kind::Cluster(nodes) => write!(f, "cluster {}", hosts(nodes)),
            Kind::Sentinel { sentinels, master, .. } => write!(f, "{master} of sentinels {}", hosts(sentinels)),
        }
    }
}

/// Why an address was refused. Never repeats it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

impl Address {
    /// Reads `redis://`, `rediss://`, several such or hosts separated by commas (a cluster), and
    /// `redis-sentinel://[user:password@]host[:port],host[:port]/[db]?master=name`, with `sentinel-user` and
    /// `sentinel-password` where the sentinels want them (`rediss-sentinel://` where primary and sentinels speak TLS).
    ///
    /// # Errors
    /// [`InvalidAddress`] says what was expected; it repeats nothing of the text.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let bad = |why: &str| {
            InvalidAddress(format!(
                "{why}; expected redis://host:port, rediss://host:port, \
             redis://host:port,host:port for a cluster, or redis-sentinel://host:port,host:port/?master=name"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("there is no scheme"))?;
        match scheme {
            "redis" | "rediss" => {
                let nodes = split(scheme, rest).map_err(bad)?;
                let infos = nodes.iter().map(|url| info(url)).collect::<Result<Vec<_>, _>>().map_err(bad)?;
                Ok(Self(match <[_; 1]>::try_from(infos) {
                    Ok([one]) => Kind::Single(one),
                    Err(several) => Kind::Cluster(several),
                }))
            }
            "redis-sentinel" | "rediss-sentinel" => sentinel(scheme == "rediss-sentinel", rest).map_err(bad),
            _ => Err(bad("the scheme is not known")),
        }
    }
}

/// One URL for each host. User, password and what follows the hosts hold for all of them.
fn split(scheme: &str, rest: &str) -> Result<Vec<String>, &'static str> {
    let (authority, tail) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (credentials, hosts) = match authority.rfind('@') {
        Some(at) => authority.split_at(at + 1),
        None => ("", authority),
    };
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
    if hosts.len() > MAX_HOSTS {
        return Err("there are more than 64 hosts");
    }
    if hosts.iter().any(|host| host.is_empty()) {
        return Err("a host is missing");
    }
    Ok(hosts.iter().map(|host| format!("{scheme}://{credentials}{host}{tail}")).collect())
}

fn info(url: &str) -> Result<ConnectionInfo, &'static str> {
    if url.contains('#') {
        return Err("`#` has no meaning in it (in a password it is written %23)"); // `#insecure` is what the library knows
    }
    // The library passes over what it does not know; here a sentinel's settings are off already.
    if url.contains('?') {
        return Err("`?` has no meaning in it (in a password it is written %3F)");
    }
    // The library's own message may quote the address.
    url.into_connection_info().map_err(|_| "it cannot be read")
}

fn sentinel(tls: bool, rest: &str) -> Result<Address, &'static str> {
    let (before, query) = rest.split_once('?').ok_or("`?master=name` is missing")?;
    let (mut master, mut user, mut password) = (None, "", "");
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("master", name)) if !name.is_empty() => master = Some(name.to_owned()),
            Some(("sentinel-user", name)) => user = name,
            Some(("sentinel-password", secret)) => password = secret,
            _ => return Err("a sentinel address has `master`, and perhaps `sentinel-user` and `sentinel-password`"),
        }
    }
    let master = master.ok_or("`?master=name` is missing")?;
    let urls = split(if tls { "rediss" } else { "redis" }, before)?;
    let mut sentinels = urls.iter().map(|url| info(url)).collect::<Result<Vec<_>, _>>()?;
    let settings = sentinels.first().ok_or("a host is missing")?.redis_settings().clone();
    // Written as in every other address, so that they are read alike.
    let credentials = match password {
        "" => RedisConnectionInfo::default(),
        _ => info(&format!("redis://{user}:{password}@localhost"))?.redis_settings().clone(),
    };
    for (it, url) in sentinels.iter_mut().zip(&urls) {
        // The credentials and the database are the primary's; without a port, sentinels listen at their own.
        let mut addr = it.addr().clone();
        if let (ConnectionAddr::Tcp(_, port) | ConnectionAddr::TcpTls { port, .. }, false) =
            (&mut addr, url.contains(":6379"))
            && *port == 6379
        {
            *port = 26379;
        }
        *it = it.clone().set_addr(addr).set_redis_settings(credentials.clone());
    }
    Ok(Address(Kind::Sentinel { sentinels, master, tls, settings }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_secrets() {
        for (text, shown) in [
            ("redis://h:7000", "h:7000"),
            ("redis://:secret@h:7000/2", "h:7000"),
            ("rediss://user:secret@h", "h:6379"),
            ("redis://a:1,b:2,c:3", "cluster a:1,b:2,c:3"),
            ("redis://:secret@a:1,b:2", "cluster a:1,b:2"),
            ("redis-sentinel://:secret@a,b:5/0?master=m", "m of sentinels a:26379,b:5"),
            ("rediss-sentinel://a/?sentinel-password=secret&master=m", "m of sentinels a:26379"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert!(!format!("{address:?}").contains("secret"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for text in [
            "",
            "h:6379",
            "http://secret",
            "redis://",
            "redis://secret:x:y",
            "redis://a,,secret",
            "redis://secret/notadb",
            "redis-sentinel://secret",
            "redis-sentinel://secret?other=1",
            "redis-sentinel://h?master=",
            "redis-sentinel://h?master=m&sentinel-pass=secret",
            "rediss://h:6379/#insecure",
            "redis://h:6379/0?secret=1",
            "redis://a:1,b:2?secret",
            "redis://:h?secret@h:6379",
        ] {
            let refused = Address::parse(text).unwrap_err().to_string();
            assert!(!refused.contains("secret") && refused.contains("expected redis://"), "{text}: {refused}");
        }
    }
}
