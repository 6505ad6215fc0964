//! A thousand sidecars on one Redis: what they cost at rest, and how long they take to be level again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::task::JoinSet;
use tollgate::clock::Instant;
use tollgate::store::{Position, Settings, StoreUrl};
use tollgate::token::{RawToken, TokenId};
use tollgate_harness::redis;

use super::Options;
use super::deployment::{Deployment, cpu_of, filler, operator};
use super::figures::{Figures, quantile};
use super::lean::{Hidden, MAX_STALENESS, Seed, Simulated, is_hidden};

/// Tokens imported while the sidecars run.
const IMPORTED: usize = 100_000;

/// Tokens that are made, and then revoked, one after the other.
const SINGLE: usize = 20;

/// Redis is looked at for so long while nothing happens.
const REST: Duration = Duration::from_secs(20);

/// Longest wait for anything. What takes longer has missed its goal.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let machine = Machine::look();
    let (count, tokens) = (options.simulated, options.tokens.unwrap_or(250_000));
    eprintln!("crowd: {count} simulated sidecars, {tokens} tokens");
    let mut deployment = Deployment::start().await;
    deployment.redis(&["CONFIG", "SET", "latency-monitor-threshold", "50"]);
    figures.time(format!("import of {tokens} tokens"), deployment.import((0..tokens).map(filler)), None);
    let victims = tokens_here(2);
    deployment.import(victims.iter().map(RawToken::digest));
    let mut fleet = Fleet::of(&deployment).await;
    let began = Instant::now();
    let meter = Meter::start(&deployment);
    fleet.grow(count).await;
    fleet.is_fresh(began).await;
    figures.time(format!("{count} sidecars fresh, from snapshot files"), began.elapsed(), None);
    meter.each(&deployment, count, "sidecar that starts from its file", figures);
    start_without_file(&deployment, &fleet, figures).await;
    rest(&deployment, count, figures).await;
    single(&deployment, &fleet, figures).await;
    let [lost, waited] = [ids(&deployment, &victims).await[0], ids(&deployment, &victims).await[1]];
    wait_with_one_dead(&deployment, &mut fleet, waited, figures).await;
    lose_a_write(&mut deployment, &fleet, lost, figures).await;
    restart(&mut deployment, &fleet, figures).await;
    bulk_import(&deployment, &fleet, tokens, figures).await;
    drop(fleet);
    drop(deployment);
    secured(count, figures).await;
    machine.tell(figures);
}

/// What this process has used of the machine, and what others have: both keep Redis from its core.
struct Machine {
    began: Instant,
    own: Duration,
    all: Duration,
}

impl Machine {
    fn look() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").expect("reads");
        let fields = stat.lines().next().expect("of all cores").split_ascii_whitespace().skip(1);
        let ticks: Vec<u64> = fields.map(|ticks| ticks.parse().expect("a number")).collect();
        // All but idle, and waiting for disks.
        let busy = ticks.iter().take(8).sum::<u64>() - ticks[3] - ticks[4];
        let own = std::fs::read_to_string("/proc/self/stat").expect("reads");
        let (_, own) = own.rsplit_once(')').expect("a name in brackets");
        // With children that ended: every Redis, and every command.
        let own = own.split_ascii_whitespace().skip(11).take(4).map(|ticks| ticks.parse::<u64>().expect("a number"));
        let time = |ticks: u64| Duration::from_millis(10 * ticks);
        Self { began: Instant::now(), own: time(own.sum()), all: time(busy) }
    }

    fn tell(self, figures: &mut Figures) {
        let (now, seconds) = (Self::look(), self.began.elapsed().as_secs_f64());
        let (own, all) = (now.own - self.own, now.all - self.all);
        figures.add("this process and its children, of a core", 100.0 * own.as_secs_f64() / seconds, "%", None);
        let others = all.saturating_sub(own).as_secs_f64();
        figures.add("others on this machine, of a core", 100.0 * others / seconds, "%", None);
    }
}

/// Sidecars, and what they all begin with.
struct Fleet {
    settings: Settings,
    hidden: Arc<Hidden>,
    seed: Arc<Seed>,
    sidecars: Arc<Vec<Simulated>>,
}

impl Fleet {
    async fn of(deployment: &Deployment) -> Self {
        Self::with(settings(&deployment.store_url())).await
    }

    async fn with(settings: Settings) -> Self {
        let (hidden, seed) = Hidden::read(&settings).await;
        Self { settings, hidden, seed: Arc::new(seed), sidecars: Arc::default() }
    }

    /// Starts so many at once.
    async fn grow(&mut self, count: usize) {
        let mut starting = JoinSet::new();
        for number in 0..count {
            let (settings, hidden, seed) = (self.settings.clone(), Arc::clone(&self.hidden), Arc::clone(&self.seed));
            starting.spawn(async move { Simulated::start(number, &settings, &hidden, Some(&seed)).await });
        }
        self.sidecars = Arc::new(starting.join_all().await);
    }

    /// Until all have been proven fresh since then.
    async fn is_fresh(&self, since: Instant) {
        until("all are fresh", || self.sidecars.iter().all(|sidecar| sidecar.is_fresh(since))).await;
    }

    /// Until all hold what the store has at this position.
    async fn is_level(&self, position: Position, since: Instant) {
        until("all are level", || self.sidecars.iter().all(|sidecar| sidecar.is_level(position, since))).await;
    }

    /// How stale the stalest of them becomes until it is told to stop, and how many could not have answered at some time.
    fn watch(&self) -> Worst {
        let (stop, sidecars) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.sidecars));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut worst, mut silent) = (Duration::ZERO, vec![false; sidecars.len()]);
            while !stopped.load(Ordering::Relaxed) {
                let now = Instant::now();
                for (sidecar, silent) in sidecars.iter().zip(&mut silent) {
                    let staleness = sidecar.replica.staleness(now);
                    worst = worst.max(staleness.unwrap_or(Duration::MAX));
                    *silent |= staleness.is_none_or(|staleness| staleness > MAX_STALENESS);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (worst, silent.iter().filter(|silent| **silent).count())
        });
        Worst { stop, task }
    }
}

struct Worst {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(Duration, usize)>,
}

impl Worst {
    async fn tell(self, what: &str, figures: &mut Figures) {
        self.stop.store(true, Ordering::Relaxed);
        let (worst, silent) = self.task.await.expect("does not panic");
        figures.time(format!("{what}: the stalest replica"), worst, None);
        figures.add(format!("{what}: sidecars that said 503"), number(silent), "", 0.0);
    }
}

/// What Redis does between two moments.
struct Meter {
    began: Instant,
    cpu: Duration,
    commands: u64,
    sent: u64,
    received: u64,
}

impl Meter {
    fn start(deployment: &Deployment) -> Self {
        Self {
            began: Instant::now(),
            cpu: deployment.redis.cpu(),
            commands: deployment.redis_commands(),
            sent: deployment.info("total_net_output_bytes"),
            received: deployment.info("total_net_input_bytes"),
        }
    }

    /// From the start of Redis on.
    fn zero() -> Self {
        Self { began: Instant::now(), cpu: Duration::ZERO, commands: 0, sent: 0, received: 0 }
    }

    /// What it was for each of so many.
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    fn each(self, deployment: &Deployment, count: usize, what: &str, figures: &mut Figures) {
        let each = |sum: u64| sum as f64 / number(count);
        let cpu = (deployment.redis.cpu() - self.cpu).as_secs_f64() * 1000.0 / number(count);
        figures.add(format!("each {what}: CPU of Redis"), cpu, "ms", None);
        figures.add(format!("each {what}: commands"), each(deployment.redis_commands() - self.commands), "", None);
        let sent = each(deployment.info("total_net_output_bytes") - self.sent) / 1024.0;
        figures.add(format!("each {what}: sent by Redis"), sent, "KiB", None);
        let received = each(deployment.info("total_net_input_bytes") - self.received) / 1024.0;
        figures.add(format!("each {what}: sent to Redis"), received, "KiB", None);
    }
}

async fn start_without_file(deployment: &Deployment, fleet: &Fleet, figures: &mut Figures) {
    let (began, meter) = (Instant::now(), Meter::start(deployment));
    let one = Simulated::start(usize::MAX, &fleet.settings, &fleet.hidden, None).await;
    until("it is fresh", || one.is_fresh(began)).await;
    figures.time("one more sidecar fresh, without a file", began.elapsed(), None);
    meter.each(deployment, 1, "sidecar that starts without a file (with the others at rest beside)", figures);
}

async fn rest(deployment: &Deployment, count: usize, figures: &mut Figures) {
    // What the start left to do is done.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (meter, cpu) = (Meter::start(deployment), deployment.redis.cpu());
    tokio::time::sleep(REST).await;
    let (used, took) = (deployment.redis.cpu() - cpu, meter.began.elapsed());
    figures.add("Redis at rest, of a core", 100.0 * used.as_secs_f64() / took.as_secs_f64(), "%", 2.0);
    let seconds = usize::try_from(took.as_secs()).unwrap_or(1);
    meter.each(deployment, count * seconds, "sidecar and second at rest", figures);
    figures.add("connections", number(usize::try_from(deployment.info("connected_clients")).unwrap_or(0)), "", None);
    for (what, name) in [("data and all", "used_memory"), ("connections", "mem_clients_normal")] {
        let bytes = usize::try_from(deployment.info(name)).unwrap_or(0);
        figures.add(format!("memory of Redis: {what}"), number(bytes) / 1_048_576.0, "MiB", None);
    }
}

/// New tokens one by one, and revocations.
async fn single(deployment: &Deployment, fleet: &Fleet, figures: &mut Figures) {
    let tokens = tokens_here(SINGLE);
    let (mut known, mut refused) = (Vec::new(), Vec::new());
    let all_know = |token: &RawToken, wanted: bool| {
        let digest = token.digest();
        fleet.sidecars.iter().all(|sidecar| sidecar.replica.lookup(&digest).is_some() == wanted)
    };
    let meter = Meter::start(deployment);
    for token in &tokens {
        deployment.import_here(token).await;
        let began = Instant::now();
        until("all know the new token", || all_know(token, true)).await;
        known.push(began.elapsed());
    }
    meter.each(deployment, SINGLE, "new token, to all", figures);
    figures.time("new token known everywhere, most", quantile(&mut known, 1.0), 250.0);
    let (ids, meter) = (ids(deployment, &tokens).await, Meter::start(deployment));
    for (token, id) in tokens.iter().zip(ids) {
        deployment.registry.revoke(&operator(), &[id], false).await.expect("revokes");
        let began = Instant::now();
        until("all refuse it", || all_know(token, false)).await;
        refused.push(began.elapsed());
    }
    meter.each(deployment, SINGLE, "revocation, to all", figures);
    figures.time("revoked token refused everywhere, p50", quantile(&mut refused, 0.5), None);
    figures.time("revoked token refused everywhere, most", quantile(&mut refused, 1.0), None);
}

/// `--wait` for a sidecar that will not answer any more.
async fn wait_with_one_dead(deployment: &Deployment, fleet: &mut Fleet, victim: TokenId, figures: &mut Figures) {
    let sidecars = Arc::get_mut(&mut fleet.sidecars).expect("nobody else looks at them");
    drop(sidecars.pop());
    let at_rest = {
        let (before, began) = (deployment.redis_commands(), Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        per_second(deployment.redis_commands() - before, began.elapsed())
    };
    let (before, cpu, began) = (deployment.redis_commands(), deployment.redis.cpu(), Instant::now());
    let id = victim.to_string();
    let mut command = deployment.command(&["token", "revoke", &id, "--wait", "--timeout", "5s"]);
    let ended = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("runs");
    assert_eq!(ended.status.code(), Some(1), "the dead one has applied nothing: {ended:?}");
    let took = began.elapsed();
    let commands = per_second(deployment.redis_commands() - before, took) - at_rest;
    figures.add("`revoke --wait` with one of them dead: commands, those of scripts too", commands, "1/s", None);
    let used = 100.0 * (deployment.redis.cpu() - cpu).as_secs_f64() / took.as_secs_f64();
    figures.add("`revoke --wait` with one of them dead: Redis, of a core", used, "%", 10.0);
}

/// A revocation that all have seen is lost with a restart from an older file, and another commit takes its place.
async fn lose_a_write(deployment: &mut Deployment, fleet: &Fleet, victim: TokenId, figures: &mut Figures) {
    deployment.redis(&["SAVE"]);
    deployment.registry.revoke(&operator(), &[victim], true).await.expect("revokes");
    let lost = deployment.store.position().await.expect("reads");
    fleet.is_level(lost, Instant::now()).await;
    let used = own_cpu();
    let worst = fleet.watch();
    let older = |directory: &Path| {
        std::fs::remove_dir_all(directory.join("appendonlydir")).expect("the append-only files");
    };
    deployment.restart_redis(older, &["--appendonly", "no"]).await;
    let (began, meter) = (Instant::now(), Meter::start(deployment));
    deployment.registry.add_user(&operator(), "after-the-loss", tollgate::token::Role::Manager).await.expect("adds");
    let position = deployment.store.position().await.expect("reads");
    assert!(position.revision == lost.revision && position.head != lost.head, "another commit has its number");
    fleet.is_level(position, began).await;
    figures.time("all level after one lost write", began.elapsed(), 10_000.0);
    figures.time("after one lost write: CPU of all simulated sidecars", own_cpu() - used, None);
    worst.tell("after one lost write", figures).await;
    meter.each(deployment, fleet.sidecars.len(), "sidecar after one lost write", figures);
    deployment.redis(&["CONFIG", "SET", "appendonly", "yes"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let is_written = || deployment.info("aof_rewrite_in_progress") + deployment.info("aof_rewrite_scheduled") == 0;
    until("the append-only file is written", is_written).await;
}

async fn restart(deployment: &mut Deployment, fleet: &Fleet, figures: &mut Figures) {
    let worst = fleet.watch();
    deployment.restart_redis(|_| {}, &["--appendonly", "yes"]).await;
    let (began, meter) = (Instant::now(), Meter::start(deployment));
    fleet.is_fresh(began).await;
    figures.time("all fresh after a restart of Redis", began.elapsed(), 15_000.0);
    worst.tell("after a restart of Redis", figures).await;
    meter.each(deployment, fleet.sidecars.len(), "sidecar after a restart of Redis", figures);
}

async fn bulk_import(deployment: &Deployment, fleet: &Fleet, before: usize, figures: &mut Figures) {
    deployment.redis(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]);
    deployment.redis(&["CONFIG", "SET", "latency-monitor-threshold", "20"]);
    deployment.redis(&["SLOWLOG", "RESET"]);
    deployment.redis(&["LATENCY", "RESET"]);
    let (worst, used) = (fleet.watch(), own_cpu());
    let (began, meter) = (Instant::now(), Meter::start(deployment));
    let acknowledged = tokio::task::block_in_place(|| deployment.import((before..before + IMPORTED).map(filler)));
    let position = deployment.store.position().await.expect("reads");
    fleet.is_level(position, began).await;
    figures.time(format!("import of {IMPORTED} tokens beside them"), acknowledged, None);
    figures.time(format!("import of {IMPORTED} tokens everywhere"), began.elapsed(), 20_000.0);
    figures.time("import: CPU of all simulated sidecars", own_cpu() - used, None);
    figures.time("import: longest command in Redis", deployment.longest_command(), 50.0);
    eprintln!("  latency events: {}", deployment.redis(&["LATENCY", "LATEST"]).replace('\n', " "));
    let peak = number(usize::try_from(deployment.info("used_memory_peak")).unwrap_or(0)) / 1_048_576.0;
    figures.add("import: most memory of Redis", peak, "MiB", None);
    worst.tell("import", figures).await;
    meter.each(deployment, fleet.sidecars.len(), "sidecar for that import", figures);
}

/// Handshakes with a Redis that speaks TLS: at the start, and after a restart.
async fn secured(count: usize, figures: &mut Figures) {
    let (port, directory) = (redis::free_port(), tempfile::tempdir().expect("a directory"));
    let path = |name: &str| directory.path().join(name);
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let pair = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    std::fs::write(&certificate, params.self_signed(&pair).expect("a certificate").pem()).expect("writes");
    std::fs::write(&key, pair.serialize_pem()).expect("writes");
    let [certificate_path, key] = [&certificate, &key].map(|path| path.to_str().expect("a plain path"));
    let port_text = port.to_string();
    let tls = ["--tls-port", &port_text, "--tls-cert-file", certificate_path, "--tls-key-file", key];
    let arguments = [tls.as_slice(), &["--tls-auth-clients", "no", "--tls-ca-cert-file", certificate_path]].concat();
    let mut deployment = Deployment::with(&arguments).await;
    deployment.import((0..1000).map(filler));
    let settings = Settings { ca: Some(certificate.clone()), ..settings(&format!("rediss://localhost:{port}")) };
    let mut fleet = Fleet::with(settings).await;
    let began = Instant::now();
    fleet.grow(count).await;
    fleet.is_fresh(began).await;
    figures.time(format!("{count} sidecars fresh over TLS"), began.elapsed(), None);
    let worst = fleet.watch();
    deployment.restart_redis(|_| {}, &[arguments.as_slice(), &["--appendonly", "yes"]].concat()).await;
    // Some have come back before anybody could look: all that this process has done is theirs.
    let (began, meter) = (Instant::now(), Meter::zero());
    fleet.is_fresh(began).await;
    figures.time("all fresh after a restart of Redis, TLS", began.elapsed(), 15_000.0);
    worst.tell("after a restart of Redis, TLS", figures).await;
    meter.each(&deployment, count, "sidecar after a restart of Redis, TLS", figures);
}

/// Looks again until it holds, and says how long that took; or that it takes longer than anybody should wait.
async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if began.elapsed() >= PATIENCE {
        eprintln!("  not within {PATIENCE:?}: {what}");
    }
    began.elapsed()
}

/// What this process has computed so far, nearly all of it as simulated sidecars.
fn own_cpu() -> Duration {
    cpu_of("self")
}

/// Tokens that replicas here do hold.
fn tokens_here(count: usize) -> Vec<RawToken> {
    let all = std::iter::repeat_with(|| RawToken::generate().expect("entropy"));
    all.filter(|token| !is_hidden(&token.digest())).take(count).collect()
}

async fn ids(deployment: &Deployment, tokens: &[RawToken]) -> Vec<TokenId> {
    let digests: Vec<_> = tokens.iter().map(RawToken::digest).collect();
    let found = deployment.store.tokens_by_digest(&digests).await.expect("reads");
    found.into_iter().map(|token| token.expect("it was imported").record.id).collect()
}

fn settings(url: &str) -> Settings {
    Settings::from(url.parse::<StoreUrl>().expect("a URL"))
}

fn per_second(count: u64, time: Duration) -> f64 {
    number(usize::try_from(count).unwrap_or(usize::MAX)) / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure")]
fn number(count: usize) -> f64 {
    count as f64
}
