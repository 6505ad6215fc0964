//! A configuration that is read again while requests are served.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tollgate::app::Sidecar;
use tollgate::config::Config;
use tollgate::upstream::CredentialMode;

use crate::harness::{CONFIG, Client, Program, Script, Site, Upstream, eventually, get, ok, request};

/// A program with a configuration file that a test writes.
struct Configured {
    program: Program,
    file: PathBuf,
    api: Upstream,
    heartbeat: Upstream,
    _directory: TempDir,
}

impl Configured {
    async fn start(text: &str) -> Self {
        let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("tollgate.toml");
        std::fs::write(&file, text).expect("writes");
        let path = file.display().to_string();
        let program = Program::start(&api, &heartbeat, &[("CONFIG", path.as_str())]);
        Self { program, file, api, heartbeat, _directory: directory }
    }

    /// How often it has said this.
    fn said(&self, message: &str) -> usize {
        self.program.log().iter().filter(|line| line.contains(message)).count()
    }

    /// Has it read this, and waits until it says so.
    async fn reload(&self, text: &str, expected: &str) {
        std::fs::write(&self.file, text).expect("writes");
        let before = self.said(expected);
        self.program.signal("HUP");
        eventually(expected, || async { self.said(expected) > before }).await;
    }

    async fn metric(&self, name: &str) -> String {
        let mut client = Client::connect(self.program.admin()).await;
        client.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
        let said = String::from_utf8(client.rest().await).expect("text");
        said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the metric").to_owned()
    }
}

const APPLIED: &str = "configuration reloaded";
const REFUSED: &str = "the configuration that was read is refused";

async fn status(client: &mut Client, path: &str) -> u16 {
    client.send(request("GET", path, "")).await;
    client.reply().await.status()
}

#[tokio::test]
async fn sighup_reads_the_file_again_and_closes_no_connection() {
    let open = "[[route]]\nmethods = ['GET']\npath = '/open'\nauth = 'none'\n";
    let site = Configured::start("").await;
    let mut client = Client::connect(site.program.address()).await;
    assert_eq!(status(&mut client, "/open").await, 404);
    site.reload(open, APPLIED).await;
    assert_eq!(status(&mut client, "/open").await, 200);
    assert!(site.program.log().iter().any(|line| line.contains(APPLIED) && line.contains("\"changed\":\"route\"")));

    site.reload("wokers = 2\n[limits]\nmax_headers = 0\n", REFUSED).await;
    assert_eq!(site.said("wrong in the configuration"), 2, "everything that is wrong: {:?}", site.program.log());
    assert_eq!(status(&mut client, "/open").await, 200, "what was there before stays");
    assert_eq!(site.metric("tollgate_config_last_reload_successful").await, "0");
    assert_eq!(site.metric("tollgate_config_reloads_total{outcome=\"refused\"}").await, "1");

    site.reload(
        &format!("[admin]\npublic_url = 'https://ops.example'\n[log]\nfilter = 'info'\n{open}"),
        "need a restart",
    )
    .await;
    assert!(site.program.log().iter().any(|line| line.contains("\"keys\":\"admin.public_url\"")));
    assert_eq!(site.metric("tollgate_config_last_reload_successful").await, "1");
    assert_eq!(site.metric("tollgate_config_reloads_total{outcome=\"applied\"}").await, "2");
    assert_eq!(site.metric("tollgate_config_restart_needed_keys").await, "1");

    // The log goes by another filter at once.
    let debug = "\"level\":\"DEBUG\"";
    assert_eq!(site.said(debug), 0);
    site.reload(&format!("[log]\nfilter = 'debug'\n{open}"), APPLIED).await;
    assert_eq!(status(&mut client, "/open").await, 200);
    eventually("a line for people who look for faults", || async { site.said(debug) > 0 }).await;
}

#[tokio::test]
async fn check_says_what_a_reload_of_the_one_that_runs_would_change() {
    let site = Configured::start("[limits]\nmax_connections = 100\nmax_headers = 10\n").await;
    std::fs::write(&site.file, "name = 'other'\n[limits]\nmax_connections = 100\nmax_headers = 11\n").expect("writes");
    let (file, admin) = (site.file.display().to_string(), site.program.admin().to_string());
    let upstreams = [site.api.address(), site.heartbeat.address()].map(|address| format!("http://{address}"));
    let [api, heartbeat] = &upstreams;
    let flags = ["--listen", "127.0.0.1:0", "--api-upstream", api, "--heartbeat-upstream", heartbeat];
    let check = ["check", "--config", &file, "--admin-listen", &admin, "--running"];
    let said = site.program.run(&[&check[..], &flags[..]].concat());
    let said = String::from_utf8(said.stdout).expect("text");
    let (reload, restart) = said.split_once("a restart is needed for:\n").expect("both parts");
    assert_eq!(reload, "a reload changes:\n  limits.max_headers\n");
    // What runs has been told to take any port, and so many workers.
    let mut keys: Vec<&str> = restart.lines().map(str::trim).collect();
    keys.retain(|key| !["admin.address", "log.format", "workers"].contains(key));
    assert_eq!(keys, ["name"]);
}

/// A pipe that nobody writes to, a mount whose server is gone: once the file is what it should be, a signal is enough again.
#[tokio::test]
async fn a_reload_that_hangs_says_at_what_and_gives_way_to_the_next() {
    let site = Configured::start("").await;
    std::fs::remove_file(&site.file).expect("is there");
    mknodat(CWD, &site.file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let said = format!("reading {} hangs", site.file.display());
    eventually("it says so", || async {
        site.program.signal("HUP");
        site.said(&said) > 0
    })
    .await;
    std::fs::remove_file(&site.file).expect("is there");
    site.reload("[limits]\nmax_headers = 9\n", "\"changed\":\"limits.max_headers\"").await;
}

/// Everybody asks all the while, each again as soon as there is an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request_and_leave_nothing_behind() {
    const RELOADS: usize = 60;
    let text = |number: usize| {
        format!(
            "trusted_proxies = ['10.0.0.{number}']
[limits]
max_headers = {}
max_head_bytes = {}
max_connections = {}
[upstream.api]
max_in_flight = {}
timeouts = {{ connect = '{}s' }}
[access_log]
output = '{}'
[[route]]
methods = ['GET']
path = '/open{number}'
auth = 'none'
",
            50 + number,
            16_384 + number,
            500 + number,
            // Fewer than there are requests, now and then.
            2 + number % 7,
            2 + number % 3,
            if number.is_multiple_of(2) { "off" } else { "/dev/null" },
        )
    };
    let site = Configured::start(&text(0)).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let token = format!("Authorization: Bearer {}\r\n", site.program.token);
    let mut clients = Vec::new();
    for is_kept in [true, true, true, false, false] {
        let (address, stop, answered) = (site.program.address(), Arc::clone(&stop), Arc::clone(&answered));
        let asked = request("GET", CONFIG, &token);
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            while !stop.load(Ordering::Relaxed) {
                client.send(&asked).await;
                assert_eq!(client.reply().await.status(), 200);
                answered.fetch_add(1, Ordering::Relaxed);
                if !is_kept {
                    client = Client::connect(address).await;
                }
            }
        }));
    }
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", site.program.pid())).expect("runs").count();
    let (mut before, mut bytes) = (0, 0);
    for number in 1..=RELOADS {
        let so_far = answered.load(Ordering::Relaxed);
        site.reload(&text(number), APPLIED).await;
        // Each of them meets requests.
        eventually("requests", || async { answered.load(Ordering::Relaxed) >= so_far + 20 }).await;
        if number == RELOADS / 3 {
            (before, bytes) = (descriptors(), site.program.resident_bytes());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every request is answered");
    }
    assert_eq!(site.said(APPLIED), RELOADS, "{:?}", site.program.log().last());
    // What a replaced access log has open goes with the last request that it is of, and a look at it.
    eventually("as many descriptors as before", || async { descriptors() <= before + 3 }).await;
    let grown = site.program.resident_bytes().saturating_sub(bytes);
    assert!(grown < 8 << 20, "{grown} bytes more after {RELOADS} reloads than after a third of them");
}

/// The configuration that a site was started with, changed.
async fn reloaded(sidecar: &Sidecar, mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    change(&mut config);
    sidecar.reload(&config).await.expect("usable");
    config
}

#[tokio::test]
async fn a_request_keeps_the_upstream_and_the_credential_that_it_began_with() {
    let site = Site::start().await;
    let other = Upstream::start().await;
    let url = format!("http://{}", other.address());
    let token = site.directory().join("token");
    std::fs::write(&token, "tc-apiv1_0123456789service").expect("writes");
    let mut kept = site.connect().await;
    kept.send(get(CONFIG, &site.agent)).await;
    assert_eq!(kept.reply().await.status(), 200);
    let (mut running, pieces) = site.occupy().await;

    let config = reloaded(&site.sidecar, site.config().clone(), |config| {
        config.upstreams.api.nodes = vec![url.parse().expect("a URL")];
        config.upstreams.api.credential = CredentialMode::Replace { token_file: token.clone() };
    })
    .await;
    let asked = site.api.requests().len();
    kept.send(get(CONFIG, &site.agent)).await;
    assert_eq!(kept.reply().await.status(), 200, "on the same connection");
    assert_eq!(other.request().field("authorization"), Some("Bearer tc-apiv1_0123456789service"));
    assert_eq!(site.api.requests().len(), asked);
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished", "where it was when it began");
    drop(pieces);
    // Of an upstream that is gone nothing stays open.
    site.api.until("its connections are closed", |seen| seen.closed == seen.connections).await;

    // A service token that cannot be read: nothing of it is taken over.
    let mut broken = config.clone();
    broken.limits.max_headers = std::num::NonZeroUsize::MIN;
    broken.upstreams.heartbeat.credential = CredentialMode::Replace { token_file: site.directory().join("nothing") };
    assert!(site.sidecar.reload(&broken).await.is_err());
    kept.send(get(CONFIG, &site.agent)).await;
    assert_eq!(kept.reply().await.status(), 200);
}

#[tokio::test]
async fn connections_to_an_upstream_stay_when_something_else_changes() {
    let site = Site::start().await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    let change = |config: &mut Config| config.upstreams.api.connect_timeout = std::time::Duration::from_secs(3);
    let config = reloaded(&site.sidecar, site.config().clone(), change).await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    assert_eq!(site.api.connections(), 1);
    let change = |config: &mut Config| config.upstreams.api.first_byte_timeout = std::time::Duration::from_millis(10);
    reloaded(&site.sidecar, config, change).await;
    site.api.next(Script::silent());
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 504, "by the new bound");
}

#[tokio::test]
async fn more_connections_are_let_in_as_soon_as_there_may_be_more() {
    let site =
        Site::builder().config(|config| config.limits.max_connections = std::num::NonZeroUsize::MIN).start().await;
    let mut first = site.connect().await;
    first.send(get(CONFIG, &site.agent)).await;
    assert_eq!(first.reply().await.status(), 200);
    let mut waiting = site.connect().await;
    waiting.send(get(CONFIG, &site.agent)).await;
    let change = |config: &mut Config| config.limits.max_connections = std::num::NonZeroUsize::new(2).expect("not 0");
    reloaded(&site.sidecar, site.config().clone(), change).await;
    assert_eq!(waiting.reply().await.status(), 200);
    assert_eq!(site.metric("tollgate_connections_limit").await, "2");
    first.send(get(CONFIG, &site.agent)).await;
    assert_eq!(first.reply().await.status(), 200, "who was there stays");
}
