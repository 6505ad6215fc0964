//! Raw tokens come and go with requests, and none stays: the memory of the idle program is searched for the one that its
//! clients sent. It is another process than this one, which knows the token too.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use crate::harness::{CONFIG, Client, HEARTBEAT, PATIENCE, Program, Script, Upstream, request};

const SKIPPED: &str = "looking into the memory of the program, which keeps it private, needs root";

/// How often the needle is found in the process's memory; `None` if this test may not look there.
fn copies(pid: u32, needle: &[u8]) -> Option<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let (mut count, mut looked_at, zeros) = (0, 0, vec![0; 1 << 16]);
    for line in maps.lines().filter(|line| !line.contains("[v")) {
        let mut columns = line.split_whitespace();
        let (range, rights) = (columns.next()?, columns.next()?);
        let (start, end) = range.split_once('-')?;
        if !rights.starts_with('r') {
            continue;
        }
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let (mut at, end) = (number(start)?, number(end)?);
        let mut tail = Vec::new();
        let mut piece = vec![0; zeros.len()];
        while at < end {
            let length = piece.len().min(usize::try_from(end - at).ok()?);
            let read = memory.seek(SeekFrom::Start(at)).and_then(|_| memory.read(&mut piece[..length]));
            let Ok(read @ 1..) = read else { break };
            looked_at += read;
            at += read as u64;
            // Most of it was never used, and need not be searched.
            if piece[..read] == zeros[..read] {
                tail.clear();
                continue;
            }
            // One that lies across two pieces is found with the second.
            tail.extend_from_slice(&piece[..read]);
            count += memchr::memmem::find_iter(&tail, needle).count();
            tail.drain(..tail.len().saturating_sub(needle.len() - 1));
        }
    }
    (looked_at > 0).then_some(count)
}

/// The secret of the token, without the prefix that all share.
fn secret(program: &Program) -> Vec<u8> {
    program.token.strip_prefix("tc-apiv1_").expect("the prefix").as_bytes().to_vec()
}

/// Whether the search finds what is there, in a process that knows the mark.
fn may_look() -> bool {
    let mark = format!("mark-{}", std::process::id());
    let child = std::process::Command::new("sleep").arg("60").env("MARK", &mark).spawn();
    let mut child = child.expect("starts");
    let found = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        copies(child.id(), mark.as_bytes()).filter(|count| *count > 0)
    });
    child.kill().expect("ends");
    child.wait().expect("ends");
    if found.is_none() {
        println!("skipped: {SKIPPED}");
    }
    found.is_some()
}

/// Waits until no copy is left in the idle program.
async fn none_is_left(program: &Program, what: &str) {
    let (pid, secret) = (program.pid(), secret(program));
    let begun = Instant::now();
    for round in 1.. {
        let Some(left) = copies(pid, &secret) else {
            println!("skipped: {SKIPPED}");
            return;
        };
        println!("{what}: {left} copies after {:?}", begun.elapsed());
        if left == 0 {
            return;
        }
        // A search may take long, so it is not the time alone that counts.
        let over = round > 5 && begun.elapsed() > PATIENCE;
        assert!(!over, "{what}: {left} copies of the raw token are left in the idle program");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The ways in which a credential goes on, with the settings for each.
fn modes(token_file: &str) -> [(&'static str, Vec<(&'static str, String)>); 3] {
    const MODES: [&str; 2] = ["UPSTREAM__API__CREDENTIAL__MODE", "UPSTREAM__HEARTBEAT__CREDENTIAL__MODE"];
    const FILES: [&str; 2] = ["UPSTREAM__API__CREDENTIAL__TOKEN_FILE", "UPSTREAM__HEARTBEAT__CREDENTIAL__TOKEN_FILE"];
    let with = |mode: &str| MODES.map(|key| (key, mode.to_owned())).to_vec();
    let files = FILES.map(|key| (key, token_file.to_owned()));
    [("forward", with("forward")), ("strip", with("strip")), ("replace", [with("replace"), files.to_vec()].concat())]
}

/// A program in each of the modes, before upstreams that answer; none where this test may not look.
async fn in_each_mode(run: impl AsyncFn(&Program, &Upstream, &str)) {
    if !may_look() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "tc-apiv1_service-token-of-the-controller\n").expect("writes");
    for (mode, settings) in modes(token_file.to_str().expect("text")) {
        let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let program = Program::start(&api, &heartbeat, &settings);
        run(&program, &api, mode).await;
    }
}

fn authorized(program: &Program, method: &str, path: &str, body: &str) -> String {
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", program.token, body.len());
    request(method, path, &fields) + body
}

/// More at once than buffers are kept for.
#[tokio::test]
async fn no_raw_token_is_left_after_150_requests_at_once() {
    in_each_mode(async |program, api, mode| {
        api.otherwise(Script::silent);
        let mut clients = Vec::new();
        for _ in 0..150 {
            let mut client = Client::connect(program.address()).await;
            client.send(authorized(program, "GET", CONFIG, "")).await;
            clients.push(client);
        }
        api.until("all of them", |seen| seen.requests.len() == 150).await;
        drop(clients);
        none_is_left(program, mode).await;
    })
    .await;
}

#[tokio::test]
async fn no_raw_token_is_left_after_150_replies_at_once() {
    in_each_mode(async |program, _, mode| {
        let mut clients = Vec::new();
        for number in 0..150 {
            let mut client = Client::connect(program.address()).await;
            match number % 3 {
                0 => client.send(authorized(program, "POST", HEARTBEAT, "{}")).await,
                _ => client.send(authorized(program, "GET", CONFIG, "")).await,
            }
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.reply().await.status(), 200);
        }
        none_is_left(program, mode).await; // the connections stand, and are idle
    })
    .await;
}

#[tokio::test]
async fn no_raw_token_is_left_after_1000_requests() {
    in_each_mode(async |program, _, mode| {
        let mut clients = Vec::new();
        for _ in 0..50 {
            clients.push(Client::connect(program.address()).await);
        }
        for round in 0..20 {
            let (request, status) = match round % 4 {
                0 => (authorized(program, "GET", CONFIG, ""), 200),
                1 => (authorized(program, "POST", HEARTBEAT, r#"{"id":"one"}"#), 200),
                2 => (authorized(program, "GET", "/nothing", ""), 404),
                // Streamed.
                _ => (authorized(program, "POST", "/api/configs", &"x".repeat(40_000)), 200),
            };
            // All at once, each with its head in two pieces.
            let (first, rest) = request.split_at(100);
            for client in &mut clients {
                client.send(first).await;
            }
            for client in &mut clients {
                client.send(rest).await;
            }
            for client in &mut clients {
                assert_eq!(client.reply().await.status(), status);
            }
        }
        none_is_left(program, mode).await;
    })
    .await;
}

/// Clients that leave in the middle, and heads that never end.
#[tokio::test]
async fn no_raw_token_is_left_of_requests_that_broke_off() {
    if !may_look() {
        return;
    }
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("TIMEOUTS__REQUEST_HEAD", "1s")]);
    let whole = authorized(&program, "POST", HEARTBEAT, &"x".repeat(40_000));
    let head = whole.len() - 40_000;
    for length in [head - 30, head - 2, head, head + 1, head + 20_000] {
        for _ in 0..20 {
            let mut client = Client::connect(program.address()).await;
            client.send(&whole[..length]).await;
        }
        let mut client = Client::connect(program.address()).await;
        client.send(&whole[..length]).await;
        client.finish().await;
        client.is_cut().await;
    }
    none_is_left(&program, "broken off").await;
}
