//! The head that goes to the upstream: what the client said and may say, and what only Tollgate says.

use std::io::Write as _;
use std::net::IpAddr;

use super::request::{Request, authority};
use super::{Admission, Permit};
use crate::http1::{BodyLength, Field};
use crate::token::Role;
use crate::upstream::{Credential, Upstream};
use crate::worker::RequestId;

/// Appends the request head in HTTP/1.1. `Connection` is not there, so the upstream connection stays; framing is rebuilt
/// from what was understood, not copied.
pub fn write_head(out: &mut Vec<u8>, request: &Request<'_>, permit: &Permit, upstream: &Upstream, id: &RequestId) {
    let put = |out: &mut Vec<u8>, parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(out, &[request.method.as_bytes(), b" ", request.target.as_bytes(), b" HTTP/1.1\r\nHost: "]);
    put(out, &[upstream.config.authority.as_bytes(), b"\r\n"]);
    let credential = upstream.credential();
    // Beside a checked token, a session cookie would be a second identity that nobody checked.
    let cookies = if permit.holder.is_none() { request.found.cookies } else { 0 };
    let authorization = if matches!(credential, Credential::Forward) { request.found.authorization_bit } else { 0 };
    for Field { name, value } in request.found.kept(request.fields, cookies | authorization) {
        put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
    }
    if let Credential::Replace(value) = credential {
        put(out, &[b"Authorization: ", &value, b"\r\n"]);
    }
    write_forwarded(out, request);
    put(out, &[b"X-Request-Id: ", id.as_bytes(), b"\r\n"]);
    if let Some(Admission { holder, .. }) = &permit.holder {
        put(out, &[b"X-Tollgate-Token-Id: ", &holder.token.to_ascii(), b"\r\nX-Tollgate-User: "]);
        put(
            out,
            &[holder.owner.name().as_bytes(), b"\r\nX-Tollgate-Role: ", Role::name(holder.role).as_bytes(), b"\r\n"],
        );
    }
    match request.body {
        // Methods that usually have a body say so when it is empty (RFC 9110 section 8.6).
        BodyLength::Known(0) if !matches!(request.method, "POST" | "PUT" | "PATCH") => {}
        BodyLength::Known(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        BodyLength::Chunked | BodyLength::UntilClose => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// `X-Forwarded-For`, `-Proto` and `-Host`: what a trusted proxy said of earlier hops, continued; else what is seen here.
fn write_forwarded(out: &mut Vec<u8>, request: &Request<'_>) {
    let origin = request.origin;
    out.extend_from_slice(b"X-Forwarded-For: ");
    if origin.trusted {
        for Field { value, .. } in request.found.forwarded_for(request.fields) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
    write_address(out, origin.address);
    out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
    match request.found.forwarded_proto.value().filter(|_| origin.trusted) {
        Some(proto @ (b"http" | b"https")) => out.extend_from_slice(proto),
        _ if origin.secure => out.extend_from_slice(b"https"),
        _ => out.extend_from_slice(b"http"),
    }
    out.extend_from_slice(b"\r\n");
    let said = request.found.forwarded_host.value().filter(|_| origin.trusted);
    let host = said.and_then(|value| authority(value).ok()).unwrap_or(request.authority);
    if !host.is_empty() {
        for part in [b"X-Forwarded-Host: ", host.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                write_decimal(out, octet.into());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// A number in decimal digits, without the machinery of formatting.
pub(crate) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}
