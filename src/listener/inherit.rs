//! Sockets that listen already when the process starts: from the service manager (`sd_listen_fds(3)`), or from the process
//! that this one takes over from.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef};

use super::{FileIdentity, ListenAddress, ListeningSocket};

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// Agents.
    Agents,
    /// Health, metrics and the console.
    Admin,
}

/// What a process that hands a socket on says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// What it is for.
    pub purpose: Purpose,
    /// Its address as the configuration has it: a name, or port 0, is bound to something else.
    pub configured: String,
    /// What it is bound to. A Unix socket does not know itself: it was bound under another name.
    pub bound: String,
    /// The file of a Unix socket, if it is the process's to remove.
    #[serde(default)]
    pub file: Option<FileIdentity>,
}

/// A socket that listens, and what it is.
#[derive(Debug)]
pub(crate) struct HeldSocket {
    /// `None`: nobody says.
    label: Option<Label>,
    /// What it is bound to.
    pub address: ListenAddress,
    /// The socket itself.
    pub socket: ListeningSocket,
    /// The file of a Unix socket, if it is the process's to remove.
    pub file: Option<FileIdentity>,
}

/// Sockets that nobody listens on here yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<HeldSocket>);

impl HeldSocket {
    /// A socket with the label that came with it.
    ///
    /// # Errors
    /// When it is no listening socket of a kind that listeners have.
    pub(crate) fn labelled(socket: OwnedFd, label: Label) -> io::Result<Self> {
        let address = label.bound.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let file = label.file;
        Ok(Self { label: Some(label), address, file, ..Self::unlabelled(socket)? })
    }

    /// A socket of which nothing is said but what it says itself.
    fn unlabelled(socket: OwnedFd) -> io::Result<Self> {
        let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidInput, text);
        let known = SockRef::from(&socket);
        if !known.is_listener()? {
            return Err(invalid("it does not listen (systemd: ListenStream= with Accept=no)"));
        }
        known.set_nonblocking(true)?;
        let address = known.local_addr()?;
        let (address, socket) = match known.domain()? {
            Domain::UNIX => {
                let path = address.as_pathname().ok_or(invalid("it is a Unix socket without a path"))?;
                (ListenAddress::Unix(path.to_owned()), ListeningSocket::Unix(UnixListener::from(socket)))
            }
            _ => {
                let address = address.as_socket().ok_or(invalid("it is neither a TCP nor a Unix socket"))?;
                // Inherited by accepted connections, which saves a system call for each.
                known.set_tcp_nodelay(true)?;
                (ListenAddress::Tcp(address), ListeningSocket::Tcp(socket.into()))
            }
        };
        Ok(Self { label: None, address, socket, file: None })
    }

    fn is_for(&self, purpose: Purpose, address: &ListenAddress) -> bool {
        match &self.label {
            Some(label) if label.purpose != purpose => false,
            Some(label) if label.configured == address.to_string() => true,
            _ => self.address == *address,
        }
    }

    /// The path of a Unix socket whose file is this process's to remove, and what lay there then.
    pub(crate) fn own_file(&self) -> Option<(PathBuf, FileIdentity)> {
        match &self.address {
            ListenAddress::Unix(path) => Some((path.clone(), self.file?)),
            _ => None,
        }
    }
}

impl Inherited {
    /// Of a process that this one takes over from.
    pub(crate) fn of(sockets: Vec<HeldSocket>) -> Self {
        Self(sockets)
    }

    /// Those that the service manager has opened for this process. To be asked once, before there are other threads that look
    /// at the environment.
    ///
    /// # Errors
    /// When one of them is none that a listener could have; which one, by its number.
    pub(crate) fn from_service_manager() -> io::Result<Self> {
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let failed = |error: io::Error| {
                io::Error::new(error.kind(), format!("socket {} from the service manager: {error}", index + 1))
            };
            let tcp = passed.take_tcp_listener(index).map(|socket| socket.map(OwnedFd::from));
            let socket = match tcp {
                Ok(socket) => socket,
                Err(_) => passed.take_unix_listener(index).map(|socket| socket.map(OwnedFd::from)).map_err(failed)?,
            };
            sockets.extend(socket.map(HeldSocket::unlabelled).transpose().map_err(failed)?);
        }
        Ok(Self(sockets))
    }

    /// Takes those that are for this. Of several bound addresses that only port 0 would explain, those of the first: each listener
    /// has its own.
    pub(crate) fn take(&mut self, purpose: Purpose, address: &ListenAddress) -> Vec<HeldSocket> {
        let is_many = address.tcp().is_none_or(|address| address.port() != 0);
        let first = self.0.iter().find(|held| held.is_for(purpose, address)).map(|held| held.address.clone());
        let is_wanted =
            |held: &mut HeldSocket| held.is_for(purpose, address) && (is_many || Some(&held.address) == first.as_ref());
        self.0.extract_if(.., is_wanted).collect()
    }

    /// Takes those for agents, of a process that this one takes over from, at the addresses that this one has among others.
    pub(crate) fn take_covered(&mut self, address: &ListenAddress) -> Vec<HeldSocket> {
        let is_agents = |held: &HeldSocket| held.label.as_ref().is_some_and(|label| label.purpose == Purpose::Agents);
        self.0.extract_if(.., |held| is_agents(held) && address.covers(&held.address)).collect()
    }

    /// Where one of those that nobody took listens, if that concerns who listens here.
    pub(crate) fn overlapping(&self, address: &ListenAddress) -> Option<&ListenAddress> {
        self.0.iter().map(|held| &held.address).find(|held| held.overlaps(address))
    }

    /// Says of an address that is in use what can be done, if it is the process before that uses it.
    pub(crate) fn explain(&self, address: &ListenAddress, error: io::Error) -> io::Error {
        match self.overlapping(address) {
            Some(held) if error.kind() == io::ErrorKind::AddrInUse => io::Error::other(format!(
                "the process that is to be replaced listens on {held}, and nobody else can beside it: stop it and start it \
                 again instead of sending SIGUSR2"
            )),
            _ => error,
        }
    }

    /// What nobody took.
    pub(crate) fn rest(self) -> Vec<HeldSocket> {
        self.0
    }
}
