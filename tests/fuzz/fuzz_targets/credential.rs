//! Any `Authorization` value: only one whole token after one scheme is digested.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::proxy::credential;
use tollgate::token::Digest;
use tollgate::token::raw::PREFIX;

fuzz_target!(|value: &[u8]| {
    let Ok(digest) = credential::digest(value) else { return };
    let text = std::str::from_utf8(value).expect("a token is ASCII");
    let (scheme, token) = text.split_once(' ').expect("a scheme and a token");
    assert!(["bearer", "token"].contains(&scheme.to_ascii_lowercase().as_str()), "{scheme}");
    let token = token.trim_ascii();
    assert!(token.len() > PREFIX.len() && token.starts_with(PREFIX), "{token}");
    assert!(token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','), "{token}");
    assert_eq!(digest, Digest::of(token.as_bytes()));
});
