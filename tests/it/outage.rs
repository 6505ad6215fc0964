//! What the log says while the Controller is away: every 502 and 504 leaves a line, at the level that is logged by default,
//! that names the upstream, its address and the step that failed; an outage leaves a few of them, not one for each request.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::harness::{CONFIG, Client, HEARTBEAT, Program, Script, Upstream, eventually, refusing, request};
use tollgate_harness::authority::Authority;

/// A line of the log about an upstream.
#[derive(Debug)]
struct Warning {
    level: String,
    line: String,
    /// Every field's value that is text.
    texts: Vec<String>,
    /// How many like it were left out before it.
    left_out: u64,
}

/// The lines at `WARN` or above since the program was ready.
fn warnings(program: &Program) -> Vec<Warning> {
    let log = program.log();
    let secret = program.token.strip_prefix("tc-apiv1_").expect("the prefix");
    let entries = log.into_iter().map(|line| {
        assert!(!line.contains(secret), "a token in the log");
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let level = entry["level"].as_str().expect("a level").to_owned();
        let fields = entry["fields"].as_object().expect("fields").clone();
        let texts = fields.values().filter_map(|value| value.as_str().map(str::to_owned)).collect();
        let left_out = fields.get("left_out").and_then(serde_json::Value::as_u64).unwrap_or_default();
        Warning { level, line, texts, left_out }
    });
    entries.filter(|entry| ["WARN", "ERROR"].contains(&entry.level.as_str())).collect()
}

impl Warning {
    /// Whether it names this upstream, at this address (or a part of it), and one of these steps.
    fn names(&self, upstream: &str, address: &str, steps: &[&str]) -> bool {
        let is = |text: &String, word: &&str| text.eq_ignore_ascii_case(word);
        self.texts.iter().any(|text| text == upstream)
            && self.texts.iter().any(|text| text.contains(address))
            && self.texts.iter().any(|text| steps.iter().any(|step| is(text, step)))
    }
}

/// A request with the program's token.
fn authorized(program: &Program, method: &str, path: &str) -> String {
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    request(method, path, &format!("Authorization: Bearer {}\r\n{length}", program.token))
}

/// Waits until a line names it all.
async fn is_logged(program: &Program, upstream: &str, address: &str, steps: &[&str]) {
    for _ in 0..200 {
        if warnings(program).iter().any(|warning| warning.names(upstream, address, steps)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said: Vec<_> = warnings(program).into_iter().map(|warning| warning.line).collect();
    panic!("no line names {upstream}, {address} and one of {steps:?}: {said:#?}");
}

/// Sends one `GET` and waits for these statuses and the line.
async fn fails_and_is_logged(program: &Program, statuses: &[u16], address: &str, steps: &[&str]) {
    let mut client = Client::connect(program.address()).await;
    client.send(authorized(program, "GET", CONFIG)).await;
    let status = client.reply().await.status();
    assert!(statuses.contains(&status), "{status}");
    is_logged(program, "api", address, steps).await;
}

/// A program whose API server is at this URL.
async fn program(url: &str, variables: &[(&str, &str)]) -> (Program, Upstream) {
    let heartbeat = Upstream::start().await;
    let short = [
        ("UPSTREAM__API__TIMEOUTS__CONNECT", "700ms"),
        ("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "300ms"),
        ("UPSTREAM__API__TIMEOUTS__IDLE", "300ms"),
    ];
    let variables: Vec<_> = short.iter().chain(variables).copied().collect();
    let program = Program::start_at(url, &format!("http://{}", heartbeat.address()), &variables);
    (program, heartbeat)
}

/// Before an upstream that follows scripts.
async fn scripted_program() -> (Program, Upstream, Upstream, String) {
    let api = Upstream::start().await;
    let address = api.address().to_string();
    let (program, heartbeat) = program(&format!("http://{address}"), &[]).await;
    (program, api, heartbeat, address)
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_logged() {
    let (program, _heartbeat) = program("http://no-such-host.invalid:8888", &[]).await;
    fails_and_is_logged(&program, &[502, 504], "no-such-host.invalid:8888", &["resolve"]).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_logged() {
    let (_socket, nobody) = refusing();
    let (program, _heartbeat) = program(&format!("http://{nobody}"), &[]).await;
    fails_and_is_logged(&program, &[502], &nobody.to_string(), &["connect"]).await;
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_is_logged() {
    let (socket, full) = refusing();
    let _listener = socket.listen(1).expect("listens");
    let mut waiting = Vec::new();
    // Until its queue is full.
    let connect = || tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(full));
    while let Ok(stream) = connect().await {
        waiting.push(stream.expect("connects"));
    }
    let (program, _heartbeat) = program(&format!("http://{full}"), &[]).await;
    fails_and_is_logged(&program, &[504], &full.to_string(), &["connect"]).await;
}

#[tokio::test]
async fn a_handshake_that_fails_or_does_not_end_is_logged() {
    let authority = Authority::create();
    let ca = authority.certificate();
    for (closes, status) in [(true, 502), (false, 504)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                if !closes {
                    held.push(stream);
                }
            }
        });
        let ca = [("UPSTREAM__API__TLS__CA", ca.to_str().expect("text"))];
        let (program, _heartbeat) = program(&format!("https://localhost:{port}"), &ca).await;
        fails_and_is_logged(&program, &[status], &format!(":{port}"), &["tls"]).await;
        server.abort();
    }
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_logged() {
    let (program, api, _heartbeat, address) = scripted_program().await;
    api.next(Script::silent());
    fails_and_is_logged(&program, &[504], &address, &["first_byte"]).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_its_reply_is_logged() {
    for script in [Script::reply("").then_close(), Script::reply("").then_reset()] {
        let (program, api, _heartbeat, address) = scripted_program().await;
        api.next(script);
        fails_and_is_logged(&program, &[502], &address, &["first_byte"]).await;
    }
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_is_logged() {
    for reply in ["HTTP/1.1 200 OK\r\nContent-Len", "SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n"] {
        let (program, api, _heartbeat, address) = scripted_program().await;
        api.next(Script::reply(reply).then_close());
        // How far it came before it broke is not always known.
        fails_and_is_logged(&program, &[502], &address, &["first_byte", "reply"]).await;
    }
}

/// The client has a status already, so the log is the only place where it shows.
#[tokio::test]
async fn a_reply_that_breaks_off_or_pauses_too_long_is_logged() {
    let begun = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 10\r\n\r\nhello";
    for script in [Script::reply(begun).then_close(), Script::reply(begun).then_reset(), Script::part(begun)] {
        let (program, api, _heartbeat, address) = scripted_program().await;
        api.next(script);
        let mut client = Client::connect(program.address()).await;
        client.send(authorized(&program, "GET", CONFIG)).await;
        client.cut_reply().await;
        is_logged(&program, "api", &address, &["reply"]).await;
    }
}

#[tokio::test]
async fn the_two_upstreams_are_told_apart() {
    let (_socket, nobody) = refusing();
    let url = format!("http://{nobody}");
    let program = Program::start_at(&url, &url, &[]);
    let mut client = Client::connect(program.address()).await;
    client.send(authorized(&program, "POST", HEARTBEAT)).await;
    assert_eq!(client.reply().await.status(), 502);
    is_logged(&program, "heartbeat", &nobody.to_string(), &["connect"]).await;
    let api = |warning: &Warning| warning.names("api", &nobody.to_string(), &["connect"]);
    assert!(!warnings(&program).iter().any(api));
    client.send(authorized(&program, "GET", CONFIG)).await;
    assert_eq!(client.reply().await.status(), 502);
    is_logged(&program, "api", &nobody.to_string(), &["connect"]).await;
}

/// What the Controller itself says is its business: it was reached, and it answered.
#[tokio::test]
async fn what_the_controller_says_itself_is_no_failure_of_the_upstream() {
    let (program, api, _heartbeat, _) = scripted_program().await;
    for status in ["502 Bad Gateway", "503 Service Unavailable", "404 Not Found"] {
        api.next(Script::reply(format!("HTTP/1.1 {status}\r\nServer: scripted\r\nContent-Length: 0\r\n\r\n")));
        let mut client = Client::connect(program.address()).await;
        client.send(authorized(&program, "GET", CONFIG)).await;
        assert_eq!(client.reply().await.status().to_string(), status[..3]);
    }
    let of_upstreams = |warning: &Warning| warning.line.contains("the upstream failed");
    assert!(!warnings(&program).iter().any(of_upstreams), "{:?}", warnings(&program));
}

/// An agent fleet sends thousands of requests a second, and an outage must not fill the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_leaves_a_few_lines_with_the_number_of_those_left_out() {
    const CLIENTS: usize = 8;
    const EACH: usize = 250;
    let (_socket, nobody) = refusing();
    let url = format!("http://{nobody}");
    let program = Program::start_at(&url, &url, &[]);
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (address, request) = match number % 2 {
            0 => (program.address(), authorized(&program, "GET", CONFIG)),
            _ => (program.address(), authorized(&program, "POST", HEARTBEAT)),
        };
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..EACH {
                client.send(&request).await;
                assert_eq!(client.reply().await.status(), 502);
            }
        });
    }
    clients.join_all().await;
    let about = |warning: &Warning| warning.texts.iter().any(|text| text.contains(&nobody.to_string()));
    let lines = || warnings(&program).into_iter().filter(about).collect::<Vec<_>>();
    eventually("something is logged", || async { !lines().is_empty() }).await;
    let (count, took) = (lines().len(), begun.elapsed());
    println!("{count} lines for {} failures in {took:?}", CLIENTS * EACH);
    // A few dozen, and more only if the machine took very long.
    let bound = 48 + 4 * usize::try_from(took.as_secs()).expect("short");
    assert!(count <= bound, "{count} lines for {} failures in {took:?}", CLIENTS * EACH);
    let api = lines().iter().any(|warning| warning.names("api", &nobody.to_string(), &["connect"]));
    let heartbeat = lines().iter().any(|warning| warning.names("heartbeat", &nobody.to_string(), &["connect"]));
    assert!(api && heartbeat, "one does not hide the other: {:#?}", lines());

    // The number comes with a later line: at the latest when the minute is over.
    let mut client = Client::connect(program.address()).await;
    let mut failures = CLIENTS * EACH;
    let told = |least: u64| lines().iter().map(|warning| warning.left_out).sum::<u64>() >= least;
    while !told(1000) {
        assert!(begun.elapsed() < Duration::from_secs(75), "nothing tells how many were left out: {:#?}", lines());
        for request in [authorized(&program, "GET", CONFIG), authorized(&program, "POST", HEARTBEAT)] {
            client.send(&request).await;
            assert_eq!(client.reply().await.status(), 502);
            failures += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let numbers: u64 = lines().iter().map(|warning| warning.left_out).sum();
    let told = lines().len() + usize::try_from(numbers).expect("small");
    assert!(told <= failures, "{told} told of {failures} failures");
}
