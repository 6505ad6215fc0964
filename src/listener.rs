//! Listening sockets, and accepting from them.
//!
//! Every worker has a socket of its own for each address (`SO_REUSEPORT`), so the kernel spreads connections and no
//! accepted socket crosses a thread. Of Unix sockets, which know no such thing, and of what the service manager opened, all
//! have the same.

mod address;
mod bind;
mod inherit;
mod settings;
mod tcp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Accepted, ConnectionLimits};
use crate::lock::RwLock;
use crate::proxy::{Current, Network};
use crate::tls::{self, Ends, ServerTls, TlsConfig, TlsError};

pub(crate) use address::ListenAddress;
pub(crate) use bind::{BindError, Bound, FileIdentity, ListeningSocket, SocketFile, bind, in_use};
pub(crate) use inherit::{HeldSocket, Inherited, Label, Purpose};
pub(crate) use settings::ListenerConfig;

/// Pause after an accept that failed for want of descriptors or memory: trying again at once would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener's TLS configuration, which a reload replaces for the connections that follow.
pub(crate) struct Tls {
    /// The files.
    pub config: TlsConfig,
    current: RwLock<(TlsAcceptor, Ends)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the problem.
    pub(crate) fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let current = RwLock::new(Self::read(&config)?);
        Ok(Self { config, current })
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let read = Self::read(&self.config)?;
        *self.current.write() = read;
        Ok(())
    }

    fn read(config: &TlsConfig) -> Result<(TlsAcceptor, Ends), TlsError> {
        let ServerTls { config, ends } = tls::server_config(config)?;
        Ok((config.into(), ends))
    }

    /// When what it was made of ends.
    pub(crate) fn ends(&self) -> Ends {
        self.current.read().1
    }

    /// For a connection that was just accepted.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().0.clone()
    }
}

/// What comes before the first request on a listener's connections.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// Who must begin with a PROXY header.
    pub proxy_protocol: Arc<[Network]>,
    /// The handshake, where there is one.
    pub tls: Option<Arc<Tls>>,
}

impl Opening {
    /// As this listener has it. Reads its files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the problem.
    pub(crate) fn new(config: &ListenerConfig) -> Result<Self, TlsError> {
        let tls = config.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        Ok(Self { proxy_protocol: config.proxy_protocol.clone().into(), tls })
    }
}

/// A socket that listens, as a worker's runtime has it.
pub(crate) enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Who is at the other end of a Unix socket: somebody on this host.
const THIS_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Listener {
    /// Within a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub(crate) fn new(socket: ListeningSocket) -> io::Result<Self> {
        match socket {
            ListeningSocket::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Self::Tcp),
            ListeningSocket::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Self::Unix),
        }
    }

    /// A connection, and who is at the other end of it.
    async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        match self {
            Self::Tcp(socket) => socket.accept().await.map(|(stream, peer)| (stream, peer.ip())),
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((TcpStream::from_std(OwnedFd::from(stream.into_std()?).into())?, THIS_HOST))
            }
        }
    }

    /// Accepts a connection that is there, also when the runtime has not noticed it yet.
    fn accept_now(&self) -> io::Result<(TcpStream, IpAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = match self {
            Self::Tcp(socket) => {
                let (socket, peer) = rustix::net::acceptfrom_with(socket, flags)?;
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                (socket, peer.ok_or(io::ErrorKind::ConnectionAborted)?.ip())
            }
            Self::Unix(socket) => (rustix::net::accept_with(socket, flags)?, THIS_HOST),
        };
        Ok((TcpStream::from_std(socket.into())?, peer))
    }

    /// Whether there is a connection to accept.
    fn is_waited_for(&self) -> bool {
        let socket = match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// What a sidecar does about connections. It only ever moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Whoever it takes over from accepts them still.
    Waiting,
    /// It accepts them.
    Accepting,
    /// Another process accepts them from the same sockets. Each that is open gets one more reply, which says that it ends.
    Ceding,
    /// It accepts no more, finishes in-flight requests, and closes what is idle.
    Stopping,
}

/// Accepts connections and serves them while that is the stage, and then those that wait already. Accepting pauses while no slot is
/// left.
pub(crate) async fn accept(
    current: Rc<Current>,
    listener: Rc<Listener>,
    opening: Arc<RwLock<Opening>>,
    limits: Arc<ConnectionLimits>,
    mut stage: watch::Receiver<Stage>,
) {
    let serve = |(stream, peer): (TcpStream, IpAddr), slot| {
        let opening = opening.read();
        let has_proxy_header = opening.proxy_protocol.iter().any(|network| network.contains(peer));
        let tls = opening.tls.as_deref().map(Tls::acceptor);
        let slot = (slot, current.worker.connection());
        let accepted = Accepted { stream, peer, has_proxy_header, tls, slot };
        tokio::task::spawn_local(connection::serve(Rc::clone(&current), Arc::clone(&limits), accepted));
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
            _ = stage.wait_for(|stage| *stage > Stage::Accepting) => break,
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
    // Who waits here believes to be connected, and may have sent a request: closing the socket would reset them all. A slot first,
    // so that one for which there is none here is left to the process that takes over.
    while waiting.is_some() || listener.is_waited_for() {
        let slot = limits.slot().await;
        match waiting.take().map_or_else(|| listener.accept_now(), Ok) {
            Ok(accepted) => serve(accepted, slot),
            // Another one has taken it, or it is gone.
            Err(_) => break,
        }
    }
}

async fn failed(limits: &ConnectionLimits, error: &io::Error) {
    // Out of descriptors or memory concerns us; a connection that is gone already concerns nobody.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        limits.failed(error);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
