//! What a soak plays on: Redis, three sidecars, two operators, and links between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tollgate::registry::{Actor, Registry};
use tollgate::store::{self, Absent, Settings, StoreUrl};

use crate::harness::history::{Fault, Impact};
use crate::harness::metronome::Metronome;
use crate::harness::pair::Pair;
use crate::harness::prober::{Asker, History, Probe, Prober, Probes, Responder};
use crate::harness::redis::RedisServer;
use crate::harness::relay::Relay;
use crate::harness::world::{Name, World};
use crate::operator;
use crate::random::Random;
use crate::sidecar::{self, Sidecar};

/// The sidecars' `max_staleness`.
pub(crate) const BOUND: Duration = Duration::from_secs(2);

/// How often they ask the store.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// The time in which everything is level after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_secs(2);

/// How many sidecars there are.
pub(crate) const SIDECARS: usize = 3;

/// How many operators.
const OPERATORS: usize = 2;

/// Connections on which each sidecar is asked.
const CONNECTIONS: usize = 2;

/// Between two requests on one connection.
const PAUSE: Duration = Duration::from_millis(3);

/// Which servers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One Redis with an append-only file.
    Alone,
    /// A primary and a replica, in memory: a failover may lose writes.
    Replicated,
    /// The same, with `quorum_replicas = 1`: a failover loses nothing that was acknowledged.
    Quorum,
}

impl Topology {
    pub(crate) const ALL: [Self; 3] = [Self::Alone, Self::Replicated, Self::Quorum];

    pub(crate) fn quorum(self) -> u32 {
        u32::from(self == Self::Quorum)
    }
}

/// The servers.
pub(crate) enum Servers {
    Alone(RedisServer),
    Pair(Pair),
}

impl Servers {
    /// The one in charge.
    pub(crate) fn primary(&self) -> &RedisServer {
        match self {
            Self::Alone(server) => server,
            Self::Pair(pair) => &pair.primary,
        }
    }
}

/// Everything.
pub(crate) struct Stage {
    pub(crate) topology: Topology,
    pub(crate) servers: Servers,
    /// From each sidecar to Redis, then from each operator, then from the canary.
    pub(crate) relays: Vec<Relay>,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) worlds: Vec<Arc<Mutex<World>>>,
    pub(crate) canary: World,
    /// The first sidecar believes its replica for an hour.
    pub(crate) sabotage: bool,
    /// Acknowledged writes may get lost.
    losing: bool,
    /// Operators begin nothing new: what they believe may be lost.
    quiet: Arc<AtomicBool>,
    pub(crate) history: History,
    pub(crate) tempo: Tempo,
    askers: Vec<Asker>,
    operators: JoinSet<()>,
    prober: Prober,
    metronome: Metronome,
    _upstream: Responder,
    _directory: TempDir,
}

/// How long things took.
#[derive(Debug, Default)]
pub(crate) struct Tempo {
    /// From the end of a fault until every sidecar was level.
    pub(crate) recoveries: Vec<Duration>,
    /// From the acknowledgement of a revocation until every sidecar refused, with nothing broken.
    pub(crate) revocations: Vec<Duration>,
}

impl Stage {
    /// Starts everything, and waits until every sidecar serves. With `sabotage`, the first sidecar believes its replica for
    /// much longer than the judge knows.
    pub(crate) async fn start(topology: Topology, sabotage: bool, random: &mut Random) -> Result<Self, String> {
        let servers = match topology {
            Topology::Alone => {
                let server = RedisServer::with(&["--save", ""]);
                server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
                Servers::Alone(server)
            }
            Topology::Replicated | Topology::Quorum => Servers::Pair(Pair::start().await),
        };
        let mut relays = Vec::new();
        for _ in 0..=SIDECARS + OPERATORS {
            relays.push(Relay::start(servers.primary().address()).await);
        }
        let url = |relay: &Relay| format!("redis://{}", relay.address());
        let (history, probes) = (History::new(BOUND, RECOVERY), Probes::default());
        let mut worlds = Vec::new();
        for (number, relay) in relays.iter().skip(SIDECARS).enumerate() {
            let registry = registry(&url(relay), topology.quorum()).await?;
            if number == 0 {
                let operator = Actor::Operator("cli:soak".to_owned());
                registry.init(&operator, "olga").await.map_err(|error| error.to_string())?;
            }
            worlds.push(World::new(registry, &format!("user-{number}-"), history.clone(), probes.clone()));
        }
        let canary = worlds.pop().ok_or("no canary")?;
        let worlds: Vec<_> = worlds.into_iter().map(|world| Arc::new(Mutex::new(world))).collect();

        let upstream = Responder::start().await;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut sidecars = Vec::new();
        for (number, relay) in relays.iter().take(SIDECARS).enumerate() {
            sidecars.push(Sidecar::start(sidecar::Settings {
                store: url(relay),
                upstream: upstream.address,
                max_staleness: if sabotage && number == 0 { Duration::from_secs(3600) } else { BOUND },
                probe_interval: PROBE_INTERVAL,
                quorum: topology.quorum(),
                // Two with a file and one without.
                snapshot: (number < 2).then(|| directory.path().join(format!("replica-{number}"))),
            })?);
        }
        let places: Vec<_> = sidecars.iter().map(|sidecar| sidecar.place.clone()).collect();
        let starting = history.with(|judge| judge.breaks("start", None, Impact::Down, Instant::now()));
        let prober = Prober::start(&places, CONNECTIONS, PAUSE, &probes, &history);
        let metronome = Metronome::start(history.clone(), BOUND / 4);
        let askers = places.into_iter().map(Asker::new).collect();
        let (tempo, operators) = (Tempo::default(), JoinSet::new());
        let mut stage = Self {
            topology,
            servers,
            relays,
            sidecars,
            worlds,
            canary,
            sabotage,
            losing: false,
            quiet: Arc::default(),
            history,
            tempo,
            askers,
            operators,
            prober,
            metronome,
            _upstream: upstream,
            _directory: directory,
        };
        stage.is_level(starting).await?;
        for world in &stage.worlds {
            stage.operators.spawn(operator::work(
                Arc::clone(world),
                Arc::clone(&stage.quiet),
                Random::new(random.next()),
            ));
        }
        Ok(stage)
    }

    /// Something is about to break.
    pub(crate) fn breaks(&self, name: &str, sidecar: Option<usize>, impact: Impact) -> Fault {
        self.history.with(|judge| judge.breaks(name, sidecar, impact, Instant::now()))
    }

    /// A fault is over: every sidecar knows a new token and refuses one that was revoked, within [`RECOVERY`].
    pub(crate) async fn is_level(&mut self, fault: Fault) -> Result<(), String> {
        let (healed, stalled) = (Instant::now(), self.metronome.stalled());
        self.history.with(|judge| judge.heals(fault, healed));
        let patience = RECOVERY * 5;
        let egg = operator::hatch(&mut self.canary, patience).await?;
        self.all_answer(egg, 200, patience).await?;
        let (took, stood) = (healed.elapsed(), self.metronome.stalled() - stalled);
        if took > RECOVERY + stood {
            return Err(format!("level only {took:?} after a fault (the machine stood still for {stood:?})"));
        }
        self.tempo.recoveries.push(took);
        self.all_report(patience).await?;
        self.canary.revoke(&[egg]).await.map_err(|error| format!("revoking with nothing broken: {error}"))?;
        let revoked = Instant::now();
        self.all_answer(egg, 401, patience).await?;
        self.tempo.revocations.push(revoked.elapsed());
        self.canary.forget(egg);
        self.is_sound()
    }

    /// Every sidecar reports that it has applied what the store holds now, which it does only once its checksum is the
    /// store's.
    async fn all_report(&self, patience: Duration) -> Result<(), String> {
        let (store, deadline) = (self.canary.registry.store(), Instant::now() + patience);
        let position = store.position().await.map_err(|error| format!("nothing is broken: {error}"))?;
        for (number, sidecar) in self.sidecars.iter().enumerate() {
            let address = sidecar.place.now().to_string();
            loop {
                let reports = store.sidecars().await.map_err(|error| format!("nothing is broken: {error}"))?;
                let report = reports.iter().find(|reported| reported.report.address == address);
                let applied = report.and_then(|reported| reported.report.applied);
                let reached = |(epoch, revision)| epoch == position.epoch && revision >= position.revision;
                if applied.is_some_and(reached) {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("sidecar {number} reports {applied:?} instead of {position:?}"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    async fn all_answer(&mut self, name: Name, status: u16, patience: Duration) -> Result<(), String> {
        let probe = self.canary.probe(name);
        for sidecar in 0..SIDECARS {
            let asked = tokio::time::timeout(patience, self.answers(sidecar, &probe, status)).await;
            asked.map_err(|_| format!("sidecar {sidecar} does not answer {status} to the canary"))?;
        }
        Ok(())
    }

    async fn answers(&mut self, sidecar: usize, probe: &Probe, status: u16) {
        loop {
            let observed = self.askers[sidecar].ask(sidecar, probe).await;
            self.history.with(|judge| judge.observe(observed));
            if observed.status == Some(status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Nobody has ended that should run, and nobody says what should never be said.
    pub(crate) fn is_sound(&mut self) -> Result<(), String> {
        if self.prober.is_broken() || self.operators.try_join_next().is_some() {
            return Err("a task of the soak has ended by a panic".to_owned());
        }
        for (number, sidecar) in self.sidecars.iter_mut().enumerate() {
            if self.losing {
                sidecar.forgive_differences();
            }
            let bad = sidecar.bad_lines();
            if !bad.is_empty() || !sidecar.is_alive() {
                return Err(format!("sidecar {number} ended, or wrote {bad:#?}"));
            }
        }
        Ok(())
    }

    /// Leads everybody but these sidecars to the server that is in charge now.
    pub(crate) async fn lead_all(&self, behind: Option<usize>) {
        let primary = self.servers.primary().address();
        for (_, relay) in self.relays.iter().enumerate().filter(|(number, _)| Some(*number) != behind) {
            relay.lead_to(primary);
            relay.reset().await;
        }
    }

    /// Acknowledged writes may get lost from now on.
    pub(crate) fn begin_losing(&mut self) {
        self.losing = true;
    }

    /// Operators begin nothing new until they know again what is so.
    pub(crate) fn be_quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// Takes the store's word in every world where a command's outcome is not known; with `since`, in all of them:
    /// writes were lost since then. Returns how many revocations were.
    pub(crate) async fn read_back(&mut self, since: Option<Instant>) -> Result<usize, String> {
        let mut lost = 0;
        let worlds: Vec<_> = self.worlds.iter().map(Arc::clone).collect();
        let mut held = Vec::new();
        for world in &worlds {
            held.push(world.lock().await);
        }
        self.losing = false;
        let text = |error: anyhow::Error| format!("reading back: {error:#}");
        let mut all: Vec<&mut World> = held.iter_mut().map(|world| &mut **world).chain([&mut self.canary]).collect();
        for world in all.iter_mut().filter(|world| world.in_doubt || since.is_some()) {
            let found = world.read_back(since.unwrap_or_else(Instant::now), since.is_none()).await.map_err(text)?;
            lost += found.revocations.len();
        }
        let Some(since) = since else { return Ok(lost) };
        // What sidecars have seen and the store has not is written back, and settled by the next command.
        settle(all.last().ok_or("no canary")?).await?;
        for world in all {
            world.read_back(since, true).await.map_err(text)?;
        }
        self.quiet.store(false, Ordering::Relaxed);
        Ok(lost)
    }

    /// The ends of the sidecars' logs.
    pub(crate) fn logs(&self) -> String {
        let log = |(number, sidecar): (usize, &Sidecar)| {
            format!("the log of sidecar {number}:\n  {}\n", sidecar.last_lines().join("\n  "))
        };
        self.sidecars.iter().enumerate().map(log).collect()
    }

    /// Ends it: everybody stops asking.
    pub(crate) fn end(self) -> (History, Tempo) {
        drop((self.prober, self.operators, self.sidecars));
        (self.history, self.tempo)
    }
}

/// Until sidecars have recalled what they have seen, and a command has settled it.
async fn settle(world: &World) -> Result<(), String> {
    // Recalls are written with a probe, soon after a sidecar is level, which it is.
    tokio::time::sleep(PROBE_INTERVAL * 4).await;
    // As an operator's next command does.
    for _ in 0..20 {
        match world.registry.settle_recalls().await {
            Ok(0) => return Ok(()),
            Ok(_) => tokio::time::sleep(PROBE_INTERVAL * 2).await,
            Err(error) => return Err(format!("settling recalls: {error}")),
        }
    }
    Err("revocations are recalled again and again".to_owned())
}

async fn registry(url: &str, quorum_replicas: u32) -> Result<Registry, String> {
    let url: StoreUrl = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let settings = Settings { quorum_replicas, ..Settings::from(url) };
    let store = store::open(&settings, Absent::Create).await;
    Ok(Registry::new(store.map_err(|error| format!("opening the store: {error}"))?))
}
