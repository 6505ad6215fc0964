//! Any bytes as a request: where the head ends does not depend on how they arrive, and a head that is accepted is one
//! clear statement.
#![no_main]

use bytes::Bytes;
use http::HeaderMap;
use http::header::HOST;
use libfuzzer_sys::fuzz_target;
use tollgate::http1::head::find_end;
use tollgate::http1::{BodyLength, MAX_FIELDS};
use tollgate::proxy::request::Head;

/// What ends at this hop, or is not the client's to say.
const NEVER: [&str; 8] =
    ["connection", "content-length", "transfer-encoding", "te", "upgrade", "expect", "x-tollgate-user", "forwarded"];

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = find_end(bytes, &mut 0);
    assert_eq!(whole, in_pieces(bytes, usize::from(step) + 1), "the same end, however it arrives");
    let Ok(Some(end)) = whole else { return };
    assert!(bytes[..end].ends_with(b"\r\n"));

    let bytes = Bytes::copy_from_slice(&bytes[..end]);
    let Ok(Head { parts, body, .. }) = Head::http1(&bytes, MAX_FIELDS, HeaderMap::new()) else { return };
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut raw = httparse::Request::new(&mut fields);
    raw.parse(&bytes).expect("another reading accepts it too");
    let named = |name: &str| raw.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
    match (named("content-length").as_slice(), named("transfer-encoding").as_slice()) {
        ([], []) => assert_eq!(body, BodyLength::Known(0)),
        ([length], []) => {
            let length = std::str::from_utf8(length.value).expect("digits").parse().expect("a number");
            assert_eq!(body, BodyLength::Known(length));
        }
        ([], [_]) => assert_eq!(body, BodyLength::Chunked),
        other => panic!("two ways to say it: {other:?}"),
    }
    assert!(named("host").len() <= 1);
    assert!(parts.headers.get_all(HOST).iter().count() <= 1);
    if let Some(host) = parts.headers.get(HOST) {
        let host = host.to_str().expect("visible characters");
        assert!(!host.contains(['@', ',', '/', '\\', '?', '#', '%', ' ']), "{host}");
    }
    for name in NEVER {
        assert!(!parts.headers.contains_key(name), "{name}");
    }
    let target = parts.uri.to_string();
    assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()), "{target}");
    assert!(raw.path.is_some_and(|path| path.ends_with(&target) || target.contains('%') || target == "/"), "{target}");
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
