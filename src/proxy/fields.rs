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

/// Longest name that means something.
const LONGEST: usize = 24;

/// What a name means. `_` is read as `-`, since CGI-like servers do (`X_Forwarded_For`): a name that means something
/// only that way is [`Class::Forged`].
#[must_use]
pub fn classify(name: &str) -> Class {
    let name = name.as_bytes();
    let mut folded = [0u8; LONGEST];
    let length = name.len().min(LONGEST);
    let mut underscore = false;
    for (place, byte) in folded.iter_mut().zip(name) {
        underscore |= *byte == b'_';
        *place = if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    }
    let folded = folded.get(..length).unwrap_or_default();
    let class = match folded {
        _ if folded.starts_with(b"x-tollgate-") => Class::Forged,
        _ if name.len() > LONGEST => match folded.starts_with(b"x-forwarded-") {
            true => Class::Forged,
            false => Class::Other,
        },
        b"te" | b"trailer" | b"upgrade" | b"keep-alive" | b"proxy-connection" | b"proxy-authorization"
        | b"proxy-authenticate" | b"http2-settings" => Class::HopByHop,
        b"host" => Class::Host,
        b"cookie" => Class::Cookie,
        b"expect" => Class::Expect,
        b"connection" => Class::Connection,
        b"x-request-id" => Class::RequestId,
        b"authorization" => Class::Authorization,
        b"content-length" => Class::ContentLength,
        b"transfer-encoding" => Class::TransferEncoding,
        b"x-forwarded-for" => Class::ForwardedFor,
        b"x-forwarded-host" => Class::ForwardedHost,
        b"x-forwarded-proto" => Class::ForwardedProto,
        // Who and where the client claims to be, in other words.
        b"forwarded" | b"x-real-ip" | b"x-client-ip" | b"true-client-ip" | b"cf-connecting-ip" | b"x-cluster-client-ip"
        | b"x-host" | b"x-original-host" | b"remote-user" | b"x-remote-user" | b"x-auth-request-user"
        // What would be served instead of what was checked.
        | b"x-original-url" | b"x-original-uri" | b"x-rewrite-url" | b"x-rewrite-uri" | b"x-http-method"
        | b"x-http-method-override" | b"x-method-override" | b"x-accel-redirect" => Class::Forged,
        _ if folded.starts_with(b"x-forwarded-") => Class::Forged,
        _ => Class::Other,
    };
    if underscore && class != Class::Other { Class::Forged } else { class }
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
