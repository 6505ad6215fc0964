//! Traces: what becomes of the fields of W3C Trace Context, and what a collector gets.

use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{CONFIG, Client, Program, Recorded, Site, Upstream, eventually, request, within};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// What the upstream gets of a request with these fields.
async fn forwarded(site: &Site, fields: &str) -> Recorded {
    let fields = format!("Authorization: Bearer {}\r\n{fields}", site.agent.raw);
    assert_eq!(site.send(request("GET", CONFIG, &fields)).await.status(), 200);
    site.api.requests().pop().expect("a request")
}

fn traceparent(recorded: &Recorded) -> [String; 3] {
    let value = recorded.field("traceparent").expect("is there");
    let parts: Vec<_> = value.split('-').map(str::to_owned).collect();
    let [version, trace, parent, flags] = parts.try_into().expect(value);
    assert_eq!((version.as_str(), trace.len(), parent.len()), ("00", 32, 16), "{value}");
    [trace, parent, flags]
}

/// A site that exports to this collector.
async fn tracing(collector: &Upstream, variables: &[(&str, &str)]) -> Site {
    let endpoint = format!("http://{}", collector.address());
    let builder = Site::builder().setting("TRACES__ENDPOINT", &endpoint);
    variables.iter().fold(builder, |builder, (name, value)| builder.setting(name, value)).start().await
}

/// All spans that a collector has got.
fn spans(collector: &Upstream) -> Vec<Value> {
    let requests = collector.requests();
    let bodies = requests.iter().filter(|request| request.complete).map(|request| {
        assert_eq!(request.request_line(), "POST /v1/traces HTTP/1.1");
        assert_eq!(request.field("content-type"), Some("application/json"));
        serde_json::from_slice::<Value>(&request.body).expect("JSON")
    });
    let spans = bodies.flat_map(|body| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned());
    spans.flatten().collect()
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().expect("a list");
    let found =
        attributes.iter().find(|attribute| attribute["key"] == name).unwrap_or_else(|| panic!("{name}: {span}"));
    found["value"].as_object().expect("a value").values().next().expect("one")
}

#[tokio::test]
async fn without_an_endpoint_the_fields_are_others_and_pass() {
    let site = Site::start().await;
    for value in [parent("01"), "nonsense".to_owned()] {
        let recorded = forwarded(&site, &format!("traceparent: {value}\r\ntracestate: a=1\r\n")).await;
        assert_eq!((recorded.field("traceparent"), recorded.field("tracestate")), (Some(value.as_str()), Some("a=1")));
    }
    assert_eq!(forwarded(&site, "").await.field("traceparent"), None);
}

#[tokio::test]
async fn a_trace_is_continued_or_begins_here() {
    let collector = Upstream::start().await;
    let site = tracing(&collector, &[]).await;
    let recorded = forwarded(&site, &format!("traceparent: {}\r\ntracestate: a=1, b=2\r\n", parent("00"))).await;
    let [trace, own, flags] = traceparent(&recorded);
    assert_eq!((trace.as_str(), flags.as_str(), recorded.field("tracestate")), (TRACE, "01", Some("a=1, b=2")));
    assert_ne!(own, SPAN);
    let invalid = forwarded(&site, &format!("traceparent: {}\r\ntracestate: a\r\n", parent("01"))).await;
    assert_eq!((traceparent(&invalid)[0].as_str(), invalid.field("tracestate")), (TRACE, None));
    let twice = format!("traceparent: {0}\r\ntraceparent: {0}\r\n", parent("01"));
    for fields in ["", "traceparent: nonsense\r\n", &twice, "tracestate: a=1\r\n"] {
        let recorded = forwarded(&site, &format!("{fields}tracestate: c=3\r\n")).await;
        let [trace, _, flags] = traceparent(&recorded);
        assert!(trace != TRACE && recorded.field("tracestate").is_none(), "{fields}: {}", recorded.head);
        assert_eq!(flags, "03", "it is exported, and random");
    }
}

#[tokio::test]
async fn a_strangers_sampled_flag_goes_no_further() {
    let collector = Upstream::start().await;
    let site = tracing(&collector, &[("TRACES__ONE_IN", "0")]).await;
    let recorded = forwarded(&site, &format!("traceparent: {}\r\n", parent("01"))).await;
    assert_eq!(recorded.field("traceparent"), Some(parent("00").as_str()));
    assert_eq!(traceparent(&forwarded(&site, "").await)[2], "02");
}

#[tokio::test]
async fn a_span_says_what_came_of_a_request() {
    let collector = Upstream::start().await;
    let site =
        tracing(&collector, &[("TRACES__ONE_IN", "0"), ("TRUSTED_PROXIES", "127.0.0.1"), ("NAME", "edge-7")]).await;
    // Trusted proxies decide.
    let unsampled = forwarded(&site, &format!("traceparent: {}\r\n", parent("00"))).await;
    assert_eq!(unsampled.field("traceparent"), Some(parent("00").as_str()));
    let recorded = forwarded(&site, &format!("traceparent: {}\r\nX-Forwarded-For: 192.0.2.7\r\n", parent("01"))).await;
    let refused = format!("traceparent: {}\r\nAuthorization: Bearer tc-apiv1_Wm4kZx8vQ3hTg\r\n", parent("01"));
    assert_eq!(site.send(request("GET", &format!("{CONFIG}?a=s3cret"), &refused)).await.status(), 401);
    eventually("two spans", || async { spans(&collector).len() == 2 }).await;
    let [served, refused] = spans(&collector).try_into().expect("two");
    let [_, own, _] = traceparent(&recorded);
    assert_eq!((&served["traceId"], &served["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!((&served["spanId"], &served["kind"]), (&own.into(), &2.into()));
    assert_eq!(served["name"], "GET /api/configs/**");
    assert_eq!(served.get("status"), None);
    let nanoseconds = |name: &str| served[name].as_str().expect("text").parse::<u64>().expect("a number");
    assert!(nanoseconds("startTimeUnixNano") < nanoseconds("endTimeUnixNano"));
    let expected = [
        ("http.request.method", "GET"),
        ("url.path", CONFIG),
        ("http.route", "/api/configs/**"),
        ("http.response.status_code", "200"),
        ("client.address", "192.0.2.7"),
        ("user.name", "olga"),
        ("tollgate.token.id", &site.agent.id.to_string()),
        ("tollgate.request.id", recorded.field("X-Request-Id").expect("an id")),
        ("tollgate.outcome", "served"),
    ];
    for (name, value) in expected {
        assert_eq!(attribute(&served, name), value, "{name}");
    }
    assert_eq!((attribute(&refused, "tollgate.outcome"), refused.get("status")), (&"unknown_token".into(), None));
    let bodies: String = collector.requests().iter().map(|request| String::from_utf8_lossy(&request.body)).collect();
    assert!(bodies.contains("edge-7") && !bodies.contains("Wm4kZx8vQ3hTg") && !bodies.contains("s3cret"), "{bodies}");
    assert!(!bodies.contains(&site.agent.raw));
    assert_eq!(site.metric("tollgate_trace_spans_lost_total").await, "0");
}

#[tokio::test]
async fn what_is_left_at_the_end_goes_to_a_collector_that_answers() {
    let collector = Upstream::start().await;
    let site = tracing(&collector, &[]).await;
    forwarded(&site, "").await;
    eventually("a span", || async { spans(&collector).len() == 1 }).await;
    // Its answer was taken when the next one comes.
    forwarded(&site, "").await;
    eventually("the next", || async { spans(&collector).len() == 2 }).await;
    for _ in 0..3 {
        forwarded(&site, "").await;
    }
    within("the end", site.sidecar.stop()).await;
    eventually("the rest", || async { spans(&collector).len() == 5 }).await;
}

async fn lost(program: &Program) -> u64 {
    let mut client = Client::connect(program.admin()).await;
    client.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    let text = String::from_utf8(client.rest().await).expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix("tollgate_trace_spans_lost_total "));
    value.and_then(|value| value.parse().ok()).expect("a number")
}

/// Lines of the log on what is not exported.
fn complaints(program: &Program) -> usize {
    program.log().iter().filter(|line| line.contains("traces are not exported")).count()
}

async fn ask(program: &Program, count: usize) {
    let mut client = Client::connect(program.address()).await;
    for _ in 0..count {
        client.send(request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))).await;
        assert_eq!(client.reply().await.status(), 200);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_one_line() {
    let (api, heartbeat, collector) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let endpoint = format!("http://{}", collector.address());
    collector.kill().await;
    let program = Program::start(&api, &heartbeat, &[("TRACES__ENDPOINT", &endpoint)]);
    ask(&program, 3).await;
    eventually("they are lost", || async { lost(&program).await == 3 }).await;
    ask(&program, 3).await;
    eventually("these too", || async { lost(&program).await == 6 }).await;
    assert_eq!(complaints(&program), 1, "{:?}", program.log());
}

#[tokio::test]
async fn a_collector_that_says_nothing_holds_up_neither_requests_nor_the_end() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let program = Program::start(&api, &heartbeat, &[("TRACES__ENDPOINT", &endpoint)]);
    ask(&program, 20).await;
    let _connection = within("it connects", silent.accept()).await.expect("accepts");
    ask(&program, 20).await;
    program.signal("TERM");
    assert!(program.ended().await.success());
}
