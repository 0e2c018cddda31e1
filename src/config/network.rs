//! A range of addresses, written `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is of its own link only, or another one where a cloud keeps credentials: most have them at
/// 169.254.169.254. An IPv4 address in IPv6's clothes, those of a translator (NAT64) included, counts as what it is.
#[must_use]
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == METADATA_V4,
        IpAddr::V6(v6) => {
            let inner = v6.to_ipv4().or_else(|| translated(v6));
            v6.is_unicast_link_local()
                || METADATA_V6.contains(&v6)
                || inner.is_some_and(|v4| is_link_local(IpAddr::V4(v4)))
        }
    }
}

/// Alibaba's instance metadata, which is no link-local address.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
/// Amazon's and Google's over IPv6.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// The IPv4 address that a translator makes of `64:ff9b::/96`, <https://www.rfc-editor.org/rfc/rfc6052#section-2.1>.
fn translated(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let number = u128::from(v6);
    let low = u32::try_from(number & u128::from(u32::MAX)).ok()?;
    (number >> 32 == 0x0064_ff9b << 64).then(|| Ipv4Addr::from(low))
}

/// All addresses that share a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8`, or one address. Bits beyond the prefix are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().ok()?;
        let width = width(base);
        let bits = bits.unwrap_or(width);
        (bits <= width).then_some(Self { base, bits })
    }

    /// Whether `address` lies within; an IPv4 address written as IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let shift = width(self.base).saturating_sub(self.bits);
        width(address) == width(self.base)
            && number(address).checked_shr(shift).unwrap_or(0) == number(self.base).checked_shr(shift).unwrap_or(0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(network: &str, address: &str, expected: bool) {
        let network = Network::parse(network).expect(network);
        assert_eq!(network.contains(address.parse().expect(address)), expected, "{network} and {address}");
    }

    #[test]
    fn the_prefix_decides() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("::/0", "2001:db8::1", true);
        check("fd00::/8", "fd12::1", true);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
    }

    #[test]
    fn addresses_of_the_link_are_known_in_any_clothes() {
        for (address, expected) in [
            ("169.254.169.254", true),
            ("169.254.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("::169.254.169.254", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fd00:ec2::254", true),
            ("fd20:ce::254", true),
            ("100.100.100.200", true),
            ("64:ff9b::169.254.169.254", true),
            ("64:ff9b::100.100.100.200", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b:1::169.254.169.254", false),
            ("100.100.100.201", false),
            ("169.253.169.254", false),
            ("10.0.0.1", false),
            ("fec0::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_link_local(address.parse().expect(address)), expected, "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_none() {
        for bad in ["10.0.0.0/33", "::/129", "ten", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
