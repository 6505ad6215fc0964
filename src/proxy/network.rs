//! Networks in prefix notation: `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share a prefix, such as `10.0.0.0/8`; a lone address is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The first address.
    pub address: IpAddr,
    /// Leading bits that count: 0 to 32, or 128.
    pub prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Not an address, or not one followed by a prefix length.
    #[error("a network is an address, or one with a prefix length: 10.0.0.0/8, 192.0.2.7 or fd00::/8")]
    Form,
    /// More bits than the address has.
    #[error("the prefix length is at most {0}")]
    Prefix(u8),
    /// Bits after the prefix are set. Which network was meant is for the operator to say.
    #[error("the network of that prefix length is {0}; write that, or the address alone")]
    HostBits(Network),
    /// `::ffff:10.0.0.0/104`: clients of a dual-stack listener are compared as IPv4.
    #[error("write an IPv4 network as such, not mapped into IPv6")]
    Mapped,
}

impl Network {
    /// Whether the network has this address. An IPv4 address mapped into IPv6, as dual-stack sockets report it, counts
    /// as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && first_of(address, self.prefix) == self.address
    }

    /// The same of a client, which counts also as the IPv4 address that a NAT64 translates. Not for whom something is believed:
    /// anybody behind the translator may have that.
    pub(crate) fn has_client(&self, client: IpAddr) -> bool {
        self.contains(client) || translated(client).is_some_and(|client| self.contains(client.into()))
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork::Form)?;
        if address.to_canonical() != address {
            return Err(InvalidNetwork::Mapped);
        }
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= longest).ok_or(InvalidNetwork::Prefix(longest))?
            }
            Some(_) => return Err(InvalidNetwork::Form),
        };
        let network = Self { address: first_of(address, prefix), prefix };
        if network.address == address { Ok(network) } else { Err(InvalidNetwork::HostBits(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The address with every bit after the prefix cleared.
fn first_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        // Shifting all bits out, for the prefix 0, is not done by `<<`.
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// The IPv4 address that stands in an address of the well-known prefix (RFC 6052, `64:ff9b::/96`).
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    const PREFIX: u128 = 0x0064_ff9b << 96;
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b, c, d] = address.octets();
    (address.to_bits() >> 32 == PREFIX >> 32).then_some(Ipv4Addr::new(a, b, c, d))
}

/// What counts as one client: of IPv6 the network, since a host has all of a /64 to itself; IPv4 mapped into IPv6, or
/// translated, is what it is.
pub(crate) fn client_network(address: IpAddr) -> u128 {
    match translated(address).map_or_else(|| address.to_canonical(), IpAddr::V4) {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_share_its_prefix() {
        let has = |network: &str, address: &str| {
            network.parse::<Network>().expect("valid").contains(address.parse().expect("address"))
        };
        assert!(has("10.0.0.0/8", "10.255.0.1"));
        assert!(!has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(has("0.0.0.0/0", "192.0.2.1"));
        assert!(!has("0.0.0.0/0", "::1"));
        assert!(has("::/0", "fd00::1"));
        assert!(!has("::/0", "::ffff:10.1.2.3"));
        assert!(has("192.0.2.7", "192.0.2.7"));
        assert!(!has("192.0.2.7", "192.0.2.6"));
        assert!(has("fd00::/8", "fd12::1"));
        assert!(!has("::1", "::2"));
    }

    #[test]
    fn a_translated_client_has_its_ipv4_address_too_and_nothing_is_believed_for_it() {
        let network = |text: &str| text.parse::<Network>().expect("valid");
        let client: IpAddr = "64:ff9b::192.0.2.7".parse().expect("an address");
        assert!(network("192.0.2.0/24").has_client(client) && !network("192.0.2.0/24").contains(client));
        assert!(network("64:ff9b::/96").has_client(client) && network("64:ff9b::/96").contains(client));
        assert!(!network("198.51.100.0/24").has_client(client) && !network("0.0.0.0/0").has_client([0; 16].into()));
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_right_one() {
        let refused = |text: &str| text.parse::<Network>().expect_err("refused");
        assert!(refused("10.1.2.3/8").to_string().contains("10.0.0.0/8"));
        assert!(refused("fd00::1/64").to_string().contains("fd00::/64"));
        assert_eq!(refused("10.0.0.0/33"), InvalidNetwork::Prefix(32));
        assert_eq!(refused("::/129"), InvalidNetwork::Prefix(128));
        assert_eq!(refused("10.0.0.0/999"), InvalidNetwork::Prefix(32));
        assert_eq!(refused("::ffff:10.0.0.0/104"), InvalidNetwork::Mapped);
        for text in ["", "localhost", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0/8", "10.0.0.0/255.0.0.0"] {
            assert_eq!(refused(text), InvalidNetwork::Form, "{text:?}");
        }
    }

    #[test]
    fn what_counts_as_one_client() {
        let key = |address: &str| client_network(address.parse().expect("an address"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("192.0.2.1"), key("64:ff9b::192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:0:0:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("0.0.0.0"), key("::1"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-f.:/]{0,24}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert!(network.contains(network.address));
                prop_assert_eq!(network.to_string().parse(), Ok(network));
            }
        }

        #[test]
        fn the_network_named_for_an_address_is_one_and_has_it(bits: u128, v4: bool, prefix in 0..=128_u8) {
            let address = match v4 {
                true => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap_or(0))),
                false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
            };
            let prefix = if v4 { prefix.min(32) } else { prefix };
            match format!("{address}/{prefix}").parse::<Network>() {
                Ok(network) => prop_assert!(network.contains(address)),
                Err(InvalidNetwork::HostBits(network)) => {
                    prop_assert!(network.contains(address));
                    prop_assert_eq!(network.to_string().parse(), Ok(network));
                }
                Err(other) => prop_assert_eq!(other, InvalidNetwork::Mapped),
            }
        }
    }
}
