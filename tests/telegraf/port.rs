//! Ports that stay ours while nobody listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// A port of the loopback interface. Bound and not listened on: connections are refused unless somebody else in the
/// test listens there, and no other program can get it in between.
pub(crate) struct Port {
    _held: Socket,
    address: SocketAddr,
}

impl Port {
    pub(crate) fn hold() -> io::Result<Self> {
        let held = open((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = held.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { _held: held, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let socket = open(self.address)?;
        socket.set_nonblocking(true)?;
        socket.listen(1024)?;
        Ok(socket.into())
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
