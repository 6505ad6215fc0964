//! Any text as a line of an import: no reason for refusing it repeats the token, and a line that is read has a digest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::registry::import::parse_line;
use tollgate::token::raw::{HINT_LENGTH, PREFIX};

fuzz_target!(|text: &str| {
    match parse_line(text) {
        Ok(line) => assert!(line.hint.len() <= HINT_LENGTH, "{}", line.hint),
        Err(reason) => {
            let mut secrets = reason.split(PREFIX).skip(1);
            assert!(secrets.all(|after| after == "..." || after == "` and has a secret after it"), "{reason}");
        }
    }
});
