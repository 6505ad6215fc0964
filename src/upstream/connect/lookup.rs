//! The addresses of a name. The system's resolver blocks for as long as it likes, so it is asked on a thread of its own,
//! which nobody waits for: a runtime's blocking threads would hold up its end, and with it the end of the process.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Mutex;

use tokio::sync::watch;

/// Asks for a host's addresses, with this port. Blocks.
pub(super) type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// Asks the system, which orders them by RFC 6724.
pub(super) fn system() -> Resolve {
    Arc::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
}

type Answer = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// Asks for one name. All who want to know while a lookup is under way share its answer: a resolver that hangs holds a few
/// threads, not one for each request.
pub(super) struct Lookup {
    host: String,
    port: u16,
    resolve: Resolve,
    /// What the latest lookup says, and when it began; closed when that has ended.
    latest: Mutex<Option<(watch::Receiver<Option<Answer>>, Instant)>>,
    /// Lookups under way.
    running: Arc<AtomicUsize>,
}

/// After this long without an answer the next who wants to know asks again: the resolver may be well by now.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most lookups under way: each that hangs holds a thread.
const MOST: usize = 4;

impl Lookup {
    pub(super) fn new(host: String, port: u16, resolve: Resolve) -> Self {
        Self { host, port, resolve, latest: Mutex::default(), running: Arc::default() }
    }

    /// The name's addresses, one at least. Cancel-safe; has no bound in time of its own.
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
            None => Err(io::Error::other("the lookup panicked")),
        }
    }

    fn ask(&self) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut latest = self.latest.lock();
        // An error says that the lookup has ended: its answer was for those who waited.
        if let Some((answer, began)) = latest.as_ref().filter(|(answer, _)| answer.has_changed().is_ok())
            && (began.elapsed() < PATIENCE || self.running.load(Ordering::SeqCst) >= MOST)
        {
            return Ok(answer.clone());
        }
        let (sender, answer) = watch::channel(None);
        let (host, port, resolve) = (self.host.clone(), self.port, Arc::clone(&self.resolve));
        let running = Running::begin(&self.running);
        let look_up = move || {
            let answer = resolve(&host, port).map_err(Arc::new);
            drop(running);
            sender.send_replace(Some(answer));
        };
        drop(std::thread::Builder::new().name("resolve".to_owned()).spawn(look_up)?);
        *latest = Some((answer.clone(), Instant::now()));
        Ok(answer)
    }
}

/// A lookup under way, until this is dropped.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
