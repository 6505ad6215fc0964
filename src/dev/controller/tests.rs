use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::token::RawToken;

/// What came back over the wire.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error").to_owned()
    }
}

/// Writes a request as it is and reads until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request).await.expect("is read");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("answers and closes");
    let reply = String::from_utf8(reply).expect("UTF-8");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

async fn send(address: SocketAddr, method: &str, target: &str, fields: &str, body: &str) -> Reply {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    );
    exchange(address, request.as_bytes()).await
}

async fn start() -> Controller {
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (api, heartbeat) = (listen().await.expect("binds"), listen().await.expect("binds"));
    let controller = Controller::start(Listeners { api, heartbeat }).expect("starts");
    controller.put_configuration("demo", "name = \"&{name}\"\nevery = \"&{every:10s}\"\n".to_owned());
    controller
}

#[tokio::test]
async fn a_configuration_is_given_out_with_its_parameters_filled_in() {
    let controller = start().await;
    let reply = send(controller.api, "GET", "/api/configs/demo/toml?name=web%22%0A1", "", "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.field("content-type"), Some("application/toml"));
    assert_eq!(reply.body, "name = \"web\\u0022\\u000A1\"\nevery = \"10s\"\n");
    let last_modified = reply.field("last-modified").expect("a date");
    assert!(last_modified.ends_with(" GMT"), "{last_modified}");

    let head = send(controller.api, "HEAD", "/api/configs/demo/toml?name=web%22%0A1", "", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.field("last-modified"), Some(last_modified));
    assert_eq!(head.field("content-length"), reply.field("content-length"));
}

#[tokio::test]
async fn a_missing_parameter_is_named() {
    let controller = start().await;
    let reply = send(controller.api, "GET", "/api/configs/demo/toml", "", "").await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("`name`"), "{}", reply.body);
    assert_eq!(reply.field("last-modified"), None);
}

#[tokio::test]
async fn each_replacement_has_another_last_modified() {
    let controller = start().await;
    let mut dates = Vec::new();
    for text in ["a = 1", "a = 2", "a = 3"] {
        let put = send(controller.api, "PUT", "/api/configs/demo/toml", "", text).await;
        assert_eq!((put.status, &put.json()["id"]), (200, &json!("demo")));
        let reply = send(controller.api, "GET", "/api/configs/demo/toml", "", "").await;
        assert_eq!(reply.body, text);
        dates.push(reply.field("last-modified").expect("a date").to_owned());
    }
    assert!(dates[0] != dates[1] && dates[1] != dates[2] && dates[0] != dates[2], "{dates:?}");
}

#[tokio::test]
async fn configurations_that_cannot_be_stored_are_refused() {
    let controller = start().await;
    let unknown = send(controller.api, "PUT", "/api/configs/other/toml", "", "a = 1").await;
    assert_eq!((unknown.status, unknown.error().as_str()), (404, "there is no configuration `other`"));

    let announced = "PUT /api/configs/demo/toml HTTP/1.1\r\nHost: c\r\nContent-Length: 1048577\r\n\r\n";
    assert_eq!(exchange(controller.api, announced.as_bytes()).await.status, 413);
    let mut chunked =
        b"PUT /api/configs/demo/toml HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n".to_vec();
    chunked.resize(chunked.len() + 0x10_0001, b'a');
    assert_eq!(exchange(controller.api, &chunked).await.status, 413);

    let mut bytes =
        b"PUT /api/configs/demo/toml HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 1\r\n\r\n".to_vec();
    bytes.push(0xff);
    assert_eq!(exchange(controller.api, &bytes).await.status, 400);
    let stored = send(controller.api, "GET", "/api/configs/demo/toml?name=a", "", "").await;
    assert_eq!(stored.body, "name = \"a\"\nevery = \"10s\"\n");
}

#[tokio::test]
async fn configurations_are_listed() {
    let controller = start().await;
    let reply = send(controller.api, "GET", "/api/configs", "", "").await;
    assert_eq!(reply.field("content-type"), Some("application/json"));
    let list = reply.json();
    assert_eq!(list[0]["id"], "demo");
    assert!(list[0]["last_modified"].as_str().is_some_and(|at| at.ends_with('Z')), "{list}");
    assert_eq!(list.as_array().map(Vec::len), Some(1));
}

/// A configuration by an alias, in a group, with a constant: each change of one of them is another date.
#[tokio::test]
async fn aliases_groups_and_constants_are_configurations_too() {
    let api = start().await;
    let api = &api;
    let put = async |target: &str, body: &str| send(api.api, "PUT", target, "", body).await.status;
    let get = async |target: &str| {
        let reply = send(api.api, "GET", target, "", "").await;
        let head = send(api.api, "HEAD", target, "", "").await;
        assert_eq!(
            (head.status, head.field("last-modified")),
            (reply.status, reply.field("last-modified")),
            "{target}"
        );
        (reply.status, reply.field("last-modified").unwrap_or_default().to_owned(), reply.body)
    };
    assert_eq!(get("/c/web-servers").await.0, 404);
    assert_eq!(put("/api/configs/demo/aliases/web-servers", "").await, 200);
    assert_eq!(put("/api/configs/demo/aliases/Web", "").await, 400);
    let by_id = get("/api/configs/demo/toml?name=a").await;
    assert_eq!(by_id.2, "name = \"a\"\nevery = \"10s\"\n");
    assert_eq!(get("/c/web-servers?name=a").await, by_id);
    assert_eq!(get("/api/configs/web-servers/toml?name=a").await, by_id);

    assert_eq!(put("/api/configs/web-servers/toml", "site = \"::{site}\"\n").await, 200);
    let (status, date, body) = get("/c/web-servers").await;
    assert!(status == 400 && date.is_empty() && body.contains("constants without a value: site"), "{body}");
    assert_eq!(put("/api/constants/1st", "x").await, 400);
    assert_eq!(put("/api/constants/site", "bern").await, 200);
    assert_eq!(put("/api/config-groups/web", "[\"nowhere\"]").await, 404);
    assert_eq!(put("/api/config-groups/web", "[\"web-servers\"]").await, 200);
    assert_eq!(put("/api/config-groups/web/aliases/web-servers", "").await, 409, "the other one has it");
    assert_eq!(put("/api/config-groups/web/aliases/web-role", "").await, 200);
    let mut dates = Vec::new();
    for value in ["bern", "genf", "basel"] {
        put("/api/constants/site", value).await;
        let by_alias = get("/c/web-role").await;
        assert_eq!((by_alias.0, by_alias.2.as_str()), (200, &*format!("# Configuration: demo\nsite = \"{value}\"\n")));
        assert_eq!(get("/api/config-groups/web/toml").await, by_alias);
        assert_eq!(get("/api/configs/web-role/toml").await, by_alias, "where ids of configurations are, too");
        assert!(!dates.contains(&by_alias.1), "{dates:?}");
        dates.push(by_alias.1);
    }
    let groups = send(api.api, "GET", "/api/config-groups", "", "").await.json();
    assert_eq!((&groups[0]["id"], &groups[0]["members"]), (&json!("web"), &json!(["demo"])));
    assert_eq!(send(api.api, "GET", "/api/constants", "", "").await.json()[0]["value"], "basel");
    assert_eq!(send(api.api, "DELETE", "/api/configs/demo/aliases/web-role", "", "").await.status, 404);
    assert_eq!(send(api.api, "DELETE", "/api/config-groups/web/aliases/web-role", "", "").await.status, 200);
    assert_eq!(get("/c/web-role").await.0, 404);
}

#[tokio::test]
async fn tokens_are_taken_with_their_values_once() {
    let controller = start().await;
    let create = async |name: &str, value: &str| {
        let body = json!({ "name": name, "permissions": ["configs:read"], "rawToken": value }).to_string();
        let reply = send(controller.api, "POST", "/api/tokens", "", &body).await;
        (reply.status, reply.json())
    };
    let value = format!("tc-apiv1_{}", "ab".repeat(32));
    assert_eq!(create("a", &value).await, (201, json!({ "name": "a", "permissions": ["configs:read"] })));
    assert_eq!(create("b", &value).await, (409, json!({ "error": "token_value_conflict" })));
    assert_eq!(create("a", &value.replace("ab", "cd")).await, (409, json!({ "error": "token_name_conflict" })));
    assert_eq!(create("b", &value.to_uppercase()).await.0, 400);
    let body = r#"{"name":"c","permissions":[]}"#;
    let made = send(controller.api, "POST", "/api/tokens", "", body).await.json();
    assert!(made["token"].as_str().is_some_and(|token| RawToken::brought(token).is_ok()), "{made}");
    let capabilities = send(controller.api, "GET", "/api/tokens/capabilities", "", "").await.json();
    assert_eq!(capabilities, json!({ "preSharedTokensEnabled": true }));
}

#[tokio::test]
async fn heartbeats_can_be_read() {
    let controller = start().await;
    let log = r#"{"time":"2026-09-01T00:00:00Z","level":"ERROR","source":"inputs.mem","message":"no memory"}"#;
    let body = format!(r#"{{"id":"web-1","version":"Telegraf 1.39.0","logs":[{log}]}}"#);
    assert_eq!(send(controller.heartbeat, "POST", "/agents/heartbeat", "", &body).await.status, 200);
    let get = async |target: &str| send(controller.api, "GET", target, "", "").await;
    assert_eq!(get("/api/heartbeat/health").await.status, 200);
    assert_eq!(get("/api/heartbeat/agent/web-1/latest-heartbeat").await.json()["heartbeats"], 1);
    assert_eq!(get("/api/heartbeat/agent/web-1/logs").await.json(), json!(["inputs.mem: no memory"]));
    assert_eq!(get("/api/heartbeat/agent/web-2/logs").await.status, 404);
}

#[tokio::test]
async fn an_agent_that_reports_is_listed_with_what_tollgate_said_of_it() {
    let controller = start().await;
    let fields = "X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nX-Tollgate-Token-Id: 01h\r\nX-Tollgate-User: fleet\r\n";
    let body = r#"{"id":"web-1","version":"Telegraf 1.39.0","schema":1,"hostname":"web-1.lan","status":"OK"}"#;
    for _ in 0..2 {
        let reply = send(controller.heartbeat, "POST", "/agents/heartbeat", fields, body).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "ok" })));
    }
    send(controller.heartbeat, "POST", "/agents/heartbeat", "", r#"{"id":"a","version":"b"}"#).await;
    let mut agents = send(controller.api, "GET", "/api/agents", "", "").await.json();
    for agent in agents.as_array_mut().expect("a list") {
        let last_seen = agent.as_object_mut().and_then(|agent| agent.remove("last_seen")).expect("a time");
        let last_seen: Timestamp = last_seen.as_str().expect("a text").parse().expect("RFC 3339");
        assert!(last_seen.duration_until(Timestamp::now()) < SignedDuration::from_secs(60));
    }
    let bare = json!({
        "id": "a", "hostname": null, "version": "b", "status": null, "address": "127.0.0.1", "heartbeats": 1,
        "token_id": null, "user": null
    });
    let full = json!({
        "id": "web-1", "hostname": "web-1.lan", "version": "Telegraf 1.39.0", "status": "OK", "address": "192.0.2.7",
        "heartbeats": 2, "token_id": "01h", "user": "fleet"
    });
    assert_eq!(agents, json!([bare, full]));
}

#[tokio::test]
async fn a_heartbeat_of_another_shape_is_refused_and_not_recorded() {
    let controller = start().await;
    let reply = send(controller.heartbeat, "POST", "/agents/heartbeat", "", r#"{"id":"a"}"#).await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("missing field `version`"), "{}", reply.body);
    let announced = "POST /agents/heartbeat HTTP/1.1\r\nHost: c\r\nContent-Length: 10485761\r\n\r\n";
    assert_eq!(exchange(controller.heartbeat, announced.as_bytes()).await.status, 413);
    assert_eq!(send(controller.api, "GET", "/api/agents", "", "").await.json(), json!([]));
}

#[tokio::test]
async fn each_port_has_its_own_paths_and_methods() {
    let controller = start().await;
    let (api, heartbeat) = (controller.api, controller.heartbeat);
    let cases = [
        (api, "POST", "/agents/heartbeat", 404, None),
        (api, "GET", "/", 404, None),
        (api, "GET", "/api/configs/", 404, None),
        (api, "GET", "/api/configs/demo", 404, None),
        (api, "POST", "/api/configs", 405, Some("GET, HEAD")),
        (api, "DELETE", "/api/agents", 405, Some("GET, HEAD")),
        (api, "GET", "/c", 404, None),
        (api, "GET", "/c/web-servers", 404, None),
        (api, "POST", "/c/web-servers", 405, Some("GET, HEAD")),
        (api, "GET", "/api/tokens", 405, Some("POST")),
        (api, "GET", "/api/constants/site", 405, Some("PUT")),
        (api, "POST", "/api/heartbeat/health", 405, Some("GET, HEAD")),
        (api, "DELETE", "/api/configs/demo/toml", 405, Some("GET, HEAD, PUT")),
        (heartbeat, "GET", "/agents/heartbeat", 405, Some("POST")),
        (heartbeat, "GET", "/api/agents", 404, None),
    ];
    for (address, method, target, status, allow) in cases {
        let reply = send(address, method, target, "", "").await;
        assert_eq!((reply.status, reply.field("allow")), (status, allow), "{method} {target}");
        assert!(!reply.error().is_empty());
    }
}

#[test]
fn the_agent_that_was_silent_longest_is_forgotten_first() {
    let state = State::default();
    let at = |second: i64| Timestamp::from_second(second).expect("in range");
    let report = |id: usize, second: i64| {
        let heartbeat = Heartbeat::parse(format!(r#"{{"id":"{id}","version":"v"}}"#).as_bytes()).expect("valid");
        state.record(heartbeat, IpAddr::from([127, 0, 0, 1]), &HeaderMap::new(), at(second));
    };
    for id in 0..MAX_AGENTS {
        report(id, 100);
    }
    report(3, 50);
    report(MAX_AGENTS, 200);
    let agents = state.list_agents();
    assert_eq!(agents.len(), MAX_AGENTS);
    assert!(agents.iter().all(|agent| agent.id != "3"));
    assert!(agents.iter().any(|agent| agent.id == MAX_AGENTS.to_string()));
}
