//! A fleet's morning: after a power cut, agents fetch their configurations within seconds from one sidecar, with the configuration
//! cache; and what a stored configuration takes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::client::Client;
use super::deployment::{Deployment, Sidecar, tokens};
use super::figures::{Figures, quantile};

/// How many agents boot.
const AGENTS: usize = 10_000;
/// How many different configurations they have.
const CONFIGURATIONS: usize = 500;
/// Within this time.
const MORNING: Duration = Duration::from_secs(10);
/// How long the Controller takes for one.
const WORK: Duration = Duration::from_millis(20);
/// Answers that are stored to see what they take; more would not be kept by default.
const STORED: usize = 9_000;

/// A Controller that has every configuration, counts who asks, and can go away.
struct Controller {
    seen: Arc<Mutex<Seen>>,
    address: SocketAddr,
    task: AbortHandle,
}

#[derive(Default)]
struct Seen {
    fetches: usize,
    /// By what is fetched: how many fetches are under way.
    now: HashMap<String, usize>,
    /// The most of one at a time.
    most: usize,
}

pub(crate) async fn run(figures: &mut Figures) {
    eprintln!("morning: {AGENTS} agents, {CONFIGURATIONS} configurations, {MORNING:?}");
    let mut deployment = Deployment::start().await;
    let controller = Controller::start().await;
    deployment.upstream = controller.address;
    let bearers = tokens(1000);
    deployment.import(bearers.iter().map(|token| token.digest()));
    let bearers: Arc<[String]> = bearers.iter().map(|token| token.reveal().to_owned()).collect();
    let variables = [
        ("TOLLGATE_CONFIG_CACHE__ENABLED", Path::new("true")),
        // One answer for all tokens.
        ("TOLLGATE_UPSTREAM__API__CREDENTIAL__MODE", Path::new("strip")),
    ];
    let mut sidecar = Sidecar::spawn(&deployment, &variables);
    sidecar.wait_until_ready();

    morning(&sidecar, &bearers, "the Controller there", figures).await;
    let (fetches, most) = controller.counts();
    figures.add("most fetches of one configuration at a time", as_figure(most), "", Some(1.0));
    figures.add("fetches that reached the Controller", as_figure(fetches), "", None);
    controller.goes();
    morning(&sidecar, &bearers, "the Controller away", figures).await;
    drop(sidecar);
    memory(&mut deployment, &variables, &bearers[0], figures).await;
}

/// Every agent connects, fetches, and goes; evenly spread over the time.
async fn morning(sidecar: &Sidecar, bearers: &Arc<[String]>, how: &str, figures: &mut Figures) {
    let (address, begun, cpu) = (sidecar.address(), Instant::now(), sidecar.process.cpu());
    let mut booting = JoinSet::new();
    for number in 0..AGENTS {
        let bearers = Arc::clone(bearers);
        booting.spawn(async move {
            let due = begun + MORNING.mul_f64(as_figure(number) / as_figure(AGENTS));
            tokio::time::sleep_until(due.into()).await;
            let configuration = number * 7919 % CONFIGURATIONS;
            let path = format!("/api/configs/{configuration}/toml");
            let mut agent = Client::connect(address).await;
            let (status, _, body) = agent.fetch(&path, &bearers[number % bearers.len()]).await;
            (status == 200 && *body == content(&path), due.elapsed())
        });
    }
    let outcomes = booting.join_all().await;
    let failed = outcomes.iter().filter(|(booted, _)| !booted).count();
    let mut times: Vec<_> = outcomes.into_iter().map(|(_, took)| took).collect();
    figures.add(format!("{how}: agents that do not boot"), as_figure(failed), "", Some(0.0));
    figures.time(format!("{how}: longest fetch"), quantile(&mut times, 1.0), None);
    let cpu = sidecar.process.cpu() - cpu;
    figures.add(format!("{how}: CPU per agent"), cpu.as_secs_f64() * 1e6 / as_figure(AGENTS), "us", None);
}

/// How much more than its own bytes an answer takes, of sizes that have nothing to do with those an allocator has.
async fn memory(deployment: &mut Deployment, variables: &[(&str, &Path)], bearer: &str, figures: &mut Figures) {
    let controller = Controller::start().await;
    deployment.upstream = controller.address;
    let mut sidecar = Sidecar::spawn(deployment, variables);
    sidecar.wait_until_ready();
    let mut agent = Client::connect(sidecar.address()).await;
    // What fetching itself takes is there before.
    for number in 0..500 {
        assert_eq!(agent.fetch(&format!("/c/warm?{number}"), bearer).await.0, 200);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, mut bytes) = (sidecar.memory(), 0);
    for number in 0..STORED {
        let (status, head, body) = agent.fetch(&format!("/c/stored?{number}"), bearer).await;
        assert_eq!(status, 200);
        bytes += head + body.len();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let taken = (sidecar.memory() - before) * 1_048_576.0;
    figures.add("bytes of a stored answer", as_figure(bytes / STORED), "bytes", None);
    let more = (taken - as_figure(bytes)) / as_figure(STORED);
    figures.add("memory of a stored answer beyond its bytes", more, "bytes", Some(512.0));
}

impl Controller {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let (address, seen) = (listener.local_addr().expect("an address"), Arc::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // They end with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { seen, address, task: task.abort_handle() }
    }

    /// Fetches so far, and the most of one configuration at a time.
    fn counts(&self) -> (usize, usize) {
        let seen = self.seen.lock().expect("no panic");
        (seen.fetches, seen.most)
    }

    fn goes(&self) {
        self.task.abort();
    }
}

/// Answers fetches, which have no bodies and come one at a time.
async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut received = Vec::with_capacity(4096);
    while let Ok(1..) = stream.read_buf(&mut received).await {
        if !received.ends_with(b"\r\n\r\n") {
            continue;
        }
        let path = String::from_utf8_lossy(&received).split(' ').nth(1).unwrap_or_default().to_owned();
        received.clear();
        begins(&seen, &path);
        // The second half is not about work, and would take long for nine thousand.
        if path.starts_with("/api/") {
            tokio::time::sleep(WORK).await;
        }
        let body = content(&path);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/toml\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        // Before the reply: whoever has it may ask again.
        *seen.lock().expect("no panic").now.entry(path).or_default() -= 1;
        if stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
            return;
        }
    }
}

fn begins(seen: &Mutex<Seen>, path: &str) {
    let mut seen = seen.lock().expect("no panic");
    seen.fetches += 1;
    let now = seen.now.entry(path.to_owned()).or_default();
    *now += 1;
    let now = *now;
    seen.most = seen.most.max(now);
}

/// What a configuration says: 1,000 to 7,999 bytes, and nowhere what another one does.
fn content(path: &str) -> Vec<u8> {
    let number = path.bytes().fold(0, |number: usize, byte| (number * 31 + usize::from(byte)) % 1_000_003);
    let line = format!("# {path}\n");
    line.bytes().cycle().take(1000 + number % 7000).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn as_figure(count: usize) -> f64 {
    count as f64
}
