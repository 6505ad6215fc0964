//! `tollgate prove`: what a listener does with a revoked token is measured there, and nowhere else.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tollgate::registry::{NewToken, RegistryError, Requested, TokenQuery};
use tollgate::tls::{Alpn, TlsConfig, TlsVersion};
use tollgate::token::{PermissionSet, Role};

use crate::harness::{Program, RedisServer, Relay, Serving, Site, Token, Traffic, Upstream, operator, run, within};
use tollgate_harness::authority::Authority;

/// Whose canaries are.
const USER: &str = "tollgate-canary";

/// For listeners that do what they should: only a failure uses it up.
const LONG: &str = "60s";

/// For those that do not: it is used up, and the store has to answer within it.
const SHORT: &str = "5s";

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// What it said, and that nobody was told the canary.
fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stdout.contains("tc-apiv1_") && !stderr.contains("tc-apiv1_"), "{stdout}{stderr}");
    (stdout, stderr)
}

#[track_caller]
fn json(output: &Output, code: i32) -> Value {
    let (stdout, stderr) = said(output);
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

/// What became of the listener with this URL.
#[track_caller]
fn outcome<'a>(proof: &'a Value, url: &str) -> &'a Value {
    let listeners = proof["listeners"].as_array().expect("a list");
    listeners.iter().find(|listener| listener["url"] == url).unwrap_or_else(|| panic!("{url} is in {proof}"))
}

/// Runs the program with a Redis for its store, to the end, while this process goes on.
async fn tollgate(store: &str, arguments: &[&str]) -> Output {
    let store = store.to_owned();
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let run = move || {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        run(&arguments, &[("TOLLGATE_STORE__URL", store.as_str())])
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

/// A registry on this server.
async fn initialised(server: &RedisServer) {
    assert!(tollgate(&server.url(), &["init"]).await.status.success());
}

/// Runs it against a site's store.
async fn prove(site: &Site, arguments: &[&str]) -> Output {
    let store = format!("sqlite:{}", site.directory().join("tollgate.db").display());
    tollgate(&store, &[&["prove"], arguments].concat()).await
}

/// Ids of the canaries that there are, and when each expires, in seconds from now.
async fn canaries(site: &Site) -> Vec<(String, i64)> {
    let query = TokenQuery { user: Some(USER.to_owned()), ..TokenQuery::default() };
    let tokens = match site.registry.tokens(&operator(), &query, None, 100).await {
        Err(RegistryError::NoSuchUser(_)) => Vec::new(),
        tokens => tokens.expect("reads"),
    };
    let now = jiff::Timestamp::now().as_second();
    let left = |expires_at: Option<jiff::Timestamp>| expires_at.expect("it expires").as_second() - now;
    tokens.into_iter().map(|(token, _)| (token.id.to_string(), left(token.expires_at))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sidecars_are_proven_to_refuse_a_revoked_token() {
    let (server, upstream) = (RedisServer::start(), Upstream::start().await);
    initialised(&server).await;
    let upstream_url = url(upstream.address());
    let mut sidecars = Vec::new();
    for number in 1..=20 {
        let name = format!("edge-{number}");
        let variables = [
            ("TOLLGATE_NAME", name.as_str()),
            ("TOLLGATE_UPSTREAM__API__URL", &upstream_url),
            ("TOLLGATE_UPSTREAM__HEARTBEAT__URL", &upstream_url),
        ];
        sidecars.push(Serving::start(&server.url(), &variables).await);
    }
    for sidecar in &mut sidecars {
        sidecar.says("ready").await;
    }
    let urls: Vec<_> = sidecars.iter().map(|sidecar| url(sidecar.address())).collect();
    let via = urls.join(",");
    let proof = json(&tollgate(&server.url(), &["prove", "--via", &via, "--timeout", LONG, "--json"]).await, 0);
    assert_eq!((&proof["verdict"], &proof["user"]), (&"proven".into(), &USER.into()));
    for url in &urls {
        let listener = outcome(&proof, url);
        assert_eq!(listener["outcome"], "refused", "{listener}");
        assert!(listener["refused_after_ms"].as_f64().is_some_and(|milliseconds| milliseconds > 0.0), "{listener}");
    }
    assert_eq!((&proof["reports"]["applied"], &proof["reports"]["missing"]), (&20.into(), &Value::Array(Vec::new())));
    assert!(upstream.requests().is_empty(), "nothing of it reaches the Controller");
    // What loopback addresses they report lead to is not known: nothing is made then, and it is said what to give.
    let ended = tollgate(&server.url(), &["prove"]).await;
    let (stdout, stderr) = said(&ended);
    assert_eq!((ended.status.code(), stdout.as_str()), (Some(3), ""), "{stderr}");
    assert!(stderr.contains("--via http://10.0.0.5:8080") && stderr.contains("edge-20 (127.0.0.1:"), "{stderr}");
    let left = tollgate(&server.url(), &["token", "list", "--user", USER, "--json"]).await;
    assert_eq!(json(&left, 0), Value::Array(Vec::new()), "every canary is deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_reports_and_is_not_named_leaves_it_unknown() {
    let server = RedisServer::start();
    initialised(&server).await;
    let mut sidecars = Vec::new();
    for name in ["edge-1", "edge-2"] {
        sidecars.push(Serving::start(&server.url(), &[("TOLLGATE_NAME", name)]).await);
    }
    for sidecar in &mut sidecars {
        sidecar.says("ready").await;
    }
    let [first, second] = [0, 1].map(|at| url(sidecars[at].address()));
    let prove = async |via: &str| tollgate(&server.url(), &["prove", "--json", "--timeout", LONG, "--via", via]).await;
    let ended = prove(&first).await;
    let proof = json(&ended, 3);
    assert_eq!((&proof["verdict"], &outcome(&proof, &first)["outcome"]), (&"unknown".into(), &"refused".into()));
    assert_eq!(proof["not_measured"][0]["sidecar"], "edge-2", "{proof}");
    let (_, stderr) = said(&ended);
    assert!(stderr.contains("more sidecars report than were asked") && stderr.contains("edge-2"), "{stderr}");
    json(&prove(&format!("{first},{second}")).await, 0);
}

/// Exit code 1 says that a listener let the token in. Whatever went wrong before one was asked does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_could_be_measured_programs_are_told_so_in_the_same_form() {
    let mut server = RedisServer::start();
    initialised(&server).await;
    let mut sidecar = Serving::start(&server.url(), &[("TOLLGATE_NAME", "edge-1")]).await;
    sidecar.says("ready").await;
    let (store, via) = (server.url(), url(sidecar.address()));
    let nothing = async |store: &str, arguments: &[&str], why: &str| {
        let ended = tollgate(store, &[&["prove", "--json", "--timeout", "3s"], arguments].concat()).await;
        let proof = json(&ended, 3);
        assert_eq!((&proof["verdict"], &proof["canary"]), (&"unknown".into(), &Value::Null), "{proof}");
        assert_eq!((&proof["listeners"], &proof["reports"]), (&Value::Array(Vec::new()), &Value::Null), "{proof}");
        assert!(proof["problems"][0].as_str().is_some_and(|problem| problem.contains(why)), "{proof}");
        let (_, stderr) = said(&ended);
        assert!(stderr.contains("nothing is proven: ") && stderr.contains(why), "{stderr}");
        proof
    };
    let proof = nothing(&store, &[], "no listener is known").await;
    assert_eq!(proof["not_measured"][0]["sidecar"], "edge-1", "{proof}");
    json(&tollgate(&store, &["prove", "--json", "--timeout", LONG, "--via", &via]).await, 0);
    assert!(tollgate(&store, &["user", "disable", USER, "--yes"]).await.status.success());
    nothing(&store, &["--via", &via], "is disabled").await;
    let directory = tempfile::tempdir().expect("a directory");
    let none = format!("sqlite:{}", directory.path().join("none.db").display());
    nothing(&none, &["--via", &via], "none.db").await;
    server.kill();
    nothing(&store, &["--via", &via], "redis://").await;
    let wrong = tollgate(&store, &["prove", "--json", "--via", "nowhere"]).await;
    assert_eq!((wrong.status.code(), wrong.stdout.as_slice()), (Some(2), &b""[..]), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_cut_off_disproves_it_and_is_named() {
    let server = RedisServer::start();
    initialised(&server).await;
    let relay = Relay::start(server.address()).await;
    let mut level = Serving::start(&server.url(), &[]).await;
    let mut cut_off = Serving::start(&format!("redis://{}", relay.address()), &[]).await;
    level.says("ready").await;
    cut_off.says("ready").await;
    relay.set(Traffic::Cut).await;
    let (level, cut_off) = (url(level.address()), url(cut_off.address()));
    let arguments = ["prove", "--via", &level, "--via", &cut_off, "--timeout", "10s", "--json"];
    let ended = tollgate(&server.url(), &arguments).await;
    let proof = json(&ended, 1);
    assert_eq!(outcome(&proof, &level)["outcome"], "refused", "{proof}");
    assert_eq!(outcome(&proof, &cut_off)["outcome"], "not_let_in", "{proof}");
    let (_, stderr) = said(&ended);
    assert!(
        stderr.contains(&format!("{cut_off} does not let in a token that was just made: it is cut off")),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_sidecar_on_sqlite_nothing_needs_to_be_named() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("NAME", "edge-1")]);
    let proof = json(&program.run(&["prove", "--timeout", LONG, "--json"]), 0);
    let listener = outcome(&proof, &url(program.address()));
    assert_eq!((&listener["sidecar"], &listener["outcome"]), (&"edge-1".into(), &"refused".into()));
    let ended = program.run(&["prove", "--timeout", LONG]);
    let (stdout, stderr) = said(&ended);
    assert_eq!((ended.status.code(), stderr.as_str()), (Some(0), ""));
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].starts_with("SIDECAR") && lines[1].starts_with("edge-1"), "{stdout}");
    assert!(lines[3].starts_with("proven: 1 of 1 listener let the canary in, and refused it within "), "{stdout}");
    assert!(lines[3].contains("applied by the only sidecar, edge-1, in "), "{stdout}");
    assert!(api.requests().is_empty() && heartbeat.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_speaks_tls_is_verified() {
    let (authority, other) = (Authority::create(), Authority::create());
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let client_ca = Some(authority.certificate());
    let site = Site::builder().config(move |config| {
        let (min_version, alpn) = (TlsVersion::Tls12, Alpn::OFFERED.to_vec());
        let tls = TlsConfig { certificate, key, client_ca, client_crl: None, min_version, alpn };
        config.listeners[0].tls = Some(tls);
    });
    let site = site.start().await;
    let via = format!("https://localhost:{}", site.address().port());
    let text = |path: PathBuf| path.to_str().expect("text").to_owned();
    let (certificate, key) = authority.issue("prover", &["prover"]);
    let (certificate, key) = (text(certificate), text(key));
    let (ca, another) = (text(authority.certificate()), text(other.certificate()));
    let verified_by = async |ca: &str, timeout: &str| {
        let arguments =
            ["--json", "--via", &via, "--certificate", &certificate, "--key", &key, "--ca", ca, "--timeout"];
        prove(&site, &[&arguments[..], &[timeout]].concat()).await
    };
    let proof = json(&verified_by(&ca, LONG).await, 0);
    assert_eq!(outcome(&proof, &via)["outcome"], "refused");
    let proof = json(&verified_by(&another, SHORT).await, 3);
    let problem = outcome(&proof, &via)["problem"].as_str().expect("said").to_owned();
    assert!(problem.starts_with("does not answer: tls "), "{problem}");
    // What it reports says nothing of TLS.
    let proof = json(&prove(&site, &["--json", "--timeout", SHORT]).await, 3);
    assert_eq!(proof["listeners"][0]["outcome"], "unknown", "{proof}");
    assert!(canaries(&site).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_sidecar_proves_nothing() {
    let (site, other) = (Site::start().await, Upstream::start().await);
    // It is bound and does not listen: nobody else gets it meanwhile.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("binds");
    let nobody_at = nobody.local_addr().expect("is bound").as_socket().expect("of IP");
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let [nobody, other, silent] = [nobody_at, other.address(), silent.local_addr().expect("is bound")].map(url);
    let via = [nobody.as_str(), other.as_str(), silent.as_str()].join(",");
    let proof = json(&prove(&site, &["--via", &via, "--timeout", SHORT, "--json"]).await, 3);
    assert_eq!((&proof["verdict"], &proof["slowest_ms"]), (&"unknown".into(), &Value::Null));
    let problem = |url: &str| outcome(&proof, url)["problem"].as_str().expect("said").to_owned();
    assert!(problem(&nobody).contains("refused"), "{proof}");
    assert!(problem(&other).contains("answers 200, which Tollgate does not say"), "{proof}");
    assert!(problem(&silent).starts_with("does not answer: "), "{proof}");
    assert!(canaries(&site).await.is_empty());
}

/// Starts a run that waits for a listener which is not there, and waits until its canary is.
async fn waiting(site: &Site) -> (Child, String, TcpListener) {
    let before: Vec<_> = canaries(site).await.into_iter().map(|(id, _)| id).collect();
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let via = url(silent.local_addr().expect("is bound"));
    let store = format!("sqlite:{}", site.directory().join("tollgate.db").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().env("HOME", "/nonexistent").args([
        "--store",
        &store,
        "prove",
        "--via",
        &via,
        "--timeout",
        LONG,
    ]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let made = async {
        loop {
            match canaries(site).await.into_iter().find(|(id, _)| !before.contains(id)) {
                Some(made) => break made,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let (id, left) = within("a canary is made", made).await;
    assert!((0..=10 * 60).contains(&left), "it ends by itself, and soon: in {left} s");
    (child, id, silent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_killed_leaves_a_canary_that_a_later_one_deletes_once_it_has_expired() {
    let site = Site::start().await;
    let (mut child, id, _silent) = waiting(&site).await;
    child.kill().expect("runs");
    child.wait().expect("ends");
    let is_left = async || canaries(&site).await.iter().any(|(canary, _)| *canary == id);
    json(&prove(&site, &["--timeout", LONG, "--json"]).await, 0);
    assert!(is_left().await, "it may be another run's");
    site.expire(&Token { id: id.parse().expect("an id"), raw: String::new() }).await;
    json(&prove(&site, &["--timeout", LONG, "--json"]).await, 0);
    assert!(!is_left().await);
    assert!(canaries(&site).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_interrupted_deletes_its_canary() {
    let site = Site::start().await;
    let (child, _, _silent) = waiting(&site).await;
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("runs").success());
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().expect("ends")).await.expect("no panic");
    let (_, stderr) = said(&ended);
    assert_eq!(ended.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("nothing is proven: interrupted"), "{stderr}");
    assert!(canaries(&site).await.is_empty());
}

#[tokio::test]
async fn the_canary_is_good_for_nothing() {
    let site = Site::start().await;
    let (mut child, id, _silent) = waiting(&site).await;
    let details = site.registry.token(&operator(), id.parse().expect("an id")).await.expect("is there");
    let permits: PermissionSet = ["entitlements:read".parse().expect("a permission")].into_iter().collect();
    assert_eq!((details.record.permissions, details.owner.role), (permits, Role::Manager));
    assert_eq!(details.owner.name, USER);
    child.kill().expect("runs");
    child.wait().expect("ends");
}

#[tokio::test]
async fn nobody_else_of_that_user_is_touched() {
    let site = Site::start().await;
    site.user(USER, Role::Manager).await;
    let new = NewToken {
        user: USER.to_owned(),
        description: "somebody's".to_owned(),
        permissions: Requested::All,
        expires_at: None,
    };
    site.registry.create_token(&operator(), new).await.expect("creates");
    json(&prove(&site, &["--timeout", LONG, "--json"]).await, 0);
    let query = TokenQuery { user: Some(USER.to_owned()), ..TokenQuery::default() };
    assert_eq!(site.registry.tokens(&operator(), &query, None, 9).await.expect("reads").len(), 1);
}

/// The value of a metric, if it has one.
fn figure(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn a_sidecar_proves_at_an_interval_and_exports_it() {
    let site = Site::builder().setting("ADMIN__PROVE__INTERVAL", "8s").setting("ADMIN__PROVE__TIMEOUT", "4s");
    let site = site.start().await;
    let proven = r#"tollgate_proofs_total{verdict="proven"}"#;
    tokio::time::timeout(Duration::from_secs(60), async {
        while figure(&site.metrics().await, proven).is_none_or(|count| count < 1.0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it is proven");
    let metrics = site.metrics().await;
    let value = |name| figure(&metrics, name).unwrap_or_else(|| panic!("{name} is in {metrics}"));
    assert!(value("tollgate_proof_last_success_timestamp_seconds") > 1e9);
    assert!((0.0..4.0).contains(&value("tollgate_proof_refused_after_seconds")));
    assert_eq!(value("tollgate_proof_listeners_asked"), 1.0);
    assert_eq!(value("tollgate_proof_listeners_refused"), 1.0);
    assert_eq!(figure(&metrics, r#"tollgate_proofs_total{verdict="not_proven"}"#), Some(0.0));
    let site_without = Site::start().await;
    assert!(!site_without.metrics().await.contains("\ntollgate_proof"), "off by default");
}

#[tokio::test]
async fn proofs_take_a_store_user_that_may_commit() {
    let server = RedisServer::start();
    initialised(&server).await;
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let url = server.url();
    let variables = [("TOLLGATE_STORE__URL", url.as_str()), ("TOLLGATE_ADMIN__PROVE__INTERVAL", "1m")];
    let ended = tokio::task::spawn_blocking({
        let variables = variables.map(|(name, value)| (name, value.to_owned()));
        move || run(&serve, &variables.each_ref().map(|(name, value)| (*name, value.as_str())))
    });
    let ended = ended.await.expect("no panic");
    let (_, stderr) = said(&ended);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("admin.prove.interval is set") && stderr.contains("admin.store_username"), "{stderr}");
}
