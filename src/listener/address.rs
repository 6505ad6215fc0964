//! Where a listener is, as it is written.

use std::fmt;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:8080`, `[::]:8080`; `:8080` is the latter.
    Tcp(SocketAddr),
    /// `localhost:8080`: all addresses that the name has when the sidecar starts.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/run/tollgate/tollgate.sock`.
    Unix(PathBuf),
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListenAddress {
    /// Nothing of what there is.
    #[error("write IP:PORT, NAME:PORT, :PORT for every interface, or unix:PATH")]
    Form,
    /// No socket can have it.
    #[error("the path of a Unix socket has at most {LONGEST_PATH} bytes, and no NUL")]
    Path,
}

/// `sun_path` of Linux, less the NUL at its end.
const LONGEST_PATH: usize = 107;

impl ListenAddress {
    /// The address, if it is one of IP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Name { .. } | Self::Unix(_) => None,
        }
    }

    /// Whether it is every address of this host, and the other one of those.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (Some(all), Some(one)) = (self.tcp(), other.tcp()) else { return false };
        let is_among = all.is_ipv6() || one.ip().to_canonical().is_ipv4();
        all != one && all.port() == one.port() && all.ip().is_unspecified() && is_among
    }

    /// Whether who connects to one of them may come to the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(other)) => {
                let same = |one: &PathBuf| fs::canonicalize(one).ok();
                one == other || same(one).is_some_and(|one| same(other) == Some(one))
            }
            _ => self == other || self.covers(other) || other.covers(self),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(InvalidListenAddress::Form),
                1..=LONGEST_PATH if !path.contains('\0') => Ok(Self::Unix(path.into())),
                _ => Err(InvalidListenAddress::Path),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidListenAddress::Form)?;
        let digits = Some(port).filter(|port| port.bytes().all(|digit| digit.is_ascii_digit()));
        let port = digits.and_then(|port| port.parse().ok()).ok_or(InvalidListenAddress::Form)?;
        if host.is_empty() {
            return Ok(Self::Tcp((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        // `127.1` and `300.0.0.1` are misspelt addresses: a name never ends in a number (RFC 1123 section 2.1).
        let ends_in_number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        match host.bytes().all(in_names) && !ends_in_number {
            true => Ok(Self::Name { host: host.to_owned(), port }),
            false => Err(InvalidListenAddress::Form),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_has_the_others_of_its_port() {
        let read = |text: &str| text.parse::<ListenAddress>().expect("an address");
        let covered = [
            ("[::]:1", "127.0.0.1:1"),
            ("[::]:1", "0.0.0.0:1"),
            ("[::]:1", "[::1]:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "[::ffff:127.0.0.1]:1"),
        ];
        for (all, one) in covered.map(|(all, one)| (read(all), read(one))) {
            assert!(all.covers(&one) && !one.covers(&all), "{all} {one}");
            assert!(all.overlaps(&one) && one.overlaps(&all), "{all} {one}");
        }
        for (one, other) in [("0.0.0.0:1", "[::1]:1"), ("[::]:1", "127.0.0.1:2"), ("127.0.0.1:1", "127.0.0.2:1")] {
            assert!(!read(one).overlaps(&read(other)) && !read(other).overlaps(&read(one)), "{one} {other}");
        }
        assert!(read("[::]:1").overlaps(&read("[::]:1")) && !read("[::]:1").covers(&read("[::]:1")));
        assert!(!read("unix:/nowhere/a").overlaps(&read("unix:/nowhere/b")));
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let read = |text: &str| text.parse::<ListenAddress>().map(|address| address.to_string());
        for same in ["127.0.0.1:8080", "[::]:0", "localhost:80", "edge-1.example:8080", "unix:/run/a b.sock", "unix:a"]
        {
            assert_eq!(read(same).as_deref(), Ok(same));
        }
        assert_eq!(read(":8080").as_deref(), Ok("[::]:8080"));
        let wrong = [
            "",
            "8080",
            "127.0.0.1",
            "127.1:80",
            "300.0.0.1:80",
            "::1:80",
            "a:",
            "a:65536",
            "a:+1",
            "unix:",
            "a b:1",
            "http://a:1",
        ];
        for wrong in wrong {
            assert_eq!(read(wrong), Err(InvalidListenAddress::Form), "{wrong}");
        }
        assert!(read(&format!("unix:/{}", "s".repeat(106))).is_ok());
        for wrong in [format!("unix:/{}", "s".repeat(107)), "unix:/run/a\0b".to_owned()] {
            assert_eq!(read(&wrong), Err(InvalidListenAddress::Path), "{wrong}");
        }
    }
}
