//! Bytes as hexadecimal digits.

use std::fmt::{self, Write as _};

/// A byte's two digits, in lower case.
pub(crate) const fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]
}

/// Bytes that display as their digits.
#[derive(Clone, Copy)]
pub(crate) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| digits(*byte).into_iter().try_for_each(|digit| f.write_char(digit.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_two_digits() {
        assert!((0..=255).all(|byte| Hex(&[byte]).to_string() == format!("{byte:02x}")));
        assert_eq!(Hex(b"\x00Az\xff").to_string(), "00417aff");
    }
}
