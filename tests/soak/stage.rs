//! What a soak plays on: Redis, three sidecars, two operators, and links between them; in another database of the same Redis
//! a copy of the registry as it was at first, with a sidecar and an operator of its own; and an operator who waits for
//! receipts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tollgate::registry::{Actor, ImportOptions, Registry, RegistryError};
use tollgate::store::{self, Absent, Settings, StoreUrl};
use tollgate::token::{Digest, PermissionSet, RawToken, Role};

use crate::operator;
use crate::sidecar::{self, Sidecar};
use crate::waiter::{Receipts, Waiter};
use crate::{Sabotage, downloads};
use tollgate_harness::history::{Impact, OutageId};
use tollgate_harness::metronome::Metronome;
use tollgate_harness::oracle::{Name, Oracle, agent_line};
use tollgate_harness::pair::Pair;
use tollgate_harness::prober::{Asker, History, Probe, Prober, Probes, Responder};
use tollgate_harness::random::Random;
use tollgate_harness::redis::RedisServer;
use tollgate_harness::relay::Relay;

/// The sidecars' `max_staleness`.
pub(crate) const BOUND: Duration = Duration::from_secs(2);

/// How often they ask the store.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// The time in which everything is level after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_secs(2);

/// How many sidecars there are: the last one is the neighbour's, in the other database.
pub(crate) const SIDECARS: usize = 4;

/// How many operators.
const OPERATORS: usize = 2;

/// The databases, and whose sidecars are whose.
const REALMS: [std::ops::Range<usize>; 2] = [0..SIDECARS - 1, SIDECARS - 1..SIDECARS];

/// The neighbour, among the oracles.
const NEIGHBOUR: usize = OPERATORS;

/// The operator who waits, among the oracles.
const WAITER: usize = OPERATORS + 1;

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

/// Two announcements that follow each other count within this time: a page of the log may come between them.
const TOGETHER: Duration = Duration::from_secs(1);

/// See [`Stage::takes_away`].
pub(crate) struct Bait {
    revoked: Name,
    narrowed: Name,
    user: String,
}

/// The servers.
pub(crate) enum Servers {
    Alone(RedisServer),
    Pair(Box<Pair>),
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
    /// From each sidecar to Redis, then from each operator, then from each canary.
    pub(crate) relays: Vec<Relay>,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) oracles: Vec<Arc<Mutex<Oracle>>>,
    /// One in each database.
    pub(crate) canaries: [Oracle; 2],
    pub(crate) waiter: Waiter,
    pub(crate) sabotage: Option<Sabotage>,
    started: Instant,
    /// By [`Stage::import`].
    imported: Vec<Digest>,
    /// Acknowledged writes may get lost.
    losing: bool,
    /// Operators begin nothing new: what they believe may be lost.
    quiet: Arc<AtomicBool>,
    pub(crate) history: History,
    pub(crate) tempo: Tempo,
    askers: Vec<Asker>,
    operators: JoinSet<()>,
    downloads: JoinSet<()>,
    probers: [Prober; 4],
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
    /// Users who were narrowed by writes that were lost.
    pub(crate) narrowings: usize,
}

impl Stage {
    /// Starts everything, and waits until every sidecar serves.
    pub(crate) async fn start(
        topology: Topology,
        sabotage: Option<Sabotage>,
        random: &mut Random,
    ) -> Result<Self, String> {
        let servers = match topology {
            Topology::Alone => {
                // Otherwise a write waits for a slow sync of the one before, and a crash loses it.
                let server = RedisServer::with(&["--save", "", "--appendfsync", "always"]);
                server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
                Servers::Alone(server)
            }
            Topology::Replicated | Topology::Quorum => Servers::Pair(Box::new(Pair::start().await)),
        };
        let mut relays = Vec::new();
        for _ in 0..SIDECARS + OPERATORS + 4 {
            relays.push(Relay::start(servers.primary().address()).await);
        }
        let url = |relay: usize, database: usize| format!("redis://{}/{database}", relays[relay].address());
        let registry = async |relay: usize, database: usize| registry(&url(relay, database), topology.quorum()).await;
        let first = registry(SIDECARS, 0).await?;
        first.init(&soak(), "olga").await.map_err(|error| error.to_string())?;
        servers.primary().has_all_reports();
        copy_registry(servers.primary());
        let (history, probes, neighbours) = (History::new(BOUND, RECOVERY), Probes::default(), Probes::default());
        // What is asked of those who should know nothing of it.
        let (abroad, from_abroad) = (Probes::default(), Probes::default());
        let oracle = |registry, number: usize, database: usize| {
            let probes = if database == 0 { &probes } else { &neighbours };
            let mut oracle = Oracle::new(registry, &format!("user-{number}-"), history.clone(), probes.clone());
            oracle.elsewhere = Some(if database == 0 { abroad.clone() } else { from_abroad.clone() });
            oracle
        };
        let mut oracles = vec![oracle(first, 0, 0)];
        for (number, database) in [(1, 0), (NEIGHBOUR, 1), (WAITER, 0), (4, 0), (5, 1)] {
            oracles.push(oracle(registry(SIDECARS + number, database).await?, number, database));
        }
        let canaries = oracles.split_off(WAITER + 1).try_into().map_err(|_| "two canaries")?;
        let oracles: Vec<_> = oracles.into_iter().map(|oracle| Arc::new(Mutex::new(oracle))).collect();
        let waiter = Waiter {
            oracle: Arc::clone(&oracles[WAITER]),
            store: url(SIDECARS + WAITER, 0),
            quorum: topology.quorum(),
            sabotage: sabotage == Some(Sabotage::Receipts),
            receipts: Arc::default(),
        };

        let upstream = Responder::start().await;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut sidecars = Vec::new();
        for number in 0..SIDECARS {
            let is_believing = sabotage == Some(Sabotage::Staleness) && number == 0;
            sidecars.push(Sidecar::start(sidecar::Settings {
                store: url(number, usize::from(REALMS[1].contains(&number))),
                upstream: upstream.address,
                max_staleness: if is_believing { Duration::from_secs(3600) } else { BOUND },
                probe_interval: PROBE_INTERVAL,
                quorum: topology.quorum(),
                // One without a file.
                snapshot: (number != 2).then(|| directory.path().join(format!("replica-{number}"))),
            })?);
        }
        let places: Vec<_> = sidecars.iter().map(|sidecar| sidecar.place.clone()).enumerate().collect();
        let starting = history.with(|judge| judge.breaks("start", None, Impact::Down, Instant::now()));
        let [ours, theirs] = REALMS.map(|realm| &places[realm]);
        let probers = [
            Prober::start(ours, CONNECTIONS, PAUSE, &probes, &history),
            Prober::start(theirs, CONNECTIONS, PAUSE, &neighbours, &history),
            Prober::start(theirs, 1, PAUSE, &abroad, &history),
            Prober::start(ours, 1, PAUSE * 3, &from_abroad, &history),
        ];
        let mut downloads = JoinSet::new();
        downloads::start(ours, &probes, &history, random, &mut downloads);
        downloads::start(theirs, &neighbours, &history, random, &mut downloads);
        let metronome = Metronome::start(history.clone(), BOUND / 4);
        let askers = places.into_iter().map(|(_, place)| Asker::new(place)).collect();
        let (tempo, operators) = (Tempo::default(), JoinSet::new());
        let mut stage = Self {
            topology,
            servers,
            relays,
            sidecars,
            oracles,
            canaries,
            waiter,
            sabotage,
            started: Instant::now(),
            imported: Vec::new(),
            losing: false,
            quiet: Arc::default(),
            history,
            tempo,
            askers,
            operators,
            downloads,
            probers,
            metronome,
            _upstream: upstream,
            _directory: directory,
        };
        stage.is_level(starting).await?;
        for oracle in &stage.oracles[..WAITER] {
            let (oracle, quiet) = (Arc::clone(oracle), Arc::clone(&stage.quiet));
            stage.operators.spawn(operator::work(oracle, quiet, Random::new(random.number())));
        }
        let (ours, theirs) = (Arc::clone(&stage.oracles[0]), Arc::clone(&stage.oracles[NEIGHBOUR]));
        let (quiet, own) = (Arc::clone(&stage.quiet), Random::new(random.number()));
        let is_secret = sabotage == Some(Sabotage::Databases);
        stage.operators.spawn(operator::share(ours, theirs, quiet, own, is_secret));
        let (waiter, quiet) = (stage.waiter.clone(), Arc::clone(&stage.quiet));
        stage.operators.spawn(waiter.work(quiet, Random::new(random.number())));
        Ok(stage)
    }

    /// For how long it has played.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Something is about to break.
    pub(crate) fn breaks(&self, name: &str, sidecar: Option<usize>, impact: Impact) -> OutageId {
        self.history.with(|judge| judge.breaks(name, sidecar, impact, Instant::now()))
    }

    /// From here on, until [`Stage::sees`], nothing reaches those whom this fault is about.
    pub(crate) fn blinds(&self, fault: OutageId) {
        self.history.with(|judge| judge.blinds(fault, Instant::now()));
    }

    /// Something is about to reach them again.
    pub(crate) fn sees(&self, fault: OutageId) {
        self.history.with(|judge| judge.sees(fault, Instant::now()));
    }

    /// Imports so many tokens at once that nobody asks about.
    pub(crate) async fn import(&mut self, count: usize) -> Result<(), String> {
        let canary = &self.canaries[0];
        let user = canary.model.users.keys().next().cloned().ok_or("the canary has a user")?;
        let line = |number| {
            let digest = RawToken::generate().map(|token| token.digest()).map_err(|error| error.to_string())?;
            Ok((number, agent_line(digest, &user)))
        };
        let lines = (0..count).map(line).collect::<Result<Vec<_>, String>>()?;
        self.imported = lines.iter().map(|(_, line)| line.digest).collect();
        let imported = canary.registry.import(&soak(), lines, ImportOptions::default()).await;
        imported.map(drop).map_err(|error| format!("a bulk import beside slow lines: {error}"))
    }

    /// Deletes what was imported.
    pub(crate) async fn drop_imported(&mut self) -> Result<(), String> {
        let (registry, digests) = (self.canaries[0].registry.clone(), std::mem::take(&mut self.imported));
        let found = registry.store().tokens_by_digest(&digests).await.map_err(|error| error.to_string())?;
        let ids: Vec<_> = found.into_iter().flatten().map(|token| token.record.id).collect();
        let deleted = registry.delete(&soak(), &ids, true).await;
        deleted.map(drop).map_err(|error| format!("a bulk delete with nothing broken: {error}"))
    }

    /// A fault is over: every sidecar knows a new token and refuses one that was revoked, within [`RECOVERY`].
    pub(crate) async fn is_level(&mut self, fault: OutageId) -> Result<(), String> {
        let (healed, stalled) = (Instant::now(), self.metronome.stalled());
        self.history.with(|judge| judge.heals(fault, healed));
        let patience = RECOVERY * 5;
        let eggs = self.hatch(patience).await?;
        let (took, stood) = (healed.elapsed(), self.metronome.stalled() - stalled);
        if took > RECOVERY + stood {
            return Err(format!("level only {took:?} after a fault (the machine stood still for {stood:?})"));
        }
        self.tempo.recoveries.push(took);
        for (canary, egg) in eggs.into_iter().enumerate() {
            self.all_report(canary, patience).await?;
            self.canaries[canary]
                .revoke(&[egg])
                .await
                .map_err(|error| format!("revoking with nothing broken: {error}"))?;
            let revoked = Instant::now();
            self.all_answer(canary, egg, 401, patience).await?;
            self.tempo.revocations.push(revoked.elapsed());
            self.canaries[canary].forget(egg);
        }
        self.is_sound()
    }

    /// A new token in each database, which all its sidecars know.
    async fn hatch(&mut self, patience: Duration) -> Result<[Name; 2], String> {
        let mut eggs = Vec::new();
        for canary in 0..REALMS.len() {
            let egg = operator::hatch(&mut self.canaries[canary], patience).await?;
            self.all_answer(canary, egg, 200, patience).await?;
            eggs.push(egg);
        }
        eggs.try_into().map_err(|_| "one egg each".to_owned())
    }

    /// Every sidecar comes level within so long while its line is slow.
    pub(crate) async fn keeps_up(&mut self, allowed: Duration) -> Result<(), String> {
        let (began, stalled) = (Instant::now(), self.metronome.stalled());
        let eggs = self.hatch(allowed * 5).await?;
        let (took, stood) = (began.elapsed(), self.metronome.stalled() - stalled);
        for (canary, egg) in self.canaries.iter_mut().zip(eggs) {
            canary.revoke(&[egg]).await.map_err(|error| format!("revoking beside slow lines: {error}"))?;
            canary.forget(egg);
        }
        match took > allowed + stood {
            true => Err(format!("level only {took:?} over slow lines (the machine stood still for {stood:?})")),
            false => Ok(()),
        }
    }

    /// Two new tokens that its sidecars know: one to be revoked, and one of a user of its own, to be disabled.
    pub(crate) async fn lay_bait(&mut self) -> Result<Bait, String> {
        let text = |error: RegistryError| format!("with nothing broken: {error}");
        let world = &mut self.canaries[0];
        let owner = world.model.users.keys().next().cloned().ok_or("the canary has a user")?;
        let user = match world.model.users.keys().nth(1).cloned() {
            Some(user) => user,
            None => world.add_user(Role::Manager).await.map_err(text)?,
        };
        let revoked = world.create(&owner, PermissionSet::TELEGRAF_AGENT).await.map_err(text)?;
        let narrowed = world.create(&user, PermissionSet::TELEGRAF_AGENT).await.map_err(text)?;
        for name in [revoked, narrowed] {
            self.all_answer(0, name, 200, RECOVERY * 5).await?;
        }
        Ok(Bait { revoked, narrowed, user })
    }

    /// Revokes the one token, and right after that disables the user of the other: who refuses the one soon refuses the
    /// other, however much else there is to be read first.
    pub(crate) async fn takes_away(&mut self, Bait { revoked, narrowed, user }: Bait) -> Result<(), String> {
        let text = |error: RegistryError| format!("taking away beside slow lines: {error}");
        let probes = [revoked, narrowed].map(|name| self.canaries[0].probe(name));
        self.canaries[0].revoke(&[revoked]).await.map_err(text)?;
        let (revoked_at, stalled) = (Instant::now(), self.metronome.stalled());
        self.canaries[0].set_enabled(&user, false).await.map_err(text)?;
        // The second command may have waited for Redis as long as anything else does.
        let (apart, deadline) = (revoked_at.elapsed(), Instant::now() + RECOVERY * 5);
        // When each sidecar was seen to refuse each of them first.
        let mut refused = [[None; 2]; REALMS[0].end];
        while refused.iter().flatten().any(Option::is_none) && Instant::now() < deadline {
            for (sidecar, refused) in refused.iter_mut().enumerate() {
                for (probe, refused) in probes.iter().zip(refused) {
                    let observed = self.askers[sidecar].ask(sidecar, probe).await;
                    self.history.with(|judge| judge.observe(observed));
                    let is_refused = matches!(observed.status, Some(401 | 503));
                    *refused = refused.or(is_refused.then_some(observed.answered_at));
                }
            }
        }
        let stood = self.metronome.stalled() - stalled;
        for (sidecar, refused) in refused.into_iter().enumerate() {
            let [Some(revoked), Some(narrowed)] = refused else {
                return Err(format!("sidecar {sidecar} lets in what was revoked or disabled long ago"));
            };
            let later = narrowed.saturating_duration_since(revoked);
            if later > apart + TOGETHER + stood {
                return Err(format!(
                    "sidecar {sidecar} refused a disabled user {later:?} after a revocation {apart:?} before that"
                ));
            }
        }
        self.canaries[0].set_enabled(&user, true).await.map_err(text)?;
        self.canaries[0].forget(revoked);
        self.canaries[0].revoke(&[narrowed]).await.map_err(text)?;
        self.canaries[0].forget(narrowed);
        Ok(())
    }

    /// Every sidecar reports that it has applied what the store holds now, which it does only once its checksum is the
    /// store's.
    async fn all_report(&self, canary: usize, patience: Duration) -> Result<(), String> {
        let (store, deadline) = (self.canaries[canary].registry.store(), Instant::now() + patience);
        let position = store.position().await.map_err(|error| format!("nothing is broken: {error}"))?;
        for (number, sidecar) in self.sidecars.iter().enumerate().filter(|(number, _)| REALMS[canary].contains(number))
        {
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

    async fn all_answer(&mut self, canary: usize, name: Name, status: u16, patience: Duration) -> Result<(), String> {
        let probe = self.canaries[canary].probe(name);
        for sidecar in REALMS[canary].clone() {
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
        let is_over = |tasks: &mut JoinSet<()>| tasks.try_join_next().is_some();
        if self.probers.iter_mut().any(Prober::is_broken)
            || is_over(&mut self.operators)
            || is_over(&mut self.downloads)
        {
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

    /// The operators' oracles.
    pub(crate) fn operators(&self) -> &[Arc<Mutex<Oracle>>] {
        &self.oracles[..WAITER]
    }

    /// Takes the store's word in every oracle where a command's outcome is not known; with `since`, in all of them:
    /// writes were lost since then. Returns how many revocations were.
    pub(crate) async fn read_back(&mut self, since: Option<Instant>) -> Result<usize, String> {
        let mut lost = 0;
        let oracles: Vec<_> = self.oracles.iter().map(Arc::clone).collect();
        let mut held = Vec::new();
        for oracle in &oracles {
            held.push(oracle.lock().await);
        }
        self.losing = false;
        let text = |error: anyhow::Error| format!("reading back: {error:#}");
        let canaries = self.canaries.iter_mut();
        let mut all: Vec<&mut Oracle> = held.iter_mut().map(|oracle| &mut **oracle).chain(canaries).collect();
        for oracle in all.iter_mut().filter(|oracle| oracle.in_doubt || since.is_some()) {
            let found = oracle.read_back(since.unwrap_or_else(Instant::now), since.is_none()).await.map_err(text)?;
            lost += found.revocations.len();
            self.tempo.narrowings += found.narrowings;
        }
        let Some(since) = since else { return Ok(lost) };
        // What sidecars have seen and the store has not is written back, and settled by the next command.
        tokio::time::sleep(PROBE_INTERVAL * 4).await;
        for canary in all.iter().rev().take(REALMS.len()) {
            settle(canary).await?;
        }
        for oracle in all {
            oracle.read_back(since, true).await.map_err(text)?;
            oracle.stir(since).await.map_err(|error| format!("stirring users: {error}"))?;
        }
        self.sidecars.iter().for_each(Sidecar::forgive_differences);
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
    pub(crate) fn end(self) -> (History, Tempo, Arc<Receipts>) {
        drop((self.probers, self.downloads, self.operators, self.sidecars));
        (self.history, self.tempo, self.waiter.receipts)
    }
}

/// Until sidecars have recalled what they have seen, and a command has settled it.
async fn settle(oracle: &Oracle) -> Result<(), String> {
    // Recalls are written with a probe, soon after a sidecar is level, which it was some probes ago.
    // As an operator's next command does.
    for _ in 0..20 {
        match oracle.registry.settle_recalls().await {
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

/// Who initialises registries, and imports.
fn soak() -> Actor {
    Actor::Operator("cli:soak".to_owned())
}

/// A copy of the first database's registry in the second one: same epoch, same past.
fn copy_registry(server: &RedisServer) {
    for key in server.cli(&["KEYS", "*"]).lines() {
        server.cli(&["COPY", key, key, "DB", "1"]);
    }
}
