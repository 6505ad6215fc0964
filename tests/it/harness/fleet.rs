//! Several sidecars on one Redis, each behind a link of its own that can be broken, asked all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::app::Sidecar;
use tollgate::config::{self, Overrides, Source};
use tollgate::registry::Registry;
use tollgate::store::{self, Absent, Settings, Store};
use tollgate::token::{PermissionSet, Role};

use super::{PATIENCE, address_of, eventually, operator};
use tollgate_harness::history::{Impact, OutageId};
use tollgate_harness::metronome::Metronome;
use tollgate_harness::oracle::{Name, Oracle};
use tollgate_harness::pair::run;
use tollgate_harness::prober::{Asker, History, Place, Prober, Probes, Responder};
use tollgate_harness::redis::RedisServer;
use tollgate_harness::relay::Relay;

/// `max_staleness` of the sidecars.
pub(crate) const BOUND: Duration = Duration::from_millis(1200);

/// How often they ask the store.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// The time in which everything is level again after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_secs(2);

/// Between two requests on one connection.
const PAUSE: Duration = Duration::from_millis(4);

/// A fleet with a registry that has its own, unbroken way to the store.
pub(crate) struct Fleet<S = RedisServer> {
    pub(crate) redis: S,
    /// From each sidecar to Redis; none where the servers' own addresses are told by others.
    pub(crate) relays: Vec<Relay>,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) oracle: Oracle,
    /// Where the registry finds its store.
    store: Settings,
    pub(crate) history: History,
    prober: Prober,
    metronome: Metronome,
    _upstream: Responder,
}

/// How many sidecars there are.
pub(crate) const SIDECARS: usize = 3;

impl Fleet {
    /// Three sidecars on one Redis with these options, ready.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let options: Vec<_> = ["--save", ""].iter().chain(options).copied().collect();
        let redis = RedisServer::with(&options);
        let address = redis.address();
        Self::behind_relays(redis, address, 0).await
    }

    /// One command to Redis, which must succeed.
    pub(crate) async fn redis_does(&self, command: &[&str]) {
        let said = run(&self.redis, command).await;
        assert!(said == "OK" || said.parse::<u64>().is_ok(), "{command:?}: {said}");
    }

    /// Kills Redis and starts it again, with the files that it has.
    pub(crate) fn restart_redis(&mut self) {
        tokio::task::block_in_place(|| self.redis.restart());
    }
}

impl<S> Fleet<S> {
    /// Three sidecars, each behind a relay that leads to this server; ready. The registry goes there directly.
    pub(crate) async fn behind_relays(redis: S, server: SocketAddr, quorum: u32) -> Self {
        let (mut relays, mut stores) = (Vec::new(), Vec::new());
        for _ in 0..SIDECARS {
            let relay = Relay::start(server).await;
            stores.push(settings(&format!("redis://{}", relay.address()), quorum));
            relays.push(relay);
        }
        Self::with(redis, relays, settings(&format!("redis://{server}"), quorum), stores).await
    }

    /// Three sidecars that find the store by this URL, ready.
    pub(crate) async fn at(redis: S, url: &str, quorum: u32) -> Self {
        Self::with(redis, Vec::new(), settings(url, quorum), vec![settings(url, quorum); SIDECARS]).await
    }

    async fn with(redis: S, relays: Vec<Relay>, registry: Settings, stores: Vec<Settings>) -> Self {
        let (store, registry) = (registry.clone(), Registry::new(open(&registry, Absent::Create).await));
        registry.init(&operator(), "olga").await.expect("initialises");
        let (history, probes) = (History::new(BOUND, RECOVERY), Probes::default());
        let oracle = Oracle::new(registry, "user", history.clone(), probes.clone());
        let upstream = Responder::start().await;
        let mut sidecars = Vec::new();
        for store in &stores {
            sidecars.push(sidecar(store, upstream.address).await);
        }
        for sidecar in &sidecars {
            super::within("a sidecar is ready", sidecar.ready()).await;
        }
        let places = sidecars.iter().map(|sidecar| Place::of(address_of(sidecar))).enumerate().collect::<Vec<_>>();
        let prober = Prober::start(&places, 1, PAUSE, &probes, &history);
        let metronome = Metronome::start(history.clone(), BOUND / 4);
        Self { redis, relays, sidecars, oracle, store, history, prober, metronome, _upstream: upstream }
    }

    /// Good tokens of a new user, known to every sidecar.
    pub(crate) async fn tokens<const COUNT: usize>(&mut self) -> [Name; COUNT] {
        let user = self.oracle.add_user(Role::Manager).await.expect("adds");
        let mut names = Vec::new();
        for _ in 0..COUNT {
            names.push(self.oracle.create(&user, PermissionSet::TELEGRAF_AGENT).await.expect("creates"));
        }
        self.is_level().await;
        names.try_into().expect("so many")
    }

    /// The registry finds its store at another URL.
    pub(crate) async fn use_registry_at(&mut self, url: &str, quorum: u32) {
        self.store = settings(url, quorum);
        self.oracle.registry = Registry::new(open(&self.store, Absent::Refuse).await);
    }

    /// Something is about to break for one sidecar, or for all.
    pub(crate) fn breaks(&self, name: &str, sidecar: Option<usize>) -> OutageId {
        self.history.with(|judge| judge.breaks(name, sidecar, Impact::Stale, Instant::now()))
    }

    /// It is whole again: within [`RECOVERY`], all sidecars are level with the store.
    pub(crate) async fn heals(&self, fault: OutageId) {
        let (healed, stalled) = (Instant::now(), self.metronome.stalled());
        self.history.with(|judge| judge.heals(fault, healed));
        self.is_level().await;
        let (took, stalled) = (healed.elapsed(), self.metronome.stalled() - stalled);
        println!("level {took:?} after the end of the fault (the machine stood still for {stalled:?})");
        assert!(took <= RECOVERY + stalled, "level only {took:?} after the end of the fault");
    }

    /// Waits until every sidecar holds what the store holds.
    pub(crate) async fn is_level(&self) {
        // Over a connection that never had anything to do with what broke.
        let fresh = async {
            loop {
                if let Ok(store) = store::open(&self.store, Absent::Refuse).await {
                    return store;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let store = super::within("the store can be opened", fresh).await;
        eventually("every sidecar is level with the store", || self.are_level(&*store)).await;
    }

    async fn are_level(&self, store: &dyn Store) -> bool {
        let Ok(position) = store.position().await else { return false };
        let level = |sidecar: &Sidecar| {
            let replica = sidecar.replica();
            let fresh = replica.staleness(tollgate::clock::Instant::now()).is_some_and(|staleness| staleness < BOUND);
            fresh && replica.status().position == Some(position) && replica.checksum() == position.checksum
        };
        self.sidecars.iter().all(level)
    }

    /// The registry's own handle.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.oracle.registry.store()
    }

    /// Waits until a sidecar answers so.
    pub(crate) async fn answers(&self, sidecar: usize, name: Name, status: u16) {
        let probe = self.oracle.probe(name);
        let address = address_of(&self.sidecars[sidecar]);
        let mut said = None;
        let asked = tokio::time::timeout(PATIENCE, async {
            while said != Some(status) {
                let observed = Asker::new(Place::of(address)).ask(sidecar, &probe).await;
                self.history.with(|judge| judge.observe(observed));
                said = observed.status;
            }
        });
        if asked.await.is_err() {
            let replica = self.sidecars[sidecar].replica();
            let staleness = replica.staleness(tollgate::clock::Instant::now());
            panic!("sidecar {sidecar} does not answer {status}, but {said:?}: stale {staleness:?}, {replica:?}");
        }
    }

    /// Asks for a while, in which a sidecar answers nothing else.
    pub(crate) async fn keeps_answering(&self, sidecar: usize, name: Name, status: u16, time: Duration) {
        let (probe, until) = (self.oracle.probe(name), Instant::now() + time);
        let mut asker = Asker::new(Place::of(address_of(&self.sidecars[sidecar])));
        while Instant::now() < until {
            let observed = asker.ask(sidecar, &probe).await;
            assert_eq!(observed.status, Some(status));
        }
    }

    /// Waits until all sidecars answer each of these tokens so.
    pub(crate) async fn all_answer(&self, expected: impl IntoIterator<Item = (Name, u16)>) {
        for (name, status) in expected {
            for sidecar in 0..self.sidecars.len() {
                self.answers(sidecar, name, status).await;
            }
        }
    }

    /// Revokes a token, and waits until all sidecars refuse it.
    pub(crate) async fn revokes(&mut self, name: Name) {
        self.oracle.revoke(&[name]).await.expect("revokes");
        self.all_answer([(name, 401)]).await;
    }

    /// Ends it, and fails if a reply has broken a rule.
    pub(crate) fn verdict(mut self) {
        assert!(!self.prober.is_broken(), "a prober has ended");
        drop(self.prober);
        self.history.with(|judge| {
            let (violations, counts) = judge.finish();
            let stories = violations.iter().map(|violation| violation.to_string()).collect::<String>();
            assert_eq!(counts.violations, 0, "{stories}");
            println!("{counts:?}");
        });
    }
}

/// The store at a URL.
pub(crate) fn settings(url: &str, quorum_replicas: u32) -> Settings {
    Settings { quorum_replicas, ..super::settings(url) }
}

/// A handle of its own to a store.
pub(crate) async fn open(settings: &Settings, absent: Absent) -> Arc<dyn Store> {
    store::open(settings, absent).await.expect("opens")
}

async fn sidecar(store: &Settings, upstream: SocketAddr) -> Sidecar {
    let overrides = Overrides {
        listen: vec!["127.0.0.1:0".to_owned()],
        api_upstream: Some(format!("http://{upstream}")),
        heartbeat_upstream: Some(format!("http://{upstream}")),
        store: Some(store.url.to_string()),
        admin_listen: Some("127.0.0.1:0".to_owned()),
    };
    let setting = |key: &str, value: String| (format!("TOLLGATE_{key}").into(), value.into());
    let environment = vec![
        setting("WORKERS", "1".to_owned()),
        setting("TIMEOUTS__DRAIN", "1s".to_owned()),
        setting("FRESHNESS__PROBE_INTERVAL", format!("{}ms", PROBE_INTERVAL.as_millis())),
        setting("FRESHNESS__MAX_STALENESS", format!("{}ms", BOUND.as_millis())),
    ];
    let config = config::load(&Source { file: None, environment }, &overrides).expect("a good configuration");
    Sidecar::start(config, open(store, Absent::Refuse).await).await.expect("starts")
}
