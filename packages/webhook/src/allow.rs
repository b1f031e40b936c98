//! What an operator opens: hosts and networks that are no part of the public network, and yet may be told.
//!
//! Owns: the list and its form, and whether one address of one host may be connected to. Must not know: how a name
//! becomes an address, or what is sent.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{Place, place};

/// Most entries of a list.
const MAX_ENTRIES: usize = 256;
/// Longest name of a host.
const MAX_NAME: usize = 253;

/// Hosts by name, and networks. The default opens nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    hosts: Vec<String>,
    nets: Vec<IpNet>,
}

impl Allow {
    /// Reads a list of names, addresses and networks (`10.1.0.0/16`), separated by `,`.
    ///
    /// # Errors
    /// A sentence that names the entry that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut allow = Self::default();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            if let Ok(net) = entry.parse::<IpNet>() {
                allow.nets.push(net.trunc());
            } else if let Ok(ip) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
                allow.nets.push(ip.into());
            } else if is_name(entry) {
                allow.hosts.push(entry.trim_end_matches('.').to_ascii_lowercase());
            } else {
                return Err(format!("{entry:?} is no host name, address or network such as 10.1.0.0/16"));
            }
        }
        if allow.hosts.len() + allow.nets.len() > MAX_ENTRIES {
            return Err(format!("has more than {MAX_ENTRIES} entries"));
        }
        Ok(allow)
    }

    /// Whether this host is named: by its name, or as an address within a network.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        match host.trim_matches(['[', ']']).parse() {
            Ok(ip) => self.holds(ip),
            Err(_) => self.hosts.iter().any(|h| h.eq_ignore_ascii_case(host)),
        }
    }

    /// Whether this address of this host may be connected to. A name that is listed may be at home in a network of its
    /// own; what is not a place for receivers at all takes a network that is listed.
    #[must_use]
    pub fn permits(&self, host: &str, ip: IpAddr) -> bool {
        match place(ip) {
            Place::Public => true,
            Place::Private => self.holds(ip) || self.names(host),
            Place::Odd => self.holds(ip),
        }
    }

    fn holds(&self, ip: IpAddr) -> bool {
        // One that is mapped into IPv6 is meant by the network of what it is.
        let ip = ip.to_canonical();
        self.nets.iter().any(|net| net.contains(&ip))
    }
}

/// Whether this is a host's name. What ends like a number is a misspelt address.
fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (1..=63).contains(&l.len()) && inner && !l.starts_with('-') && !l.ends_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= MAX_NAME && !numeric && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_opens_what_it_names_and_nothing_else() {
        let allow = Allow::parse(" 127.0.0.1, 10.1.2.3/16,hooks.internal., fd12::/16 ,[::1], 169.254.1.0/24").unwrap();
        for (host, ip, want) in [
            ("example.org", "93.184.216.34", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("any.name", "127.0.0.1", true),
            ("any.name", "::ffff:127.0.0.1", true),
            ("any.name", "127.0.0.2", false),
            ("any.name", "10.1.255.255", true),
            ("any.name", "10.2.0.1", false),
            ("any.name", "fd12::7", true),
            ("any.name", "::1", true),
            ("HOOKS.internal", "192.168.7.7", true),
            ("hooks.internal.", "127.0.0.9", true),
            ("nothooks.internal", "192.168.7.7", false),
            // A name does not open what nobody means by it, whatever it resolves to.
            ("hooks.internal", "169.254.169.254", false),
            ("hooks.internal", "0.0.0.0", false),
            ("any.name", "169.254.1.7", true),
        ] {
            assert_eq!(allow.permits(host, ip.parse().unwrap()), want, "{host} {ip}");
        }
        assert!(allow.names("10.1.0.1") && allow.names("[::1]") && !allow.names("8.8.8.8"));
        assert_eq!(Allow::parse("").unwrap(), Allow::default());
    }

    #[test]
    fn an_entry_that_is_none_is_named() {
        for bad in ["10.0.0.0/33", "300.1.1.1", "http://h", "a b", "*.h", "-h", "h..i", "10.0.0", &"a".repeat(300)] {
            let e = Allow::parse(&format!("ok.example,{bad}")).unwrap_err();
            assert!(e.contains(bad), "{e}");
        }
        assert!(Allow::parse(&"h,".repeat(257)).is_err());
    }
}
