//! Listening sockets, and accepting from them.
//!
//! Every worker has a socket of its own for each address (`SO_REUSEPORT`), so the kernel spreads connections and no
//! accepted socket crosses a thread.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;
use crate::connection;
use crate::tls::{self, TlsError};
use crate::worker::Worker;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. A fleet reconnects all at once.
const BACKLOG: i32 = 65_535;

/// Pause after an accept that failed for want of descriptors or memory: trying again at once would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--listen, or `address` of a [[listener]], names another)")]
pub struct BindError {
    /// Which.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Opens one socket for each worker on an address, and says which address it became (port 0 takes a free one).
///
/// # Errors
/// [`BindError`], also when another process listens there: `SO_REUSEPORT` alone would let two sidecars of one user share
/// the port, and each would get half the agents.
pub fn bind(address: SocketAddr, workers: usize) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
    // A free port may be taken by somebody else before all workers have it: then another one is as good.
    let mut tries = if address.port() == 0 { 10 } else { 1 };
    loop {
        tries -= 1;
        match bind_all(address, workers) {
            Err(error) if tries > 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
}

fn bind_all(address: SocketAddr, workers: usize) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
    let failed = |source| BindError { address, source };
    let first = open(address, false).map_err(failed)?;
    let bound = first.local_addr().ok().and_then(|bound| bound.as_socket()).unwrap_or(address);
    drop(first);
    let open = |_| {
        let socket = open(bound, true)?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    let sockets = (0..workers).map(open).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    Ok((sockets, bound))
}

/// A bound socket. Without `share` it fails where anybody else listens.
fn open(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    // Inherited by accepted connections, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    if !share {
        socket.listen(1)?;
    }
    Ok(socket)
}

/// A listener's TLS configuration, which a reload replaces for the connections that follow.
pub struct Tls {
    /// The files.
    pub config: TlsConfig,
    current: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the problem.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let current = RwLock::new(TlsAcceptor::from(tls::server_config(&config)?));
        Ok(Self { config, current })
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let acceptor = TlsAcceptor::from(tls::server_config(&self.config)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Accepts connections and serves them until `stop`. Accepting pauses while `slots` has none left.
pub async fn accept(
    worker: Rc<Worker>,
    listener: Rc<tokio::net::TcpListener>,
    tls: Option<Arc<Tls>>,
    slots: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let serve = |stream, peer, slot| {
        let acceptor = tls.as_deref().map(Tls::acceptor);
        let open = worker.connection();
        tokio::task::spawn_local(connection::serve(Rc::clone(&worker), stream, peer, acceptor, (slot, open)));
    };
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            (accepted, slot) = accept => (accepted, slot),
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match (accepted, slot) {
            (Ok((stream, peer)), Ok(slot)) => serve(stream, peer, slot),
            (Err(error), _) => {
                // Out of descriptors or memory concerns us; a connection that is gone already concerns nobody.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            (_, Err(_)) => return,
        }
    }
    // Who waits here believes to be connected, and may have sent a request: closing the socket would reset them all.
    let listener = SockRef::from(&*listener);
    while let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
        && let Ok((stream, peer)) = listener.accept()
    {
        if let Some(peer) = peer.as_socket()
            && stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = tokio::net::TcpStream::from_std(stream.into())
        {
            serve(stream, peer, slot);
        }
    }
}
