//! What goes on to the upstream, and back: what the client said and may say, and what only Tollgate says. One pass, moving
//! the fields.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use hyper::body::Body as _;

use super::body::Upload;
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

/// Makes a request's head the upstream's. Framing is left to hyper, which follows `body`.
pub(super) fn request(
    parts: &mut Parts,
    permit: &Permit,
    upstream: &Upstream,
    origin: Origin,
    id: &RequestId,
    body: &Upload,
) {
    let headers = &mut parts.headers;
    credential(headers, permit, upstream);
    let host = headers.insert(header::HOST, upstream.host.clone());
    let mut values = Values(BytesMut::with_capacity(128));
    forwarded(headers, &mut values, origin, host);
    headers.insert(&X_REQUEST_ID, values.take(id.as_str()));
    if let Some(Admission { holder, .. }) = &permit.holder {
        headers.insert(&X_TOLLGATE_TOKEN_ID, values.take(str::from_utf8(&holder.token.to_ascii()).unwrap_or_default()));
        headers.insert(&X_TOLLGATE_USER, values.take(holder.owner.name()));
        headers.insert(&X_TOLLGATE_ROLE, HeaderValue::from_static(Role::name(holder.role)));
    }
    headers.append(
        header::VIA,
        HeaderValue::from_static(match parts.version {
            Version::HTTP_2 => "2 tollgate",
            Version::HTTP_10 => "1.0 tollgate",
            _ => "1.1 tollgate",
        }),
    );
    if body.size_hint().exact().is_none() {
        // hyper sends no body with GET and the like unless it is told that there is one.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if body.is_end_stream() && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
        // Methods that usually have a body say so when it is empty (RFC 9110 section 8.6).
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    parts.version = Version::HTTP_11;
}

/// What becomes of the client's credentials.
fn credential(headers: &mut HeaderMap, permit: &Permit, upstream: &Upstream) {
    match upstream.credential() {
        Credential::Forward => {
            // Only an open route lets several pass.
            if let Some(last) = headers.get_all(header::AUTHORIZATION).iter().skip(1).last().cloned() {
                headers.insert(header::AUTHORIZATION, last);
            }
        }
        Credential::Strip => drop(headers.remove(header::AUTHORIZATION)),
        Credential::Replace(value) => drop(headers.insert(header::AUTHORIZATION, value)),
    }
    if permit.holder.is_some() {
        // Beside a checked token, a session cookie would be a second identity that nobody checked.
        headers.remove(header::COOKIE);
    } else if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        // RFC 9113 section 8.2.3: HTTP/2 may send them in pieces, HTTP/1.1 has one field.
        let pieces: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(whole) = HeaderValue::from_maybe_shared(Bytes::from(pieces.join(b"; ".as_slice()))) {
            headers.insert(header::COOKIE, whole);
        }
    }
}

/// `X-Forwarded-For`, `-Proto` and `-Host`: what a trusted proxy said of earlier hops, continued; else what is seen here.
fn forwarded(headers: &mut HeaderMap, values: &mut Values, origin: Origin, host: Option<HeaderValue>) {
    let Origin { address, trusted, secure } = origin;
    let once = |headers: &mut HeaderMap, name: &HeaderName| {
        let mut said = headers.get_all(name).iter();
        let value = said.next().cloned().filter(|_| trusted);
        value.filter(|_| said.next().is_none())
    };
    if trusted && headers.contains_key(&X_FORWARDED_FOR) {
        let mut hops: Vec<u8> = Vec::new();
        for hop in headers.get_all(&X_FORWARDED_FOR) {
            hops.extend_from_slice(hop.as_bytes());
            hops.extend_from_slice(b", ");
        }
        hops.extend_from_slice(address.to_string().as_bytes());
        // Made of what were field values.
        if let Ok(hops) = HeaderValue::from_maybe_shared(Bytes::from(hops)) {
            headers.insert(&X_FORWARDED_FOR, hops);
        }
    } else {
        headers.insert(&X_FORWARDED_FOR, values.write(format_args!("{address}")));
    }
    let seen = HeaderValue::from_static(if secure { "https" } else { "http" });
    let proto = once(headers, &X_FORWARDED_PROTO).filter(|proto| proto == "http" || proto == "https");
    headers.insert(&X_FORWARDED_PROTO, proto.unwrap_or(seen));
    let said = once(headers, &X_FORWARDED_HOST).filter(|host| authority(host.as_bytes()).is_ok());
    match said.or(host) {
        Some(host) => drop(headers.insert(&X_FORWARDED_HOST, host)),
        None => drop(headers.remove(&X_FORWARDED_HOST)),
    }
}

/// Field values made for one request, in one piece of memory.
struct Values(BytesMut);

impl Values {
    fn take(&mut self, text: &str) -> HeaderValue {
        self.0.extend_from_slice(text.as_bytes());
        self.value()
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) -> HeaderValue {
        // Writing grows it where needed.
        self.0.write_fmt(text).unwrap_or_default();
        self.value()
    }

    /// What was written since the last one. All of it is made of visible characters; an empty value could say nothing wrong.
    fn value(&mut self) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.0.split().freeze()).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Makes an upstream's reply the client's, once [`super::fields::strip_reply`] has taken out what ends at this hop. `date` is
/// now, for a reply that does not say it (RFC 9110 section 6.6.1).
pub(super) fn reply(status: StatusCode, headers: &mut HeaderMap, date: impl FnOnce() -> HeaderValue) {
    // An agent that watches its configuration compares this without looking at the status, and would reload.
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        headers.remove(header::LAST_MODIFIED);
    }
    if let header::Entry::Vacant(place) = headers.entry(header::DATE) {
        place.insert(date());
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 tollgate"));
}

/// The id that a trusted proxy gave a request.
pub(super) fn request_id(headers: &HeaderMap, origin: Origin) -> Option<RequestId> {
    let mut said = headers.get_all(&X_REQUEST_ID).iter().filter(|_| origin.trusted);
    let id = RequestId::from_proxy(said.next()?.as_bytes());
    id.filter(|_| said.next().is_none())
}
