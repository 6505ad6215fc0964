//! TCP sockets that share an address (`SO_REUSEPORT`): each is a queue of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::bind::BACKLOG;

/// Listens on an address with so many queues; which address that became.
///
/// # Errors
/// Also when another process listens there: `SO_REUSEPORT` alone would let two sidecars of one user share the port, and each
/// would get half the agents.
pub(super) fn bind(address: SocketAddr, queues: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // A free port may be taken by somebody else before all queues have it: then another one is as good.
    let mut tries = if address.port() == 0 { 10 } else { 1 };
    loop {
        tries -= 1;
        match or_ipv4(address, |address| bind_all(address, queues)) {
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
}

/// As many queues of an address at which, or at a part of which, this user listens already. The kernel gives them nothing before
/// [`listen`].
///
/// # Errors
/// Also when who listens there does not share the address.
pub(super) fn beside(address: SocketAddr, queues: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    or_ipv4(address, |address| {
        let all = (0..queues).map(|_| open(address, true).map(TcpListener::from));
        Ok((address, all.collect::<io::Result<Vec<_>>>()?))
    })
}

/// Has the kernel give it what comes from now on.
///
/// # Errors
/// When another process listens there meanwhile, and does not share the address.
pub(super) fn listen(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).listen(BACKLOG)
}

/// A host without IPv6: every interface it has is one of IPv4.
fn or_ipv4<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match open(address) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) && address.ip().is_unspecified() => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        outcome => outcome,
    }
}

fn bind_all(address: SocketAddr, queues: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = open(address, false)?;
    first.listen(1)?;
    let bound = first.local_addr().ok().and_then(|bound| bound.as_socket()).unwrap_or(address);
    drop(first);
    let queue = |_| {
        let socket = open(bound, true)?.into();
        listen(&socket)?;
        Ok(socket)
    };
    Ok((bound, (0..queues).map(queue).collect::<io::Result<Vec<_>>>()?))
}

/// A bound socket. Without `share` it fails where anybody else listens.
fn open(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    // Inherited by accepted connections, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // `[::]` is both families, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
