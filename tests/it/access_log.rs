//! The access log: what a line says, and what becomes of lines that nobody takes.

mod output;

use std::path::Path;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate::tls::{Alpn, TlsConfig, TlsVersion};
use tollgate_harness::authority::Authority;

use crate::harness::{Builder, CONFIG, Client, HEARTBEAT, Script, Site, eventually, get, ok, post, request, within};

/// With an access log in the site's own directory.
fn logging(format: &'static str) -> Builder {
    // Before its directory is known, it has no path.
    Site::builder().setting("ACCESS_LOG__FORMAT", format).config_in(|config, directory| {
        let path = directory.join("access.log").display().to_string();
        config.access_log.output = path.parse().expect("a path");
    })
}

fn read(path: &Path) -> Vec<String> {
    // The last line may be being written.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

/// Waits for so many lines.
async fn lines(path: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines"), || async { read(path).len() >= count }).await;
    let lines: Vec<Value> = read(path).iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[tokio::test]
async fn a_line_says_who_asked_for_what_and_what_came_of_it() {
    let site = logging("json").setting("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let path = site.directory().join("access.log");
    let fields = format!("Authorization: Bearer {}\r\nX-Forwarded-For: 192.0.2.7\r\n", site.agent.raw);
    assert_eq!(site.send(request("GET", &format!("{CONFIG}?secret=s3cret"), &fields)).await.status(), 200);
    assert_eq!(site.send(post(HEARTBEAT, &site.agent, b"{}")).await.status(), 200);
    let [fetch, heartbeat] = lines(&path, 2).await.try_into().expect("two");
    let expected = serde_json::json!({
        "client": "192.0.2.7", "method": "GET", "path": CONFIG, "route": "/api/configs/**", "status": 200,
        "outcome": "served", "token": site.agent.id.to_string(), "user": "olga", "bytes": 2, "subject": null, "trace_id": null,
        "request_id": site.api.request().field("X-Request-Id").expect("an id"),
    });
    for (name, value) in expected.as_object().expect("fields") {
        assert_eq!(&fetch[name], value, "{name}");
    }
    let time: jiff::Timestamp = fetch["time"].as_str().expect("a time").parse().expect("RFC 3339");
    assert!(time <= jiff::Timestamp::now());
    let milliseconds = |name: &str| fetch[name].as_f64().expect(name);
    assert!(milliseconds("total_ms") + 0.01 >= milliseconds("own_ms") + milliseconds("upstream_ms"), "{fetch}");
    assert_eq!((&heartbeat["method"], &heartbeat["client"]), (&"POST".into(), &"127.0.0.1".into()));
    assert!(!std::fs::read_to_string(&path).expect("text").contains("s3cret"));
}

#[tokio::test]
async fn what_is_refused_or_broken_has_a_line_with_the_reason() {
    let site = logging("json").start().await;
    let path = site.directory().join("access.log");
    let forbidden = site.token("olga", &["labels:read"]).await;
    site.expire(&site.agent).await;
    site.send("GET / HTTP/9.9\r\n\r\n").await;
    site.send(request("GET", "/nowhere/tc-apiv1_Wm4kZx8vQ3hTg", "")).await;
    site.send(request("GET", CONFIG, "Authorization: Bearer tc-apiv1_Wm4kZx8vQ3hTg\r\n")).await;
    site.get(CONFIG, &site.agent).await;
    site.get(CONFIG, &forbidden).await;
    let (mut client, pieces) = site.download(get(CONFIG, &site.owner)).await;
    drop(pieces);
    client.is_cut().await;
    let lines = lines(&path, 6).await;
    let said = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(said("outcome"), ["version", "no_route", "unknown_token", "expired", "permission", "cut"]);
    assert_eq!(said("status"), [505, 404, 401, 401, 403, 0]);
    assert_eq!(lines[0]["method"], Value::Null);
    assert_eq!((&lines[1]["path"], &lines[1]["route"]), (&"/nowhere/tc-apiv1_...".into(), &Value::Null));
    // Whose token it was, also where it did not let anybody in.
    let tokens = [&site.agent, &forbidden, &site.owner].map(|token| Value::from(token.id.to_string()));
    assert_eq!((&lines[2]["token"], &said("token")[3..]), (&Value::Null, tokens.as_slice()));
    let text = std::fs::read_to_string(&path).expect("text");
    for secret in ["Wm4kZx8vQ3hTg", &site.agent.raw, &forbidden.raw, &site.owner.raw] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn a_head_that_is_left_unanswered_is_said_to_be() {
    let site = logging("json").start().await;
    let path = site.directory().join("access.log");
    site.api.next(Script::reply("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"));
    let mut client = site.connect().await;
    let fields = format!("Authorization: Bearer {}\r\n", site.agent.raw);
    client.send(request("HEAD", CONFIG, &fields)).await;
    client.ends_unanswered().await;
    let lines = lines(&path, 1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["status"]), (&"withheld".into(), &0.into()));
}

#[tokio::test]
async fn text_is_one_field_after_the_other() {
    let site = logging("text").start().await;
    let path = site.directory().join("access.log");
    site.api.next(Script::reply(ok("1234567")));
    site.get("/api/configs/a%22b/toml", &site.agent).await;
    eventually("a line", || async { !read(&path).is_empty() }).await;
    let line = read(&path).remove(0);
    let fields: Vec<_> = line.split(' ').map(|field| field.split_once('=').expect("a field")).collect();
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names.join(" "),
        "time client method path route status outcome token user bytes own_ms upstream_ms total_ms request_id subject trace_id"
    );
    let value = |name: &str| fields.iter().find(|(other, _)| *other == name).expect(name).1;
    assert_eq!((value("path"), value("bytes"), value("subject")), ("/api/configs/a%22b/toml", "7", "-"));
}

#[tokio::test]
async fn of_what_works_so_many_have_a_line_and_of_what_fails_all() {
    let site = logging("json").setting("ACCESS_LOG__ONE_IN", "0").start().await;
    let path = site.directory().join("access.log");
    for _ in 0..20 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
        assert_eq!(site.get("/nowhere", &site.agent).await.status(), 404);
    }
    assert!(lines(&path, 20).await.iter().all(|line| line["status"] == 404));
}

#[tokio::test]
async fn the_certificate_of_a_client_is_named() {
    let (authority, clients) = (Authority::create(), Authority::create());
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let client_ca = Some(clients.certificate());
    let site = logging("json").config(move |config| {
        let (client_crl, min_version) = (None, TlsVersion::Tls12);
        let alpn = vec![Alpn::Http1];
        config.listeners[0].tls = Some(TlsConfig { certificate, key, client_ca, client_crl, min_version, alpn });
    });
    let site = site.start().await;
    let path = site.directory().join("access.log");
    let config = authority.client_with(rustls::ALL_VERSIONS, &clients, "agent");
    let stream = within("connecting", TcpStream::connect(site.address())).await.expect("connects");
    let name = "localhost".try_into().expect("a name");
    let stream = within("the handshake", TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream)).await;
    let mut client = Client::over(stream.expect("shakes hands"));
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    let subject = lines(&path, 1).await[0]["subject"].as_str().expect("a subject").to_owned();
    assert!(subject.starts_with("CN="), "{subject}");
}

#[test]
fn check_says_where_it_cannot_be_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let check = |output: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.env_clear().env("TOLLGATE_ACCESS_LOG__OUTPUT", output).env("STATE_DIRECTORY", directory.path());
        command.arg("check").output().expect("runs")
    };
    let file = directory.path().join("access.log");
    assert!(check(&file).status.success());
    assert!(!file.exists(), "whoever checks may not be the one who serves");
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a named pipe");
    assert!(check(&pipe).status.success(), "its reader may come later");
    for output in [directory.path().to_owned(), directory.path().join("missing/access.log")] {
        let checked = check(&output);
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(!checked.status.success() && said.contains("TOLLGATE_ACCESS_LOG__OUTPUT"), "{said}");
        assert!(said.contains(&output.display().to_string()), "{said}");
    }
}
