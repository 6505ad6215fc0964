//! The fields of W3C Trace Context (level 2, `https://www.w3.org/TR/trace-context-2/`).

use std::fmt;

use crate::hex::Hex;
use crate::random;

/// The id of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent(pub [u8; 8]);

/// What `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(super) trace: [u8; 16],
    pub parent: Parent,
    pub sampled: bool,
    /// The trace's id is random: kept as it came.
    pub(super) random: bool,
}

const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

impl TraceParent {
    /// Reads a `traceparent` (section 3.2). Of a later version than 00 what that one has is read, as it asks for.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = field::<1>(value)?;
        let (trace, rest) = field::<16>(rest.strip_prefix(b"-")?)?;
        let (parent, rest) = field::<8>(rest.strip_prefix(b"-")?)?;
        let ([flags], rest) = field::<1>(rest.strip_prefix(b"-")?)?;
        let is_whole = rest.is_empty() || version != [0] && rest.starts_with(b"-");
        let is_valid = is_whole && version != [0xff] && trace != [0; 16] && parent != [0; 8];
        let (sampled, random) = (flags & SAMPLED != 0, flags & RANDOM != 0);
        is_valid.then_some(Self { trace, parent: Parent(parent), sampled, random })
    }

    /// Of a trace that begins here.
    pub(super) fn random(parent: Parent, sampled: bool) -> Self {
        let mut trace = [0; 16];
        for half in trace.chunks_exact_mut(8) {
            half.copy_from_slice(&random::number().to_be_bytes());
        }
        Self { trace, parent, sampled, random: true }
    }

    pub(crate) fn trace_id(&self) -> String {
        Hex(&self.trace).to_string()
    }
}

impl fmt::Display for TraceParent {
    /// As the field says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = (u8::from(self.sampled) * SAMPLED) | (u8::from(self.random) * RANDOM);
        write!(f, "00-{}-{}-{flags:02x}", Hex(&self.trace), self.parent)
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// Bytes in digits of lower case, and what follows them.
fn field<const N: usize>(value: &[u8]) -> Option<([u8; N], &[u8])> {
    let (digits, rest) = value.split_at_checked(2 * N)?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some((bytes, rest))
}

/// Most members of a list.
const MAX_MEMBERS: usize = 32;

/// Whether these fields together are a `tracestate` (section 3.3). What is none is to be left out.
pub(crate) fn is_trace_state<'a>(fields: impl Iterator<Item = &'a [u8]>) -> bool {
    let members = fields.flat_map(|field| field.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut keys = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        let Some(at) = memchr::memchr(b'=', member) else { return false };
        let (key, value) = (&member[..at], &member[at + 1..]);
        if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == MAX_MEMBERS {
            return false;
        }
        keys.push(key);
    }
    true
}

/// `name`, or `tenant@system`.
fn is_key(key: &[u8]) -> bool {
    let is_part = |part: &[u8], longest: usize| {
        let is_in_keys = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(byte);
        (1..=longest).contains(&part.len()) && part.iter().all(is_in_keys)
    };
    let begins_with_letter = |part: &[u8]| part.first().is_some_and(u8::is_ascii_lowercase);
    match memchr::memchr(b'@', key).map(|at| (&key[..at], &key[at + 1..])) {
        None => begins_with_letter(key) && is_part(key, 256),
        Some((tenant, system)) => {
            let begins_well = tenant.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            begins_well && is_part(tenant, 241) && begins_with_letter(system) && is_part(system, 14)
        }
    }
}

/// Blanks around it are not part of it any more.
fn is_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len()) && value.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_good_one_is_read_and_written_again() {
        assert_eq!(TraceParent::parse(GOOD.as_bytes()).expect("good").to_string(), GOOD);
        // Unknown flags are not passed on, nor what a later version adds.
        for later in
            [GOOD.replace("00-0af", "01-0af"), GOOD.replace("00-0af", "cc-0af") + "-more", GOOD.replace("-01", "-09")]
        {
            assert_eq!(TraceParent::parse(later.as_bytes()).expect("readable").to_string(), GOOD, "{later}");
        }
    }

    #[test]
    fn what_is_none_is_not_read() {
        let zeros = |digits: &str| GOOD.replace(digits, &"0".repeat(digits.len()));
        for bad in [
            String::new(),
            GOOD.to_uppercase(),
            GOOD.replace("00-0af", "ff-0af"),
            GOOD.to_owned() + "-more",
            GOOD.to_owned() + " ",
            GOOD.replace("cc", "cc-0af").replace("-01", "-01more"),
            GOOD.replace("00-0af", "01-0af") + "more",
            GOOD[..54].to_owned(),
            GOOD.replace('-', "_"),
            GOOD.replace("b7ad", "b7ag"),
            zeros("0af7651916cd43dd8448eb211c80319c"),
            zeros("b7ad6b7169203331"),
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn trace_states_are_judged_by_the_letter() {
        let is = |fields: &[&str]| is_trace_state(fields.iter().map(|field| field.as_bytes()));
        let many = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        for good in ["", "a=1", "a=1,b=2", " a=1 , ,b=x y", "1t@sys=v", "a/b*-_=!~", &many(32)] {
            assert!(is(&[good]), "{good}");
        }
        assert!(is(&["a=1", "b=2"]) && !is(&["a=1", "a=2"]));
        let long = format!("a={}", "v".repeat(257));
        for bad in
            ["a", "=1", "a=", "A=1", "1a=1", "a=b=c", "a@=1", "@s=1", "t@1s=1", "t@s@u=1", "a=\u{e9}", &long, &many(33)]
        {
            assert!(!is(&[bad]), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_read_as_something_else(value in "(00|[0-9a-f]{2})-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?") {
            if let Some(read) = TraceParent::parse(value.as_bytes()) {
                prop_assert_eq!(&read.to_string()[3..52], &value[3..52]);
            }
        }
    }
}
