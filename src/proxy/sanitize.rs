//! What goes on to the upstream, and back: what the client said and may say, and what only Tollgate says. One pass, moving
//! the fields.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use hyper::body::Body as _;

use super::body::Upload;
use super::exchange::Exchange;
use super::request::{Origin, authority};
use super::{Admission, Permit};
use crate::token::Role;
use crate::upstream::{Credential, Upstream};
use crate::worker::RequestId;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_TOLLGATE_TOKEN_ID: HeaderName = HeaderName::from_static("x-tollgate-token-id");
static X_TOLLGATE_USER: HeaderName = HeaderName::from_static("x-tollgate-user");
static X_TOLLGATE_ROLE: HeaderName = HeaderName::from_static("x-tollgate-role");

/// Makes a request's head the upstream's, at the node that is called `host`. Framing is left to hyper, which follows the body.
pub(super) fn request(
    request: &mut Request<Upload>,
    permit: &Permit,
    upstream: &Upstream,
    host: &HeaderValue,
    exchange: &Exchange,
) {
    let length = request.body().size_hint().exact();
    let empty = request.body().is_end_stream();
    let usual = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    // How it came is said by `Via`; how it goes on is always HTTP/1.1.
    let version = std::mem::replace(request.version_mut(), Version::HTTP_11);
    let headers = request.headers_mut();
    credential(headers, permit, upstream);
    let host = headers.insert(header::HOST, host.clone());
    let mut values = Values(BytesMut::with_capacity(128));
    forwarded(headers, &mut values, &exchange.origin, host);
    headers.insert(&X_REQUEST_ID, values.text(exchange.id().as_bytes()));
    if let Some(record) = exchange.record() {
        record.hand_on(headers);
    }
    if let Some(Admission { holder, .. }) = permit.admission() {
        headers.insert(&X_TOLLGATE_TOKEN_ID, values.text(&holder.token.to_ascii()));
        headers.insert(&X_TOLLGATE_USER, values.text(holder.owner.name().as_bytes()));
        headers.insert(&X_TOLLGATE_ROLE, HeaderValue::from_static(Role::name(holder.role)));
    }
    headers.append(header::VIA, via(version));
    if length.is_none() {
        // hyper sends no body with GET and the like unless the request says that there is one.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if empty && usual {
        // Methods that usually have a body say so when it is empty (RFC 9110 section 8.6).
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Cookies of the console's pages: a session's over TLS and without, and that of the form to sign in.
pub(crate) const CONSOLE_COOKIES: [&str; 3] = ["__Host-tollgate", "tollgate", "tollgate-form"];

/// What becomes of the client's credentials.
fn credential(headers: &mut HeaderMap, permit: &Permit, upstream: &Upstream) {
    match upstream.credential() {
        Credential::Forward if permit.admission().is_some() => {}
        Credential::Forward => {
            // Only an open route lets several pass. The upstream reads one, and which is not for it to choose.
            if let Some(last) = headers.get_all(header::AUTHORIZATION).iter().skip(1).last().cloned() {
                headers.insert(header::AUTHORIZATION, last);
            }
        }
        Credential::Strip => drop(headers.remove(header::AUTHORIZATION)),
        Credential::Replace(value) => drop(headers.insert(header::AUTHORIZATION, value)),
    }
    if permit.admission().is_some() {
        // Beside a checked token, a session cookie would be a second identity that nobody checked.
        headers.remove(header::COOKIE);
    } else if headers.contains_key(header::COOKIE) {
        // RFC 9113 section 8.2.3: HTTP/2 may send them in pieces, HTTP/1.1 has one field. A browser sends those of the console
        // too where it is another port of the same host, and they are nobody else's.
        let fields = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let pairs = fields.flat_map(|field| field.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii_start);
        let is_own = |pair: &&[u8]| {
            CONSOLE_COOKIES.iter().any(|name| {
                pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
            })
        };
        let others: Vec<_> = pairs.filter(|pair| !is_own(pair)).collect();
        let others = Bytes::from(others.join(b"; ".as_slice()));
        match HeaderValue::from_maybe_shared(others) {
            Ok(others) if !others.is_empty() => drop(headers.insert(header::COOKIE, others)),
            Ok(_) | Err(_) => drop(headers.remove(header::COOKIE)),
        }
    }
}

/// `X-Forwarded-For`, `-Proto` and `-Host`: what a trusted proxy said of earlier hops, continued; else what is seen here.
fn forwarded(headers: &mut HeaderMap, values: &mut Values, origin: &Origin, mut host: Option<HeaderValue>) {
    let mut proto = HeaderValue::from_static(if origin.secure { "https" } else { "http" });
    let mut hops = None;
    if origin.trusted {
        hops = earlier_hops(headers, origin);
        proto = once(headers, &X_FORWARDED_PROTO).filter(|said| said == "http" || said == "https").unwrap_or(proto);
        host = once(headers, &X_FORWARDED_HOST).filter(|said| authority(said.as_bytes()).is_ok()).or(host);
    }
    headers.insert(&X_FORWARDED_FOR, hops.unwrap_or_else(|| values.address(origin.address)));
    headers.insert(&X_FORWARDED_PROTO, proto);
    match host {
        Some(host) => drop(headers.insert(&X_FORWARDED_HOST, host)),
        None => drop(headers.remove(&X_FORWARDED_HOST)),
    }
}

/// The addresses that a trusted proxy named, and its own.
fn earlier_hops(headers: &HeaderMap, origin: &Origin) -> Option<HeaderValue> {
    let said: Vec<_> = headers.get_all(&X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    if said.is_empty() {
        return None;
    }
    let hops = [said.join(b", ".as_slice()), origin.address.to_string().into_bytes()].join(b", ".as_slice());
    HeaderValue::from_maybe_shared(Bytes::from(hops)).ok()
}

/// Whose a request is: who connected, or who the trusted proxies name that it came through.
pub(crate) fn client(headers: &HeaderMap, connected: IpAddr, trusted: bool, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = connected;
    if !trusted {
        return client;
    }
    let said = headers.get_all(&X_FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
    // The latest hop comes last; each is believed as far as the one after it is trusted.
    for hop in said.flat_map(|said| said.rsplit(',')) {
        let Some(address) = hop_address(hop.trim()) else { break };
        client = address.to_canonical();
        if !trusts(client) {
            break;
        }
    }
    client
}

/// The address of a hop, which some proxies write with its port, as in `Forwarded` (RFC 7239 section 6).
fn hop_address(hop: &str) -> Option<IpAddr> {
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || hop.parse().ok().map(|hop: SocketAddr| hop.ip());
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

/// A field that may be there once.
fn once(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut said = headers.get_all(name).iter();
    let value = said.next();
    value.filter(|_| said.next().is_none()).cloned()
}

/// Field values made for one request, in one piece of memory.
struct Values(BytesMut);

impl Values {
    fn text(&mut self, text: &[u8]) -> HeaderValue {
        self.0.extend_from_slice(text);
        self.value()
    }

    /// Without the machinery of formatting for the usual kind.
    fn address(&mut self, address: IpAddr) -> HeaderValue {
        match address {
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.0.put_u8(b'.');
                    }
                    if octet >= 100 {
                        self.0.put_u8(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        self.0.put_u8(b'0' + octet / 10 % 10);
                    }
                    self.0.put_u8(b'0' + octet % 10);
                }
                self.value()
            }
            IpAddr::V6(address) => self.text(address.to_string().as_bytes()),
        }
    }

    /// What was written since the last one. All of it is made of visible characters.
    fn value(&mut self) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.0.split().freeze()).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Makes an upstream's reply the client's, once [`super::fields::strip_reply`] has taken out what ends at this hop. `date` is
/// now, for a reply that does not say it (RFC 9110 section 6.6.1).
pub(super) fn reply(status: StatusCode, version: Version, headers: &mut HeaderMap, date: impl FnOnce() -> HeaderValue) {
    // An agent that watches its configuration compares this without looking at the status, and would reload.
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        headers.remove(header::LAST_MODIFIED);
    }
    if let header::Entry::Vacant(place) = headers.entry(header::DATE) {
        place.insert(date());
    }
    headers.append(header::VIA, via(version));
}

/// RFC 9110 section 7.6.3: by which protocol the message came here.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 tollgate",
        Version::HTTP_10 => "1.0 tollgate",
        _ => "1.1 tollgate",
    })
}

/// The id that a trusted proxy gave a request.
pub(super) fn request_id(headers: &HeaderMap, origin: &Origin) -> Option<RequestId> {
    let said = if origin.trusted { once(headers, &X_REQUEST_ID) } else { None };
    RequestId::from_proxy(said?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_who_trusted_proxies_say_with_a_port_or_without() {
        let proxy = IpAddr::from([10, 0, 0, 2]);
        let named = |said: &str| {
            let said = HeaderValue::from_str(said).expect("a value");
            let headers = HeaderMap::from_iter([(X_FORWARDED_FOR.clone(), said)]);
            client(&headers, proxy, true, |hop| hop == proxy).to_string()
        };
        for (said, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7:5678", "192.0.2.7"),
            ("192.0.2.7:5678, 10.0.0.2:80", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]:80", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
            // What is no address says nothing, nor does what came before it.
            ("192.0.2.7, unknown", "10.0.0.2"),
            ("192.0.2.7:", "10.0.0.2"),
            ("192.0.2.7:65536", "10.0.0.2"),
            ("[192.0.2.7]:80", "10.0.0.2"),
            ("2001:db8::7]:80", "10.0.0.2"),
            ("", "10.0.0.2"),
        ] {
            assert_eq!(named(said), expected, "{said}");
        }
    }
}
