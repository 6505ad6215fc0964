//! Heads: where one ends, and its framing.

use super::BodyLength;

/// A field line: its name as it was written, and its value.
pub type Field<'a> = httparse::Header<'a>;

/// Most fields of a head, whatever the configuration says: their fate is noted in a word of this many bits.
pub const MAX_FIELDS: usize = 128;

/// A line of a head ends with LF alone, which some servers take for a line end and others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line ends without CR")]
pub struct BareLf;

/// Looks for the empty line that ends a head. `from` is where an earlier call stopped, 0 at first, and moves along, so
/// that a head that drips in is not read again and again.
///
/// # Errors
/// [`BareLf`], when the lines do not all end with CR LF.
pub fn find_end(bytes: &[u8], from: &mut usize) -> Result<Option<usize>, BareLf> {
    let mut line = *from;
    while let Some(length) = bytes.get(line..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let end = line + length;
        match bytes.get(line..end) {
            Some([b'\r']) => return Ok(Some(end + 1)),
            Some([.., b'\r']) => line = end + 1,
            _ => return Err(BareLf),
        }
        *from = line;
    }
    Ok(None)
}

/// Why the framing of a message cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenFraming {
    /// `Content-Length` is not a number, is there twice, or with `Transfer-Encoding`.
    #[error("Content-Length is not one number")]
    ContentLength,
    /// Both ways to say it (RFC 9112 section 6.1: ought to be handled as an error).
    #[error("Content-Length and Transfer-Encoding are both there")]
    Both,
    /// `Transfer-Encoding` with `chunked` not once, or in HTTP/1.0.
    #[error("Transfer-Encoding is broken")]
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    #[error("Transfer-Encoding is not chunked")]
    UnknownCoding,
}

/// The framing fields of a head, as they are found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Framing {
    content_length: Option<u64>,
    chunked: bool,
}

impl Framing {
    /// Notes a `Content-Length` field (RFC 9112 section 6.3): one, decimal digits only.
    ///
    /// # Errors
    /// [`BrokenFraming::ContentLength`] when it is not a number or not the first.
    pub fn content_length(&mut self, value: &[u8]) -> Result<(), BrokenFraming> {
        let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        if !digits || self.content_length.is_some() {
            return Err(BrokenFraming::ContentLength);
        }
        self.content_length = Some(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    /// Notes a `Transfer-Encoding` field: exactly `chunked`, once.
    ///
    /// # Errors
    /// [`BrokenFraming::UnknownCoding`] for a coding that is not known, [`BrokenFraming::TransferEncoding`] else.
    pub fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), BrokenFraming> {
        if value.eq_ignore_ascii_case(b"chunked") && !self.chunked {
            self.chunked = true;
            return Ok(());
        }
        let named = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
        match value.is_empty() || value.split(|byte| *byte == b',').any(named) {
            true => Err(BrokenFraming::TransferEncoding),
            false => Err(BrokenFraming::UnknownCoding),
        }
    }

    /// The length of a request's body.
    ///
    /// # Errors
    /// [`BrokenFraming`] when both fields are there, or `Transfer-Encoding` in HTTP/1.0 (RFC 9112 section 6.1).
    pub fn of_request(self, minor_version: u8) -> Result<BodyLength, BrokenFraming> {
        match (self.content_length, self.chunked) {
            (Some(_), true) => Err(BrokenFraming::Both),
            (None, true) if minor_version == 0 => Err(BrokenFraming::TransferEncoding),
            (None, true) => Ok(BodyLength::Chunked),
            (length, false) => Ok(BodyLength::Known(length.unwrap_or(0))),
        }
    }

    /// Whether the length is said in both ways, which a reply must not do either (RFC 9112 section 6.3).
    #[must_use]
    pub fn is_ambiguous(self) -> bool {
        self.chunked && self.content_length.is_some()
    }

    /// Whether `Transfer-Encoding` is there.
    #[must_use]
    pub fn is_chunked(self) -> bool {
        self.chunked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_comes_in() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        let mut from = 0;
        for end in 0..27 {
            assert_eq!(find_end(&bytes[..end], &mut from), Ok(None), "{end}");
        }
        assert_eq!(find_end(&bytes[..27], &mut from), Ok(Some(27)));
    }

    #[test]
    fn bare_line_feeds_are_refused() {
        for bytes in [b"GET / HTTP/1.1\n\n".as_slice(), b"\n", b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n"] {
            assert_eq!(find_end(bytes, &mut 0), Err(BareLf));
        }
    }

    fn request(fields: &[(&str, &str)], minor_version: u8) -> Result<BodyLength, BrokenFraming> {
        let mut framing = Framing::default();
        for (name, value) in fields {
            match *name {
                "cl" => framing.content_length(value.as_bytes())?,
                _ => framing.transfer_encoding(value.as_bytes())?,
            }
        }
        framing.of_request(minor_version)
    }

    #[test]
    fn framing_of_requests_is_one_clear_statement_or_refused() {
        use BrokenFraming::*;
        assert_eq!(request(&[], 1), Ok(BodyLength::Known(0)));
        assert_eq!(request(&[("cl", "12")], 1), Ok(BodyLength::Known(12)));
        assert_eq!(request(&[("te", "Chunked")], 1), Ok(BodyLength::Chunked));
        for bad in ["", "-1", "+1", "1 ", "0x1", "1,1", "1, 1", "99999999999999999999", "１"] {
            assert_eq!(request(&[("cl", bad)], 1), Err(ContentLength), "{bad}");
        }
        assert_eq!(request(&[("cl", "1"), ("cl", "1")], 1), Err(ContentLength));
        assert_eq!(request(&[("cl", "1"), ("te", "chunked")], 1), Err(Both));
        assert_eq!(request(&[("te", "chunked")], 0), Err(TransferEncoding));
        assert_eq!(request(&[("te", "chunked"), ("te", "chunked")], 1), Err(TransferEncoding));
        assert_eq!(request(&[("te", "chunked, chunked")], 1), Err(TransferEncoding));
        assert_eq!(request(&[("te", "gzip, chunked")], 1), Err(TransferEncoding));
        assert_eq!(request(&[("te", "")], 1), Err(TransferEncoding));
        assert_eq!(request(&[("te", "gzip")], 1), Err(UnknownCoding));
        assert_eq!(request(&[("te", "xchunked")], 1), Err(UnknownCoding));
    }
}
