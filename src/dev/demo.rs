//! Everything that `tollgate dev` runs, started in order and taken down in the opposite one.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::DevError;
use super::banner::{self, Banner};
use super::controller::Controller;
use super::directory::Directory;
use super::ports::{DevOptions, Listeners};
use super::seed::{self, Tokens};
use super::settings;
use crate::app::Sidecar;
use crate::listener::ListenAddress;
use crate::registry::Registry;
use crate::store::{self, Absent, Store, StoreUrl};

/// The database's name within the folder.
const DATABASE: &str = "tollgate.db";

/// The sidecar with what is before and behind it. Dropping it ends everything at once; the fields are in the order in
/// which that has to happen.
pub(super) struct Demo {
    sidecar: Sidecar,
    _controller: Controller,
    directory: Directory,
    /// What to print.
    pub(super) banner: Banner,
}

impl Demo {
    /// Starts it all, and returns once a request with one of the tokens would be let through. Cancel-safe.
    pub(super) async fn start(options: &DevOptions) -> Result<Self, DevError> {
        let listeners = Listeners::bind(options).await?;
        // Absolute, so that the lines that are printed work from any folder.
        let parent = std::path::absolute(std::env::temp_dir()).map_err(DevError::Directory)?;
        let directory = Directory::create(&parent).map_err(DevError::Directory)?;
        let store_url = StoreUrl::Sqlite(directory.path().join(DATABASE));
        let store = store::open(&store_url.clone().into(), Absent::Create).await.map_err(DevError::Store)?;
        let Tokens { owner, agent } = seed::tokens(&Registry::new(store.clone())).await.map_err(DevError::Tokens)?;

        let controller = Controller::start(listeners).map_err(DevError::Controller)?;
        let (sidecar, tollgate) = start_sidecar(options, &controller, &store_url, store).await?;
        controller.put_configuration("demo", seed::configuration(&banner::url(tollgate)));
        let alias = controller.put_alias(seed::ALIAS, "demo");
        alias.map_err(|error| DevError::Controller(io::Error::other(error)))?;

        let banner = Banner {
            tollgate,
            admin: sidecar.admin(),
            api: controller.api,
            heartbeat: controller.heartbeat,
            store: store_url,
            // Unknown only on systems without /proc or the like; the search path is the next best.
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tollgate")),
            owner: owner.token,
            agent: agent.token,
            agent_id: agent.record.id,
        };
        Ok(Self { sidecar, _controller: controller, directory, banner })
    }

    /// Waits until the sidecar cannot go on. Says what cannot.
    pub(super) async fn failed(&self) -> &'static str {
        self.sidecar.failed().await
    }

    /// Lets in-flight requests finish, within the drain timeout, and removes the store.
    pub(super) async fn stop(self) -> Result<(), DevError> {
        let Self { sidecar, _controller: controller, directory, banner: _ } = self;
        sidecar.stop().await;
        drop(controller);
        directory.remove().map_err(DevError::Remove)
    }
}

/// Starts the sidecar and waits until it has the tokens. Returns where it listens, too.
async fn start_sidecar(
    options: &DevOptions,
    controller: &Controller,
    store_url: &StoreUrl,
    store: Arc<dyn Store>,
) -> Result<(Sidecar, SocketAddr), DevError> {
    let config =
        settings::config(options, controller.api, controller.heartbeat, store_url).map_err(DevError::Config)?;
    let sidecar = Sidecar::start(config, store).await.map_err(DevError::Sidecar)?;
    tokio::time::timeout(READY_TIMEOUT, sidecar.ready()).await.map_err(|_| DevError::NotReady)?;
    let tollgate = sidecar.listeners().first().and_then(ListenAddress::tcp).unwrap_or(options.listen);
    Ok((sidecar, tollgate))
}

/// A local file with two tokens in it is read in milliseconds.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
