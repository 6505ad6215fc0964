//! Many tokens at once: a bulk delete, and what requests and Redis notice of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tollgate::store::TokenFilter;
use tollgate::token::{RawToken, TokenId};

use super::Options;
use super::client::Client;
use super::deployment::{Deployment, Sidecar, filler, operator, registry, tokens};
use super::figures::{Figures, quantile};

/// Tokens that are deleted.
const TOKENS: usize = 100_000;

/// Heartbeats per second and sidecar.
const LOAD: u32 = 50;

pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let count = options.sidecars;
    eprintln!("bulk: {count} sidecars, {TOKENS} tokens deleted at once, {LOAD} heartbeats/s on each sidecar");
    let deployment = Deployment::start().await;
    let good = tokens(1);
    // Some whose refusal can be seen, spread over those that nobody knows.
    let seen = tokens(TOKENS / 1000);
    deployment.import(good.iter().map(RawToken::digest));
    let mut digests: Vec<_> = (0..TOKENS - seen.len()).map(filler).collect();
    for (at, token) in seen.iter().enumerate() {
        digests.insert(at * 1000, token.digest());
    }
    let import = deployment.import(digests.iter().copied());
    figures.time(format!("import of {TOKENS} tokens"), import, None);
    let ids = all_but(&deployment, &good[0]).await;
    let sidecars = deployment.sidecars(count);
    let mut before = p99(&sidecars, &good[0], async { tokio::time::sleep(Duration::from_secs(5)).await }).await;
    deployment.redis(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]);
    deployment.redis(&["SLOWLOG", "RESET"]);
    let cpu = || (deployment.redis.cpu(), sidecars.iter().map(|sidecar| sidecar.process.cpu()).sum::<Duration>());
    let (redis, all) = cpu();
    let mut everywhere = Duration::ZERO;
    let mut during = p99(&sidecars, &good[0], async {
        let began = Instant::now();
        // As another process would: what it computes must not hold up those who measure.
        let (url, ids) = (deployment.store_url(), ids.clone());
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { registry(&url).await.delete(&operator(), &ids, true).await.map(drop) })
        });
        let deleted = tokio::task::spawn_blocking(|| deleting.join().expect("does not panic")).await;
        deleted.expect("is waited for").expect("deletes");
        figures.time("bulk delete acknowledged", began.elapsed(), None);
        for sidecar in &sidecars {
            let mut client = Client::connect(sidecar.address()).await;
            for token in &seen {
                everywhere = everywhere.max(client.until_refused(token.reveal()).await - began);
            }
        }
    })
    .await;
    figures.time("bulk delete refused everywhere", everywhere, 3000.0);
    figures.time("longest command in Redis", deployment.longest_command(), 50.0);
    let (redis, all) = (cpu().0 - redis, cpu().1 - all);
    figures.time("CPU of Redis", redis, None);
    figures.time("CPU of all sidecars, heartbeats included", all, None);
    let (before, during) = (quantile(&mut before, 0.99), quantile(&mut during, 0.99));
    figures.time("heartbeat p99 before", before, None);
    figures.time("heartbeat p99 during", during, before.as_secs_f64() * 3000.0);
}

/// Every token but this one.
async fn all_but(deployment: &Deployment, kept: &RawToken) -> Vec<TokenId> {
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = deployment.store.tokens(TokenFilter::default(), before, 1000).await.expect("reads");
        let Some(last) = page.last() else { return ids };
        before = Some(last.record.id);
        // The Owner's own came with `init`, and has another description.
        let wanted = page
            .into_iter()
            .filter(|token| token.record.digest != kept.digest() && token.record.description == "agent");
        ids.extend(wanted.map(|token| token.record.id));
    }
}

/// How long heartbeats take on all sidecars while something goes on.
async fn p99(sidecars: &[Sidecar], token: &RawToken, meanwhile: impl Future<Output = ()>) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for sidecar in sidecars {
        let (address, token, stop) = (sidecar.address(), token.reveal().to_owned(), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / LOAD);
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let began = Instant::now();
                assert_eq!(client.beat(&token).await, 200, "a good token");
                times.push(began.elapsed());
            }
            times
        });
    }
    meanwhile.await;
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await.into_iter().flatten().collect()
}
