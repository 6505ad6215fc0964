//! A request as the checks see it, whichever protocol it came by.

use std::net::IpAddr;

use super::fields::{Fields, Once};
use super::refusal::Refusal;
use crate::http1::{BodyLength, Field};

/// A request's head, parsed and checked for form.
#[derive(Debug)]
pub struct Request<'a> {
    /// As it was written; methods are case-sensitive.
    pub method: &'a str,
    /// Path and query as they were written, starting with `/`.
    pub target: &'a str,
    /// The target up to its query.
    pub path: &'a str,
    /// `host[:port]`, from `:authority`, an absolute target or `Host`. Empty only in HTTP/1.0 without `Host`.
    pub authority: &'a str,
    /// The field lines.
    pub fields: &'a [Field<'a>],
    /// What they mean.
    pub found: Fields<'a>,
    /// How the end of the body is known.
    pub body: BodyLength,
    /// Who sent it.
    pub origin: Origin,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The address of the connection's other end.
    pub address: IpAddr,
    /// Whether what it says of earlier hops is believed.
    pub trusted: bool,
    /// Whether it came by TLS.
    pub secure: bool,
}

impl<'a> Request<'a> {
    /// A request of HTTP/1.0 or 1.1 (`minor_version`).
    ///
    /// # Errors
    /// [`Refusal`], when the head is not one clear statement.
    pub fn http1(
        method: &'a str,
        target: &'a str,
        minor_version: u8,
        fields: &'a [Field<'a>],
        origin: Origin,
    ) -> Result<Self, Refusal> {
        let found = Fields::read(fields)?;
        let body = found.framing.of_request(minor_version)?;
        let host = match found.host {
            Once::Value(value) => Some(authority(value)?),
            // RFC 9112 section 3.2 asks for one in HTTP/1.1 only.
            Once::Absent if minor_version == 0 => None,
            Once::Absent | Once::Repeated => return Err(Refusal::Host),
        };
        let (named, target) = split_absolute(target)?;
        let authority = one_authority(named, host)?.unwrap_or_default();
        Self::new(method, target, authority, fields, found, body, origin)
    }

    /// A request of HTTP/2. `authority` is the pseudo-field; `ended` says that no body follows.
    ///
    /// # Errors
    /// As [`Request::http1`].
    pub fn http2(
        method: &'a str,
        target: &'a str,
        named: Option<&'a str>,
        fields: &'a [Field<'a>],
        ended: bool,
        origin: Origin,
    ) -> Result<Self, Refusal> {
        let found = Fields::read(fields)?;
        let body = match found.framing.of_request(1)? {
            BodyLength::Known(0) if !ended => BodyLength::Chunked,
            _ if ended => BodyLength::Known(0),
            length => length,
        };
        let host = match found.host {
            Once::Value(value) => Some(authority(value)?),
            Once::Absent => None,
            Once::Repeated => return Err(Refusal::Host),
        };
        let named = named.map(|named| authority(named.as_bytes())).transpose()?;
        let authority = one_authority(named, host)?.ok_or(Refusal::Host)?;
        Self::new(method, target, authority, fields, found, body, origin)
    }

    fn new(
        method: &'a str,
        target: &'a str,
        authority: &'a str,
        fields: &'a [Field<'a>],
        found: Fields<'a>,
        body: BodyLength,
        origin: Origin,
    ) -> Result<Self, Refusal> {
        let end = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
        let path = target.get(..end).unwrap_or_default();
        // The path has rules of its own; in a query all but what could end the line or the target early is data.
        let query = target.get(path.len()..).unwrap_or_default();
        if !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(Refusal::Malformed("the query has a byte that is not allowed in it"));
        }
        Ok(Self { method, target, path, authority, fields, found, body, origin })
    }
}

/// The authority and the rest of an absolute target (RFC 9112 section 3.2.2), which every server must accept.
fn split_absolute(target: &str) -> Result<(Option<&str>, &str), Refusal> {
    let lower = |prefix: &str| target.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let rest = match () {
        () if target.starts_with('/') => return Ok((None, target)),
        () if lower("http://") => target.get(7..),
        () if lower("https://") => target.get(8..),
        () => return Ok((None, target)), // `*` and the like have no route
    };
    let rest = rest.unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (named, target) = rest.split_at(end);
    let target = match target {
        "" => "/",
        target if target.starts_with('/') => target,
        _ => return Err(Refusal::Malformed("the target has no path")),
    };
    Ok((Some(authority(named.as_bytes())?), target))
}

/// Both ways to name the authority must agree: RFC 9112 section 3.2.2 lets the target win, but whoever logs or decides
/// by the other would be deceived.
fn one_authority<'a>(target: Option<&'a str>, host: Option<&'a str>) -> Result<Option<&'a str>, Refusal> {
    match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(Refusal::Host),
        (target, host) => Ok(target.or(host)),
    }
}

/// One authority without user information: `host`, `host:port`, `[v6]` or `[v6]:port` (RFC 3986 section 3.2).
pub(super) fn authority(value: &[u8]) -> Result<&str, Refusal> {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']').ok_or(Refusal::Host)?;
            let (address, rest) = rest.split_at(end);
            let address = std::str::from_utf8(address).map_err(|_| Refusal::Host)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| Refusal::Host)?;
            (b"v6".as_slice(), rest.get(1..).unwrap_or_default())
        }
        _ => value.split_at(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_host = (1..=255).contains(&host.len()) && host.iter().all(named);
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => {
            let number = || digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
            (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) && number() <= u16::MAX.into()
        }
        _ => false,
    };
    if !is_host || !is_port {
        return Err(Refusal::Host);
    }
    std::str::from_utf8(value).map_err(|_| Refusal::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_one_host_and_port() {
        for good in ["a", "tollgate.example:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b:1"] {
            assert_eq!(authority(good.as_bytes()), Ok(good));
        }
        let bad = [
            "",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:1:2",
            "a b",
            "a,b",
            "a/b",
            "u@a",
            "[::1",
            "[::1]80",
            "[x]",
            "::1",
            "a:+1",
            "a:999999999999",
            "[::1]x80",
            "[::1]:",
            "a\u{e9}",
            "a?b",
            "a#b",
            "a\\b",
            "%41",
        ];
        for bad in bad {
            assert_eq!(authority(bad.as_bytes()), Err(Refusal::Host), "{bad}");
        }
    }

    const ORIGIN: Origin = Origin { address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), trusted: false, secure: false };

    fn http1(target: &str, hosts: &[&str], minor_version: u8) -> Result<(String, String), Refusal> {
        let fields: Vec<_> = hosts.iter().map(|host| Field { name: "Host", value: host.as_bytes() }).collect();
        Request::http1("GET", target, minor_version, &fields, ORIGIN)
            .map(|request| (request.authority.to_owned(), request.path.to_owned()))
    }

    #[test]
    fn the_authority_is_named_once_or_alike() {
        let ok = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
        assert_eq!(http1("/a?b/c", &["h"], 1), ok("h", "/a"));
        assert_eq!(http1("http://h/a", &["h"], 1), ok("h", "/a"));
        assert_eq!(http1("HTTP://h", &["H"], 1), ok("h", "/"));
        assert_eq!(http1("/a", &[], 0), ok("", "/a"));
        for (target, hosts) in [
            ("/a", [].as_slice()),
            ("/a", &["h", "h"]),
            ("/a", &[""]),
            ("http://x/a", &["h"]),
            ("http:///a", &["h"]),
            ("http://u@h/a", &["h"]),
        ] {
            assert_eq!(http1(target, hosts, 1), Err(Refusal::Host), "{target} {hosts:?}");
        }
    }

    #[test]
    fn queries_are_visible_ascii() {
        assert!(http1("/a?b=%20&c[]={}", &["h"], 1).is_ok());
        for target in ["/a?b c", "/a?\u{e9}", "/a?b#c", "http://h?a"] {
            assert!(matches!(http1(target, &["h"], 1), Err(Refusal::Malformed(_))), "{target}");
        }
    }
}
