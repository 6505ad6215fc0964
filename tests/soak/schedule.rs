//! Faults, one after the other, each with what must hold at its end.

use std::time::{Duration, Instant};

use crate::stage::{BOUND, RECOVERY, SIDECARS, Servers, Stage, Topology};
use crate::{Sabotage, operator};
use tollgate_harness::history::Impact;
use tollgate_harness::pair::run;
use tollgate_harness::random::Random;
use tollgate_harness::relay::Traffic;

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
    /// One sidecar's link.
    Link,
    /// Every sidecar's link.
    Links,
    /// Links are reset, one by one.
    Resets,
    /// Lines that are slow, and carry all that there is.
    SlowLines,
    /// An operator's link.
    OperatorLink,
    KillSubscribers,
    KillClients,
    FlushScripts,
    Stop,
    Sleep,
    PauseClients,
    NoMemory,
    Demote,
    Crash,
    Restore,
    /// The same, while a sidecar that the file does not know of is cut off.
    RestoreReports,
    Flush,
    RestartSidecar,
    StopSidecar,
    FailOver,
    Isolate,
    PartReplica,
}

const EVERYWHERE: [(usize, Play); 14] = [
    (14, Play::Link),
    (8, Play::Links),
    (6, Play::Resets),
    (8, Play::SlowLines),
    (8, Play::OperatorLink),
    (5, Play::KillSubscribers),
    (4, Play::KillClients),
    (3, Play::FlushScripts),
    (8, Play::Stop),
    (4, Play::Sleep),
    (4, Play::PauseClients),
    (4, Play::NoMemory),
    (8, Play::RestartSidecar),
    (5, Play::StopSidecar),
];

fn plays(topology: Topology, with_restarts: bool) -> Vec<(usize, Play)> {
    let own: &[(usize, Play)] = match topology {
        _ if !with_restarts => &[],
        Topology::Alone => {
            &[(8, Play::Crash), (8, Play::Restore), (8, Play::RestoreReports), (4, Play::Flush), (4, Play::Demote)]
        }
        Topology::Replicated => &[(16, Play::FailOver)],
        Topology::Quorum => &[(14, Play::FailOver), (10, Play::Isolate), (6, Play::PartReplica)],
    };
    EVERYWHERE.iter().chain(own).copied().collect()
}

/// How long before the end of a primary its last writes may not have reached the replica.
const LAG: Duration = Duration::from_millis(500);

/// What the log carries of a token that is imported.
const BYTES_PER_TOKEN: f64 = 78.0;

/// Breaks something, mends it, and sees that everything is level again.
pub(crate) async fn play(stage: &mut Stage, random: &mut Random, with_restarts: bool) -> Result<(), String> {
    match stage.sabotage {
        // What it shows in: revocations that one sidecar cannot hear of.
        Some(Sabotage::Staleness | Sabotage::Receipts) => {
            return links(stage, Traffic::Stalls, BOUND * 3, vec![0], true).await;
        }
        Some(Sabotage::Lines) => return slow_lines(stage, random).await,
        Some(Sabotage::Databases) | None => {}
    }
    let Some(play) = random.weighed(&plays(stage.topology, with_restarts)) else { return Ok(()) };
    // Mostly shorter than the bound, sometimes longer.
    let time = random.time(50, 5000);
    let one = random.below(SIDECARS);
    match play {
        Play::Link => link(stage, random, time, vec![one]).await,
        Play::Links => link(stage, random, time, (0..SIDECARS).collect()).await,
        Play::Resets => resets(stage, random).await,
        Play::SlowLines => slow_lines(stage, random).await,
        Play::OperatorLink => operator_link(stage, random, time).await,
        Play::KillSubscribers => command(stage, "CLIENT KILL pubsub", &["CLIENT", "KILL", "TYPE", "pubsub"]).await,
        Play::KillClients => command(stage, "CLIENT KILL normal", &["CLIENT", "KILL", "TYPE", "normal"]).await,
        Play::FlushScripts => command(stage, "SCRIPT FLUSH", &["SCRIPT", "FLUSH"]).await,
        Play::Stop => {
            let fault = stage.breaks("SIGSTOP", None, Impact::Stale);
            stage.servers.primary().pause();
            stage.blinds(fault);
            tokio::time::sleep(time).await;
            stage.sees(fault);
            stage.servers.primary().resume();
            end(stage, fault).await
        }
        Play::Sleep => {
            let seconds = format!("{:.3}", time.as_secs_f64());
            timed(stage, "DEBUG SLEEP", &["DEBUG", "SLEEP", &seconds]).await
        }
        Play::PauseClients => {
            let kind = if random.percent(50) { "ALL" } else { "WRITE" };
            timed(stage, "CLIENT PAUSE", &["CLIENT", "PAUSE", &time.as_millis().to_string(), kind]).await
        }
        Play::NoMemory => {
            let fault = stage.breaks("maxmemory", None, Impact::Stale);
            run(stage.servers.primary(), &["CONFIG", "SET", "maxmemory", "1"]).await;
            tokio::time::sleep(time).await;
            run(stage.servers.primary(), &["CONFIG", "SET", "maxmemory", "0"]).await;
            end(stage, fault).await
        }
        Play::Demote => {
            let fault = stage.breaks("REPLICAOF", None, Impact::Stale);
            run(stage.servers.primary(), &["REPLICAOF", "127.0.0.1", "1"]).await;
            tokio::time::sleep(time).await;
            run(stage.servers.primary(), &["REPLICAOF", "NO", "ONE"]).await;
            end(stage, fault).await
        }
        Play::Crash => crash(stage, time).await,
        Play::Restore => restore(stage, random, time, false).await,
        Play::RestoreReports => restore_reports(stage, random, one).await,
        Play::Flush => restore(stage, random, time, true).await,
        Play::RestartSidecar => restart_sidecar(stage, random, one).await,
        Play::StopSidecar => {
            let fault = stage.breaks("sidecar SIGSTOP", Some(one), Impact::Asleep);
            stage.sidecars[one].pause();
            tokio::time::sleep(time).await;
            stage.sidecars[one].resume();
            end(stage, fault).await
        }
        Play::FailOver => fail_over(stage, random, time).await,
        Play::Isolate => isolate(stage, time, one).await,
        Play::PartReplica => {
            let fault = stage.breaks("replica parted", None, Impact::Stale);
            if let Servers::Pair(pair) = &stage.servers {
                pair.part().await;
                tokio::time::sleep(time).await;
                pair.link.heal().await;
            }
            end(stage, fault).await
        }
    }
}

/// It is mended: level, and everybody knows what is so.
async fn end(stage: &mut Stage, fault: tollgate_harness::history::OutageId) -> Result<(), String> {
    stage.is_level(fault).await?;
    stage.read_back(None).await.map(drop)
}

async fn link(stage: &mut Stage, random: &mut Random, time: Duration, sidecars: Vec<usize>) -> Result<(), String> {
    let kinds = [Traffic::Cut, Traffic::Stalls, Traffic::AnswersStall, Traffic::RequestsStall];
    let Some(traffic) = random.one_of(&kinds) else { return Ok(()) };
    links(stage, traffic, time, sidecars, random.percent(50)).await
}

/// With `late`, what was stalled comes late, and never otherwise.
async fn links(
    stage: &mut Stage,
    traffic: Traffic,
    time: Duration,
    sidecars: Vec<usize>,
    late: bool,
) -> Result<(), String> {
    let name = format!("link {traffic:?}");
    let one = if let [one] = sidecars.as_slice() { Some(*one) } else { None };
    let fault = stage.breaks(&name, one, Impact::Stale);
    for sidecar in &sidecars {
        stage.relays[*sidecar].set(traffic).await;
    }
    if sidecars.len() == 1 || sidecars.len() == SIDECARS {
        stage.blinds(fault);
    }
    tokio::time::sleep(time).await;
    stage.sees(fault);
    for sidecar in &sidecars {
        match late {
            true => stage.relays[*sidecar].heal().await,
            false => stage.relays[*sidecar].reset().await,
        }
    }
    end(stage, fault).await
}

/// Lines with long round trips, some of which carry little: they are nobody's excuse. A bulk import beside them is, as it
/// takes its time; but all come level while the lines are slow still.
async fn slow_lines(stage: &mut Stage, random: &mut Random) -> Result<(), String> {
    // Also such that a round trip takes as long as it is from one probe to the next.
    let delay = random.time(10, 130);
    let kinds = [Traffic::Slow(delay), Traffic::Thin { delay, bytes_per_second: 125_000 }];
    let Some(traffic) = random.one_of(&kinds) else { return Ok(()) };
    let traffic = if stage.sabotage == Some(Sabotage::Lines) { Traffic::Slow(BOUND) } else { traffic };
    let imports = random.percent(40);
    let (name, impact) = match imports {
        true => ("slow lines, and an import", Impact::Stale),
        false => ("slow lines", Impact::None),
    };
    let fault = stage.breaks(name, None, impact);
    let bait = stage.lay_bait().await?;
    for relay in &stage.relays[..SIDECARS] {
        relay.set(traffic).await;
    }
    let mut allowed = RECOVERY * 3;
    if imports {
        let count = 500 + random.below(2000);
        stage.import(count).await?;
        if let Traffic::Thin { bytes_per_second, .. } = traffic {
            // As long as the line carries them alone, and once more for the round trips and probes between the pages.
            let seconds = BYTES_PER_TOKEN * count as f64 / f64::from(bytes_per_second);
            allowed += Duration::from_secs_f64(2.0 * seconds);
        }
    }
    stage.takes_away(bait).await?;
    stage.keeps_up(allowed).await?;
    let until = Instant::now() + random.time(100, 3000);
    while Instant::now() < until {
        for world in stage.operators() {
            operator::blink(&mut *world.lock().await, random).await;
        }
        tokio::time::sleep(random.time(5, 200)).await;
    }
    for relay in &stage.relays[..SIDECARS] {
        relay.heal().await;
    }
    end(stage, fault).await?;
    stage.drop_imported().await
}

async fn resets(stage: &mut Stage, random: &mut Random) -> Result<(), String> {
    let fault = stage.breaks("resets", None, Impact::Stale);
    for _ in 0..=random.below(20) {
        let relay = random.below(stage.relays.len());
        stage.relays[relay].reset().await;
        tokio::time::sleep(random.time(0, 60)).await;
    }
    end(stage, fault).await
}

async fn operator_link(stage: &mut Stage, random: &mut Random, time: Duration) -> Result<(), String> {
    let kinds = [Traffic::Cut, Traffic::Stalls, Traffic::AnswersStall, Traffic::RequestsStall];
    let Some(traffic) = random.one_of(&kinds) else { return Ok(()) };
    // No sidecar has anything to do with it.
    let fault = stage.breaks(&format!("operator link {traffic:?}"), Some(usize::MAX), Impact::Stale);
    let operator = SIDECARS + random.below(stage.oracles.len());
    stage.relays[operator].set(traffic).await;
    // Sometimes for so long that nobody can say what became of a command.
    let time = if random.percent(10) { Duration::from_secs(18) } else { time };
    tokio::time::sleep(time).await;
    let nobody_knows = match stage.oracles[operator - SIDECARS].try_lock() {
        Ok(oracle) => oracle.in_doubt,
        Err(_) => false,
    };
    match nobody_knows {
        // A command that nobody waits for any more must not come late.
        true => stage.relays[operator].reset().await,
        false => stage.relays[operator].heal().await,
    }
    end(stage, fault).await
}

/// A command to Redis that breaks something for a moment.
async fn command(stage: &mut Stage, name: &str, command: &[&str]) -> Result<(), String> {
    let fault = stage.breaks(name, None, Impact::Stale);
    run(stage.servers.primary(), command).await;
    end(stage, fault).await
}

/// A command during which Redis does nothing else.
async fn timed(stage: &mut Stage, name: &str, command: &[&str]) -> Result<(), String> {
    let fault = stage.breaks(name, None, Impact::Stale);
    run(stage.servers.primary(), command).await;
    // This waits until it is over.
    run(stage.servers.primary(), &["EVAL", "return redis.call('SET', KEYS[1], '1')", "1", "soak"]).await;
    end(stage, fault).await
}

/// SIGKILL, and a new start with the append-only file: nothing that was acknowledged is lost.
async fn crash(stage: &mut Stage, time: Duration) -> Result<(), String> {
    let fault = stage.breaks("SIGKILL", None, Impact::Stale);
    if let Servers::Alone(server) = &mut stage.servers {
        server.kill();
        stage.history.with(|judge| judge.blinds(fault, Instant::now()));
        tokio::time::sleep(time).await;
        stage.history.with(|judge| judge.sees(fault, Instant::now()));
        start_redis(server, "yes").await?;
    }
    end(stage, fault).await
}

async fn start_redis(server: &mut tollgate_harness::redis::RedisServer, appendonly: &str) -> Result<(), String> {
    server.spawn(&["--appendonly", appendonly]);
    let deadline = Instant::now() + tollgate_harness::PATIENCE;
    while run(server, &["PING"]).await != "PONG" {
        if Instant::now() > deadline {
            return Err(format!("Redis does not start again: {}", server.log()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A new start from a file that was saved some time before, with or without everything being flushed first.
async fn restore(stage: &mut Stage, random: &mut Random, time: Duration, flush: bool) -> Result<(), String> {
    let since = Instant::now();
    let hold = stage.history.with(|judge| judge.hold(since));
    stage.begin_losing();
    let Servers::Alone(server) = &stage.servers else { return Ok(()) };
    run(server, &["SAVE"]).await;
    tokio::time::sleep(random.time(0, 1500)).await;
    narrow(stage, random).await;
    let fault = stage.breaks(if flush { "FLUSHALL" } else { "older file" }, None, Impact::Stale);
    if flush {
        run(server, &["FLUSHALL"]).await;
        tokio::time::sleep(time).await;
    }
    start_from_file(stage).await?;
    conclude(stage, fault, since).await?;
    stage.history.with(|judge| judge.release(hold));
    Ok(())
}

/// Narrows users who may come back wider, as the last that operators do; and for a moment everybody sees it.
async fn narrow(stage: &Stage, random: &mut Random) {
    stage.be_quiet();
    for oracle in stage.operators() {
        operator::narrow(&mut *oracle.lock().await, random).await;
    }
    tokio::time::sleep(random.time(20, 500)).await;
}

/// SIGKILL, and a new start from the file that was saved last.
async fn start_from_file(stage: &mut Stage) -> Result<(), String> {
    let Servers::Alone(server) = &mut stage.servers else { return Ok(()) };
    server.kill();
    let log = server.directory().join("appendonlydir");
    std::fs::remove_dir_all(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    start_redis(server, "no").await?;
    run(server, &["CONFIG", "SET", "appendonly", "yes"]).await;
    Ok(())
}

/// A file comes back from before the sidecars had reported, or with what they reported then, while one of them is cut off
/// and serves on by what it has: `--wait` must not vouch for it.
async fn restore_reports(stage: &mut Stage, random: &mut Random, one: usize) -> Result<(), String> {
    let since = Instant::now();
    let hold = stage.history.with(|judge| judge.hold(since));
    stage.begin_losing();
    let fault = stage.breaks("older reports", None, Impact::Stale);
    let waiter = stage.waiter.clone();
    let mut oracle = waiter.oracle.lock_owned().await;
    let Servers::Alone(server) = &stage.servers else { return Ok(()) };
    if random.percent(50) {
        // Nobody asks for a receipt until the reports that are taken away here are lost for good.
        const TAKE: &str =
            "for _, key in ipairs(redis.call('KEYS', '*sidecar*')) do redis.call('DEL', key) end return 1";
        for database in ["0", "1"] {
            run(server, &["-n", database, "EVAL", TAKE, "0"]).await;
        }
    }
    run(server, &["SAVE"]).await;
    tokio::time::sleep(random.time(300, 1500)).await;
    stage.be_quiet();
    stage.relays[one].set(random.one_of(&[Traffic::Cut, Traffic::Stalls]).unwrap_or(Traffic::Cut)).await;
    start_from_file(stage).await?;
    stage.waiter.clone().once(&mut oracle, random).await;
    drop(oracle);
    // What it was vouched for shows while it goes on by what it has.
    tokio::time::sleep(random.time(300, 1500)).await;
    stage.relays[one].reset().await;
    conclude(stage, fault, since).await?;
    stage.history.with(|judge| judge.release(hold));
    Ok(())
}

/// The end of a fault that may have lost writes.
async fn conclude(stage: &mut Stage, fault: tollgate_harness::history::OutageId, since: Instant) -> Result<(), String> {
    stage.is_level(fault).await?;
    let lost = stage.read_back(Some(since)).await?;
    if lost > 0 && stage.topology == Topology::Quorum {
        return Err(format!("{lost} acknowledged revocations were lost in spite of the quorum"));
    }
    Ok(())
}

async fn restart_sidecar(stage: &mut Stage, random: &mut Random, one: usize) -> Result<(), String> {
    let gently = random.percent(40);
    let name = if gently { "sidecar SIGTERM" } else { "sidecar SIGKILL" };
    let fault = stage.breaks(name, Some(one), Impact::Down);
    tokio::task::block_in_place(|| match gently {
        true => stage.sidecars[one].restart_gently(),
        false => stage.sidecars[one].restart(),
    })?;
    stage.history.with(|judge| {
        judge.settle();
        judge.restarted(one);
    });
    end(stage, fault).await
}

/// The primary dies, and the replica takes over with what it has.
async fn fail_over(stage: &mut Stage, random: &mut Random, time: Duration) -> Result<(), String> {
    // Replication is never quite in step.
    let since = Instant::now() - LAG;
    let hold = stage.history.with(|judge| judge.hold(since));
    stage.begin_losing();
    let fault = stage.breaks("failover", None, Impact::Stale);
    if let Servers::Pair(pair) = &stage.servers
        && random.percent(70)
    {
        pair.part().await;
        tokio::time::sleep(random.time(0, 1000)).await;
    }
    narrow(stage, random).await;
    if let Servers::Pair(pair) = &mut stage.servers {
        match random.percent(50) {
            true => pair.primary.kill(),
            false => pair.primary.pause(),
        }
        tokio::time::sleep(time / 2).await;
        pair.promote().await;
    }
    stage.lead_all(None).await;
    if let Servers::Pair(pair) = &mut stage.servers {
        pair.rejoin().await;
    }
    conclude(stage, fault, since).await?;
    stage.history.with(|judge| judge.release(hold));
    Ok(())
}

/// The replica takes over while the primary lives on, and one sidecar does not hear of it.
async fn isolate(stage: &mut Stage, time: Duration, one: usize) -> Result<(), String> {
    // Replication is never quite in step.
    let since = Instant::now() - LAG;
    let hold = stage.history.with(|judge| judge.hold(since));
    stage.begin_losing();
    let fault = stage.breaks("isolated primary", None, Impact::Stale);
    if let Servers::Pair(pair) = &mut stage.servers {
        pair.promote().await;
    }
    let third = match &stage.servers {
        Servers::Pair(pair) => Some(pair.third().await),
        Servers::Alone(_) => None,
    };
    stage.lead_all(Some(one)).await;
    tokio::time::sleep(time.max(BOUND)).await;
    stage.lead_all(None).await;
    if let Servers::Pair(pair) = &mut stage.servers {
        pair.rejoin().await;
    }
    drop(third);
    conclude(stage, fault, since).await?;
    stage.history.with(|judge| judge.release(hold));
    Ok(())
}
