//! Which tokens are used, and by which agents, from the request to what commands say of it.

mod commands;
mod fleet;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tollgate::registry::LastUse;
use tollgate::store::Agent;

use crate::harness::{
    CONFIG, HEARTBEAT, Http2Client, Site, Token, eventually, get, http2_with, operator, post, request, within,
};

/// What Telegraf sends.
fn heartbeat(id: &str) -> String {
    format!(r#"{{"id":"{id}","version":"1.39.0","schema":1,"status":"OK"}}"#)
}

/// A heartbeat with these lines in its head, in chunks of this size.
fn in_chunks(token: &Token, body: &[u8], size: usize) -> Vec<u8> {
    let fields = format!("Authorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n", token.raw);
    let mut bytes = request("POST", HEARTBEAT, &fields).into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// What is known of a token's use once the sidecar has stopped: it leaves nothing unsaid.
struct Known {
    last_use: LastUse,
    now: Timestamp,
    day: u64,
    agents: Vec<Agent>,
}

impl Known {
    async fn of(site: &Site, token: &Token) -> Self {
        let uses = site.registry.usage(&operator(), &[token.id]).await.expect("reads");
        let agents = site.registry.agents(&operator(), token.id, 100).await.expect("reads");
        Self { last_use: uses.last_use(token.id), now: uses.now, day: uses.agents(token.id)[0].agents, agents }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.agents.iter().map(|agent| agent.name.to_string()).collect();
        names.sort();
        names
    }
}

async fn stopped(site: Site) -> Site {
    site.restart().await
}

async fn send(site: &Site, request: impl AsRef<[u8]>) {
    assert_eq!(site.send(request).await.status(), 200);
}

#[tokio::test]
async fn an_agent_is_known_by_the_name_in_its_heartbeat() {
    let site = Site::start().await;
    let agent = site.agent.clone();
    // An agent fetches its configuration before it says who it is.
    let fields = format!("Authorization: Bearer {}\r\nUser-Agent: Telegraf/1.39.0 Go/1.26.3\r\n", agent.raw);
    send(&site, request("GET", CONFIG, &fields)).await;
    send(&site, post(HEARTBEAT, &agent, heartbeat("web-1").as_bytes())).await;
    send(&site, post(HEARTBEAT, &agent, heartbeat("web-2").as_bytes())).await;
    send(&site, get(CONFIG, &agent)).await;
    assert_eq!(site.heartbeat.requests()[0].body, heartbeat("web-1").as_bytes(), "it passes as it is");
    let site = stopped(site).await;
    let known = Known::of(&site, &agent).await;
    assert_eq!((known.names(), known.day), (vec!["web-1".to_owned(), "web-2".to_owned()], 2));
    for agent in &known.agents {
        assert_eq!((agent.address.to_string().as_str(), agent.version.as_deref()), ("127.0.0.1", Some("1.39.0")));
    }
    assert!(matches!(known.last_use, LastUse::At(at) if at <= known.now));
    assert_eq!(Known::of(&site, &site.owner).await.day, 0);
}

#[tokio::test]
async fn who_gives_no_name_is_known_by_the_address() {
    let site = Site::start().await;
    let (fetching, compressing) = (site.token("olga", &["configs:read"]).await, site.agent.clone());
    let fields = format!("Authorization: Bearer {}\r\nUser-Agent: Telegraf/1.39.0 Go/1.26.3\r\n", fetching.raw);
    send(&site, request("GET", CONFIG, &fields)).await;
    // Nobody looks into what is compressed. It passes as it is.
    let compressed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
    let fields = format!(
        "Authorization: Bearer {}\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n",
        compressing.raw,
        compressed.len()
    );
    send(&site, [request("POST", HEARTBEAT, &fields).as_bytes(), compressed].concat()).await;
    assert_eq!(site.heartbeat.request().body, compressed);
    let site = stopped(site).await;
    let known = Known::of(&site, &fetching).await;
    assert_eq!((known.names(), known.agents[0].version.as_deref()), (vec!["127.0.0.1".to_owned()], Some("1.39.0")));
    assert_eq!(Known::of(&site, &compressing).await.names(), ["127.0.0.1"]);
}

#[tokio::test]
async fn a_name_is_found_however_the_body_comes() {
    let site = Site::start().await;
    let agent = site.agent.clone();
    let large = |id: &str, size: usize| {
        let body = heartbeat(id);
        format!(r#"{},"logs":["{}"]}}"#, body.trim_end_matches('}'), "x".repeat(size)).into_bytes()
    };
    send(&site, post(HEARTBEAT, &agent, &large("large", 1 << 20))).await;
    send(&site, in_chunks(&agent, heartbeat("chunked").as_bytes(), 7)).await;
    send(&site, in_chunks(&agent, &large("chunked-large", 100_000), 1000)).await;
    // The name reaches over two pieces of a body that is not read whole.
    let (request, body) = (post(HEARTBEAT, &agent, &large("torn", 50_000)), 50_000);
    let at = request.len() - body - 60;
    let mut client = site.connect().await;
    client.send(&request[..at]).await;
    let sees = |seen: &crate::harness::Seen| seen.requests.len() == 4 && seen.requests[3].body.len() > 2;
    site.heartbeat.until("its first bytes", sees).await;
    client.send(&request[at..]).await;
    assert_eq!(client.reply().await.status(), 200);
    let http2 = Http2Client::connect(site.address()).await;
    for (id, size) in [("http2", 10), ("http2-large", 100_000)] {
        let mut stream = http2.begin(http2_with(&agent, "POST", HEARTBEAT)).await;
        stream.body.send_data(Bytes::from(large(id, size)), true).expect("is sent");
        assert_eq!(stream.reply().await.status(), 200);
    }
    let site = stopped(site).await;
    let names = Known::of(&site, &agent).await.names();
    assert_eq!(names, ["chunked", "chunked-large", "http2", "http2-large", "large", "torn"]);
}

#[tokio::test]
async fn junk_in_the_place_of_a_name_harms_nothing() {
    let site = Site::start().await;
    let agent = site.agent.clone();
    let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(2000));
    let token = format!(r#"{{"id":"{}"}}"#, agent.raw);
    let bodies =
        ["", "{", "[]", r#"{"id":7}"#, r#"{"id":"a\u0000b"}"#, r#"{"id":""}"#, &long, &token, "{\"id\":\"\u{1b}[2J\"}"];
    for body in bodies {
        send(&site, post(HEARTBEAT, &agent, body.as_bytes())).await;
    }
    let site = stopped(site).await;
    assert_eq!(Known::of(&site, &agent).await.names(), ["127.0.0.1"]);
    assert_eq!(site.metric("tollgate_panics_total").await, "0");
}

#[tokio::test]
async fn a_request_that_is_refused_is_no_use() {
    let site = Site::builder().setting("LIMITS__MAX_BODY_BYTES", "100").start().await;
    let [expired, reading] =
        [site.token("olga", &["heartbeat:write"]).await, site.token("olga", &["labels:read"]).await];
    site.expire(&expired).await;
    let agent = site.agent.clone();
    let body = heartbeat("web-1");
    let chunked = in_chunks(&agent, "x".repeat(200).as_bytes(), 50);
    for (request, status) in [
        (post(HEARTBEAT, &expired, body.as_bytes()), 401),
        (post(HEARTBEAT, &reading, body.as_bytes()), 403),
        (post(HEARTBEAT, &agent, "x".repeat(200).as_bytes()), 413),
        (chunked, 413),
        (get("/nowhere", &agent).into_bytes(), 404),
        (get("/api/../x", &agent).into_bytes(), 400),
    ] {
        assert_eq!(site.send(request).await.status(), status);
    }
    site.revoke(&agent).await;
    site.replica_is_current().await;
    assert_eq!(site.send(post(HEARTBEAT, &agent, body.as_bytes())).await.status(), 401);
    let site = stopped(site).await;
    for token in [&agent, &expired, &reading] {
        let known = Known::of(&site, token).await;
        assert_eq!((known.last_use.at(), known.agents.len()), (None, 0));
    }
}

#[tokio::test]
async fn who_comes_through_a_trusted_proxy_is_where_that_says() {
    let site = Site::builder().setting("TRUSTED_PROXIES", "127.0.0.1,192.0.2.0/24").start().await;
    let agent = site.agent.clone();
    let from = |id: &str, hops: &str| {
        let body = heartbeat(id);
        let (token, length) = (&agent.raw, body.len());
        let fields =
            format!("Authorization: Bearer {token}\r\nX-Forwarded-For: {hops}\r\nContent-Length: {length}\r\n");
        request("POST", HEARTBEAT, &fields) + &body
    };
    send(&site, from("direct", "203.0.113.7")).await;
    send(&site, from("far", "198.51.100.9, 203.0.113.8, 192.0.2.1")).await;
    send(&site, from("odd", "nonsense")).await;
    let site = stopped(site).await;
    let known = Known::of(&site, &agent).await;
    let mut places: Vec<_> =
        known.agents.iter().map(|agent| (agent.name.to_string(), agent.address.to_string())).collect();
    places.sort();
    let expected = [("direct", "203.0.113.7"), ("far", "203.0.113.8"), ("odd", "127.0.0.1")];
    assert_eq!(places, expected.map(|(id, at)| (id.to_owned(), at.to_owned())));
}

/// Without being asked to, and with the time that it had.
#[tokio::test]
async fn a_use_is_recorded_within_ten_seconds() {
    let site = Site::start().await;
    let agent = site.agent.clone();
    let (before, begun) = (jiff::Timestamp::now(), std::time::Instant::now());
    send(&site, post(HEARTBEAT, &agent, heartbeat("web-1").as_bytes())).await;
    let after = jiff::Timestamp::now();
    eventually("it is recorded", || async { Known::of(&site, &agent).await.day == 1 }).await;
    println!("recorded after {:?}", begun.elapsed());
    let LastUse::At(at) = Known::of(&site, &agent).await.last_use else { panic!("it was used") };
    let second = Duration::from_secs(1);
    assert!(before - second <= at && at <= after + second, "{at} of {before} to {after}");
    let unwritten: f64 = site.metric("tollgate_usage_unwritten_seconds").await.parse().expect("a number");
    assert!(unwritten < begun.elapsed().as_secs_f64() + 10.0, "{unwritten}");
}

/// It is delayed, and neither lost nor counted twice.
#[tokio::test]
async fn an_outage_of_the_store_loses_no_use() {
    let site = Site::builder().setting("FRESHNESS__MAX_STALENESS", "5m").start().await;
    let agent = site.agent.clone();
    send(&site, post(HEARTBEAT, &agent, heartbeat("before").as_bytes())).await;
    eventually("it is recorded", || async { Known::of(&site, &agent).await.day == 1 }).await;
    site.store.set_broken(true);
    send(&site, post(HEARTBEAT, &agent, heartbeat("before").as_bytes())).await;
    send(&site, post(HEARTBEAT, &agent, heartbeat("during").as_bytes())).await;
    let used = std::time::Instant::now();
    within("a write that fails", async {
        while site.metric("tollgate_usage_flushes_failed_total").await == "0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(Known::of(&site, &agent).await.names(), ["before"], "nothing is recorded yet");
    site.store.set_broken(false);
    let passed = used.elapsed();
    let site = stopped(site).await;
    let known = Known::of(&site, &agent).await;
    assert_eq!((known.names(), known.day), (vec!["before".to_owned(), "during".to_owned()], 2));
    let LastUse::At(at) = known.last_use else { panic!("{:?}", known.last_use) };
    let ago = Duration::try_from(known.now.duration_since(at)).expect("not in the future");
    assert!(ago >= passed.saturating_sub(Duration::from_millis(100)), "when it was, not when it was told: {ago:?}");
    // Once more, by another sidecar of the same store: nothing is new.
    let site = stopped(site).await;
    assert_eq!(Known::of(&site, &agent).await.day, 2);
}

#[tokio::test]
async fn a_controller_that_is_away_makes_no_token_unused() {
    let (_closed, address) = crate::harness::refusing();
    let site = Site::builder().api_at(format!("http://{address}")).start().await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 502);
    let agent = site.agent.clone();
    let site = stopped(site).await;
    assert_eq!(Known::of(&site, &agent).await.day, 1, "it was let through");
}
