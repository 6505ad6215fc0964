//! Stopping: in-flight requests are finished, what is idle is closed, nothing new is taken, and all of it within a bound.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::{
    CONFIG, Client, HEARTBEAT, Http2Client, PATIENCE, Program, RedisServer, Script, Serving, Site, Upstream,
    http2_with, ok, post, request, run, within,
};

#[tokio::test]
async fn what_runs_is_finished_and_what_is_idle_is_closed() {
    let site = Site::builder().config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let address = site.address();
    let (mut running, pieces) = site.occupy().await;
    let mut idle = site.connect().await;
    idle.send(post(HEARTBEAT, &site.agent, b"{}")).await;
    assert_eq!(idle.reply().await.status(), 200);
    let mut untouched = site.connect().await;

    let stop = tokio::spawn(site.sidecar.stop());
    idle.ends().await;
    untouched.ends().await;
    crate::harness::eventually("nothing new is taken", || async { TcpStream::connect(address).await.is_err() }).await;
    assert!(!stop.is_finished());

    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    running.ends().await;
    within("the stop", stop).await.expect("no panic");
}

/// Also on connections that the sidecar has not even looked at: their clients believe to be connected.
#[tokio::test]
async fn requests_sent_before_the_stop_are_served() {
    let site = Site::builder().config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = site.connect().await;
        client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
        assert_eq!(client.reply().await.status(), 200);
        clients.push(client);
    }
    for client in &mut clients {
        client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
    }
    for _ in 0..30 {
        let mut client = site.connect().await;
        client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
        clients.push(client);
    }
    let stop = tokio::spawn(site.sidecar.stop());
    for client in &mut clients {
        assert_eq!(client.reply().await.status(), 200);
        client.ends().await;
    }
    within("the stop", stop).await.expect("no panic");
    assert_eq!(site.heartbeat.requests().len(), 90);
}

/// Nor are those forgotten for whom there is no place yet: one that was accepted, or more where there are more workers, and others
/// behind it.
#[tokio::test]
async fn who_waits_for_a_place_at_the_stop_is_served() {
    let site = Site::builder()
        .config(|config| {
            config.timeouts.drain = Duration::from_secs(60);
            config.limits.max_connections = std::num::NonZeroUsize::MIN;
        })
        .start()
        .await;
    let (mut running, pieces) = site.occupy().await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = site.connect().await;
        client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
        waiting.push(client);
    }
    let stop = tokio::spawn(site.sidecar.stop());
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    for client in &mut waiting {
        assert_eq!(client.reply().await.status(), 200);
        client.ends().await;
    }
    within("the stop", stop).await.expect("no panic");
}

#[tokio::test]
async fn a_request_that_arrives_within_its_body_is_finished() {
    let site = Site::builder().config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let mut client = site.connect().await;
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: 20002\r\n", site.agent.raw);
    client.send(request("POST", HEARTBEAT, &fields)).await;
    let begun = "{".repeat(20_000);
    client.send(&begun).await;
    site.heartbeat.until("the request", |seen| seen.requests.len() == 1).await;
    let stop = tokio::spawn(site.sidecar.stop());
    client.send(" }").await;
    assert_eq!(client.reply().await.status(), 200);
    client.ends().await;
    within("the stop", stop).await.expect("no panic");
    assert_eq!(site.heartbeat.request().body, (begun + " }").as_bytes());
}

#[tokio::test]
async fn streams_are_finished_and_their_connection_says_farewell() {
    let site = Site::builder().config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let idle = Http2Client::connect(site.address()).await;
    assert_eq!(idle.get(CONFIG, &site.agent).await.status(), 200);
    let client = Http2Client::connect(site.address()).await;
    let pieces = site.api.next_in_pieces();
    let running = client.send(http2_with(&site.agent, "GET", CONFIG)).await;
    site.api.until("the request", |seen| seen.requests.len() == 2).await;

    let stop = tokio::spawn(site.sidecar.stop());
    idle.closed().await.expect("GOAWAY without an error");
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    client.closed().await.expect("GOAWAY without an error");
    within("the stop", stop).await.expect("no panic");
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_at_the_bound() {
    let bound = Duration::from_millis(300);
    let site = Site::builder().config(move |config| config.timeouts.drain = bound).start().await;
    let (mut running, pieces) = site.occupy().await;
    pieces
        .send(b"HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 10\r\n\r\nhalf".to_vec())
        .await
        .expect("takes");
    assert_eq!(running.head().await.expect("a head").status, 200);
    assert_eq!(running.bytes(4).await, b"half");
    let mut half = site.connect().await;
    half.send("GET /api/configs HTTP/1.1\r\n").await;

    let begun = Instant::now();
    within("the stop", site.sidecar.stop()).await;
    assert!(begun.elapsed() >= bound, "{:?}", begun.elapsed());
    println!("cut off after {:?}", begun.elapsed());
    assert_eq!(running.rest().await, b"");
    half.is_cut().await;
}

#[tokio::test]
async fn readiness_ends_before_serving_does() {
    let site = Site::builder().config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let admin = site.sidecar.admin();
    let (mut running, pieces) = site.occupy().await;
    let stop = tokio::spawn(site.sidecar.stop());
    crate::harness::eventually("not ready", || async {
        let mut client = Client::connect(admin).await;
        client.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
        let said = String::from_utf8(client.rest().await).expect("text");
        said.starts_with("HTTP/1.1 503 ") && said.contains("draining")
    })
    .await;
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    within("the stop", stop).await.expect("no panic");
}

/// A program with one request in flight, and what the upstream sends of its reply.
async fn occupied(api: &Upstream, heartbeat: &Upstream) -> (Program, Client, mpsc::Sender<Vec<u8>>) {
    let program = Program::start(api, heartbeat, &[]);
    let pieces = api.next_in_pieces();
    let mut running = Client::connect(program.address()).await;
    running.send(request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    (program, running, pieces)
}

#[tokio::test]
async fn the_program_finishes_in_flight_requests_on_sigterm() {
    for signal in ["TERM", "INT"] {
        let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
        let (program, mut running, pieces) = occupied(&api, &heartbeat).await;
        let mut idle = Client::connect(program.address()).await;

        program.signal(signal);
        idle.ends().await;
        pieces.send(ok("finished").into_bytes()).await.expect("takes it");
        assert_eq!(running.reply().await.text(), "finished");
        assert_eq!(program.ended().await.code(), Some(0), "SIG{signal}");
    }
}

/// Log rotation, a closed terminal, a mistaken `kill`.
#[tokio::test]
async fn other_signals_end_nothing() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (program, mut running, pieces) = occupied(&api, &heartbeat).await;
    for signal in ["HUP", "QUIT", "USR1"] {
        program.signal(signal);
    }
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0));
}

/// However early they come: here, while the configuration is read. What serves nobody is ended by them.
#[test]
fn no_signal_ends_by_accident_what_has_only_begun() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("tollgate.toml");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    for name in ["serve", "console", "check"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.env_clear().env("HOME", directory.path()).args([name, "--config"]).arg(&pipe);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        // There is who reads, once the program does.
        let deadline = Instant::now() + PATIENCE;
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let mut configuration = loop {
            match OpenOptions::new().write(true).custom_flags(nonblocking).open(&pipe) {
                Ok(pipe) => break pipe,
                Err(error) => assert!(Instant::now() < deadline, "{name} does not read its configuration: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let process = Pid::from_raw(child.id().cast_signed()).expect("a process");
        for signal in [Signal::HUP, Signal::USR1, Signal::QUIT] {
            kill_process(process, signal).expect("runs");
        }
        if name == "check" {
            assert!(child.wait().expect("ends").signal().is_some());
            continue;
        }
        configuration
            .write_all(b"[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n")
            .expect("reads");
        drop(configuration);
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        assert!(log.any(|line| line.contains("SIGQUIT")), "{name}: {:?}", child.try_wait());
        child.kill().expect("runs");
        child.wait().expect("ends");
    }
}

#[tokio::test]
async fn a_second_signal_ends_what_still_runs_at_once() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("TIMEOUTS__DRAIN", "10m")]);
    api.next(Script::silent());
    let mut running = Client::connect(program.address()).await;
    running.send(request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    let mut idle = Client::connect(program.address()).await;
    program.signal("TERM");
    idle.ends().await;
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0));
    running.ends_unanswered().await;
}

/// A sidecar, another one beside it that stands still, and a call to this admin listener that waits for both.
async fn call_under_way(program: &Program, other: &Program, admin: SocketAddr) -> Client {
    let made = program.run(&["token", "create", "--user", "owner", "--description", "x", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let id = made["id"].as_str().expect("an id");
    other.signal("STOP");
    let mut call = Client::connect(admin).await;
    let head = format!("POST /api/v1/tokens/{id}/revoke?wait=60s HTTP/1.1\r\nHost: {admin}\r\n");
    call.send(format!("{head}Authorization: Bearer {}\r\nContent-Length: 0\r\n\r\n", program.token)).await;
    crate::harness::eventually("it is revoked", || async {
        let shown = program.run(&["token", "show", id, "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        shown["state"] == "revoked"
    })
    .await;
    call
}

/// Of `tollgate serve`, and of `tollgate console`.
#[tokio::test]
async fn a_call_of_the_admin_api_is_answered_before_the_process_ends() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    for is_console in [false, true] {
        let program = Program::start(&api, &heartbeat, &[("TIMEOUTS__DRAIN", "10m")]);
        let other = program.beside(&api, &heartbeat, &[]);
        let store = format!("sqlite:{}", program.database().display());
        let variables = [("TOLLGATE_STORE__URL", store.as_str()), ("TOLLGATE_TIMEOUTS__DRAIN", "10m")];
        let console = if is_console { Some(Serving::console(&variables).await) } else { None };
        let admin = console.as_ref().map_or(program.admin(), Serving::admin);
        let mut silent = Client::connect(admin).await;
        let mut idle = Client::connect(admin).await;
        idle.send(format!("GET /livez HTTP/1.1\r\nHost: {admin}\r\n\r\n")).await;
        assert_eq!(idle.head().await.expect("a head").status, 200);
        idle.bytes("{\"live\":true}".len()).await;
        let mut call = call_under_way(&program, &other, admin).await;
        let ended = match console {
            None => {
                program.signal("TERM");
                tokio::spawn(program.ended())
            }
            Some(console) => tokio::spawn(console.stop()),
        };
        // Who asks nothing holds nothing up.
        silent.ends().await;
        idle.ends().await;
        assert!(!ended.is_finished());
        other.signal("CONT");
        let said = String::from_utf8(call.rest().await).expect("text");
        assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("\"complete\":true"), "{said}");
        assert_eq!(within("the end", ended).await.expect("no panic").code(), Some(0));
    }
}

#[tokio::test]
async fn a_call_of_the_admin_api_that_does_not_end_is_cut_off_at_the_bound() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("TIMEOUTS__DRAIN", "300ms")]);
    let other = program.beside(&api, &heartbeat, &[]);
    let mut call = call_under_way(&program, &other, program.admin()).await;
    program.signal("TERM");
    assert_eq!(within("the end", program.ended()).await.code(), Some(0));
    assert_eq!(call.rest().await, b"");
}

/// A report that is not taken back is kept until it is too old, no more.
#[tokio::test]
async fn a_store_that_hangs_holds_up_no_stop() {
    let site = Site::start().await;
    site.store.hang_at_reports();
    site.user("bert", tollgate::token::Role::Viewer).await; // a new position, which is reported
    site.replica_is_current().await;
    let begun = Instant::now();
    within("the stop", site.sidecar.stop()).await;
    // It would be 2 s for the report, and 2 s to take it back.
    assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
}

/// A Redis that stands still: neither before the first snapshot, nor once it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_holds_up_no_exit() {
    for is_fresh in [false, true] {
        let redis = RedisServer::start();
        if is_fresh {
            let variables = [("TOLLGATE_STORE__URL", redis.url())];
            let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert!(run(&["init"], &variables).status.success());
        } else {
            redis.pause();
        }
        let mut serving = Serving::start(&redis.url(), &[]).await;
        if is_fresh {
            serving.says("ready").await;
            redis.pause();
        }
        assert!(serving.stop().await.success());
        redis.resume();
    }
}

/// A balancer has time to notice: meanwhile everything goes on, new connections too.
#[tokio::test]
async fn before_a_drain_the_sidecar_says_for_a_while_that_it_wants_no_more() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let variables = [("TIMEOUTS__DRAIN_DELAY", "1h"), ("HEALTH__PATH", "/healthz")];
    let program = Program::start(&api, &heartbeat, &variables);
    let asked = async |path: &str, token: &str| {
        let mut client = Client::connect(program.address()).await;
        client.send(request("GET", path, &format!("Authorization: Bearer {token}\r\n"))).await;
        client.reply().await.status()
    };
    assert_eq!(asked("/healthz", "").await, 200);
    program.signal("TERM");
    crate::harness::eventually("it says so", || async { asked("/healthz", "").await == 503 }).await;
    assert_eq!(asked(CONFIG, &program.token).await, 200);
    let mut idle = Client::connect(program.address()).await;
    // The second signal ends the delay as it ends a drain.
    program.signal("TERM");
    idle.is_cut().await;
    assert!(within("the end", program.ended()).await.success());
}

/// For `HEALTHCHECK`, and probes that run a command.
#[tokio::test]
async fn the_command_for_probes_ends_as_the_sidecar_is() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("TIMEOUTS__DRAIN_DELAY", "1h")]);
    let admin = program.admin().to_string();
    let health = |more: &[&str]| {
        let output = program.run(&[&["health", "--admin-listen", &admin], more].concat());
        let said = String::from_utf8(if output.status.success() { output.stdout } else { output.stderr });
        (output.status.code(), said.expect("text"))
    };
    assert_eq!(health(&[]), (Some(0), "{\"ready\":true}".to_owned()));
    program.signal("TERM");
    crate::harness::eventually("it is not ready", || async { health(&[]).0 == Some(1) }).await;
    assert!(health(&[]).1.contains("not ready: {\"ready\":false,\"reason\":\"draining\"}"), "{}", health(&[]).1);
    assert_eq!(health(&["--live"]).0, Some(0));
    program.signal("TERM");
    let mut gone = program.command(&["health", "--admin-listen", &admin]);
    within("the end", program.ended()).await;
    let output = gone.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains(&format!("no sidecar answers at http://{admin}/readyz")),
        "{said}"
    );
    // Where the configuration has it, and nothing else of this host is known.
    let output = run(&["health"], &[("TOLLGATE_ADMIN__ADDRESS", &admin)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(&admin), "{said}");
}
