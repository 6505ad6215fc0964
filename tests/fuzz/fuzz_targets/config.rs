//! Any text as the configuration file: it is read or refused with reasons, and what was read means the same once it is
//! written and read again.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::NamedTempFile;
use tollgate::config::{self, Config, Overrides, Problems, Source};
use tollgate::units;

static FILE: LazyLock<NamedTempFile> = LazyLock::new(|| NamedTempFile::new().expect("a file"));

fuzz_target!(|text: &str| {
    if let Ok(duration) = units::parse_duration(text) {
        assert_eq!(units::parse_duration(&units::format_duration(duration)), Ok(duration));
    }
    if let Ok(size) = units::parse_size(text) {
        assert_eq!(units::parse_size(&units::format_size(size)), Ok(size));
    }
    // No paths: a file that is named would be read.
    if text.contains("/dev/") || text.contains("/proc/") {
        return;
    }
    match load(text) {
        Ok(config) => {
            let written = config::effective(&config);
            let again = load(&written).unwrap_or_else(|problems| panic!("{problems}: {written}"));
            assert_eq!(config::effective(&again), written);
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});

fn load(text: &str) -> Result<Config, Problems> {
    let path: &Path = FILE.path();
    std::fs::write(path, text).expect("writes");
    let source = Source { file: Some(path.to_owned()), environment: vec![("HOME".into(), "/home/tollgate".into())] };
    config::load(&source, &Overrides::default())
}
