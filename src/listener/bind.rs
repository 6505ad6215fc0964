//! Opening the sockets of an address.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::inherit::{HeldSocket, Inherited, Label, Purpose};
use super::{ListenAddress, ListenerConfig, tcp};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. A fleet reconnects all at once.
pub(super) const BACKLOG: i32 = 65_535;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; --listen, or `address` of a [[listener]], sets another{}", in_use(source))]
pub struct BindError {
    /// Which.
    pub address: ListenAddress,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What else can be done about an address that somebody listens on.
pub(crate) fn in_use(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; a sidecar that listens there is replaced by sending it SIGUSR2",
        _ => "",
    }
}

/// An address that is listened on.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Which it became: port 0 takes a free one.
    pub address: ListenAddress,
    /// Each is a queue of its own: one for each worker, unless it was inherited or is a Unix socket.
    sockets: Vec<ListeningSocket>,
    /// Those after so many are bound, and do not listen yet: what came there would wait for nobody while another process accepts.
    listening: usize,
    /// The file of a Unix socket.
    file: Option<SocketFile>,
    /// As it is configured.
    configured: ListenAddress,
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum ListeningSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl ListeningSocket {
    /// The same queue once more.
    ///
    /// # Errors
    /// Without a descriptor for it.
    fn share(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    fn tcp(&self) -> Option<&TcpListener> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Unix(_) => None,
        }
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Bound {
    /// What a worker listens on. Between them they listen on every queue; several share one where there are fewer queues.
    ///
    /// # Errors
    /// Without a descriptor for it.
    pub(crate) fn of_worker(&self, worker: usize, workers: usize) -> io::Result<Vec<ListeningSocket>> {
        let queues = self.sockets.len().max(1);
        let is_its = |queue: usize| queue % workers == worker || (queues < workers && queue == worker % queues);
        let its = self.sockets.iter().enumerate().filter(|(queue, _)| is_its(*queue));
        its.map(|(_, socket)| socket.share()).collect()
    }

    /// Each of its queues, and what is said of it to whoever takes over.
    pub(crate) fn labelled(&self) -> impl Iterator<Item = (Label, BorrowedFd<'_>)> {
        self.sockets.iter().map(|socket| {
            let label = Label {
                purpose: Purpose::Agents,
                configured: self.configured.to_string(),
                bound: self.address.to_string(),
                file: self.file.as_ref().and_then(|file| file.identity),
            };
            (label, socket.as_fd())
        })
    }

    /// Takes the place of who listened before: with a Unix socket, its file.
    ///
    /// # Errors
    /// [`BindError`]
    pub(crate) fn claim(&mut self) -> Result<(), BindError> {
        let claimed = self.file.as_mut().map_or(Ok(()), SocketFile::claim).and_then(|()| {
            let more = self.sockets.iter().skip(self.listening);
            more.filter_map(ListeningSocket::tcp).try_for_each(tcp::listen)
        });
        self.listening = self.sockets.len();
        claimed.map_err(|source| BindError { address: self.address.clone(), source })
    }

    /// Opens a queue for each worker that has none, where there may be more.
    fn complete(&mut self, workers: usize) {
        let missing = workers.saturating_sub(self.sockets.len());
        if let (ListenAddress::Tcp(address), Some(first)) = (&self.address, self.sockets.first())
            && missing > 0
            && SockRef::from(first).reuse_port().unwrap_or(false)
        {
            match tcp::beside(*address, missing) {
                Ok((_, more)) => self.sockets.extend(more.into_iter().map(ListeningSocket::Tcp)),
                // Those of another user, as systemd's are, are shared with none of this one's.
                Err(error) => tracing::debug!(%address, %error, "workers share sockets: there can be no more"),
            }
        }
    }

    /// Leaves the file of a Unix socket to whoever took over.
    pub(crate) fn leave_file(&mut self) {
        if let Some(file) = &mut self.file {
            file.identity = None;
        }
    }

    /// Stops listening as far as this is concerned: workers go on with theirs. The file of a Unix socket stays until the end.
    pub(crate) fn close(&mut self) {
        self.sockets.clear();
    }
}

/// The file of a Unix socket, removed when this is dropped if it is the same still.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<FileIdentity>,
    /// What it is, of the process that accepts still, and the mode that it shall have.
    given: Option<(FileIdentity, u32)>,
}

/// A file's device and inode: another one in its place is not it.
pub(crate) type FileIdentity = (u64, u64);

impl SocketFile {
    /// The one that is there.
    pub(crate) fn at(path: PathBuf) -> Self {
        let identity = identity(&path);
        Self { path, identity, given: None }
    }

    /// This one, if it is there still.
    pub(crate) fn of(path: PathBuf, file: FileIdentity) -> Self {
        Self { path, identity: Some(file), given: None }
    }

    fn claim(&mut self) -> io::Result<()> {
        if let Some((file, mode)) = self.given.take() {
            // By a descriptor of what lies there itself, which a link in its place does not lead elsewhere.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let there = openat(CWD, &self.path, flags, Mode::empty())?;
            let found = fstat(&there)?;
            if (found.st_dev, found.st_ino) != file {
                return Err(io::Error::other("another file has been put in the place of the socket"));
            }
            let there = format!("/proc/self/fd/{}", there.as_raw_fd());
            fs::set_permissions(there, fs::Permissions::from_mode(mode))?;
            self.identity = Some(file);
        }
        Ok(())
    }
}

/// Opens a listener's sockets, one for each worker: on each address that it has, if it is a name. Those that are there already
/// are used as they are. Where that means that another process accepts there still, nothing changes before [`Bound::claim`].
/// Blocks while a name is looked up.
///
/// # Errors
/// [`BindError`], also when another process listens there.
pub(crate) fn bind(
    listener: &ListenerConfig,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Vec<Bound>, BindError> {
    let configured = &listener.address;
    let failed = |source| BindError { address: configured.clone(), source };
    let mut given = inherited.take(Purpose::Agents, configured);
    // A Unix socket whose file was removed, or replaced, is reached by nobody.
    given.retain(|held| held.own_file().is_none_or(|(path, file)| identity(&path) == Some(file)));
    if !given.is_empty() {
        return Ok(adopt(given, listener, workers));
    }
    let addresses = match configured {
        ListenAddress::Unix(path) => {
            let bound = bind_unix(path, listener.mode()).map_err(|error| inherited.explain(configured, error));
            return Ok(vec![bound.map_err(failed)?]);
        }
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
    let mut all = Vec::new();
    for address in addresses {
        let given = inherited.take(Purpose::Agents, &ListenAddress::Tcp(address));
        match given.is_empty() {
            true => all.extend(open(address, listener, workers, inherited).map_err(failed)?),
            false => all.extend(adopt(given, listener, workers)),
        }
    }
    Ok(all)
}

/// Listens on an address of which no socket is there yet.
fn open(
    address: SocketAddr,
    listener: &ListenerConfig,
    workers: usize,
    inherited: &mut Inherited,
) -> io::Result<Vec<Bound>> {
    let wanted = ListenAddress::Tcp(address);
    let is_beside = inherited.overlapping(&wanted).is_some();
    let opened = if is_beside { tcp::beside(address, workers) } else { tcp::bind(address, workers) };
    let (address, sockets) = opened.map_err(|error| inherited.explain(&wanted, error))?;
    let sockets: Vec<_> = sockets.into_iter().map(ListeningSocket::Tcp).collect();
    let (listening, configured) = (if is_beside { 0 } else { sockets.len() }, listener.address.clone());
    let mut all = vec![Bound { address: ListenAddress::Tcp(address), sockets, listening, file: None, configured }];
    // They get what comes to their part of it while they are there; it needs no further ones.
    all.extend(adopt(inherited.take_covered(&wanted), listener, 0));
    Ok(all)
}

/// Listens on sockets that are there. What waits in one that is closed is reset, so all of them are used, however many workers
/// there are.
fn adopt(given: Vec<HeldSocket>, listener: &ListenerConfig, workers: usize) -> Vec<Bound> {
    let mut all: Vec<Bound> = Vec::new();
    for held in given {
        let file = held.own_file();
        match all.iter_mut().find(|bound| bound.address == held.address) {
            Some(bound) => {
                bound.sockets.push(held.socket);
                bound.listening += 1;
            }
            None => {
                let (address, configured) = (held.address, listener.address.clone());
                // It is that of who listened before, still.
                let given = |file| Some((file, listener.mode()));
                let file = file.map(|(path, file)| SocketFile { path, identity: None, given: given(file) });
                all.push(Bound { address, sockets: vec![held.socket], listening: 1, file, configured });
            }
        }
    }
    all.iter_mut().for_each(|bound| bound.complete(workers));
    all
}

/// Under a name of its own first: nobody finds a socket there that does not listen yet, or for which others may do more than
/// they shall.
fn bind_unix(path: &Path, mode: u32) -> io::Result<Bound> {
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
    let sockets = vec![ListeningSocket::Unix(UnixListener::from(OwnedFd::from(socket)))];
    let address = ListenAddress::Unix(path.to_owned());
    let (configured, file) = (address.clone(), Some(SocketFile::at(path.to_owned())));
    Ok(Bound { configured, address, sockets, listening: 1, file })
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

fn identity(path: &Path) -> Option<FileIdentity> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            fs::remove_file(&self.path).ok();
        }
    }
}
