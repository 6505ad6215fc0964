//! Listening sockets, and accepting from them.
//!
//! Every worker has a socket of its own for each address (`SO_REUSEPORT`), so the kernel spreads connections and no
//! accepted socket crosses a thread.

mod settings;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Accepted, ConnectionLimits};
use crate::lock::RwLock;
use crate::proxy::{Network, Proxy};
use crate::tls::{self, TlsConfig, TlsError};

pub(crate) use settings::ListenerConfig;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. A fleet reconnects all at once.
const BACKLOG: i32 = 65_535;

/// Pause after an accept that failed for want of descriptors or memory: trying again at once would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; --listen, or `address` of a [[listener]], sets another")]
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
pub(crate) fn bind(address: SocketAddr, workers: usize) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
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
    if address.is_ipv6() {
        // `[::]` is both families, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if !share {
        socket.listen(1)?;
    }
    Ok(socket)
}

/// A listener's TLS configuration, which a reload replaces for the connections that follow.
pub(crate) struct Tls {
    /// The files.
    pub config: TlsConfig,
    current: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the problem.
    pub(crate) fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let current = RwLock::new(TlsAcceptor::from(tls::server_config(&config)?));
        Ok(Self { config, current })
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let acceptor = TlsAcceptor::from(tls::server_config(&self.config)?);
        *self.current.write() = acceptor;
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.current.read().clone()
    }
}

/// What comes before the first request on a listener's connections. Shared by all workers.
pub(crate) struct Opening {
    /// Who must begin with a PROXY header.
    pub proxy_protocol: Vec<Network>,
    /// The handshake, where there is one.
    pub tls: Option<Arc<Tls>>,
}

/// Accepts connections and serves them until `stop`. Accepting pauses while no slot is left.
pub(crate) async fn accept(
    proxy: Rc<Proxy>,
    listener: Rc<tokio::net::TcpListener>,
    opening: Arc<Opening>,
    limits: Arc<ConnectionLimits>,
    mut stop: watch::Receiver<bool>,
) {
    let serve = |(stream, peer): (TcpStream, SocketAddr), slot| {
        let has_proxy_header = opening.proxy_protocol.iter().any(|network| network.contains(peer.ip()));
        let tls = opening.tls.as_deref().map(Tls::acceptor);
        let slot = (slot, proxy.worker.connection());
        let accepted = Accepted { stream, peer, has_proxy_header, tls, slot };
        tokio::task::spawn_local(connection::serve(Rc::clone(&proxy), Arc::clone(&limits), accepted));
    };
    // A slot is taken when a client is there, and not before: with many listeners and workers that wait, none would be
    // left for those that come. So while there is none, one client waits here, and the others before the socket.
    let mut waiting = None;
    loop {
        let next = async {
            if waiting.is_none() {
                waiting = Some(listener.accept().await?);
            }
            Ok(limits.slot().await)
        };
        let slot = tokio::select! {
            slot = next => slot,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match slot {
            Ok(slot) => {
                if let Some(accepted) = waiting.take() {
                    serve(accepted, slot);
                }
            }
            Err(error) => failed(&limits, &error).await,
        }
    }
    // Who waits here believes to be connected, and may have sent a request: closing the socket would reset them all.
    while let Some(slot) = limits.slot_now()
        && let Some(accepted) = waiting.take().or_else(|| accept_now(&listener).ok())
    {
        serve(accepted, slot);
    }
}

async fn failed(limits: &ConnectionLimits, error: &io::Error) {
    // Out of descriptors or memory concerns us; a connection that is gone already concerns nobody.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        limits.failed(error);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Accepts a connection that is there, also when the runtime has not noticed it yet.
fn accept_now(listener: &tokio::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((TcpStream::from_std(socket.into())?, peer))
}
