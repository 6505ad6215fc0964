//! Any path: what is accepted means the same to every server, however often it decodes and resolves it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate::replica::MaxStaleness;
use tollgate::proxy::path::normalise;
use tollgate::proxy::route::RouteTable;

static ROUTES: LazyLock<RouteTable> = LazyLock::new(|| RouteTable::built_in(&[], |_| MaxStaleness::Never));

fuzz_target!(|path: &str| {
    let Ok(decoded) = normalise(path) else { return };
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "forwarded as it was written");
    assert!(decoded.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    assert!(!decoded.contains(['%', '\\', ';', '?', '#']), "{decoded}");
    let mut segments = decoded.split('/');
    assert_eq!(segments.next(), Some(""), "starts with a slash");
    let segments: Vec<_> = segments.collect();
    let (last, before) = segments.split_last().expect("one at least");
    assert!(before.iter().all(|segment| !segment.is_empty()), "an empty segment: {decoded}");
    assert!(before.iter().chain([last]).all(|segment| !matches!(*segment, "." | "..")), "a dot segment: {decoded}");
    assert_eq!(path.matches('/').count(), decoded.matches('/').count(), "decoding makes no segments");
    assert_eq!(path.contains('%'), *path != *decoded);
    if ROUTES.find("GET", &decoded).is_ok() {
        assert!(decoded.starts_with("/api/"), "{decoded}");
    }
});
