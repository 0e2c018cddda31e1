//! Who asked, through proxies: `X-Forwarded-*` and `Forwarded`, <https://www.rfc-editor.org/rfc/rfc7239>.
//!
//! A proxy appends whom it heard from, so a list is read from the right: each hop is believed because the one to its
//! right is trusted, and what stands left of the first that is not trusted was written by nobody knows whom. Where a
//! trusted proxy sends both kinds of fields, it may pass one of them on unseen: what they do not agree on is not believed.

use core::net::IpAddr;
use std::fmt::Write as _;

/// Most hops that are believed; proxies in a ring would make a list without end.
const MOST: usize = 32;

/// What a request says about its way, each field's values in their order.
#[derive(Debug, Clone, Default)]
pub struct Claims<'a> {
    /// `X-Forwarded-For`.
    pub addresses: Vec<&'a str>,
    /// `X-Forwarded-Proto`.
    pub protos: Vec<&'a str>,
    /// `X-Forwarded-Host`.
    pub hosts: Vec<&'a str>,
    /// `Forwarded`.
    pub forwarded: Vec<&'a str>,
}

/// What may be believed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way<'a> {
    /// The client, the proxies behind it, and last who opened the connection; never empty.
    pub hops: Vec<IpAddr>,
    /// Over what the client asked, where a trusted proxy says so.
    pub proto: Option<&'static str>,
    /// Whom the client asked, where a trusted proxy says so.
    pub host: Option<&'a str>,
}

impl<'a> Way<'a> {
    /// The way of a request that came over a connection from `peer`.
    pub fn of(peer: IpAddr, claims: &Claims<'a>, trusted: impl Fn(IpAddr) -> bool) -> Self {
        let alone = Self { hops: vec![peer], proto: None, host: None };
        if !trusted(peer) {
            return alone;
        }
        let listed = (!claims.addresses.is_empty()).then(|| Self::listed(peer, claims, &trusted));
        let forwarded = (!claims.forwarded.is_empty()).then(|| Self::forwarded(peer, claims, &trusted));
        match (listed, forwarded) {
            (Some(listed), Some(forwarded)) if listed.hops.first() != forwarded.hops.first() => alone,
            (Some(listed), Some(forwarded)) => Self {
                proto: listed.proto.filter(|proto| forwarded.proto == Some(proto)),
                host: listed.host.filter(|host| forwarded.host == Some(host)),
                hops: listed.hops,
            },
            (Some(only), None) | (None, Some(only)) => only,
            // It says nothing of the client's address, and may say how it was asked itself.
            (None, None) => Self::listed(peer, claims, &trusted),
        }
    }

    /// By `X-Forwarded-*`.
    fn listed(peer: IpAddr, claims: &Claims<'a>, trusted: impl Fn(IpAddr) -> bool) -> Self {
        let addresses = items(&claims.addresses, plain);
        let hops = walk(peer, addresses.iter().rev().map(|item| address(item)), trusted);
        // The proxy that heard from the client is as far from the right as hops are believed; one that keeps a single
        // value keeps the client's.
        let back = hops.len().saturating_sub(1).max(1);
        let of = |values: &[&'a str]| {
            let items = items(values, plain);
            items.get(items.len().saturating_sub(back)).copied()
        };
        Self { proto: of(&claims.protos).and_then(proto), host: of(&claims.hosts).and_then(host), hops }
    }

    /// By `Forwarded`.
    fn forwarded(peer: IpAddr, claims: &Claims<'a>, trusted: impl Fn(IpAddr) -> bool) -> Self {
        let elements = items(&claims.forwarded, elements);
        let from = |element: &&'a str| parameter(element, "for").and_then(address);
        let hops = walk(peer, elements.iter().rev().map(from), trusted);
        let back = hops.len().saturating_sub(1).max(1);
        let element = elements.get(elements.len().saturating_sub(back)).copied().unwrap_or_default();
        Self {
            hops,
            proto: parameter(element, "proto").and_then(proto),
            host: parameter(element, "host").and_then(host),
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.hops.first().copied()
    }

    /// `X-Forwarded-For` as it is sent on.
    #[must_use]
    pub fn list(&self) -> String {
        let mut list = String::new();
        for hop in &self.hops {
            let comma = if list.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(list, "{comma}{hop}");
        }
        list
    }

    /// `Forwarded` as it is sent on; over what and whom the client asked stands with the client.
    #[must_use]
    pub fn elements(&self, proto: &str, host: Option<&str>) -> String {
        let mut list = String::new();
        for hop in &self.hops {
            let first = list.is_empty();
            let comma = if first { "" } else { ", " };
            let _ = match hop {
                IpAddr::V4(hop) => write!(list, "{comma}for={hop}"),
                IpAddr::V6(hop) => write!(list, "{comma}for=\"[{hop}]\""),
            };
            if first {
                let _ = write!(list, ";proto={proto}");
                if let Some(host) = host {
                    let _ = write!(list, ";host=\"{host}\"");
                }
            }
        }
        list
    }
}

/// The hops that may be believed, from the right, and then turned around.
fn walk(
    peer: IpAddr,
    from_the_right: impl Iterator<Item = Option<IpAddr>>,
    trusted: impl Fn(IpAddr) -> bool,
) -> Vec<IpAddr> {
    let mut hops = vec![peer];
    for hop in from_the_right.take(MOST) {
        let believed = hops.last().is_some_and(|&last| trusted(last));
        let Some(hop) = hop.filter(|_| believed) else { break };
        hops.push(hop);
    }
    hops.reverse();
    hops
}

/// The items of a list that may be spread over several fields; the latest ones of a long list.
fn items<'a>(fields: &[&'a str], split: impl Fn(&'a str) -> Vec<&'a str>) -> Vec<&'a str> {
    let mut latest: Vec<_> = fields.iter().rev().flat_map(|field| split(field).into_iter().rev()).take(MOST).collect();
    latest.reverse();
    latest
}

/// The items of an `X-Forwarded-*` field, which knows no quotation.
fn plain(field: &str) -> Vec<&str> {
    field.split(',').map(str::trim).collect()
}

/// The elements of a `Forwarded` field. One whose quotations are not whole is a single element that says nothing: what a
/// client left open would swallow what a proxy appends.
fn elements(field: &str) -> Vec<&str> {
    quoted_split(field, ',').unwrap_or_else(|| vec![""])
}

/// Where a text stands with its quotations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotation {
    Outside,
    Inside,
    Escaped,
    /// Just after one, where only the end of the pair may follow.
    Ended,
}

/// The pieces between separators that do not stand in quotes; `None` where a quotation is not the whole value of a
/// parameter.
fn quoted_split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut pieces, mut start, mut state, mut before) = (Vec::new(), 0, Quotation::Outside, None);
    for (at, character) in text.char_indices() {
        state = match (state, character) {
            (Quotation::Inside, '\\') => Quotation::Escaped,
            (Quotation::Inside, '"') | (Quotation::Ended, ' ' | '\t') => Quotation::Ended,
            (Quotation::Inside | Quotation::Escaped, _) => Quotation::Inside,
            (Quotation::Outside, '"') if before == Some('=') => Quotation::Inside,
            (Quotation::Outside, '"') => return None,
            (Quotation::Ended, ';' | ',') | (Quotation::Outside, _) => {
                if character == separator {
                    pieces.push(text.get(start..at).unwrap_or_default().trim());
                    start = at + character.len_utf8();
                }
                Quotation::Outside
            }
            (Quotation::Ended, _) => return None,
        };
        before = Some(character);
    }
    pieces.push(text.get(start..).unwrap_or_default().trim());
    matches!(state, Quotation::Outside | Quotation::Ended).then_some(pieces)
}

/// A parameter of an element of `Forwarded`, quotes removed. A value with an escape in it is nothing that is wanted here.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let pairs = quoted_split(element, ';')?.into_iter().filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    // A name stands once in an element; one that stands twice could be read in two ways.
    let value = values.next().filter(|_| values.next().is_none())?;
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!bare.contains(['"', '\\'])).then_some(bare)
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`; not `unknown` nor a made-up name.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let bare = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            let v6 = address.contains(':') && (after.is_empty() || after.strip_prefix(':').is_some_and(is_port));
            address.get(..).filter(|_| v6)?
        }
        None => text.split_once(':').filter(|(_, port)| is_port(port))?.0,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn proto(text: &str) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|known| text.eq_ignore_ascii_case(known))
}

/// A name or an address with an optional port, of no characters that would have to be written differently somewhere.
#[must_use]
pub fn host(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (1..=255).contains(&text.len()).then_some(text).filter(|text| text.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `10.0.0.0/8` and `fd00::/8` are trusted.
    fn trusted(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.octets()[0] == 10,
            IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
        }
    }

    fn claims<'a>(fields: &[(&str, &'a str)]) -> Claims<'a> {
        let of = |name: &str| fields.iter().filter(|(field, _)| *field == name).map(|(_, value)| *value).collect();
        Claims { addresses: of("for"), protos: of("proto"), hosts: of("host"), forwarded: of("forwarded") }
    }

    #[track_caller]
    fn check(peer: &str, fields: &[(&str, &str)], list: &str, proto: Option<&str>, host: Option<&str>) {
        let claims = claims(fields);
        let way = Way::of(peer.parse().unwrap(), &claims, trusted);
        assert_eq!((way.list().as_str(), way.proto, way.host), (list, proto, host), "{peer} {fields:?}");
    }

    #[test]
    fn nothing_is_believed_of_who_is_not_trusted() {
        let all = [("for", "1.1.1.1"), ("proto", "https"), ("host", "evil"), ("forwarded", "for=1.1.1.1;proto=https")];
        check("203.0.113.9", &all, "203.0.113.9", None, None);
        check("::1", &all[..1], "::1", None, None);
        check("10.0.0.1", &[], "10.0.0.1", None, None);
    }

    #[test]
    fn hops_are_counted_from_the_right() {
        check("10.0.0.1", &[("for", "1.1.1.1")], "1.1.1.1, 10.0.0.1", None, None);
        // What the client itself claimed stands left of it.
        check("10.0.0.1", &[("for", "6.6.6.6, 1.1.1.1")], "1.1.1.1, 10.0.0.1", None, None);
        check(
            "10.0.0.1",
            &[("for", "6.6.6.6"), ("for", "1.1.1.1,10.0.0.2")],
            "1.1.1.1, 10.0.0.2, 10.0.0.1",
            None,
            None,
        );
        check("10.0.0.1", &[("for", "10.0.0.3, 6.6.6.6, 10.0.0.2")], "6.6.6.6, 10.0.0.2, 10.0.0.1", None, None);
        check("10.0.0.1", &[("for", "10.0.0.3, 10.0.0.2")], "10.0.0.3, 10.0.0.2, 10.0.0.1", None, None);
        // What is no address ends the chain.
        check("10.0.0.1", &[("for", "1.1.1.1, unknown")], "10.0.0.1", None, None);
        check("10.0.0.1", &[("for", "1.1.1.1, unknown, 10.0.0.2")], "10.0.0.2, 10.0.0.1", None, None);
        check("10.0.0.1", &[("for", "")], "10.0.0.1", None, None);
        check("10.0.0.1", &[("for", "1.1.1.1,")], "10.0.0.1", None, None);
    }

    #[test]
    fn addresses_come_in_many_clothes() {
        for (text, expected) in [
            ("1.1.1.1:4711", "1.1.1.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:1.1.1.1", "1.1.1.1"),
        ] {
            check("10.0.0.1", &[("for", text)], &format!("{expected}, 10.0.0.1"), None, None);
        }
        for text in
            ["_hidden", "[1.1.1.1]", "1.1.1.1:port", "[2001:db8::1", "[2001:db8::1]x", "1.1.1.1 ; drop", "\"1.1.1.1\""]
        {
            check("10.0.0.1", &[("for", text)], "10.0.0.1", None, None);
        }
    }

    #[test]
    fn over_what_and_whom_is_said_by_the_proxy_that_heard_the_client() {
        let one = [("for", "1.1.1.1"), ("proto", "HTTPS"), ("host", "api.example:8443")];
        check("10.0.0.1", &one, "1.1.1.1, 10.0.0.1", Some("https"), Some("api.example:8443"));
        check("10.0.0.1", &one[1..], "10.0.0.1", Some("https"), Some("api.example:8443"));
        let two = [("for", "6.6.6.6, 1.1.1.1, 10.0.0.2"), ("proto", "ftp, https, http"), ("host", "evil, api, inner")];
        check("10.0.0.1", &two, "1.1.1.1, 10.0.0.2, 10.0.0.1", Some("https"), Some("api"));
        check(
            "10.0.0.1",
            &[("for", "1.1.1.1"), ("proto", "gopher"), ("host", "a\"b")],
            "1.1.1.1, 10.0.0.1",
            None,
            None,
        );
    }

    #[test]
    fn forwarded_says_the_same_in_other_words() {
        let forwarded = |text| [("forwarded", text)];
        check("10.0.0.1", &forwarded("for=1.1.1.1"), "1.1.1.1, 10.0.0.1", None, None);
        check(
            "10.0.0.1",
            &forwarded("For=\"[2001:db8::1]:4711\";Proto=https;by=10.0.0.1;host=\"api.example:8443\""),
            "2001:db8::1, 10.0.0.1",
            Some("https"),
            Some("api.example:8443"),
        );
        check(
            "10.0.0.1",
            &forwarded("for=6.6.6.6;proto=http, for=1.1.1.1;proto=https;host=api, for=10.0.0.2;proto=http"),
            "1.1.1.1, 10.0.0.2, 10.0.0.1",
            Some("https"),
            Some("api"),
        );
        // A comma in quotes is no end of an element; neither is an escaped quote the end of a quotation.
        check("10.0.0.1", &forwarded("for=1.1.1.1, for=\"1.1.1.1, for=6.6.6.6\""), "10.0.0.1", None, None);
        check("10.0.0.1", &forwarded("for=\"\\\", for=6.6.6.6\""), "10.0.0.1", None, None);
        check("10.0.0.1", &forwarded("for=1.1.1.1;for=6.6.6.6"), "10.0.0.1", None, None);
        check("10.0.0.1", &forwarded("for=unknown;proto=https"), "10.0.0.1", Some("https"), None);
    }

    #[test]
    fn a_quotation_that_a_client_left_open_does_not_hide_what_a_proxy_appends() {
        let forwarded = |text| [("forwarded", text)];
        for text in [
            // The proxy's own element begins with the last `, for=`.
            "for=6.6.6.6;x=\", for=\"[2001:db8::1]\"",
            "for=6.6.6.6;x=\", for=1.1.1.1",
            "for=6.6.6.6;x=\", for=1.1.1.1;host=\";for=6.6.6.6;y=\"",
            "for=6.6.6.6;x=\", for=1.1.1.1;host=\", for=6.6.6.6\"",
            "for=6.6.6.6;x=\"\\, for=\"[2001:db8::1]\"",
            "for=6.6.6.6, for=\"1.1.1.1\"x",
            "for=6.6.6.6, for=x\"1.1.1.1\"",
            "for=6.6.6.6, \"for=1.1.1.1\"",
        ] {
            check("10.0.0.1", &forwarded(text), "10.0.0.1", None, None);
            check("10.0.0.1", &[("forwarded", "for=6.6.6.6"), ("forwarded", text)], "10.0.0.1", None, None);
        }
        check("10.0.0.1", &forwarded("for=\"1.1.1.1\" ; proto=https"), "1.1.1.1, 10.0.0.1", Some("https"), None);
        // A whole field of its own is not spoiled by one before it.
        let own = [("forwarded", "for=6.6.6.6;x=\""), ("forwarded", "for=\"[2001:db8::1]\"")];
        check("10.0.0.1", &own, "2001:db8::1, 10.0.0.1", None, None);
    }

    #[test]
    fn a_quotation_mark_in_another_field_is_no_quotation() {
        check("10.0.0.1", &[("for", "6.6.6.6\", 1.1.1.1")], "1.1.1.1, 10.0.0.1", None, None);
        check("10.0.0.1", &[("for", "\"6.6.6.6, 1.1.1.1, \"10.0.0.2")], "10.0.0.1", None, None);
        let two = [("for", "1.1.1.1, 10.0.0.2"), ("proto", "\"x, https, http"), ("host", "a\", api, inner\"")];
        check("10.0.0.1", &two, "1.1.1.1, 10.0.0.2, 10.0.0.1", Some("https"), Some("api"));
    }

    #[test]
    fn two_kinds_of_fields_must_name_the_same_client() {
        let said = ("forwarded", "for=1.1.1.1;proto=https;host=api");
        let agree = [("for", "1.1.1.1"), ("proto", "https"), ("host", "api"), said];
        check("10.0.0.1", &agree, "1.1.1.1, 10.0.0.1", Some("https"), Some("api"));
        // The proxy says where the request came from, and its client the rest.
        check("10.0.0.1", &[("for", "1.1.1.1"), said], "1.1.1.1, 10.0.0.1", None, None);
        let half = [("for", "1.1.1.1"), ("proto", "http"), ("host", "api"), said];
        check("10.0.0.1", &half, "1.1.1.1, 10.0.0.1", None, Some("api"));
        let differ = [("for", "1.1.1.1"), ("forwarded", "for=6.6.6.6;proto=https")];
        check("10.0.0.1", &differ, "10.0.0.1", None, None);
    }

    #[test]
    fn no_list_is_read_without_end() {
        let many = "10.0.0.2, ".repeat(1_000) + "10.0.0.2";
        let long = claims(&[("for", many.as_str())]);
        assert_eq!(Way::of("10.0.0.1".parse().unwrap(), &long, trusted).hops.len(), MOST + 1);
    }

    #[test]
    fn what_is_sent_on_can_be_read_again() {
        let claims = claims(&[("for", "2001:db8::1, 10.0.0.2"), ("proto", "https"), ("host", "api.example:1")]);
        let way = Way::of("10.0.0.1".parse().unwrap(), &claims, trusted);
        let sent = way.elements("https", way.host);
        assert_eq!(sent, "for=\"[2001:db8::1]\";proto=https;host=\"api.example:1\", for=10.0.0.2, for=10.0.0.1");
        let again = Claims { forwarded: vec![sent.as_str()], ..Claims::default() };
        let read = Way::of("10.0.0.9".parse().unwrap(), &again, trusted);
        assert_eq!((read.client(), read.proto, read.host), (way.client(), Some("https"), Some("api.example:1")));
    }
}
