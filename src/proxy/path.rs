//! The path of a request, in the one form that every server reads alike.
//!
//! A path that two servers could read differently is the way past any check on paths, so it is refused, not repaired:
//! what reaches the upstream is byte for byte what was checked here.

use std::borrow::Cow;

/// The path is refused: servers disagree about what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousPath {
    /// It does not start with `/`.
    #[error("the path does not start with /")]
    Relative,
    /// `//`, which some servers fold.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..`, which some servers resolve.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A backslash, semicolon, control byte, non-ASCII byte or another that RFC 3986 does not allow in a path.
    #[error("the path has a byte that servers read differently")]
    Byte,
    /// `%` without two hexadecimal digits, or one that hides a `/`, `\`, `.`, `%`, `;`, `?`, `#`, control or non-ASCII byte.
    #[error("the path has a percent-encoding that servers read differently")]
    Encoding,
}

/// Checks a path (without its query) and returns it with percent-encodings of harmless characters decoded, for matching
/// against routes. What is forwarded is the path as it was written.
///
/// # Errors
/// [`AmbiguousPath`] for a path to be refused with 400.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(AmbiguousPath::Relative);
    }
    let mut previous = 0;
    let mut encoded = false;
    for (at, byte) in bytes.iter().enumerate() {
        match CLASS[usize::from(*byte)] {
            Class::Plain => {}
            Class::Slash if previous == b'/' => return Err(AmbiguousPath::EmptySegment),
            Class::Slash => {}
            Class::Dot if previous == b'/' && is_dot_segment(&bytes[at..]) => return Err(AmbiguousPath::DotSegment),
            Class::Dot => {}
            Class::Percent => encoded = true,
            Class::Refused => return Err(AmbiguousPath::Byte),
        }
        previous = *byte;
    }
    if encoded { decode(path).map(Cow::Owned) } else { Ok(Cow::Borrowed(path)) }
}

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Dot,
    Percent,
    Refused,
}

/// RFC 3986 section 3.3 `pchar`, less `;` (path parameters, which some servers cut off).
static CLASS: [Class; 256] = {
    let mut class = [Class::Refused; 256];
    let plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~!$&'()*+,=:@";
    let mut at = 0;
    while at < plain.len() {
        class[plain[at] as usize] = Class::Plain;
        at += 1;
    }
    class[b'/' as usize] = Class::Slash;
    class[b'.' as usize] = Class::Dot;
    class[b'%' as usize] = Class::Percent;
    class
};

/// Whether what starts here, just after a slash, is `.` or `..` alone.
fn is_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

#[cold]
fn decode(path: &str) -> Result<String, AmbiguousPath> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(AmbiguousPath::Encoding)?;
        // A space or a quote cannot appear in a path as it is, but once encoded every server reads it alike.
        let harmless = (b' '..0x7f).contains(&byte) && !b"/\\.%;?#".contains(&byte);
        if !harmless {
            return Err(AmbiguousPath::Encoding);
        }
        decoded.push(char::from(byte));
        rest = &after[2..];
    }
    decoded.push_str(rest);
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_borrowed_as_they_are() {
        for path in ["/", "/api/configs/1/toml", "/a.b/.hidden/...", "/a/", "/~x/@y:z,=+!$&'()*"] {
            assert_eq!(normalise(path), Ok(Cow::Borrowed(path)), "{path}");
        }
    }

    #[test]
    fn harmless_encodings_are_decoded_for_matching() {
        assert_eq!(normalise("/api/%63onfigs/a%20b").as_deref(), Ok("/api/configs/a b"));
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        use AmbiguousPath::*;
        let cases = [
            ("", Relative),
            ("api", Relative),
            ("*", Relative),
            ("//", EmptySegment),
            ("/api//configs", EmptySegment),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/api/./configs", DotSegment),
            ("/api/../configs", DotSegment),
            ("/api/configs/..", DotSegment),
            ("/api\\configs", Byte),
            ("/api;x=1/configs", Byte),
            ("/api/\u{e9}", Byte),
            ("/api/\u{1}", Byte),
            ("/api/\u{7f}", Byte),
            ("/api/#x", Byte),
            ("/api/a b", Byte),
            ("/api/\"x\"", Byte),
            ("/api%2fconfigs", Encoding),
            ("/api%2Fconfigs", Encoding),
            ("/api/%2e%2e/configs", Encoding),
            ("/api/%2E/configs", Encoding),
            ("/api/%5c", Encoding),
            ("/api/%00", Encoding),
            ("/api/%0a", Encoding),
            ("/api/%3b", Encoding),
            ("/api/%252e", Encoding),
            ("/api/%c3%a9", Encoding),
            ("/api/%", Encoding),
            ("/api/%4", Encoding),
            ("/api/%zz", Encoding),
            ("/api/%+1", Encoding),
        ];
        for (path, why) in cases {
            assert_eq!(normalise(path), Err(why), "{path}");
        }
    }
}
