//! Any bytes as a request: where the head ends does not depend on how they arrive, and a head that is accepted is one
//! clear statement.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use tollgate::http1::MAX_FIELDS;
use tollgate::http1::head::find_end;
use tollgate::proxy::request::{Origin, Request};

const ORIGIN: Origin = Origin { address: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted: false, secure: false };

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = find_end(bytes, &mut 0);
    assert_eq!(whole, in_pieces(bytes, usize::from(step) + 1), "the same end, however it arrives");
    let Ok(Some(end)) = whole else { return };
    assert!(bytes[..end].ends_with(b"\r\n"));

    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    if !head.parse(&bytes[..end]).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else { return };
    for request in [
        Request::http1(method, target, version, head.headers, ORIGIN),
        Request::http2(method, target, Some("tollgate"), head.headers, step % 2 == 0, ORIGIN),
    ] {
        let Ok(request) = request else { continue };
        let in_fields = |byte: u8| byte.is_ascii_graphic();
        assert!(request.authority.bytes().all(in_fields), "{}", request.authority);
        assert!(!request.authority.contains(['@', ',', '/', '\\', '?', '#', '%']), "{}", request.authority);
        assert!(request.target.starts_with(request.path));
        assert!(request.target[request.path.len()..].bytes().all(in_fields), "{}", request.target);
        assert_eq!(request.fields.len(), head.headers.len());
    }
});

/// The same when the bytes come `step` at a time.
fn in_pieces(bytes: &[u8], step: usize) -> Result<Option<usize>, tollgate::http1::head::BareLf> {
    let (mut from, mut end) = (0, 0);
    loop {
        match find_end(&bytes[..end], &mut from)? {
            Some(end) => return Ok(Some(end)),
            None if end == bytes.len() => return Ok(None),
            None => end = (end + step).min(bytes.len()),
        }
    }
}
