//! The addresses of a name. The system's resolver blocks for as long as it likes, so it is asked on a thread of its own,
//! which nobody waits for: a runtime's blocking threads would hold up its end, and with it the end of the process.
//!
//! While the resolver says nothing, the addresses that it said last are used: its outage is none of the Controller's. That a
//! name does not exist is an answer, and ends what was known: its address may be somebody else's by now.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Mutex;
use crate::sampler::Sampler;

use tokio::sync::watch;
use tokio::time::timeout;

/// Asks for a host's addresses, with this port. Blocks. What is no answer is an error of the kind `WouldBlock`.
pub(in crate::upstream) type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// Asks the system, which orders them by RFC 6724.
pub(super) fn system() -> Resolve {
    Arc::new(|host, port| match (host, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) if is_silence(&error) => Err(io::Error::new(io::ErrorKind::WouldBlock, error)),
        Err(error) => Err(error),
    })
}

/// Whether no server answered: `EAI_AGAIN`, of which the standard library hands on the words alone, glibc's or musl's.
fn is_silence(error: &io::Error) -> bool {
    let said = error.to_string();
    ["Temporary failure in name resolution", "Try again"].iter().any(|words| said.contains(words))
}

type Answer = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// Asks for one name. All who want to know while a lookup is under way share its answer: a resolver that hangs holds a few
/// threads, not one for each request.
pub(super) struct Lookup {
    resolve: Resolve,
    /// What the latest lookup says, and when it began; closed when that has ended.
    latest: Mutex<Option<(watch::Receiver<Option<Answer>>, Instant)>>,
    name: Arc<Name>,
}

/// A name, and what is known of it.
struct Name {
    host: String,
    port: u16,
    known: Mutex<Known>,
    /// As in `known`: read without the lock.
    trouble: AtomicU8,
    /// Lookups that gave nothing.
    failed: AtomicU64,
    /// Lookups under way.
    running: AtomicUsize,
    changes: Sampler,
}

#[derive(Default)]
struct Known {
    /// As they were said last.
    addresses: Option<Vec<SocketAddr>>,
    /// Lookups that began, and the latest of those that ended: what began before it says nothing new.
    began: u64,
    ended: u64,
}

/// Whether the name can be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It can.
    None,
    /// It cannot, and the addresses that were said last are used.
    Silence,
    /// It cannot, and there are none.
    Unknown,
}

/// After this long without an answer the next who wants to know asks again: the resolver may be well by now.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most lookups under way: each that hangs holds a thread.
const MOST: usize = 4;

impl Lookup {
    pub(super) fn new(host: String, port: u16, resolve: Resolve) -> Self {
        let name = Name {
            host,
            port,
            known: Mutex::default(),
            trouble: AtomicU8::new(Trouble::None as u8),
            failed: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            changes: Sampler::default(),
        };
        Self { resolve, latest: Mutex::default(), name: Arc::new(name) }
    }

    /// The name's addresses, one at least: those that were said last if the resolver takes longer than this. Where there are
    /// none, it has no bound in time of its own. Cancel-safe.
    pub(super) async fn addresses(&self, patience: Duration) -> io::Result<Vec<SocketAddr>> {
        let mut answer = self.ask()?;
        let known = self.name.known.lock().addresses.clone();
        let answer = match known {
            None => answer.wait_for(Option::is_some).await.map(|answer| answer.clone()),
            // It was waited for already.
            Some(known) if self.is_troubled() && answer.borrow().is_none() => return Ok(known),
            Some(known) => match timeout(patience, answer.wait_for(Option::is_some)).await {
                Ok(answer) => answer.map(|answer| answer.clone()),
                Err(_) => {
                    self.give_up(&format_args!("no answer within {patience:?}"));
                    return Ok(known);
                }
            },
        };
        match answer {
            Ok(Some(Ok(addresses))) => Ok(addresses),
            Ok(Some(Err(error))) => {
                let known = self.name.known.lock().addresses.clone();
                known.ok_or_else(|| io::Error::new(error.kind(), error))
            }
            _ => Err(io::Error::other("the lookup panicked")),
        }
    }

    /// Nobody waits for the resolver any longer.
    pub(super) fn give_up(&self, error: &dyn Display) {
        self.name.failed(&self.name.known.lock(), error);
    }

    /// Whether there is an address to connect to, as far as is known.
    pub(super) fn is_resolved(&self) -> bool {
        self.name.trouble.load(Ordering::Relaxed) != Trouble::Unknown as u8
    }

    /// Whether the latest lookup gave nothing.
    pub(super) fn is_troubled(&self) -> bool {
        self.name.trouble.load(Ordering::Relaxed) != Trouble::None as u8
    }

    /// Lookups that gave nothing.
    pub(super) fn failed(&self) -> u64 {
        self.name.failed.load(Ordering::Relaxed)
    }

    fn ask(&self) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut latest = self.latest.lock();
        // What has ended, with an answer or without, was for those who waited.
        let is_under_way =
            |answer: &watch::Receiver<Option<Answer>>| answer.borrow().is_none() && answer.has_changed().is_ok();
        if let Some((answer, began)) = latest.as_ref().filter(|(answer, _)| is_under_way(answer))
            && (began.elapsed() < PATIENCE || self.name.running.load(Ordering::SeqCst) >= MOST)
        {
            return Ok(answer.clone());
        }
        let (sender, answer) = watch::channel(None);
        let (running, resolve) = (Running::begin(&self.name), Arc::clone(&self.resolve));
        let look_up = move || {
            let Name { host, port, .. } = &*running.name;
            let answer = match resolve(host, *port) {
                Ok(none) if none.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
                answer => answer,
            };
            let answer = answer.map_err(Arc::new);
            running.name.ended(running.number, &answer);
            drop(running);
            sender.send_replace(Some(answer));
        };
        drop(std::thread::Builder::new().name("resolve".to_owned()).spawn(look_up)?);
        *latest = Some((answer.clone(), Instant::now()));
        Ok(answer)
    }
}

impl Name {
    fn ended(&self, number: u64, answer: &Answer) {
        let mut known = self.known.lock();
        if number < known.ended {
            return;
        }
        known.ended = number;
        match answer {
            Ok(addresses) => {
                known.addresses = Some(addresses.clone());
                if self.trouble.swap(Trouble::None as u8, Ordering::Relaxed) != Trouble::None as u8
                    && let Some(left_out) = self.changes.admit()
                {
                    let Self { host, port, .. } = self;
                    tracing::info!(host, port, left_out, "the name of an upstream can be looked up again");
                }
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    known.addresses = None;
                }
                self.failed(&known, error);
            }
        }
    }

    /// Counts a lookup that gave nothing, and logs it where the one before did not.
    fn failed(&self, known: &Known, error: &dyn Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let trouble = if known.addresses.is_some() { Trouble::Silence } else { Trouble::Unknown };
        let before = self.trouble.swap(trouble as u8, Ordering::Relaxed);
        if before == trouble as u8 {
            return;
        }
        let Some(left_out) = self.changes.admit() else { return };
        let Self { host, port, .. } = self;
        match trouble {
            Trouble::Silence => tracing::warn!(
                host, port, %error, left_out,
                "the name of an upstream cannot be looked up: its latest addresses are used"
            ),
            _ => tracing::warn!(host, port, %error, left_out, "the name of an upstream cannot be looked up"),
        }
    }
}

/// A lookup under way, until this is dropped.
struct Running {
    name: Arc<Name>,
    number: u64,
}

impl Running {
    fn begin(name: &Arc<Name>) -> Self {
        name.running.fetch_add(1, Ordering::SeqCst);
        let mut known = name.known.lock();
        known.began += 1;
        Self { name: Arc::clone(name), number: known.began }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.name.running.fetch_sub(1, Ordering::SeqCst);
    }
}
