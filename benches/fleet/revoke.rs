//! One token at a time: how long until a revocation is everywhere, what it costs to wait for it, and what a fleet costs
//! at rest.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tollgate::token::{RawToken, TokenId};
use tollgate_harness::redis;

use super::Options;
use super::client::Client;
use super::deployment::{Deployment, Sidecar, operator, tokens};
use super::figures::{Figures, quantile};

/// Revocations per second.
const RATE: u32 = 100;

/// Heartbeats per second and sidecar beside the revocations.
const LOAD: u32 = 50;

/// How often `revoke --wait` is run.
const WAITS: usize = 20;

pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let count = options.sidecars;
    eprintln!("revoke: {count} sidecars, {RATE} revocations/s, {LOAD} heartbeats/s on each sidecar");
    let deployment = Deployment::start().await;
    let good = tokens(1);
    let victims = tokens((RATE * options.seconds) as usize + WAITS);
    deployment.import(good.iter().chain(&victims).map(RawToken::digest));
    let ids = ids(&deployment, &victims).await;
    let sidecars = deployment.sidecars(count);
    rest(&deployment, count, figures).await;
    let load = Load::start(&sidecars, &good[0]);
    let (waited, revoked) = victims.split_at(WAITS);
    let mut latencies = latencies(&deployment, &sidecars, revoked, &ids).await;
    figures.time(format!("revoke to refused by all {count}, p50"), quantile(&mut latencies, 0.50), 2.0);
    figures.time(format!("revoke to refused by all {count}, p99"), quantile(&mut latencies, 0.99), 10.0);
    figures.time(format!("revoke to refused by all {count}, most"), quantile(&mut latencies, 1.0), None);
    let requests = load.stop();
    figures.add(
        "heartbeats/s meanwhile",
        f64::from(u32::try_from(requests).unwrap_or(u32::MAX)) / f64::from(options.seconds),
        "1/s",
        None,
    );
    redis::has_all_reports(deployment.redis_port);
    let mut waits: Vec<_> = waited.iter().map(|token| wait(&deployment, ids[&token.digest()])).collect();
    figures.time(format!("token revoke --wait, {count} sidecars, p50"), quantile(&mut waits, 0.5), 20.0);
    figures.time(format!("token revoke --wait, {count} sidecars, most"), quantile(&mut waits, 1.0), None);
}

/// The ids of tokens that were imported.
async fn ids(deployment: &Deployment, tokens: &[RawToken]) -> HashMap<tollgate::token::Digest, TokenId> {
    let digests: Vec<_> = tokens.iter().map(RawToken::digest).collect();
    let mut ids = HashMap::new();
    for digests in digests.chunks(1000) {
        let found = deployment.store.tokens_by_digest(digests).await.expect("reads");
        ids.extend(found.into_iter().flatten().map(|token| (token.record.digest, token.record.id)));
    }
    ids
}

/// What the fleet asks of Redis when nothing happens.
async fn rest(deployment: &Deployment, count: usize, figures: &mut Figures) {
    const SECONDS: u32 = 10;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = deployment.redis_commands();
    tokio::time::sleep(Duration::from_secs(SECONDS.into())).await;
    // Less the command that asked.
    let commands = deployment.redis_commands() - before - 1;
    let commands = f64::from(u32::try_from(commands).unwrap_or(u32::MAX));
    figures.add(
        "Redis commands per second and sidecar at rest",
        commands / f64::from(SECONDS) / count as f64,
        "1/s",
        5.0,
    );
}

/// Heartbeats with a good token on every sidecar, none of which may be refused.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
}

impl Load {
    fn start(sidecars: &[Sidecar], token: &RawToken) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        for sidecar in sidecars {
            let (address, token) = (sidecar.address(), token.reveal().to_owned());
            let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut ticks = tokio::time::interval(Duration::from_secs(1) / LOAD);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    assert_eq!(client.beat(&token).await, 200, "a good token");
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, requests }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.requests.load(Ordering::Relaxed)
    }
}

/// For each revocation, the time from its acknowledgement until the last sidecar refuses.
async fn latencies(
    deployment: &Deployment,
    sidecars: &[Sidecar],
    victims: &[RawToken],
    ids: &HashMap<tollgate::token::Digest, TokenId>,
) -> Vec<Duration> {
    let (refusals, mut refused) = mpsc::channel::<(usize, Instant)>(victims.len() * sidecars.len());
    let (mut watchers, victims_in_all) = (Vec::new(), victims.len());
    for sidecar in sidecars {
        let (sender, mut victims) = mpsc::channel::<(usize, String)>(victims_in_all);
        let (address, refusals) = (sidecar.address(), refusals.clone());
        watchers.push(sender);
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            while let Some((at, token)) = victims.recv().await {
                let refused = client.until_refused(&token).await;
                refusals.send((at, refused)).await.expect("somebody counts");
            }
        });
    }
    let mut acknowledged = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    for (at, token) in victims.iter().enumerate() {
        ticks.tick().await;
        deployment.registry.revoke(&operator(), &[ids[&token.digest()]], false).await.expect("revokes");
        acknowledged.push(Instant::now());
        for watcher in &watchers {
            watcher.try_send((at, token.reveal().to_owned())).expect("it listens");
        }
    }
    let mut last = acknowledged.clone();
    for _ in 0..victims.len() * sidecars.len() {
        let (at, when) = refused.recv().await.expect("each is refused");
        last[at] = last[at].max(when);
    }
    last.iter().zip(&acknowledged).map(|(last, acknowledged)| last.saturating_duration_since(*acknowledged)).collect()
}

/// `tollgate token revoke ID --wait`, from the start of the process to its end.
fn wait(deployment: &Deployment, id: TokenId) -> Duration {
    let began = Instant::now();
    let mut command = deployment.command(&["token", "revoke", &id.to_string(), "--wait"]);
    assert!(command.stdout(Stdio::null()).status().expect("runs").success(), "not applied everywhere");
    began.elapsed()
}
