//! The fields of a request in one pass: what each means to a proxy, and which go on to the upstream.

use super::refusal::Refusal;
use crate::http1::head::Framing;
use crate::http1::{Field, MAX_FIELDS};

/// What a field name means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing: it goes on as it is.
    Other,
    /// The credential.
    Authorization,
    /// Sessions of browsers; see [`Fields::cookies`].
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

/// For each first byte the lengths of the known names, as bits: most fields of a request are told apart by it alone.
static LENGTHS: [u32; 256] = {
    let mut lengths = [0; 256];
    let mut at = 0;
    while at < KNOWN.len() {
        let name = KNOWN[at].0.as_bytes();
        lengths[name[0] as usize] |= 1 << name.len();
        lengths[name[0].to_ascii_uppercase() as usize] |= 1 << name.len();
        at += 1;
    }
    lengths
};

/// What a name means. `_` is read as `-`, since CGI-like servers do (`X_Forwarded_For`): a name that means something
/// only that way is [`Class::Forged`].
#[must_use]
pub fn classify(name: &str) -> Class {
    let name = name.as_bytes();
    let Some(first) = name.first() else { return Class::Other };
    let may_be_known = 1u32.checked_shl(u32::try_from(name.len()).unwrap_or(u32::MAX));
    let class = match may_be_known {
        Some(length) if LENGTHS[usize::from(*first)] & length != 0 => {
            KNOWN.iter().find(|(known, _)| same(name, known.as_bytes())).map(|(_, class)| *class)
        }
        _ => None,
    };
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

/// What one pass over the fields found.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    /// A bit for each field that goes on as it is.
    keep: u128,
    /// A bit for each `X-Forwarded-For`.
    forwarded_for: u128,
    /// A bit for each `Cookie`.
    pub cookies: u128,
    /// The value of `Authorization`.
    pub authorization: Once<'a>,
    /// Its bit.
    pub authorization_bit: u128,
    /// The value of `Host`.
    pub host: Once<'a>,
    /// The framing fields.
    pub framing: Framing,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// `Connection: close`.
    pub close: bool,
    /// `X-Forwarded-Proto`.
    pub forwarded_proto: Once<'a>,
    /// `X-Forwarded-Host`.
    pub forwarded_host: Once<'a>,
    /// `X-Request-Id`.
    pub request_id: Once<'a>,
}

/// A field that may be there once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Once<'a> {
    /// Not there.
    #[default]
    Absent,
    /// There once, with this value.
    Value(&'a [u8]),
    /// There more than once.
    Repeated,
}

impl<'a> Once<'a> {
    fn note(&mut self, value: &'a [u8]) {
        *self = if *self == Self::Absent { Self::Value(value) } else { Self::Repeated };
    }

    /// The value, if it is there once.
    #[must_use]
    pub fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Repeated => None,
        }
    }
}

impl<'a> Fields<'a> {
    /// Reads the fields of a request head.
    ///
    /// # Errors
    /// [`Refusal`] for framing that is not one clear statement, a `Connection` field that names a protected field, an
    /// expectation that cannot be met, and more fields than [`MAX_FIELDS`].
    pub fn read(fields: &[Field<'a>]) -> Result<Self, Refusal> {
        let mut found = Self::default();
        let mut connection = false;
        if fields.len() > MAX_FIELDS {
            return Err(Refusal::HeadTooLarge);
        }
        for (at, field) in fields.iter().enumerate() {
            let bit = 1u128 << at;
            match classify(field.name) {
                Class::Other => found.keep |= bit,
                Class::Authorization => {
                    found.authorization.note(field.value);
                    found.authorization_bit = bit;
                }
                Class::Cookie => found.cookies |= bit,
                Class::Host => found.host.note(field.value),
                Class::ContentLength => found.framing.content_length(field.value)?,
                Class::TransferEncoding => found.framing.transfer_encoding(field.value)?,
                Class::Connection => connection = true,
                Class::Expect if field.value.eq_ignore_ascii_case(b"100-continue") => found.expects_continue = true,
                Class::Expect => return Err(Refusal::Expectation),
                Class::ForwardedFor => found.forwarded_for |= bit,
                Class::ForwardedProto => found.forwarded_proto.note(field.value),
                Class::ForwardedHost => found.forwarded_host.note(field.value),
                Class::RequestId => found.request_id.note(field.value),
                Class::HopByHop | Class::Forged => {}
            }
        }
        if connection {
            found.connection_options(fields)?;
        }
        Ok(found)
    }

    /// RFC 9110 section 7.6.1: what `Connection` names is removed too. But a client must not have what protects the
    /// upstream removed on its word, such as `Connection: X-Forwarded-For`.
    fn connection_options(&mut self, fields: &[Field<'a>]) -> Result<(), Refusal> {
        let named = fields.iter().filter(|field| classify(field.name) == Class::Connection);
        for option in named.flat_map(|field| field.value.split(|byte| *byte == b',')) {
            let option = std::str::from_utf8(option.trim_ascii()).map_err(|_| Refusal::ConnectionOption)?;
            if option.eq_ignore_ascii_case("close") {
                self.close = true;
                continue;
            }
            match classify(option) {
                Class::HopByHop => {}
                Class::Other => {
                    for (at, field) in fields.iter().enumerate() {
                        if field.name.eq_ignore_ascii_case(option) {
                            self.keep &= !(1 << at);
                        }
                    }
                }
                _ => return Err(Refusal::ConnectionOption),
            }
        }
        Ok(())
    }

    /// The fields that go on as they are, `also` among them.
    pub fn kept<'f>(&self, fields: &'f [Field<'a>], also: u128) -> impl Iterator<Item = &'f Field<'a>> {
        pick(fields, self.keep | also)
    }

    /// The `X-Forwarded-For` fields.
    pub fn forwarded_for<'f>(&self, fields: &'f [Field<'a>]) -> impl Iterator<Item = &'f Field<'a>> {
        pick(fields, self.forwarded_for)
    }
}

/// The fields whose bits are set.
fn pick<'f, 'a>(fields: &'f [Field<'a>], mut bits: u128) -> impl Iterator<Item = &'f Field<'a>> {
    std::iter::from_fn(move || {
        let at = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        fields.get(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<'a>(list: &[(&'a str, &'a str)]) -> Vec<Field<'a>> {
        list.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect()
    }

    fn kept(list: &[(&str, &str)]) -> Result<Vec<String>, Refusal> {
        let fields = fields(list);
        let found = Fields::read(&fields)?;
        Ok(found.kept(&fields, 0).map(|field| field.name.to_owned()).collect())
    }

    #[test]
    fn known_names_are_known_in_every_spelling() {
        for (name, class) in KNOWN {
            assert_eq!(classify(name), class, "{name}");
            assert_eq!(classify(&name.to_uppercase()), class, "{name}");
            let spelling = name.replace('-', "_");
            assert_eq!(classify(&spelling), if spelling == name { class } else { Class::Forged }, "{spelling}");
            assert_eq!(classify(&format!("{name}x")), classify_prefix(name), "{name}");
        }
        for name in ["X-Tollgate-Anything", "x_tollgate_user", "X-Forwarded-Prefix", "x-forwarded_user"] {
            assert_eq!(classify(name), Class::Forged, "{name}");
        }
        for name in ["", "x", "User-Agent", "Accept", "X-Tollgate", "é", "hostname"] {
            assert_eq!(classify(name), Class::Other, "{name}");
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
        let expected = ["Accept", "User-Agent", "A-Long-Name-That-Means-Nothing-Here", "X_Own_Underscore"];
        assert_eq!(kept(&list).as_deref(), Ok(expected.map(str::to_owned).as_slice()));
    }

    #[test]
    fn connection_cannot_remove_what_protects_the_upstream() {
        let names = ["Authorization", "Host", "Content-Length", "X-Forwarded-For", "X-Tollgate-User", "x_request_id"];
        for name in names {
            assert_eq!(kept(&[("Connection", name)]), Err(Refusal::ConnectionOption), "{name}");
            assert_eq!(kept(&[("Connection", "close"), ("Connection", name)]), Err(Refusal::ConnectionOption));
        }
        assert!(kept(&[("Connection", "close, te, upgrade, HTTP2-Settings, , keep-alive")]).is_ok());
    }

    #[test]
    fn repeated_credentials_are_seen_as_such() {
        let list = fields(&[("Authorization", "Bearer a"), ("authorization", "Bearer a")]);
        assert_eq!(Fields::read(&list).expect("readable").authorization, Once::Repeated);
    }

    #[test]
    fn only_one_expectation_is_known() {
        assert!(Fields::read(&fields(&[("Expect", "100-Continue")])).expect("readable").expects_continue);
        assert_eq!(kept(&[("Expect", "200-ok")]), Err(Refusal::Expectation));
    }
}
