//! Several addresses for one connection, of which some may not answer. As in RFC 8305 section 5, the next one is tried
//! when one fails or has not answered for a while, and those that were tried before may still win.
//!
//! TLS is part of what counts as an answer: a server that hangs accepts connections all the same.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Address, ConnectError};
use crate::socket::Stream;
use crate::upstream::Step;

/// How long an address may take before the next one is tried beside it (RFC 8305 section 8).
const DELAY: Duration = Duration::from_millis(250);

type Won = (Stream, SocketAddr);

/// TLS as it is now, and the name to verify.
pub(super) type Tls = (TlsConnector, ServerName<'static>);

pub(super) struct Race {
    waiting: std::vec::IntoIter<SocketAddr>,
    attempts: Vec<Attempt>,
    tls: Option<Tls>,
    delay: Duration,
    /// Of those that failed, the one that got furthest: it says the most.
    failure: Option<ConnectError>,
}

/// Until the next address is tried: with many of them less, so that half of the time is left for the last one.
pub(super) fn delay(addresses: usize, timeout: Duration) -> Duration {
    DELAY.min(timeout / 2 / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX))
}

impl Race {
    /// Tries these addresses in this order, all of them within `timeout`.
    pub(super) fn new(addresses: Vec<SocketAddr>, tls: Option<Tls>, timeout: Duration) -> Self {
        let delay = delay(addresses.len(), timeout);
        Self { waiting: addresses.into_iter(), attempts: Vec::new(), tls, delay, failure: None }
    }

    /// The first connection that is established, or an error when the last attempt failed. Has no bound in time of its own.
    pub(super) async fn run(&mut self) -> Result<Won, ConnectError> {
        loop {
            match self.waiting.next() {
                Some(address) => self.attempts.push(Attempt::start(address)),
                None if self.attempts.is_empty() => return Err(self.failed()),
                None => {}
            }
            let more = !self.waiting.as_slice().is_empty();
            let delay = self.delay;
            let first = poll_fn(|cx| self.poll(cx));
            let outcome = if more {
                // Those that have not answered go on beside the next one.
                let Ok(outcome) = tokio::time::timeout(delay, first).await else { continue };
                outcome
            } else {
                first.await
            };
            match outcome {
                Ok(won) => return Ok(won),
                Err(error) => self.note(error),
            }
        }
    }

    /// What to say when there is no time left: how far the attempt is that got furthest.
    pub(super) fn late(&self, error: io::Error) -> ConnectError {
        let step = |attempt: &&Attempt| attempt.step();
        match self.attempts.iter().rev().max_by_key(step) {
            Some(attempt) => ConnectError::new(attempt.step(), Some(Address::Tcp(attempt.address)), error),
            None => ConnectError::new(Step::Connect, None, error),
        }
    }

    fn failed(&mut self) -> ConnectError {
        let nowhere = || ConnectError::new(Step::Connect, None, io::ErrorKind::AddrNotAvailable.into());
        self.failure.take().unwrap_or_else(nowhere)
    }

    fn note(&mut self, error: ConnectError) {
        tracing::debug!(error = %error.source, address = ?error.address, step = %error.step, "connecting to an address failed");
        if self.failure.as_ref().is_none_or(|before| before.step < error.step) {
            self.failure = Some(error);
        }
    }

    /// The next attempt that ends, either way.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Won, ConnectError>> {
        for at in 0..self.attempts.len() {
            let attempt = &mut self.attempts[at];
            if let Poll::Ready(outcome) = attempt.poll(cx, self.tls.as_ref()) {
                let (step, address) = (attempt.step(), attempt.address);
                self.attempts.remove(at);
                let outcome = outcome.map(|stream| (stream, address));
                return Poll::Ready(
                    outcome.map_err(|error| ConnectError::new(step, Some(Address::Tcp(address)), error)),
                );
            }
        }
        Poll::Pending
    }
}

/// One address being tried.
struct Attempt {
    address: SocketAddr,
    work: Work,
}

enum Work {
    Connect(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Tls(Box<tokio_rustls::Connect<TcpStream>>),
}

impl Attempt {
    fn start(address: SocketAddr) -> Self {
        let connect = async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        Self { address, work: Work::Connect(Box::pin(connect)) }
    }

    fn step(&self) -> Step {
        match self.work {
            Work::Connect(_) => Step::Connect,
            Work::Tls(_) => Step::Tls,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, tls: Option<&Tls>) -> Poll<io::Result<Stream>> {
        loop {
            self.work = match &mut self.work {
                Work::Connect(connect) => match (ready!(connect.as_mut().poll(cx))?, tls) {
                    (stream, None) => return Poll::Ready(Ok(Stream::Plain(stream))),
                    (stream, Some((connector, name))) => Work::Tls(Box::new(connector.connect(name.clone(), stream))),
                },
                Work::Tls(connect) => {
                    let stream = ready!(Pin::new(connect).poll(cx))?;
                    return Poll::Ready(Ok(Stream::Tls(Box::new(stream.into()))));
                }
            }
        }
    }
}
