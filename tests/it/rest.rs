//! A sidecar that has nothing to do.

use std::fs;
use std::time::Duration;

use crate::harness::{CONFIG, Client, PATIENCE, Program, RedisServer, Serving, Upstream, request};

/// How long is looked at once.
const WINDOW: Duration = Duration::from_secs(2);

/// The threads of a process and how often each has woken up.
fn wakes(pid: u32) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("runs").flatten();
    // One that ends meanwhile is not there any more.
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let woken = |task: fs::DirEntry| {
        let status = read(task.path().join("status"));
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((read(task.path().join("comm")).trim().to_owned(), count.trim().parse().ok()?))
    };
    tasks.filter_map(woken).collect()
}

/// Waits until it is found at rest: no worker wakes up any more, and the rest as seldom as this.
async fn rests(pid: u32, most_per_second: u64) {
    let count = |workers: bool| -> u64 {
        wakes(pid).iter().filter(|(name, _)| name.starts_with("worker") == workers).map(|(_, count)| count).sum()
    };
    let mut seen = Vec::new();
    // Unused upstream connections are kept for seconds.
    for _ in 0..(2 * PATIENCE.as_secs() / WINDOW.as_secs()) {
        let before = [true, false].map(count);
        tokio::time::sleep(WINDOW).await;
        let after = [true, false].map(count);
        let (workers, others) = (after[0] - before[0], after[1].saturating_sub(before[1]));
        if workers == 0 && others <= most_per_second * WINDOW.as_secs() {
            return;
        }
        seen.push((workers, others));
    }
    panic!("it does not rest; within {WINDOW:?} each, workers and others woke up so often: {seen:?}");
}

#[tokio::test]
async fn with_clients_that_wait() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[]);
    let mut agents = Vec::new();
    for _ in 0..20 {
        let mut agent = Client::connect(program.address()).await;
        agent.send(request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))).await;
        assert_eq!(agent.reply().await.status(), 200);
        agents.push(agent);
    }
    rests(program.pid(), 60).await;
    // What stood still goes on.
    let agent = &mut agents[0];
    agent.send(request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))).await;
    assert_eq!(agent.reply().await.status(), 200);
}

#[tokio::test]
async fn with_a_store_in_redis() {
    let redis = RedisServer::start();
    crate::redis::stdout(&crate::redis::tollgate(&redis.url(), 0, &["init"]).await);
    let sidecar = Serving::start(&redis.url(), &[]).await;
    rests(sidecar.pid(), 20).await;
}
