//! The Controller refuses what Tollgate shows it in the place of the client's token: nobody's token is blamed for it, and who
//! runs the sidecar is told.

use tollgate::config::Config;
use tollgate::upstream::CredentialMode;

use crate::harness::{
    Builder, CONFIG, Client, HEARTBEAT, Program, Script, Site, Token, Upstream, eventually, get, ok, post, request,
    scripted,
};

const REFUSED: (u16, &str) = (502, "Upstream does not accept the sidecar's credential");

const UNLICENSED: &str = r#"{"error":"feature_not_licensed","feature":"config-groups","message":"not in this plan"}"#;

/// Both servers get this token.
fn replacing() -> Builder {
    Site::builder().config_in(|config, directory| {
        let token_file = directory.join("service-token");
        std::fs::write(&token_file, "tc-apiv1_service-token").expect("writes");
        set(config, &CredentialMode::Replace { token_file });
    })
}

fn stripping() -> Builder {
    Site::builder().config(|config| set(config, &CredentialMode::Strip))
}

fn set(config: &mut Config, mode: &CredentialMode) {
    config.upstreams.api.credential.clone_from(mode);
    config.upstreams.heartbeat.credential.clone_from(mode);
}

/// As the Controller refuses a token.
fn refusal(status: &str) -> String {
    scripted(status, "Content-Type: application/json\r\n", r#"{"error":"Token expired"}"#)
}

/// What the admin listener says of readiness.
async fn readyz(address: std::net::SocketAddr) -> (bool, serde_json::Value) {
    let mut client = Client::connect(address).await;
    client.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    let said = String::from_utf8(client.rest().await).expect("text");
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    (head.starts_with("HTTP/1.1 200 "), serde_json::from_str(body).expect("JSON"))
}

#[tokio::test]
async fn heartbeats_and_fetches_get_502() {
    for site in [replacing().start().await, stripping().start().await] {
        for status in ["401 Unauthorized", "403 Forbidden"] {
            site.api.next(Script::reply(refusal(status)));
            let reply = site.get(CONFIG, &site.agent).await;
            assert_eq!((reply.status(), reply.error().as_str()), REFUSED, "{status}");
            site.heartbeat.next(Script::reply(refusal(status)));
            let reply = site.beat(&site.agent).await;
            assert_eq!((reply.status(), reply.error().as_str()), REFUSED, "{status}");
            // As every other outage reaches a watcher.
            site.api.next(Script::reply(format!("HTTP/1.1 {status}\r\nContent-Length: 25\r\n\r\n")));
            let mut client = site.connect().await;
            client.send(request("HEAD", CONFIG, &format!("Authorization: Bearer {}\r\n", site.agent.raw))).await;
            client.ends_unanswered().await;
        }
    }
}

#[tokio::test]
async fn elsewhere_401_is_about_the_service_token_and_403_is_not() {
    let site = replacing().start().await;
    let refuse = async |path: &str| {
        site.api.next(Script::reply(refusal("401 Unauthorized")));
        let reply = site.get(path, &site.owner).await;
        assert_eq!((reply.status(), reply.error().as_str()), REFUSED);
        readyz(site.sidecar.admin()).await.1["warnings"].as_array().map_or(0, Vec::len)
    };
    for _ in 0..5 {
        assert_eq!(refuse("/api/docs").await, 0, "it may want another kind of sign-in: nobody accuses the token alone");
    }
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    assert_eq!(refuse("/api/agents").await, 0, "the token was taken meanwhile");
    assert_eq!(refuse("/api/agents/1").await, 0, "about the same");
    site.api.next(Script::reply(refusal("403 Forbidden")));
    assert_eq!(site.get("/api/agents", &site.owner).await.status(), 403);
    assert_eq!(refuse("/api/labels").await, 1);
}

/// The token cache of a node may be empty.
#[tokio::test]
async fn a_node_that_refuses_the_token_is_named_and_goes_last_until_it_takes_it() {
    let (bad, well) = (Upstream::start().await, Upstream::start().await);
    let url = |node: &Upstream| format!("http://{}", node.address());
    let urls = format!("{},{}", url(&bad), url(&well));
    let site = replacing().api_at(urls).setting("UPSTREAM__API__HEALTH__INTERVAL", "1h").start().await;
    for node in [&bad, &well] {
        node.until("it is checked", |seen| seen.closed == 1).await;
    }
    bad.otherwise(|| Script::reply(refusal("401 Unauthorized")));
    let mut refused = 0;
    for _ in 0..10 {
        refused += usize::from(site.get(CONFIG, &site.agent).await.status() == 502);
    }
    assert_eq!((refused, bad.requests().len()), (1, 1));
    let warnings = readyz(site.sidecar.admin()).await.1["warnings"].to_string();
    assert!(warnings.contains(&format!("upstream.api, status 401, at {})", url(&bad))), "{warnings}");
    assert!(!warnings.contains(&url(&well)), "that the other one takes it changes nothing: {warnings}");
}

/// After a check it gets a request again.
#[tokio::test]
async fn a_node_that_refused_the_token_is_tried_again() {
    let (bad, well) = (Upstream::start().await, Upstream::start().await);
    let urls = format!("http://{},http://{}", bad.address(), well.address());
    let site = replacing().api_at(urls).setting("UPSTREAM__API__HEALTH__INTERVAL", "100ms").start().await;
    bad.otherwise(|| Script::reply(refusal("401 Unauthorized")));
    eventually("it refuses", || async { site.get(CONFIG, &site.agent).await.status() == 502 }).await;
    assert!(readyz(site.sidecar.admin()).await.1.get("warnings").is_some());
    bad.otherwise(|| Script::reply(ok("taken")));
    eventually("it takes it", || async {
        drop(site.get(CONFIG, &site.agent).await);
        readyz(site.sidecar.admin()).await.1.get("warnings").is_none()
    })
    .await;
}

/// The watcher's own question has no answer that could be told from one about the licence: nobody is accused by it.
#[tokio::test]
async fn a_403_without_a_body_says_nothing_about_the_service_token() {
    let site = replacing().start().await;
    for _ in 0..3 {
        site.api.next(Script::reply("HTTP/1.1 403 Forbidden\r\nX-License-Expired: true\r\nContent-Length: 25\r\n\r\n"));
        let mut client = site.connect().await;
        client.send(request("HEAD", CONFIG, &format!("Authorization: Bearer {}\r\n", site.agent.raw))).await;
        client.ends_unanswered().await;
    }
    assert_eq!(site.api.connections(), 1, "the connection is whole");
    assert_eq!(readyz(site.sidecar.admin()).await, (true, serde_json::json!({ "ready": true })));
}

#[tokio::test]
async fn what_a_licence_refusal_says_slowly_passes_too() {
    let site = replacing().start().await;
    let pieces = site.api.next_in_pieces();
    let head = format!("HTTP/1.1 403 Forbidden\r\nServer: scripted\r\nContent-Length: {}\r\n\r\n", UNLICENSED.len());
    pieces.send([head.as_bytes(), &UNLICENSED.as_bytes()[..10]].concat()).await.expect("takes it");
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    let head = client.head().await.expect("a head, before the rest came");
    assert_eq!(head.status, 403);
    pieces.send(UNLICENSED.as_bytes()[10..].to_vec()).await.expect("takes it");
    assert_eq!(client.bytes(UNLICENSED.len()).await, UNLICENSED.as_bytes());
    assert_eq!(readyz(site.sidecar.admin()).await, (true, serde_json::json!({ "ready": true })));
}

/// Versions and labels of a configuration are no agent's fetch.
#[tokio::test]
async fn a_403_on_what_no_agent_fetches_is_passed_on() {
    let site = replacing().start().await;
    for path in ["/api/configs/1/versions", "/api/configs/1/labels", "/api/config-groups/5"] {
        site.api.next(Script::reply(refusal("403 Forbidden")));
        assert_eq!(site.get(path, &site.owner).await.status(), 403, "{path}");
    }
    assert_eq!(readyz(site.sidecar.admin()).await, (true, serde_json::json!({ "ready": true })));
}

#[tokio::test]
async fn with_forward_the_controllers_word_is_about_the_clients_own_token() {
    let site = Site::start().await;
    for status in ["401 Unauthorized", "403 Forbidden"] {
        site.api.next(Script::reply(refusal(status)));
        let reply = site.get(CONFIG, &site.agent).await;
        assert_eq!(
            (reply.status().to_string(), reply.text()),
            (status[..3].to_owned(), r#"{"error":"Token expired"}"#)
        );
    }
    assert_eq!(readyz(site.sidecar.admin()).await, (true, serde_json::json!({ "ready": true })));
}

#[tokio::test]
async fn what_is_said_of_the_licence_passes_untouched() {
    let site = replacing().start().await;
    let licence = "X-License-Expired: true\r\nX-Entitlement-Warning: agents\r\n";
    let chunked = format!(
        "HTTP/1.1 403 Forbidden\r\nServer: scripted\r\n{licence}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        20,
        &UNLICENSED[..20],
        UNLICENSED.len() - 20,
        &UNLICENSED[20..],
    );
    let long = format!("{{\"error\":\"feature_not_licensed\",\"more\":\"{}\"}}", "x".repeat(10_000));
    let replies = [
        (scripted("402 Payment Required", licence, UNLICENSED), "402", UNLICENSED),
        (scripted("402 Payment Required", licence, ""), "402", ""),
        (scripted("403 Forbidden", licence, UNLICENSED), "403", UNLICENSED),
        (chunked, "403", UNLICENSED),
        // What it says cannot be known.
        (scripted("403 Forbidden", &format!("{licence}Content-Encoding: gzip\r\n"), "zipped"), "403", "zipped"),
        (scripted("403 Forbidden", licence, &long), "403", long.as_str()),
        (scripted("200 OK", licence, "x"), "200", "x"),
    ];
    for (said, status, body) in replies {
        for (upstream, path) in [(&site.api, CONFIG), (&site.api, "/api/agents"), (&site.heartbeat, HEARTBEAT)] {
            upstream.next(Script::reply(said.clone()));
            let reply = match path {
                HEARTBEAT => site.beat(&site.agent).await,
                _ => site.get(path, &site.owner).await,
            };
            assert_eq!((reply.status().to_string().as_str(), reply.text()), (status, body), "{path}");
            assert_eq!(reply.field("X-License-Expired"), Some("true"), "{path}");
            assert_eq!(reply.field("X-Entitlement-Warning"), Some("agents"), "{path}");
        }
    }
    assert_eq!((site.api.connections(), site.heartbeat.connections()), (1, 1), "and their connections stay");
    assert_eq!(readyz(site.sidecar.admin()).await, (true, serde_json::json!({ "ready": true })));
}

#[tokio::test]
async fn a_long_refusal_is_one_and_what_breaks_off_is_cut() {
    let site = replacing().start().await;
    // Longer than what is read of it.
    let long = format!("{{\"error\":\"Insufficient permissions\",\"more\":\"{}\"}}", "x".repeat(100_000));
    site.api.next(Script::reply(scripted("403 Forbidden", "", &long)));
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), REFUSED);
    // Nobody knows what would have come.
    for part in ["", UNLICENSED] {
        let head = format!("HTTP/1.1 403 Forbidden\r\nServer: scripted\r\nContent-Length: 500\r\n\r\n{part}");
        site.api.next(Script::reply(head).then_close());
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent)).await;
        client.cut_reply().await;
    }
    assert_eq!(readyz(site.sidecar.admin()).await.1["warnings"].as_array().map(Vec::len), Some(1), "of the first");
}

#[tokio::test]
async fn replies_on_open_routes_pass() {
    let site = replacing().setting("DISABLED_AUTH_GROUPS", "configs,heartbeat").start().await;
    for status in ["401 Unauthorized", "403 Forbidden"] {
        site.api.next(Script::reply(refusal(status)));
        assert_eq!(site.get(CONFIG, &site.agent).await.text(), r#"{"error":"Token expired"}"#);
        site.heartbeat.next(Script::reply(refusal(status)));
        assert_eq!(site.beat(&site.agent).await.text(), r#"{"error":"Token expired"}"#);
    }
    assert_eq!(readyz(site.sidecar.admin()).await, (true, serde_json::json!({ "ready": true })));
}

#[tokio::test]
async fn refusals_do_not_cost_a_connection_each() {
    let site = replacing().start().await;
    site.heartbeat.otherwise(|| Script::reply(refusal("401 Unauthorized")));
    let mut client = site.connect().await;
    for _ in 0..20 {
        client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
        assert_eq!(client.reply().await.status(), 502);
    }
    assert_eq!(site.heartbeat.connections(), 1);
    // Before the end of the request: then neither connection can be used again.
    site.heartbeat.otherwise(|| Script::early_reply(refusal("401 Unauthorized")));
    let body = vec![b'x'; 100_000];
    let whole = post(HEARTBEAT, &site.agent, &body);
    client.send(&whole[..whole.len() - 1]).await;
    let reply = client.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), REFUSED);
    assert_eq!(site.beat(&site.agent).await.status(), 502);
}

#[tokio::test]
async fn readiness_says_it_until_the_controller_takes_the_token_again() {
    let site = replacing().start().await;
    let admin = site.sidecar.admin();
    let file = site.directory().join("service-token");
    let warned = async |expected: &[&str]| {
        let (is_ready, said) = readyz(admin).await;
        assert!(is_ready && said["ready"] == true, "{said}");
        let warnings = said["warnings"].as_array().cloned().unwrap_or_default();
        assert_eq!(warnings.len(), expected.len(), "{said}");
        for (warning, upstream) in warnings.iter().zip(expected) {
            let warning = warning.as_str().expect("text");
            assert!(warning.contains(file.to_str().expect("text")) && warning.contains(upstream), "{warning}");
            assert!(!warning.contains("tc-apiv1_"), "{warning}");
        }
    };
    let refuse = async |upstream: &Upstream, status: &str, path: &str| {
        upstream.next(Script::reply(refusal(status)));
        let token: &Token = &site.owner;
        let request = if path == HEARTBEAT { post(path, token, b"{}") } else { get(path, token).into_bytes() };
        assert_eq!(site.send(request).await.status(), 502);
    };
    warned(&[]).await;
    refuse(&site.api, "401 Unauthorized", CONFIG).await;
    refuse(&site.heartbeat, "403 Forbidden", HEARTBEAT).await;
    warned(&["upstream.api, status 401", "upstream.heartbeat, status 403"]).await;
    let metric = |upstream: &str| format!("tollgate_upstream_credential_refused_total{{upstream=\"{upstream}\"}} 1\n");
    let said = site.metrics().await;
    assert!(said.contains(&metric("api")) && said.contains(&metric("heartbeat")), "{said}");
    // An answer that is no verdict on the token changes nothing.
    site.api.next(Script::reply(scripted("500 Internal Server Error", "", "x")));
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 500);
    warned(&["upstream.api, status 401", "upstream.heartbeat, status 403"]).await;
    assert_eq!(site.get("/api/agents", &site.owner).await.status(), 200);
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    warned(&[]).await;
    // A token without the permission that agents need does well everywhere else.
    refuse(&site.api, "403 Forbidden", CONFIG).await;
    assert_eq!(site.get("/api/agents", &site.owner).await.status(), 200);
    warned(&["upstream.api, status 403"]).await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    warned(&[]).await;
    // Another token has not been refused.
    refuse(&site.api, "401 Unauthorized", CONFIG).await;
    warned(&["upstream.api, status 401"]).await;
    std::fs::write(&file, "tc-apiv1_another-service-token").expect("writes");
    eventually("the file is read again", || async { readyz(admin).await.1.get("warnings").is_none() }).await;
}

#[tokio::test]
async fn the_log_names_the_token_file_and_the_upstream_now_and_then() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service-token");
    std::fs::write(&file, "tc-apiv1_service-token").expect("writes");
    let file = file.to_str().expect("text");
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let variables = [
        ("UPSTREAM__API__CREDENTIAL__MODE", "replace"),
        ("UPSTREAM__API__CREDENTIAL__TOKEN_FILE", file),
        ("UPSTREAM__HEARTBEAT__CREDENTIAL__MODE", "strip"),
    ];
    let program = Program::start(&api, &heartbeat, &variables);
    let field = format!("Authorization: Bearer {}\r\nContent-Length: 0\r\n", program.token);
    api.otherwise(|| Script::reply(refusal("401 Unauthorized")));
    heartbeat.otherwise(|| Script::reply(refusal("401 Unauthorized")));
    let mut client = Client::connect(program.address()).await;
    for _ in 0..50 {
        client.send(request("GET", CONFIG, &field)).await;
        assert_eq!(client.reply().await.status(), 502);
        client.send(request("POST", HEARTBEAT, &field)).await;
        assert_eq!(client.reply().await.status(), 502);
    }
    let lines = |upstream: &str| {
        let entries =
            program.log().into_iter().map(|line| serde_json::from_str::<serde_json::Value>(&line).expect("JSON"));
        entries.filter(|entry| entry["fields"]["upstream"] == upstream && entry["level"] == "ERROR").collect::<Vec<_>>()
    };
    eventually("both are said", || async { !lines("api").is_empty() && !lines("heartbeat").is_empty() }).await;
    for (upstream, named, words) in [
        ("api", Some(file), "the Controller refuses the service token"),
        ("heartbeat", None, "the Controller asks for a token and gets none"),
    ] {
        let lines = lines(upstream);
        assert!((1..=10).contains(&lines.len()), "{lines:?}");
        for line in lines {
            let fields = &line["fields"];
            assert_eq!((fields["token_file"].as_str(), &fields["status"]), (named, &serde_json::json!(401)), "{line}");
            assert!(fields["message"].as_str().is_some_and(|message| message.starts_with(words)), "{line}");
            assert!(fields["address"].is_string() && fields["request_id"].is_string(), "{line}");
        }
    }
    assert!(!program.log().concat().contains("tc-apiv1_"), "{:?}", program.log());
}

#[tokio::test]
async fn a_token_that_is_refused_and_taken_by_turns_is_not_a_line_each_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service-token");
    std::fs::write(&file, "tc-apiv1_service-token").expect("writes");
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let variables = [
        ("UPSTREAM__API__CREDENTIAL__MODE", "replace"),
        ("UPSTREAM__API__CREDENTIAL__TOKEN_FILE", file.to_str().expect("text")),
    ];
    let program = Program::start(&api, &heartbeat, &variables);
    let field = format!("Authorization: Bearer {}\r\n", program.token);
    let mut client = Client::connect(program.address()).await;
    for _ in 0..50 {
        for (reply, status) in [(refusal("401 Unauthorized"), 502), (ok("taken"), 200)] {
            api.next(Script::reply(reply));
            client.send(request("GET", CONFIG, &field)).await;
            assert_eq!(client.reply().await.status(), status);
        }
    }
    let lines = |words: &str| program.log().into_iter().filter(|line| line.contains(words)).collect::<Vec<_>>();
    eventually("both are said", || async { !lines("credential again").is_empty() }).await;
    for words in ["credential again", "refuses the service token"] {
        let lines = lines(words);
        assert!((1..=10).contains(&lines.len()), "{lines:?}");
        let node = format!("http://{}", api.address());
        assert!(lines.iter().all(|line| line.contains(&node)), "{lines:?}");
    }
}

#[tokio::test]
async fn what_the_controller_would_do_as_the_tokens_owner_is_not_routed() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service-token");
    std::fs::write(&file, "tc-apiv1_service-token").expect("writes");
    let replacing = || {
        let file = file.to_str().expect("text");
        let mode = Site::builder().setting("UPSTREAM__API__CREDENTIAL__MODE", "replace");
        mode.setting("UPSTREAM__API__CREDENTIAL__TOKEN_FILE", file)
    };
    let site = replacing().start().await;
    for path in ["/api/tokens", "/api/tokens/1", "/api/users", "/api/invites/1", "/api/password-resets/1/x"] {
        for method in ["GET", "POST", "DELETE"] {
            let field = format!("Authorization: Bearer {}\r\nContent-Length: 0\r\n", site.owner.raw);
            let reply = site.send(request(method, path, &field)).await;
            assert_eq!((reply.status(), reply.error().as_str()), (404, "Not found"), "{method} {path}");
        }
    }
    assert_eq!(site.forwarded(), 0);
    let route = r#"[{ methods = ["GET"], path = "/api/users/**", permission = "users:read" }]"#;
    let site = replacing().setting("ROUTE", route).start().await;
    site.api.next(Script::reply(ok("as the owner")));
    assert_eq!(site.get("/api/users/1", &site.owner).await.text(), "as the owner");
    assert_eq!(site.get("/api/users/1", &site.agent).await.status(), 403, "with its permission");
    assert_eq!(site.get("/api/tokens/1", &site.owner).await.status(), 404);
    // In the other modes they are what they were.
    let site = Site::start().await;
    assert_eq!(site.get("/api/tokens", &site.owner).await.status(), 200);
}
