//! Who the sidecar with an admin listener is: anybody on the host can take the name of its socket for commands, but not the
//! address of the listener while the sidecar has it.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tokio::net::unix::UCred;

/// Sockets of this host: `proc_net_tcp(5)`.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The state of a socket that listens.
const LISTENING: &str = "0A";

/// A socket that listens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listening {
    /// Where: the sidecar's name for commands has this in it.
    pub address: SocketAddr,
    /// Who opened it.
    user: u32,
    inode: u64,
}

impl Listening {
    /// The one that takes connections to this address: at it, or at every interface.
    ///
    /// # Errors
    /// When this host does not say what listens.
    pub(super) fn at(address: SocketAddr) -> io::Result<Option<Self>> {
        let mut all = Vec::new();
        for table in TABLES {
            match fs::read_to_string(table) {
                Ok(text) => all.extend(text.lines().filter_map(Self::parse)),
                // Without IPv6.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let port = address.port();
        let mut names =
            [address, (Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()].into_iter();
        Ok(names.find_map(|name| {
            let listening =
                all.iter().find(|one| (one.address.ip(), one.address.port()) == (name.ip(), name.port()))?;
            // A scope is in its name, and not in the table.
            Some(Self { address: name, ..*listening })
        }))
    }

    /// A line of a table, if it is of a socket that listens.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (ip, port) = fields.next()?.split_once(':')?;
        if fields.nth(1)? != LISTENING {
            return None;
        }
        let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
        let user = fields.nth(3)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some(Self { address, user, inode })
    }

    /// Whether whoever is at the other end is the sidecar that listens here: the user who opened the listener, or, where the service
    /// manager opened it, a process that has it.
    pub(super) fn is_of(&self, peer: &UCred) -> bool {
        peer.uid() == self.user || peer.pid().is_some_and(|process| self.is_held(process, peer.uid()))
    }

    /// Whether a process of this user has it. The number of one that has ended may be another one's by now, and another user's.
    fn is_held(&self, process: i32, user: u32) -> bool {
        let process = Path::new("/proc").join(process.to_string());
        let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
        let socket = format!("socket:[{}]", self.inode);
        let is_it = |file: io::Result<fs::DirEntry>| {
            file.and_then(|file| fs::read_link(file.path())).is_ok_and(|target| target.as_os_str() == socket.as_str())
        };
        files.into_iter().any(is_it) && fs::metadata(process).is_ok_and(|process| process.uid() == user)
    }
}

/// An address as it is in memory, word by word.
fn address(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    match *bytes {
        [a, b, c, d] => Some([a, b, c, d].into()),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_is_found_with_who_opened_it_and_who_has_it() {
        let own = rustix::process::geteuid().as_raw();
        let process = i32::try_from(std::process::id()).expect("a number");
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let address = listener.local_addr().expect("an address");
            let reached = match address.ip().is_unspecified() {
                true => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
                false => address,
            };
            let found = Listening::at(reached).expect("a table").expect("it listens");
            assert_eq!((found.address, found.user), (address, own));
            assert!(found.is_held(process, own) && !found.is_held(process, own + 1) && !found.is_held(1 << 30, own));
            drop(listener);
            assert_eq!(Listening::at(reached).expect("a table"), None);
        }
    }

    #[test]
    fn lines_of_what_does_not_listen_are_left_out() {
        let line = |state: &str| {
            format!(
                "  3: 0100007F:26AC 0100007F:1F90 {state} 00000000:00000000 00:00000000 00000000   998        0 71 1 0"
            )
        };
        let listening = Listening::parse(&line("0A")).expect("it listens");
        assert_eq!((listening.user, listening.inode, listening.address.port()), (998, 71, 9900));
        assert_eq!(Listening::parse(&line("01")), None);
        assert_eq!(
            Listening::parse("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"),
            None
        );
    }
}
