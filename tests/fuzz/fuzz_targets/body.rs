//! Any bytes as a chunked body: decoded alike in whatever pieces they arrive, and as another reading of the coding does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::http1::body::Piece;
use tollgate::http1::{BodyLength, Decoder};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, usize::from(step) + 1), whole, "the same, however it arrives");
    let Some((data, used, true)) = whole else { return };
    assert_eq!(read(bytes), Some((data, used)));
});

/// The data, how many bytes it took, and whether it came to its end; `None` when it is broken.
fn decode(bytes: &[u8], step: usize) -> Option<(Vec<u8>, usize, bool)> {
    let mut decoder = Decoder::new(BodyLength::Chunked);
    let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        match decoder.next(&bytes[at..end]).ok()? {
            Piece::Framing(count) => at += count,
            Piece::Data(count) => {
                data.extend_from_slice(&bytes[at..at + count]);
                at += count;
            }
            Piece::More if end == bytes.len() => return Some((data, at, false)),
            Piece::More => end = (end + step).min(bytes.len()),
            Piece::End => {
                assert!(decoder.is_done());
                return Some((data, at, true));
            }
        }
    }
}

/// Reads a whole body line by line, as RFC 9112 section 7.1 puts it.
fn read(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| Some(at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?);
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let end = line(at)?;
        let digits = bytes[at..end].split(|byte| !byte.is_ascii_hexdigit()).next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        data.extend_from_slice(bytes.get(at..at + size)?);
        at += size;
        assert_eq!(bytes.get(at..at + 2)?, b"\r\n");
        at += 2;
    }
    loop {
        let end = line(at)?;
        let empty = end == at;
        at = end + 2;
        if empty {
            return Some((data, at));
        }
    }
}
