//! Any text as a line of an import, of JSON or of CSV, or as the header of the latter: no reason for refusing it repeats the
//! token, and a line that is read has a digest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::registry::LineError;
use tollgate::registry::import::{CsvHeader, ImportLine, parse_line};
use tollgate::token::raw::{HINT_LENGTH, PREFIX};

fn judge(outcome: Result<Box<ImportLine>, LineError>) {
    match outcome {
        Ok(line) => assert!(line.hint.len() <= HINT_LENGTH, "{}", line.hint),
        Err(reason) => {
            let reason = reason.to_string();
            let mut secrets = reason.split(PREFIX).skip(1);
            assert!(secrets.all(|after| after == "..." || after == "` and has a secret after it"), "{reason}");
        }
    }
}

fuzz_target!(|text: &str| {
    judge(parse_line(text, None));
    let header = CsvHeader::read("token,digest,user,description,permissions,expires_at");
    judge(header.expect("sound").expect("a header").parse_line(text, None));
    match CsvHeader::read(text) {
        Ok(_) => {}
        Err(reason) => judge(Err(reason)),
    }
});
