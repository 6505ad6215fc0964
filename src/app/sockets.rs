//! The sockets that a process listens on: opened here, or there when it started.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::StartError;
use super::handover::{Handed, Predecessor, State};
use crate::admin::{Admin, AdminConfig};
use crate::config::Config;
use crate::listener::{
    self, BindError, Bound, FileIdentity, Inherited, Label, ListenAddress, ListenerConfig, ListeningSocket, Opening,
    Purpose, SocketFile, Stage,
};
use crate::lock::RwLock;

/// What a process listens on.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Each with the place of its listener in the configuration.
    agents: Vec<(Bound, usize)>,
    pub admin: AdminListener,
    /// Files of Unix sockets on which the process before listened, and this one does not.
    left: Vec<(PathBuf, FileIdentity)>,
}

/// What there was before the process started.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// Sockets that listen already.
    pub inherited: Inherited,
    /// Whom it takes over from.
    pub predecessor: Option<Predecessor>,
    /// What it takes over, beside sockets.
    pub state: State,
}

/// The admin listener, bound.
#[derive(Debug, Clone)]
pub(super) struct AdminListener {
    socket: Arc<TcpListener>,
    configured: SocketAddr,
    pub address: SocketAddr,
}

impl Origin {
    /// That of this process. To be asked once, before there are other threads. Blocks.
    ///
    /// # Errors
    /// When sockets that it was given cannot be used.
    pub(super) fn find() -> io::Result<Self> {
        match Predecessor::find()? {
            Some((predecessor, Handed { sockets, state })) => {
                Ok(Self { inherited: Inherited::of(sockets), predecessor: Some(predecessor), state })
            }
            None => Ok(Self { inherited: Inherited::from_service_manager()?, ..Self::default() }),
        }
    }
}

impl Sockets {
    /// Opens them all; of what was inherited, all that the configuration names is used.
    ///
    /// # Errors
    /// When an address cannot be used; when the service manager has opened a socket that no listener names.
    pub(super) async fn open(
        config: &Config,
        mut inherited: Inherited,
        is_successor: bool,
    ) -> Result<Self, StartError> {
        let mut agents = Vec::new();
        for (place, listener) in config.listeners.iter().enumerate() {
            let bound;
            (bound, inherited) = bind(listener.clone(), config.workers.get(), inherited).await?;
            agents.extend(bound.into_iter().map(|bound| (bound, place)));
        }
        let admin = AdminListener::bind(&config.admin, &mut inherited).await?;
        let mut left = Vec::new();
        for socket in inherited.rest() {
            if !is_successor {
                return Err(StartError::Unclaimed(socket.address));
            }
            tracing::info!(address = %socket.address, "the configuration no longer names an address of the process before");
            left.extend(socket.own_file());
        }
        Ok(Self { agents, admin, left })
    }

    /// Where agents connect.
    pub(super) fn addresses(&self) -> Vec<ListenAddress> {
        self.agents.iter().map(|(bound, _)| bound.address.clone()).collect()
    }

    /// What a worker listens on, and what comes first there: of these, which are in the order of the listeners.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn of_worker(
        &self,
        worker: usize,
        workers: usize,
        openings: &[Arc<RwLock<Opening>>],
    ) -> io::Result<Vec<(ListeningSocket, Arc<RwLock<Opening>>)>> {
        let mut all = Vec::new();
        for (bound, opening) in self.agents.iter().filter_map(|(bound, place)| Some((bound, openings.get(*place)?))) {
            all.extend(bound.of_worker(worker, workers)?.into_iter().map(|socket| (socket, Arc::clone(opening))));
        }
        Ok(all)
    }

    /// Each of them, and what it is, for the process that takes over.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn labelled(&self) -> io::Result<Vec<(Label, OwnedFd)>> {
        let admin = Label {
            purpose: Purpose::Admin,
            configured: self.admin.configured.to_string(),
            bound: self.admin.address.to_string(),
            file: None,
        };
        let agents = self.agents.iter().flat_map(|(bound, _)| bound.labelled());
        let all = agents.chain([(admin, self.admin.socket.as_fd())]);
        all.map(|(label, socket)| Ok((label, socket.try_clone_to_owned()?))).collect()
    }

    /// Takes the place of the process before: from now on all of them listen, and the files of Unix sockets are this process's.
    ///
    /// # Errors
    /// When one of them cannot be this process's.
    pub(super) fn claim(&mut self) -> Result<(), BindError> {
        self.agents.iter_mut().try_for_each(|(bound, _)| bound.claim())?;
        for (path, file) in self.left.drain(..) {
            drop(SocketFile::of(path, file));
        }
        Ok(())
    }

    /// They are those of the process that took over.
    pub(super) fn leave_files(&mut self) {
        self.agents.iter_mut().for_each(|(bound, _)| bound.leave_file());
    }

    /// Closes them as far as workers do not hold them.
    pub(super) fn close(&mut self) {
        self.agents.iter_mut().for_each(|(bound, _)| bound.close());
    }
}

impl AdminListener {
    /// Binds it, or takes the one that was inherited.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub(super) async fn bind(config: &AdminConfig, inherited: &mut Inherited) -> Result<Self, StartError> {
        let wanted = ListenAddress::Tcp(config.address);
        let given = inherited.take(Purpose::Admin, &wanted);
        let failed = |error| StartError::Admin { address: config.address, source: inherited.explain(&wanted, error) };
        let socket = match given.into_iter().next().map(|held| held.socket) {
            Some(ListeningSocket::Tcp(socket)) => TcpListener::from_std(socket).map_err(failed)?,
            Some(ListeningSocket::Unix(_)) | None => TcpListener::bind(config.address).await.map_err(failed)?,
        };
        let address = socket.local_addr().unwrap_or(config.address);
        Ok(Self { socket: Arc::new(socket), configured: config.address, address })
    }

    /// Serves for as long as this process is the one that accepts. It goes on while the process drains.
    pub(super) async fn serve(self, admin: Admin, mut stage: watch::Receiver<Stage>) {
        // An error means that the sidecar was dropped before it accepted.
        if stage.wait_for(|stage| *stage >= Stage::Accepting).await.is_err() {
            return;
        }
        let ceding = async {
            // Where nobody can say so any more, nobody takes over.
            if stage.wait_for(|stage| *stage == Stage::Ceding).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = admin.serve(self.socket) => {}
            () = ceding => {}
        }
    }
}

/// Opens a listener's sockets; elsewhere, since looking a name up may take its time.
async fn bind(
    listener: ListenerConfig,
    workers: usize,
    mut inherited: Inherited,
) -> Result<(Vec<Bound>, Inherited), StartError> {
    let bound = tokio::task::spawn_blocking(move || {
        let bound = listener::bind(&listener, workers, &mut inherited)?;
        Ok((bound, inherited))
    });
    bound.await.map_err(|error| StartError::Thread(error.into()))?
}
