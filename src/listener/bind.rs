//! Opening the sockets of an address.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ListenAddress;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. A fleet reconnects all at once.
const BACKLOG: i32 = 65_535;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; --listen, or `address` of a [[listener]], sets another")]
pub struct BindError {
    /// Which.
    pub address: ListenAddress,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// An address that is listened on.
pub(crate) struct Bound {
    /// Which it became: port 0 takes a free one.
    pub address: ListenAddress,
    /// One for each worker.
    pub sockets: Vec<ListeningSocket>,
    /// The file of a Unix socket.
    pub file: Option<SocketFile>,
}

/// A socket that listens.
pub(crate) enum ListeningSocket {
    /// Of a worker alone.
    Tcp(TcpListener),
    /// Shared with the other workers.
    Unix(UnixListener),
}

/// The file of a Unix socket, removed when this is dropped if it is the same still.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// Opens one socket for each worker on an address: on each that it has, if it is a name. Blocks while a name is looked up.
///
/// # Errors
/// [`BindError`], also when another process listens there: `SO_REUSEPORT` alone would let two sidecars of one user share
/// the port, and each would get half the agents.
pub(crate) fn bind(address: &ListenAddress, mode: u32, workers: usize) -> Result<Vec<Bound>, BindError> {
    let failed = |source| BindError { address: address.clone(), source };
    let addresses = match address {
        ListenAddress::Unix(path) => return Ok(vec![bind_unix(path, mode, workers).map_err(failed)?]),
        ListenAddress::Tcp(address) => vec![*address],
        ListenAddress::Name { host, port } => {
            let found = (host.as_str(), *port).to_socket_addrs().map_err(failed)?;
            let mut found: Vec<_> = found.collect();
            found.dedup();
            found
        }
    };
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    addresses.into_iter().map(|address| bind_tcp(address, workers).map_err(failed)).collect()
}

fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<Bound> {
    // A free port may be taken by somebody else before all workers have it: then another one is as good.
    let mut tries = if address.port() == 0 { 10 } else { 1 };
    loop {
        tries -= 1;
        match bind_all(address, workers) {
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            // A host without IPv6: every interface it has is one of IPv4.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) && address.ip().is_unspecified() => {
                return bind_all((Ipv4Addr::UNSPECIFIED, address.port()).into(), workers);
            }
            outcome => return outcome,
        }
    }
}

fn bind_all(address: SocketAddr, workers: usize) -> io::Result<Bound> {
    let first = open(address, false)?;
    let bound = first.local_addr().ok().and_then(|bound| bound.as_socket()).unwrap_or(address);
    drop(first);
    let open = |_| {
        let socket = open(bound, true)?;
        socket.listen(BACKLOG)?;
        Ok(ListeningSocket::Tcp(TcpListener::from(socket)))
    };
    let sockets = (0..workers).map(open).collect::<io::Result<Vec<_>>>()?;
    Ok(Bound { address: ListenAddress::Tcp(bound), sockets, file: None })
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

/// Under a name of its own first: nobody finds a socket there that does not listen yet, or for which others may do more than
/// they shall.
fn bind_unix(path: &Path, mode: u32, workers: usize) -> io::Result<Bound> {
    check_replaceable(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let (_directory, unfinished) = unfinished(path)?;
    // Of a process that was killed in the midst of this, and had the same id.
    fs::remove_file(&unfinished).ok();
    socket.bind(&SockAddr::unix(&unfinished)?)?;
    let published = fs::set_permissions(&unfinished, fs::Permissions::from_mode(mode))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| fs::rename(&unfinished, path));
    if let Err(error) = published {
        fs::remove_file(&unfinished).ok();
        return Err(error);
    }
    let file = SocketFile { path: path.to_owned(), identity: identity(path) };
    let socket = UnixListener::from(std::os::fd::OwnedFd::from(socket));
    let sockets =
        (0..workers).map(|_| socket.try_clone().map(ListeningSocket::Unix)).collect::<io::Result<Vec<_>>>()?;
    Ok(Bound { address: ListenAddress::Unix(path.to_owned()), sockets, file: Some(file) })
}

/// A name in the same directory, and what keeps it valid: through the open directory, for the path may be as long as a socket's
/// can be, and leave no room for another name.
fn unfinished(path: &Path) -> io::Result<(fs::File, PathBuf)> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = (OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed();
    let directory = fs::OpenOptions::new().read(true).custom_flags(flags).open(parent)?;
    let mut name = DefaultHasher::new();
    path.file_name().hash(&mut name);
    let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    // Without /proc, paths that leave room are all that there can be.
    let reachable = if through.exists() { through } else { parent.to_owned() };
    let file = reachable.join(format!(".{:016x}.{}.new", name.finish(), std::process::id()));
    Ok((directory, file))
}

/// What is there may be replaced if it is a socket that nobody listens on.
fn check_replaceable(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            fs::remove_file(&self.path).ok();
        }
    }
}
