//! What kind of place an IP address is: the public network, somebody's own one, or nowhere that a webhook goes.
//!
//! Owns: the classes, after IANA's registries of special-purpose addresses. Must not know: names, or what an operator
//! allows. Pure.
//!
//! Written as a list of what is public, not of what is private: what a registry adds one day is closed here until
//! somebody looks. An address that carries another (IPv4 mapped into IPv6, NAT64) is what it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One address of the public network.
    Public,
    /// A host or a network of somebody's own: loopback, private, shared, unique local.
    Private,
    /// Link-local, a cloud's metadata service, multicast, reserved, for documentation, or a tunnel. Nobody means these by
    /// the name of a receiver, so only a range that an operator wrote down reaches them.
    Odd,
}

/// Metadata services that are not link-local: their answers are credentials.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// What kind of place this is.
#[must_use]
pub fn place(ip: IpAddr) -> Place {
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip),
    }
}

fn v4(ip: Ipv4Addr) -> Place {
    if METADATA_V4.contains(&ip) {
        return Place::Odd;
    }
    match ip.octets() {
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Place::Private,
        // This network; multicast, reserved and broadcast.
        [0 | 224.., ..] => Place::Odd,
        // Link-local, which is where metadata services are.
        [169, 254, ..] => Place::Odd,
        // Protocol assignments, documentation, relays of 6to4, direct delegation to AS112, benchmarks.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [192, 31, 196, _] | [192, 52, 193, _] | [192, 175, 48, _] => Place::Odd,
        [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Place::Odd,
        _ => Place::Public,
    }
}

fn v6(ip: Ipv6Addr) -> Place {
    if ip == Ipv6Addr::LOCALHOST {
        return Place::Private;
    }
    if METADATA_V6.contains(&ip) {
        return Place::Odd;
    }
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let carried = {
        let ([w, x], [y, z]) = (g.to_be_bytes(), h.to_be_bytes());
        Ipv4Addr::new(w, x, y, z)
    };
    match (a, b) {
        // IPv4-mapped: the system connects to the IPv4 address.
        _ if [a, b, c, d, e, f] == [0, 0, 0, 0, 0, 0xffff] => v4(carried),
        // NAT64: a gateway connects to the IPv4 address.
        _ if [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0] => v4(carried),
        (0xfc00..=0xfdff, _) => Place::Private,
        // Protocol assignments: Teredo, benchmarks, ORCHID and others.
        (0x2001, 0..=0x1ff) => Place::Odd,
        // Documentation; 6to4, whose gateways may be anywhere; direct delegation to AS112.
        (0x2001, 0xdb8) | (0x2002, _) | (0x3fff, 0..=0xfff) | (0x2620, 0x4f) => Place::Odd,
        (0x2000..=0x3fff, _) => Place::Public,
        // Unspecified, IPv4-compatible, local NAT64, link-local, multicast, and what nobody has been given yet.
        _ => Place::Odd,
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    /// IANA's special-purpose registries and what else has no business there, as networks: another way to say the same.
    const NOT_PUBLIC_V4: [&str; 21] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
    ];
    const NOT_PUBLIC_V6: [&str; 10] = [
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "2620:4f::/32",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "::/96",
    ];

    fn inside(ip: IpAddr, nets: &[&str]) -> bool {
        nets.iter().any(|net| net.parse::<IpNet>().unwrap().contains(&ip))
    }

    #[test]
    fn known_addresses_are_what_they_are() {
        for (text, want) in [
            ("8.8.8.8", Place::Public),
            ("172.15.255.255", Place::Public),
            ("172.32.0.0", Place::Public),
            ("100.63.255.255", Place::Public),
            ("100.128.0.0", Place::Public),
            ("198.17.255.255", Place::Public),
            ("2606:4700:4700::1111", Place::Public),
            ("64:ff9b::8.8.8.8", Place::Public),
            ("::ffff:8.8.8.8", Place::Public),
            ("127.0.0.1", Place::Private),
            ("127.255.255.254", Place::Private),
            ("10.1.2.3", Place::Private),
            ("172.31.255.255", Place::Private),
            ("192.168.0.1", Place::Private),
            ("100.64.0.1", Place::Private),
            ("::1", Place::Private),
            ("fd12::1", Place::Private),
            ("::ffff:127.0.0.1", Place::Private),
            ("::ffff:10.0.0.1", Place::Private),
            ("64:ff9b::10.0.0.1", Place::Private),
            ("0.0.0.0", Place::Odd),
            ("169.254.169.254", Place::Odd),
            ("::ffff:169.254.169.254", Place::Odd),
            ("64:ff9b::169.254.169.254", Place::Odd),
            ("100.100.100.200", Place::Odd),
            ("fd00:ec2::254", Place::Odd),
            ("255.255.255.255", Place::Odd),
            ("224.0.0.1", Place::Odd),
            ("203.0.113.9", Place::Odd),
            ("::", Place::Odd),
            ("::127.0.0.1", Place::Odd),
            ("64:ff9b:1::10.0.0.1", Place::Odd),
            ("2002:7f00:1::1", Place::Odd),
            ("2001:0:4136:e378::1", Place::Odd),
            ("2001:db8::1", Place::Odd),
            ("fe80::1", Place::Odd),
            ("fec0::1", Place::Odd),
            ("ff02::1", Place::Odd),
            ("4000::1", Place::Odd),
        ] {
            assert_eq!(place(text.parse().unwrap()), want, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        /// Both ways of saying it agree, at random places and at the edges of every network.
        #[test]
        fn nothing_special_is_public(bits in any::<u32>(), net in prop::sample::select(NOT_PUBLIC_V4.to_vec()), by in -2_i64..3) {
            let net: IpNet = net.parse().unwrap();
            let IpNet::V4(net) = net else { unreachable!() };
            for edge in [net.network(), net.broadcast()] {
                let near = Ipv4Addr::from(u32::try_from((i64::from(u32::from(edge)) + by).rem_euclid(1 << 32)).unwrap());
                for ip in [near, Ipv4Addr::from(bits)] {
                    prop_assert_eq!(place(ip.into()) == Place::Public, !inside(ip.into(), &NOT_PUBLIC_V4), "{}", ip);
                }
            }
        }

        #[test]
        fn nothing_special_is_public_in_ipv6(bits in any::<u128>(), net in prop::sample::select(NOT_PUBLIC_V6.to_vec()), below in any::<u128>()) {
            let IpNet::V6(net) = net.parse().unwrap() else { unreachable!() };
            let within = u128::from(net.network()) | (below & u128::from(net.hostmask()));
            let global = (bits >> 3) | (1 << 125);
            for ip in [Ipv6Addr::from(within), Ipv6Addr::from(bits), Ipv6Addr::from(global)] {
                let segments = ip.segments();
                let carries = segments[..6] == [0, 0, 0, 0, 0, 0xffff] || segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
                let public = segments[0] >> 13 == 1 && !inside(ip.into(), &NOT_PUBLIC_V6);
                prop_assert!(carries || (place(ip.into()) == Place::Public) == public, "{}", ip);
            }
        }

        /// However an IPv4 address is wrapped, it is no more public than it is by itself.
        #[test]
        fn no_wrapping_makes_an_address_public(bits in any::<u32>()) {
            let ip = Ipv4Addr::from(bits);
            let [a, b, c, d] = ip.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            prop_assert_eq!(place(ip.to_ipv6_mapped().into()), place(ip.into()));
            prop_assert_eq!(place(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into()), place(ip.into()));
            for wrapped in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2001, 0, 1, 1, 0, 0, !high, !low),
            ] {
                prop_assert_ne!(place(wrapped.into()), Place::Public, "{}", wrapped);
            }
        }
    }
}
