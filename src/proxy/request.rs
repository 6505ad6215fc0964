//! A request as the checks see it, whichever protocol it came by.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use super::fields::{Fate, Fields};
use super::path;
use super::refusal::Refusal;
use crate::http1::{BodyLength, MAX_FIELDS};

/// A request's head in the one form that both protocols are read into, checked for form: path and query alone in its `Uri`,
/// the authority as the only `Host` (which HTTP/1.0 may leave out), and no field that ends at this hop.
#[derive(Debug)]
pub struct Head {
    /// Method, path and query, fields.
    pub parts: Parts,
    /// How the end of the body is known.
    pub body: BodyLength,
    /// The client waits for `100 Continue` before it sends its body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// The connection ends with the reply.
    pub close: bool,
}

/// Where a request came from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The address of the connection's other end.
    pub address: IpAddr,
    /// Whether what it says of earlier hops is believed. Asked for each request: a reload may change it.
    pub trusted: bool,
    /// Whether it came by TLS.
    pub secure: bool,
    /// Of its certificate, where somebody wants to know it.
    pub subject: Option<Rc<str>>,
}

impl Head {
    /// Reads a head of HTTP/1.0 or 1.1: the request line and field lines, up to and with the empty line, each of which is
    /// known to end with CR LF. `headers` is filled; field values share `bytes`.
    ///
    /// # Errors
    /// [`Refusal`], when the head is not one clear statement.
    pub fn http1(bytes: &Bytes, max_headers: usize, mut headers: HeaderMap) -> Result<Self, Refusal> {
        let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut head = httparse::Request::new(&mut []);
        // With room for no more fields than are allowed, one more is an error.
        head.parse_with_uninit_headers(bytes, lines.get_mut(..max_headers).unwrap_or_default())
            .map_err(|error| malformed(error, bytes))?;
        let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version) else {
            return Err(Refusal::Malformed("the request line is not complete"));
        };
        let mut fields = Fields::default();
        let mut host = None;
        let mut connection = false;
        for field in &*head.headers {
            match fields.take(field.name.as_bytes(), field.value)? {
                Fate::Forwarded => append(&mut headers, field.name, slice(bytes, field.value)?)?,
                Fate::Host if host.is_some() => return Err(Refusal::Host),
                Fate::Host => host = Some(authority(field.value)?),
                Fate::Connection => connection = true,
                Fate::Stripped => {}
            }
        }
        // After the others: what it names may come before it or after it.
        if connection {
            for field in head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("connection")) {
                fields.strip_named(field.value, &mut headers)?;
            }
        }
        let body = fields.framing.of_request(minor_version)?;
        // RFC 9112 section 3.2 asks for a Host in HTTP/1.1 only.
        if host.is_none() && minor_version != 0 {
            return Err(Refusal::Host);
        }
        let (named, target) = split_absolute(target)?;
        if let Some(authority) = one_authority(named, host)? {
            headers.insert(header::HOST, slice(bytes, authority.as_bytes())?);
        }
        let mut parts = Request::new(()).into_parts().0;
        parts.method =
            Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed("the method is not a token"))?;
        parts.uri = uri(bytes, target)?;
        parts.version = if minor_version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = headers;
        // RFC 9110 section 10.1.1: in HTTP/1.0 it means nothing.
        let expects_continue = fields.expects_continue && minor_version == 1;
        Ok(Self { parts, body, expects_continue, close: fields.close || minor_version == 0 })
    }

    /// Reads a head of HTTP/2. `ended` says that no body follows.
    ///
    /// # Errors
    /// As [`Head::http1`].
    pub fn http2(mut parts: Parts, ended: bool) -> Result<Self, Refusal> {
        let mut fields = Fields::default();
        let mut host = None;
        let mut stripped = Vec::new();
        for (name, value) in &parts.headers {
            match fields.take(name.as_str().as_bytes(), value.as_bytes())? {
                Fate::Forwarded => {}
                Fate::Host if host.is_some() => return Err(Refusal::Host),
                Fate::Host => host = Some(authority(value.as_bytes())?),
                // The codec refuses these already (RFC 9113 section 8.2.2).
                Fate::Connection => return Err(Refusal::ConnectionOption),
                Fate::Stripped => stripped.push(name.clone()),
            }
        }
        let named = parts.uri.authority().map(|named| authority(named.as_str().as_bytes())).transpose()?;
        let authority = one_authority(named, host)?.ok_or(Refusal::Host)?;
        let authority = HeaderValue::from_str(authority).map_err(|_| Refusal::Host)?;
        let target = parts.uri.path_and_query().cloned().ok_or(Refusal::Malformed("there is no path"))?;
        check_query(target.query().unwrap_or_default().as_bytes())?;
        let body = match fields.framing.of_request(1)? {
            _ if ended => BodyLength::Known(0),
            // Without a length a stream's end says where the body ends (RFC 9113 section 8.1.1).
            BodyLength::Known(0) => BodyLength::Chunked,
            length => length,
        };
        for name in stripped {
            parts.headers.remove(name);
        }
        parts.headers.insert(header::HOST, authority);
        parts.uri = Uri::from(target);
        Ok(Self { parts, body, expects_continue: fields.expects_continue, close: false })
    }
}

/// The part of `bytes` that `part` is, without a copy.
fn slice(bytes: &Bytes, part: &[u8]) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_maybe_shared(bytes.slice_ref(part))
        .map_err(|_| Refusal::Malformed("a field value has a control character"))
}

fn append(headers: &mut HeaderMap, name: &str, value: HeaderValue) -> Result<(), Refusal> {
    let name =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refusal::Malformed("a field name is not a token"))?;
    headers.try_append(name, value).map(drop).map_err(|_| Refusal::HeadTooLarge)
}

/// Path and query, byte for byte as they were written, unless the query has what no query may have.
fn uri(bytes: &Bytes, target: &str) -> Result<Uri, Refusal> {
    let end = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
    let path = target.get(..end).unwrap_or_default();
    let query = target.get(end + 1..).unwrap_or_default();
    check_query(query.as_bytes())?;
    // It may be ours, where an absolute target had no path: then it is no part of `bytes`.
    if target == "/" {
        return Ok(Uri::from_static("/"));
    }
    // `http` drops what follows a `#`.
    if !path.starts_with('/') || memchr::memchr(b'#', path.as_bytes()).is_some() {
        path::normalise(path)?;
    }
    if let Ok(target) = PathAndQuery::from_maybe_shared(bytes.slice_ref(target.as_bytes())) {
        return Ok(Uri::from(target));
    }
    path::normalise(path)?;
    let target = format!("{path}?{}", encode(query));
    target.parse().map_err(|_| Refusal::Malformed("the target is no path"))
}

/// A query with the bytes encoded that RFC 3986 does not allow in it and people write all the same: every server reads them
/// alike.
#[cold]
fn encode(query: &str) -> String {
    query.chars().fold(String::new(), |mut encoded, character| {
        match character {
            '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' => {
                encoded.push_str(&format!("%{:02X}", u32::from(character)));
            }
            _ => encoded.push(character),
        }
        encoded
    })
}

/// The path has rules of its own; in a query all but what could end the line or the target early is data.
fn check_query(query: &[u8]) -> Result<(), Refusal> {
    if query.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Ok(());
    }
    Err(Refusal::Malformed("the query has a byte that is not allowed in it"))
}

fn malformed(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::Version if names_a_version(bytes) => Refusal::Version,
        httparse::Error::HeaderName => Refusal::Malformed("a field name is not a token"),
        httparse::Error::HeaderValue => Refusal::Malformed("a field value has a control character"),
        _ => Refusal::Malformed("the request line is not valid"),
    }
}

/// Whether a request line has three words and the last is a version. If not, a space is where none may be: another
/// version of HTTP is not what is wrong.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    words.next().is_some_and(|version| version.starts_with(b"HTTP/")) && words.next().is_none()
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
            (b"v6".as_slice(), rest.get(1..).unwrap_or_default()) // any name: the address was judged
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

    fn read(target: &str, hosts: &[&str], minor_version: u8) -> Result<(String, String), Refusal> {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        let head = Bytes::from(format!("GET {target} HTTP/1.{minor_version}\r\n{hosts}\r\n"));
        let Head { parts, .. } = Head::http1(&head, MAX_FIELDS, HeaderMap::new())?;
        let host = parts.headers.get(header::HOST).map(|host| host.to_str().expect("text").to_owned());
        Ok((host.unwrap_or_default(), parts.uri.to_string()))
    }

    #[test]
    fn the_authority_is_named_once_or_alike() {
        let ok = |authority: &str, target: &str| Ok((authority.to_owned(), target.to_owned()));
        assert_eq!(read("/a?b/c", &["h"], 1), ok("h", "/a?b/c"));
        assert_eq!(read("http://h/a", &["h"], 1), ok("h", "/a"));
        assert_eq!(read("HTTP://h", &["H"], 1), ok("h", "/"));
        assert_eq!(read("/a", &[], 0), ok("", "/a"));
        for (target, hosts) in [
            ("/a", [].as_slice()),
            ("/a", &["h", "h"]),
            ("/a", &[""]),
            ("http://x/a", &["h"]),
            ("http:///a", &["h"]),
            ("http://u@h/a", &["h"]),
        ] {
            assert_eq!(read(target, hosts, 1), Err(Refusal::Host), "{target} {hosts:?}");
        }
    }

    #[test]
    fn queries_are_visible_ascii() {
        assert!(read("/a?b=%20&c[]={}", &["h"], 1).is_ok());
        for target in ["/a?b c", "/a?\u{e9}", "/a?b#c", "http://h?a"] {
            assert!(matches!(read(target, &["h"], 1), Err(Refusal::Malformed(_))), "{target}");
        }
    }

    /// What the `http` crate would read otherwise than it was written.
    #[test]
    fn targets_are_paths() {
        for target in ["/a#b", "a", "*", "ftp://h/a", "h:80", "/a<b", "/a\\b#"] {
            assert!(matches!(read(target, &["h"], 1), Err(Refusal::Path(_))), "{target}");
        }
    }
}
