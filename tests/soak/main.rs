//! The guarantee under a random schedule of commands and faults, for as long as one likes.
//!
//! Four real sidecars, four operators, two registries in two databases of one Redis (alone, then with a replica, then with a
//! quorum), every request and every piece of a reply that runs judged against what was done when: see
//! `tests/harness/src/history.rs`. The seed decides what is done and broken; how it all interleaves is the machine's. At
//! first, no server is restarted: for a minute after that, `--wait` vouches for nothing.
//!
//! ```text
//! tests/soak/run.sh [MINUTES] [--seed N] [--only alone|replicated|quorum] [--sabotage WHAT]
//! ```
//!
//! Ends by itself, with code 0 if no rule was broken and 1 otherwise. `--sabotage` shows that it can fail, see [`Sabotage`].

mod downloads;
mod operator;
mod schedule;
mod sidecar;
mod stage;
mod waiter;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stage::{Stage, Tempo, Topology};
use tollgate_harness::history::{Counts, Outcome};
use tollgate_harness::random::{Random, fresh_seed};

/// The share of the time in which no server is restarted.
const CALM: f64 = 0.4;

/// How often replies are judged.
const SETTLE: Duration = Duration::from_millis(250);

/// What was asked for.
struct Options {
    time: Duration,
    seed: u64,
    /// All of them in turn, unless one is named.
    topologies: Vec<Topology>,
    sabotage: Option<Sabotage>,
}

/// What is made wrong, so that a rule must be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// One sidecar believes its replica for an hour, and is cut off from Redis again and again: `Accepted`, `Stale`.
    Staleness,
    /// The neighbour gets copies of tokens, and nobody is told: `Foreign`.
    Databases,
    /// What is committed is taken to be applied by all: `Vouched`.
    Receipts,
    /// Slow lines are much slower than it is said: `Unavailable`, or not level in time.
    Lines,
}

impl Sabotage {
    const ALL: [Self; 4] = [Self::Staleness, Self::Databases, Self::Receipts, Self::Lines];
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words.peekable();
        const USAGE: &str = "usage: tests/soak/run.sh [MINUTES] [--seed N] [--only alone|replicated|quorum] \
             [--sabotage staleness|databases|receipts|lines]";
        let topologies = Topology::ALL.to_vec();
        let mut options = Self { time: Duration::from_secs(60), seed: fresh_seed(), topologies, sabotage: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--sabotage" => {
                    let word = words.next().unwrap_or_default();
                    let mut all = Sabotage::ALL.into_iter();
                    options.sabotage = Some(all.find(|one| format!("{one:?}").to_lowercase() == word).ok_or(USAGE)?);
                }
                "--only" => {
                    let named = |topology: &Topology| words.peek() == Some(&format!("{topology:?}").to_lowercase());
                    options.topologies.retain(named);
                    words.next();
                    if options.topologies.is_empty() {
                        return Err(USAGE.to_owned());
                    }
                }
                "--seed" => {
                    let seed = words.next().and_then(|seed| seed.parse().ok());
                    options.seed = seed.ok_or(USAGE)?;
                }
                minutes => {
                    let minutes: f64 = minutes.parse().map_err(|_| USAGE)?;
                    options.time = Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| USAGE)?;
                }
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let mut total = Total::default();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(soak(&options, &mut total)),
        Err(error) => Err(error.to_string()),
    };
    total.print(&options);
    match outcome {
        Ok(End::Time) => {
            println!("verdict: no rule was broken (seed {})", options.seed);
            ExitCode::SUCCESS
        }
        Ok(End::Stopped) => {
            println!("verdict: no rule was broken until it was stopped (seed {})", options.seed);
            // As a shell would say of SIGINT.
            ExitCode::from(130)
        }
        Err(problem) => {
            println!("{problem}\nverdict: FAILED (seed {})", options.seed);
            ExitCode::FAILURE
        }
    }
}

/// Why it ended without a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Time,
    /// By a signal.
    Stopped,
}

/// Plays on every topology in turn.
async fn soak(options: &Options, total: &mut Total) -> Result<End, String> {
    println!("seed {}, {:?}", options.seed, options.time);
    let mut random = Random::new(options.seed);
    let mut terminated =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|error| error.to_string())?;
    for topology in options.topologies.iter().copied() {
        let share = options.time / u32::try_from(options.topologies.len()).unwrap_or(1);
        let stopped = async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
        };
        println!("{topology:?}, for {share:?}");
        let mut stage = Stage::start(topology, options.sabotage, &mut random).await?;
        let outcome = tokio::select! {
            outcome = perform(&mut stage, &mut random, share) => outcome.map(|()| End::Time),
            () = stopped => Ok(End::Stopped),
        };
        let logs = stage.logs();
        let (history, tempo, receipts) = stage.end();
        total.receipts.0 += receipts.given.load(Ordering::Relaxed);
        total.receipts.1 += receipts.refused.load(Ordering::Relaxed);
        let stories = history.with(|judge| {
            // What still runs was cut off here.
            judge.settle();
            total.add(judge.counts(), tempo);
            judge.violations().iter().map(ToString::to_string).collect::<Vec<_>>()
        });
        let end = outcome.map_err(|problem| format!("{problem}\n{logs}"))?;
        if !stories.is_empty() {
            return Err(format!("{}\n{logs}", stories.join("\n")));
        }
        if end == End::Stopped {
            return Ok(end);
        }
    }
    Ok(End::Time)
}

/// Breaks one thing after the other until the time is over or a rule is broken.
async fn perform(stage: &mut Stage, random: &mut Random, time: Duration) -> Result<(), String> {
    let deadline = Instant::now() + time;
    let history = stage.history.clone();
    let broken = async {
        let mut settle = tokio::time::interval(SETTLE);
        loop {
            settle.tick().await;
            let violations = history.with(|judge| {
                judge.settle();
                judge.violations().iter().map(ToString::to_string).collect::<Vec<_>>()
            });
            if !violations.is_empty() {
                return violations.join("\n");
            }
        }
    };
    let acts = async {
        while Instant::now() < deadline {
            tokio::time::sleep(random.time(100, 1200)).await;
            schedule::play(stage, random, stage.age() > time.mul_f64(CALM)).await?;
        }
        Ok(())
    };
    tokio::select! {
        violations = broken => Err(violations),
        outcome = acts => outcome,
    }
}

/// Sums over all topologies.
#[derive(Default)]
struct Total {
    requests: u64,
    pieces: u64,
    cut_off: u64,
    /// Of `--wait`: given, and not.
    receipts: (u64, u64),
    statuses: BTreeMap<u16, u64>,
    operations: BTreeMap<(&'static str, Outcome), u64>,
    faults: BTreeMap<String, u64>,
    violations: u64,
    tempo: Tempo,
}

impl Total {
    fn add(&mut self, counts: &Counts, tempo: Tempo) {
        self.requests += counts.requests;
        self.pieces += counts.pieces;
        self.cut_off += counts.cut_off;
        self.violations += counts.violations;
        counts.statuses.iter().for_each(|(status, count)| *self.statuses.entry(*status).or_default() += count);
        counts.operations.iter().for_each(|(kind, count)| *self.operations.entry(*kind).or_default() += count);
        counts.faults.iter().for_each(|(name, count)| *self.faults.entry(name.clone()).or_default() += count);
        self.tempo.recoveries.extend(tempo.recoveries);
        self.tempo.revocations.extend(tempo.revocations);
        self.tempo.narrowings += tempo.narrowings;
    }

    fn print(&mut self, options: &Options) {
        println!("seed {}", options.seed);
        let sum: u64 = self.operations.values().sum();
        println!("operations: {sum}");
        for ((name, outcome), count) in &self.operations {
            println!("  {name}, {outcome:?}: {count}");
        }
        println!("faults: {}", self.faults.values().sum::<u64>());
        self.faults.iter().for_each(|(name, count)| println!("  {name}: {count}"));
        println!("requests: {} (0: no reply)", self.requests);
        self.statuses.iter().for_each(|(status, count)| println!("  {status}: {count}"));
        println!("pieces of replies that ran: {}, cut off: {}", self.pieces, self.cut_off);
        println!("--wait: {} receipts, {} times none", self.receipts.0, self.receipts.1);
        println!("users whose narrowing was lost: {}", self.tempo.narrowings);
        let recoveries = ("level after a fault", &mut self.tempo.recoveries);
        let revocations = ("refused everywhere after a revocation", &mut self.tempo.revocations);
        for (what, times) in [recoveries, revocations] {
            times.sort_unstable();
            if let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) {
                println!("{what}: {median:?} (median), {longest:?} (longest) of {}", times.len());
            }
        }
        println!("violations: {}", self.violations);
    }
}
