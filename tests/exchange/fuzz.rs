//! Whole exchanges at random: clients, the sidecar, an upstream, and a judge who knows what each of them may see.
//!
//! ```text
//! clients (http1, http2) ── cases ──► sidecar, the real program ──► upstream ── answers ──► back
//!                └───────────────────► judge ◄────────────────────────┘
//! ```
//!
//! The configuration cache is on, and half of the requests are for what others ask for, too. With an even seed the upstream sees the
//! clients' tokens, with an odd one it does not, and what one was answered may be given to all.
//!
//! The seed decides what is sent and answered; how it all interleaves is the machine's.

mod answer;
mod case;
mod http1;
mod http2;
mod judge;
mod sidecar;
mod upstream;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use case::{Case, PASSING};
use judge::Judge;
use sidecar::Sidecar;
use tollgate_harness::random::Random;
use upstream::Upstream;

/// Everything has an end within this time, whatever the upstream does.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of it.
pub(crate) struct Report {
    /// How often what happened.
    pub(crate) counts: BTreeMap<String, u64>,
    /// What should not have happened, with the history of the connections concerned.
    pub(crate) finding: Option<String>,
    pub(crate) time: Duration,
}

/// Plays for this long, or until something is found.
///
/// # Errors
/// When it could not be played.
pub(crate) async fn play(program: &Path, time: Duration, seed: u64, clients: u64) -> Result<Report, String> {
    let (listener, address) = Upstream::listen().map_err(|error| error.to_string())?;
    let strips = seed % 2 == 1;
    let (mut sidecar, tokens) = Sidecar::start(program, address, strips)?;
    let judge = Arc::new(Judge::new(tokens, strips));
    let upstream = Upstream::start(listener, Arc::clone(&judge), seed);
    let (begun, numbers) = (Instant::now(), Arc::new(AtomicU64::new(1)));
    let mut playing = JoinSet::new();
    for number in 0..clients {
        let client = Client {
            number,
            address: sidecar.address,
            judge: Arc::clone(&judge),
            random: Random::new(seed.wrapping_mul(1_000_003) + number),
            numbers: Arc::clone(&numbers),
        };
        playing.spawn(client.play(begun + time));
    }
    let revoking = tokio::spawn(revoke(
        (0..PASSING).map(|number| sidecar.revocation(&judge.tokens, number)).collect(),
        Arc::clone(&judge),
        time,
    ));
    let all = async { while playing.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = judge.found.notified() => {
            // What the others see of it belongs to the history.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    revoking.abort();
    if !sidecar.is_alive() {
        judge.find("the sidecar", &[], "it has ended");
    }
    drop(upstream);
    Ok(Report { counts: judge.counts(), finding: judge.finding(), time: begun.elapsed() })
}

/// One token after the other, until few are left.
async fn revoke(
    revocations: Vec<impl FnOnce() -> Result<(), String> + Send + 'static>,
    judge: Arc<Judge>,
    time: Duration,
) {
    for (number, revocation) in revocations.into_iter().enumerate().skip(1) {
        tokio::time::sleep(time / u32::try_from(PASSING).unwrap_or(1)).await;
        judge.revokes(number, false);
        let revoked = tokio::task::spawn_blocking(revocation).await;
        match revoked {
            Ok(Ok(())) => judge.revokes(number, true),
            Ok(Err(problem)) => judge.find("a revocation", &[], problem),
            Err(_) => return,
        }
    }
}

struct Client {
    number: u64,
    address: std::net::SocketAddr,
    judge: Arc<Judge>,
    random: Random,
    /// Of requests, so that no two are the same.
    numbers: Arc<AtomicU64>,
}

impl Client {
    async fn play(mut self, until: Instant) {
        for connection in 0_u64.. {
            if Instant::now() > until {
                return;
            }
            let name = format!("client-{}.{connection}", self.number);
            let Ok(stream) = TcpStream::connect(self.address).await else {
                self.judge.find(&name, &[], "the sidecar takes no connection");
                return;
            };
            let http2 = self.random.percent(25);
            let cases = (0..1 + self.random.below(6)).map(|_| {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                Arc::new(Case::random(number, &mut self.random, http2))
            });
            let mut cases: Vec<_> = cases.collect();
            // A connection ends with a request of HTTP/1.0. Who sends more resets it, and may lose the reply.
            if let Some(last) = cases.iter().position(|case| case.minor_version == 0) {
                cases.truncate(last + 1);
            }
            self.judge.count(if http2 { "connections of HTTP/2" } else { "connections of HTTP/1" });
            match http2 {
                true => http2::play(stream, &name, &self.judge, cases, &mut self.random).await,
                false => http1::play(stream, &name, &self.judge, cases, &mut self.random).await,
            }
        }
    }
}
