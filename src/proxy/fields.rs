//! What fields mean to a proxy: which end at this hop, which are looked at, and which a client may not say.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::refusal::Refusal;
use crate::http1::head::{BrokenFraming, Framing};

/// What a field name means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing: it goes on as it is.
    Other,
    Authorization,
    /// Sessions of browsers.
    Cookie,
    /// Where the request was sent.
    Host,
    /// Framing, always rebuilt.
    ContentLength,
    /// Framing, always rebuilt.
    TransferEncoding,
    /// Names what ends at this hop (RFC 9110 section 7.6.1).
    Connection,
    /// Ends at this hop.
    HopByHop,
    /// `100-continue`; answered here.
    Expect,
    /// The addresses a request came through; believed from trusted proxies.
    ForwardedFor,
    /// The scheme the client used; believed from trusted proxies.
    ForwardedProto,
    /// The host the client asked for; believed from trusted proxies.
    ForwardedHost,
    /// The request's id; believed from trusted proxies.
    RequestId,
    /// Claims what only Tollgate may say, or overrides what was checked: never goes on.
    Forged,
}

/// The names that mean something, in the form that [`same`] compares with.
const KNOWN: [(&str, Class); 38] = [
    ("authorization", Class::Authorization),
    ("connection", Class::Connection),
    ("content-length", Class::ContentLength),
    ("cookie", Class::Cookie),
    ("expect", Class::Expect),
    ("host", Class::Host),
    ("http2-settings", Class::HopByHop),
    ("keep-alive", Class::HopByHop),
    ("proxy-authenticate", Class::HopByHop),
    ("proxy-authorization", Class::HopByHop),
    ("proxy-connection", Class::HopByHop),
    ("te", Class::HopByHop),
    ("trailer", Class::HopByHop),
    ("transfer-encoding", Class::TransferEncoding),
    ("upgrade", Class::HopByHop),
    ("x-forwarded-for", Class::ForwardedFor),
    ("x-forwarded-host", Class::ForwardedHost),
    ("x-forwarded-proto", Class::ForwardedProto),
    ("x-request-id", Class::RequestId),
    // Who and where the client claims to be, in other words.
    ("cf-connecting-ip", Class::Forged),
    ("forwarded", Class::Forged),
    ("remote-user", Class::Forged),
    ("true-client-ip", Class::Forged),
    ("x-auth-request-user", Class::Forged),
    ("x-client-ip", Class::Forged),
    ("x-cluster-client-ip", Class::Forged),
    ("x-host", Class::Forged),
    ("x-original-host", Class::Forged),
    ("x-real-ip", Class::Forged),
    ("x-remote-user", Class::Forged),
    // What would be served instead of what was checked.
    ("x-http-method", Class::Forged),
    ("x-http-method-override", Class::Forged),
    ("x-method-override", Class::Forged),
    ("x-original-url", Class::Forged),
    ("x-original-uri", Class::Forged),
    ("x-rewrite-url", Class::Forged),
    ("x-rewrite-uri", Class::Forged),
    ("x-accel-redirect", Class::Forged),
];

/// Every name that starts so is [`Class::Forged`], unless [`KNOWN`] has it.
const FORGED_PREFIXES: [&str; 2] = ["x-tollgate-", "x-forwarded-"];

/// For each length the known names of that length, as bits by their place in [`KNOWN`]: most fields of a request are recognised
/// apart by it and by their first letter.
static BY_LENGTH: [u64; 32] = {
    let mut by_length = [0; 32];
    let mut at = 0;
    while at < KNOWN.len() {
        by_length[KNOWN[at].0.len()] |= 1 << at;
        at += 1;
    }
    by_length
};

/// What a name means. `_` is read as `-`, since CGI-like servers do (`X_Forwarded_For`): a name that means something
/// only that way is [`Class::Forged`].
pub(crate) fn classify(name: &[u8]) -> Class {
    let Some(first) = name.first() else { return Class::Other };
    let mut candidates = BY_LENGTH.get(name.len()).copied().unwrap_or(0);
    let mut class = None;
    while candidates != 0 && class.is_none() {
        let (known, meaning) = KNOWN[candidates.trailing_zeros() as usize];
        if known.as_bytes()[0] == first.to_ascii_lowercase() && same(name, known.as_bytes()) {
            class = Some(meaning);
        }
        candidates &= candidates - 1;
    }
    let forged = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| same(start, prefix.as_bytes()));
    match class {
        Some(class) if !name.contains(&b'_') => class,
        Some(_) => Class::Forged,
        None if matches!(first, b'x' | b'X') && FORGED_PREFIXES.iter().any(forged) => Class::Forged,
        None => Class::Other,
    }
}

/// Whether a name is a known one, in any case and with `_` for `-`.
fn same(name: &[u8], known: &[u8]) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == known.len() && name.iter().zip(known).all(|(byte, known)| fold(*byte) == *known)
}

/// What the fields of a request say that end at this hop. Both protocols are read by the same rules: each field is shown to
/// [`Fields::take`] once, which says what becomes of it.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub framing: Framing,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// `Connection: close`.
    pub close: bool,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on, or is looked at by the steps that follow.
    Forwarded,
    /// It names the authority.
    Host,
    /// It lists what ends at this hop: see [`Fields::strip_named`].
    Connection,
    /// It ends here.
    Stripped,
}

impl Fields {
    /// Takes note of a field.
    ///
    /// # Errors
    /// [`Refusal`] for framing that is not one clear statement, and for an expectation that cannot be met.
    pub(crate) fn take(&mut self, name: &[u8], value: &[u8]) -> Result<Fate, Refusal> {
        match classify(name) {
            Class::Other
            | Class::Authorization
            | Class::Cookie
            | Class::ForwardedFor
            | Class::ForwardedProto
            | Class::ForwardedHost
            | Class::RequestId => return Ok(Fate::Forwarded),
            Class::Host => return Ok(Fate::Host),
            Class::Connection => return Ok(Fate::Connection),
            Class::ContentLength => self.framing.content_length(value)?,
            Class::TransferEncoding => self.framing.transfer_encoding(value)?,
            Class::Expect if value.eq_ignore_ascii_case(b"100-continue") => self.expects_continue = true,
            Class::Expect => return Err(Refusal::Expectation),
            Class::HopByHop | Class::Forged => {}
        }
        Ok(Fate::Stripped)
    }

    /// RFC 9110 section 7.6.1: what a `Connection` field names is removed too. But a client must not have what protects the
    /// upstream removed on its word, such as `Connection: X-Forwarded-For`.
    ///
    /// # Errors
    /// [`Refusal::ConnectionOption`] when it names a protected field.
    pub(crate) fn strip_named(&mut self, connection: &[u8], headers: &mut HeaderMap) -> Result<(), Refusal> {
        let present = Shapes::of(headers);
        for option in options(connection) {
            match classify(option) {
                _ if option.eq_ignore_ascii_case(b"close") => self.close = true,
                Class::HopByHop => {}
                Class::Other if present.may_have(option) => remove(headers, option),
                // It names nothing that is there.
                Class::Other if option.is_ascii() => {}
                _ => return Err(Refusal::ConnectionOption),
            }
        }
        Ok(())
    }
}

/// Removes from a reply what ends at this hop.
///
/// # Errors
/// [`BrokenFraming`] when the reply says its length in two ways: hyper would take one of them.
pub(crate) fn strip_reply(headers: &mut HeaderMap) -> Result<(), BrokenFraming> {
    let mut framing = Framing::default();
    let mut connection = false;
    let mut ends = [false; HOP_BY_HOP.len()];
    for (name, value) in &*headers {
        match classify(name.as_str().as_bytes()) {
            Class::ContentLength => framing.content_length(value.as_bytes())?,
            Class::TransferEncoding => framing.transfer_encoding(value.as_bytes())?,
            Class::Connection => connection = true,
            Class::HopByHop => {
                if let Some(at) = HOP_BY_HOP.iter().position(|known| known == name) {
                    ends[at] = true;
                }
            }
            _ => {}
        }
    }
    if framing.is_ambiguous() {
        return Err(BrokenFraming::Both);
    }
    // hyper decodes it, and the reply is framed anew for the client.
    if framing.is_chunked() {
        headers.remove(header::TRANSFER_ENCODING);
    }
    for (name, _) in HOP_BY_HOP.iter().zip(ends).filter(|(_, ends)| *ends) {
        headers.remove(name);
    }
    if connection {
        strip_connection(headers);
    }
    Ok(())
}

/// Removes a reply's `Connection` and what it names.
fn strip_connection(headers: &mut HeaderMap) {
    let lists: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    headers.remove(header::CONNECTION);
    let present = Shapes::of(headers);
    for option in lists.iter().flat_map(|list| options(list.as_bytes())) {
        // What the reply's reader relies on must not vanish on the upstream's word either.
        if present.may_have(option) && !matches!(classify(option), Class::ContentLength | Class::TransferEncoding) {
            remove(headers, option);
        }
    }
}

/// The fields of [`Class::HopByHop`] that a reply can have.
static HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("te"),
    HeaderName::from_static("trailer"),
    HeaderName::from_static("upgrade"),
];

/// The options of a `Connection` field.
fn options(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

fn remove(headers: &mut HeaderMap, name: &[u8]) {
    // What is no field name names no field.
    if let Ok(name) = HeaderName::from_bytes(name) {
        headers.remove(name);
    }
}

/// First letters and lengths of the fields that are there: shows in a few instructions that a name is not among them, so
/// that a list of thousands of names costs no more than other fields of its size.
struct Shapes([u64; 32]);

impl Shapes {
    fn of(headers: &HeaderMap) -> Self {
        let mut shapes = Self([0; 32]);
        for name in headers.keys() {
            let (letter, length) = Self::shape(name.as_str().as_bytes());
            shapes.0[letter] |= length;
        }
        shapes
    }

    /// Letters of both cases fall together.
    fn shape(name: &[u8]) -> (usize, u64) {
        (usize::from(name.first().copied().unwrap_or(0) & 31), 1 << name.len().min(63))
    }

    fn may_have(&self, name: &[u8]) -> bool {
        let (letter, length) = Self::shape(name);
        self.0[letter] & length != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).expect("a name"), HeaderValue::from_str(value).expect("a value"))
        };
        list.iter().map(field).fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    /// The names of the fields that are forwarded, in order.
    fn forwarded(list: &[(&str, &str)]) -> Result<Vec<String>, Refusal> {
        let (mut fields, mut headers, mut connections) = (Fields::default(), HeaderMap::new(), Vec::new());
        for (name, value) in &map(list) {
            match fields.take(name.as_str().as_bytes(), value.as_bytes())? {
                Fate::Forwarded => drop(headers.append(name, value.clone())),
                Fate::Connection => connections.push(value.clone()),
                Fate::Host | Fate::Stripped => {}
            }
        }
        for connection in connections {
            fields.strip_named(connection.as_bytes(), &mut headers)?;
        }
        Ok(headers.keys().map(|name| name.as_str().to_owned()).collect())
    }

    #[test]
    fn known_names_are_known_in_every_spelling() {
        for (name, class) in KNOWN {
            assert_eq!(classify(name.as_bytes()), class, "{name}");
            assert_eq!(classify(name.to_uppercase().as_bytes()), class, "{name}");
            let spelling = name.replace('-', "_");
            let expected = if spelling == name { class } else { Class::Forged };
            assert_eq!(classify(spelling.as_bytes()), expected, "{spelling}");
            assert_eq!(classify(format!("{name}x").as_bytes()), classify_prefix(name), "{name}");
        }
        for name in ["X-Tollgate-Anything", "x_tollgate_user", "X-Forwarded-Prefix", "x-forwarded_user"] {
            assert_eq!(classify(name.as_bytes()), Class::Forged, "{name}");
        }
        for name in ["", "x", "User-Agent", "Accept", "X-Tollgate", "é", "hostname"] {
            assert_eq!(classify(name.as_bytes()), Class::Other, "{name}");
        }
    }

    fn classify_prefix(name: &str) -> Class {
        if name.starts_with("x-forwarded-") { Class::Forged } else { Class::Other }
    }

    #[test]
    fn only_what_means_nothing_here_goes_on() {
        let list = [
            ("Accept", "application/toml"),
            ("Connection", "keep-alive, X-Own"),
            ("X-Own", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authorization", "x"),
            ("TE", "trailers"),
            ("Upgrade", "websocket"),
            ("X-Tollgate-User", "root"),
            ("x_tollgate_user", "root"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("Content_Length", "3"),
            ("Transfer_Encoding", "chunked"),
            ("X-Original-URL", "/admin"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Forwarded-Anything-Whatever-It-May-Be", "1"),
            ("Forwarded", "for=1.2.3.4"),
            ("User-Agent", "Telegraf/1.37.0 Go/1.25"),
            ("A-Long-Name-That-Means-Nothing-Here", "1"),
            ("X_Own_Underscore", "1"),
        ];
        let mut names = forwarded(&list).expect("readable");
        names.sort();
        assert_eq!(names, ["a-long-name-that-means-nothing-here", "accept", "user-agent", "x_own_underscore"]);
    }

    #[test]
    fn connection_cannot_remove_what_protects_the_upstream() {
        let names = ["Authorization", "Host", "Content-Length", "X-Forwarded-For", "X-Tollgate-User", "x_request_id"];
        for name in names {
            assert_eq!(forwarded(&[("Connection", name)]), Err(Refusal::ConnectionOption), "{name}");
            assert_eq!(forwarded(&[("Connection", "close"), ("Connection", name)]), Err(Refusal::ConnectionOption));
        }
        assert!(forwarded(&[("Connection", "close, te, upgrade, HTTP2-Settings, , keep-alive")]).is_ok());
        assert_eq!(
            forwarded(&[("A", "1"), ("Connection", "b, A, a"), ("B", "2"), ("Ab", "3")]),
            Ok(vec!["ab".to_owned()])
        );
    }

    #[test]
    fn only_one_expectation_is_known() {
        let mut fields = Fields::default();
        assert_eq!(fields.take(b"Expect", b"100-Continue"), Ok(Fate::Stripped));
        assert!(fields.expects_continue);
        assert_eq!(forwarded(&[("Expect", "200-ok")]), Err(Refusal::Expectation));
    }

    #[test]
    fn what_ends_at_this_hop_is_stripped_from_replies() {
        let mut headers = map(&[
            ("Content-Type", "a"),
            ("Connection", "keep-alive, X-Own"),
            ("Connection", "content-length"),
            ("X-Own", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("Content-Length", "2"),
        ]);
        assert_eq!(strip_reply(&mut headers), Ok(()));
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["content-type", "content-length"]);
    }

    #[test]
    fn a_reply_that_says_its_length_twice_is_refused() {
        for list in [
            [("Content-Length", "2"), ("Transfer-Encoding", "chunked")],
            [("Content-Length", "2"), ("Content-Length", "2")],
            [("Transfer-Encoding", "gzip"), ("A", "b")],
        ] {
            assert!(strip_reply(&mut map(&list)).is_err(), "{list:?}");
        }
    }
}
