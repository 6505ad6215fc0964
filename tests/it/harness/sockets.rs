//! Connections as the system has them, and the ways in which a client ends one.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpStream;

/// Connections to this address (IPv4) that whoever made them has not closed. Says so even where the other end does not
/// read, and so would not notice.
pub(crate) fn established_to(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    // As proc(5) writes it: the address in the machine's own order of bytes.
    let ip = u32::from_ne_bytes(Ipv4Addr::octets(address.ip()));
    let remote = format!("{ip:08X}:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let is_one = |line: &&str| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next() == Some(&remote) && columns.next() == Some(ESTABLISHED)
    };
    table.lines().filter(is_one).count()
}

/// Leaves without a word: what the other side sends from now on is answered by a reset, and so is what it has sent.
pub(crate) fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("sets");
}

/// Closes as a program does that has read everything: the other side is told that nothing more comes, no more.
pub(crate) fn leave(stream: TcpStream) {
    drop(stream);
}
