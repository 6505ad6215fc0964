//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): with what a balancer begins a connection to say
//! whose it is. Only from addresses of which the configuration says that they send it; these must, nobody else is asked.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// With what version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// With what version 1 begins.
const PREFIX: &[u8] = b"PROXY ";

/// The shortest header: `PROXY UNKNOWN` and the end of its line. One of version 2 has a byte more.
const SHORTEST: usize = 15;

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is taken, in bytes: addresses take 216 at most, and what a balancer adds (the
/// certificate's name, an id) has room enough.
const LONGEST: usize = 4096;

/// Of a header: the length of what follows the first 16 bytes, in the last two of them.
const FIXED: usize = 16;

/// Why a connection that has to begin with a header was closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("it ended before a byte came")]
    Silent,
    #[error("it begins with no PROXY header")]
    Missing,
    #[error("its PROXY header cannot be read")]
    Malformed,
    #[error("its PROXY header is longer than {LONGEST} bytes")]
    Long,
    #[error("its PROXY header did not come in time")]
    Late,
    #[error("it ended within its PROXY header")]
    Ended(#[from] io::Error),
}

/// Reads the header, and not a byte more. The client's address; `None`: the balancer speaks for itself (its own checks:
/// LOCAL), or does not know (UNKNOWN).
///
/// # Errors
/// When there is none. Waits for as long as it is left to.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = vec![0; SHORTEST];
    let begun = match stream.read(&mut header).await {
        Ok(0) => return Err(HeaderError::Silent),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(HeaderError::Silent),
        begun => begun?,
    };
    stream.read_exact(header.get_mut(begun..).unwrap_or_default()).await?;
    if header.starts_with(SIGNATURE) {
        header.push(stream.read_u8().await?);
        let rest = header.last_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
        if FIXED + rest > LONGEST {
            return Err(HeaderError::Long);
        }
        header.resize(FIXED + rest, 0);
        stream.read_exact(header.get_mut(FIXED..).unwrap_or_default()).await?;
        return version_2(&header);
    }
    if !header.starts_with(PREFIX) {
        return Err(HeaderError::Missing);
    }
    while !header.ends_with(b"\n") {
        // What is peeked at is read up to the end of the line only.
        let mut ahead = [0; LONGEST_LINE];
        let room = ahead.get_mut(header.len()..).unwrap_or_default();
        if room.is_empty() {
            return Err(HeaderError::Malformed);
        }
        let count = stream.peek(room).await?;
        let seen = room.get_mut(..count).unwrap_or_default();
        let end = memchr::memchr(b'\n', seen).map_or(seen.len(), |end| end + 1);
        if end == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let part = seen.get_mut(..end).unwrap_or_default();
        stream.read_exact(part).await?;
        header.extend_from_slice(part);
    }
    version_1(&header)
}

/// Section 2.1: one blank between the parts, and nothing else.
fn version_1(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let line = header.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(PREFIX)).ok_or(HeaderError::Malformed)?;
    // Whatever follows is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed)?;
    client_in(line).map(Some).ok_or(HeaderError::Malformed)
}

/// Of `TCP4 192.0.2.7 192.0.2.1 4711 443` the first address and port.
fn client_in(line: &str) -> Option<SocketAddr> {
    let mut parts = line.split(' ');
    let is_ipv4 = match parts.next()? {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let mut address = || parts.next()?.parse().ok().filter(|address: &IpAddr| address.is_ipv4() == is_ipv4);
    let (client, _) = (address()?, address()?);
    // As decimal numbers are written: `parse` alone takes `+12` and `00012`.
    let mut port = || parts.next().and_then(|text| text.parse().ok().filter(|port: &u16| port.to_string() == text));
    let (from, _) = (port()?, port()?);
    parts.next().is_none().then(|| SocketAddr::new(client, from))
}

/// Section 2.2: version and command, family and protocol, length, then source and destination address, source and
/// destination port. What follows them (TLVs) is of no interest here.
fn version_2(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let (fixed, rest) = header.split_first_chunk::<FIXED>().ok_or(HeaderError::Malformed)?;
    let port = |at: usize| rest.get(at..)?.first_chunk().map(|port| u16::from_be_bytes(*port));
    let ipv4 = || Some((IpAddr::from(*rest.first_chunk::<4>()?), port(8)?));
    let ipv6 = || Some((IpAddr::from(*rest.first_chunk::<16>()?), port(32)?));
    match (fixed[12], fixed[13]) {
        // LOCAL, whatever its family; PROXY of an unknown one.
        (0x20, _) | (0x21, 0x00) => Ok(None),
        // TCP, or UDP, over IPv4, IPv6.
        (0x21, 0x11 | 0x12) if rest.len() >= 12 => Ok(ipv4().map(SocketAddr::from)),
        (0x21, 0x21 | 0x22) if rest.len() >= 36 => Ok(ipv6().map(SocketAddr::from)),
        // A Unix socket: who is behind it has no address.
        (0x21, 0x31 | 0x32) if rest.len() >= 216 => Ok(None),
        _ => Err(HeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_line_says() {
        let client = |line: &str| version_1(line.as_bytes()).ok().map(|client| client.map(|client| client.to_string()));
        let known = |address: &str| Some(Some(address.to_owned()));
        assert_eq!(client("PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"), known("192.0.2.7:4711"));
        assert_eq!(client("PROXY TCP4 192.0.2.7 192.0.2.1 0 65535\r\n"), known("192.0.2.7:0"));
        assert_eq!(client("PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"), known("[2001:db8::7]:4711"));
        for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "PROXY UNKNOWN what ever\r\n"] {
            assert_eq!(client(unknown), Some(None), "{unknown}");
        }
        let malformed = [
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 65536\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +12 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 +80\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 00012 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 -1 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1  443\r\n",
            "PROXY TCP4 192.0.2.07 192.0.2.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.777 192.0.2.1 4711 443\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
            "PROXY TCP4  192.0.2.7 192.0.2.1 4711 443\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.1 4711 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN\n",
            "PROXY TCP4 a\u{e9}\r\n",
        ];
        for line in malformed {
            assert!(matches!(version_1(line.as_bytes()), Err(HeaderError::Malformed)), "{line}");
        }
    }

    #[test]
    fn what_binary_headers_say() {
        let header = |command: u8, family: u8, rest: &[u8]| {
            let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
            version_2(&[SIGNATURE.as_slice(), &[command, family], &length, rest].concat())
        };
        let addresses = [192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 187];
        let client = "192.0.2.7:4711".parse().expect("an address");
        assert!(matches!(header(0x21, 0x11, &addresses), Ok(Some(address)) if address == client));
        // With something after the addresses.
        let more = [addresses.as_slice(), &[3, 0, 4, 1, 2, 3, 4]].concat();
        assert!(matches!(header(0x21, 0x11, &more), Ok(Some(address)) if address == client));
        assert!(matches!(header(0x20, 0x00, &[]), Ok(None)), "LOCAL");
        assert!(matches!(header(0x20, 0x11, &addresses), Ok(None)), "LOCAL with addresses");
        assert!(matches!(header(0x21, 0x00, &[]), Ok(None)), "UNSPEC");
        assert!(matches!(header(0x11, 0x11, &addresses), Err(HeaderError::Malformed)), "version 1");
        assert!(matches!(header(0x22, 0x11, &addresses), Err(HeaderError::Malformed)), "no command");
        assert!(matches!(header(0x21, 0x11, &addresses[..11]), Err(HeaderError::Malformed)), "too short");
        assert!(matches!(header(0x21, 0x51, &addresses), Err(HeaderError::Malformed)), "no family");
    }

    proptest! {
        #[test]
        fn nothing_makes_the_readers_panic(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            version_1(&[PREFIX, &rest].concat()).ok();
            version_2(&[SIGNATURE.as_slice(), &rest].concat()).ok();
        }
    }
}
