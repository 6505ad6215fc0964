//! The addresses of a name. The system's resolver blocks for as long as it likes, so it is asked on a thread of its own,
//! which nobody waits for: a runtime's blocking threads would hold up its end, and with it the end of the process.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Asks for a host's addresses, with this port. Blocks.
pub(super) type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// Asks the system, which orders them by RFC 6724.
pub(super) fn system() -> Resolve {
    Arc::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
}

type Answer = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// Asks for one name. One lookup is under way at the most, and all who want to know meanwhile share its answer: a
/// resolver that hangs holds one thread, not one for each request.
pub(super) struct Lookup {
    host: String,
    port: u16,
    resolve: Resolve,
    /// What the latest lookup says; closed when that has ended.
    latest: Mutex<Option<watch::Receiver<Option<Answer>>>>,
}

impl Lookup {
    pub(super) fn new(host: String, port: u16, resolve: Resolve) -> Self {
        Self { host, port, resolve, latest: Mutex::default() }
    }

    /// The name's addresses, one at least. Can be dropped half-way; has no bound in time of its own.
    pub(super) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let mut answer = self.ask()?;
        let answer = match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        match answer {
            Some(Ok(addresses)) if addresses.is_empty() => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
            }
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(error)) => Err(io::Error::new(error.kind(), error)),
            None => Err(io::Error::other("the lookup ended by a panic")),
        }
    }

    fn ask(&self) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // An error says that the lookup has ended: its answer was for those who waited.
        if let Some(answer) = latest.as_ref().filter(|answer| answer.has_changed().is_ok()) {
            return Ok(answer.clone());
        }
        let (tell, answer) = watch::channel(None);
        let (host, port, resolve) = (self.host.clone(), self.port, Arc::clone(&self.resolve));
        let look_up = move || drop(tell.send_replace(Some(resolve(&host, port).map_err(Arc::new))));
        drop(std::thread::Builder::new().name("resolve".to_owned()).spawn(look_up)?);
        *latest = Some(answer.clone());
        Ok(answer)
    }
}
