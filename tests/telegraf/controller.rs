//! A stand-in for Telegraf Controller that has one configuration, takes heartbeats, and can be out of order in each way
//! that matters.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LAST_MODIFIED, USER_AGENT, VIA};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::port::Port;

/// Where the configuration is.
pub(crate) const CONFIGURATION: &str = "/api/configs/edge/toml";

/// The same by its alias.
pub(crate) const ALIAS: &str = "/c/edge-servers";

/// What it says. Everything that differs from agent to agent is in their environments; an edit changes what they call
/// themselves, so that every heartbeat tells which edition its agent runs.
const TEMPLATE: &str = r#"
[agent]
  interval = "10s"
  flush_interval = "10s"
  omit_hostname = true
  skip_processors_after_aggregators = true

[[inputs.mem]]

[[outputs.discard]]

[[outputs.heartbeat]]
  url = "${TOLLGATE}/agents/heartbeat"
  instance_id = "${AGENT}@EDITION"
  token = "${AGENT_TOKEN}"
  interval = "1s"
  include = ["hostname", "statistics", "configs", "logs", "status"]
  tls_ca = "${AGENT_CA}"
"#;

/// How the Controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// Connections are refused.
    Gone,
    /// Requests are taken and not answered.
    Silent,
    /// 503, with a `Last-Modified` that is not the configuration's.
    Unavailable,
    /// 503 to fetches alone: they are more work than anything else.
    Busy,
    /// 401, with a `Last-Modified` too: it does not take the sidecar's credential.
    Refusing,
}

/// One request that was answered well.
pub(crate) struct Request {
    pub(crate) kind: RequestKind,
    pub(crate) at: Instant,
    pub(crate) path: String,
    fields: HeaderMap,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// `GET` of the configuration.
    Fetch,
    /// `HEAD` of it, by a watcher.
    Ask,
    /// A heartbeat of an agent that runs this edition.
    Beat(u32),
}

/// The stand-in.
pub(crate) struct Controller {
    shared: Arc<Shared>,
    port: Arc<Port>,
    task: AbortHandle,
}

struct Shared {
    mood: watch::Sender<Mood>,
    edition: Mutex<u32>,
    /// By the agent's name.
    seen: Mutex<BTreeMap<String, Vec<Request>>>,
    /// What no agent should have sent.
    unexpected: Mutex<Vec<String>>,
}

impl Controller {
    pub(crate) fn start() -> Result<Self, String> {
        let failed = |error| format!("starting the Controller: {error}");
        let port = Arc::new(Port::hold().map_err(failed)?);
        let shared = Arc::new(Shared {
            mood: watch::Sender::new(Mood::Well),
            edition: Mutex::new(1),
            seen: Mutex::default(),
            unexpected: Mutex::default(),
        });
        let task = tokio::spawn(run(Arc::clone(&port), Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, port, task })
    }

    /// For the API and for heartbeats.
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Connections are cut, and refused from now on.
    pub(crate) fn goes(&self) {
        self.shared.mood.send_replace(Mood::Gone);
    }

    /// What is asked from now on is never answered.
    pub(crate) fn falls_silent(&self) {
        self.shared.mood.send_replace(Mood::Silent);
    }

    /// Everything is answered with 503 and a new `Last-Modified`.
    pub(crate) fn becomes_unavailable(&self) {
        self.shared.mood.send_replace(Mood::Unavailable);
    }

    /// Fetches are answered with 503, and watchers as ever.
    pub(crate) fn is_busy(&self) {
        self.shared.mood.send_replace(Mood::Busy);
    }

    /// Everything is answered with 401 and a new `Last-Modified`.
    pub(crate) fn refuses(&self) {
        self.shared.mood.send_replace(Mood::Refusing);
    }

    /// It is well again. What waits for an answer since it fell silent is cut off.
    pub(crate) fn recovers(&self) {
        self.shared.mood.send_replace(Mood::Well);
    }

    /// Edits the configuration and returns its new edition.
    pub(crate) fn edit(&self) -> u32 {
        let mut edition = self.shared.edition.lock().expect("no panic");
        *edition += 1;
        *edition
    }

    /// Counts the requests of an agent since a moment.
    pub(crate) fn count(&self, agent: &str, since: Option<Instant>, counts: impl Fn(RequestKind) -> bool) -> usize {
        let seen = self.shared.seen.lock().expect("no panic");
        let requests = seen.get(agent).map(Vec::as_slice).unwrap_or_default();
        let later = requests.iter().filter(|request| since.is_none_or(|since| request.at > since));
        later.filter(|request| counts(request.kind)).count()
    }

    /// Looks at every request of an agent, in the order of their arrival.
    pub(crate) fn judge(&self, agent: &str, judge: impl FnMut(&Request) -> Result<(), String>) -> Result<(), String> {
        let seen = self.shared.seen.lock().expect("no panic");
        seen.get(agent).map(Vec::as_slice).unwrap_or_default().iter().try_for_each(judge)
    }

    /// What should never have arrived.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        self.shared.unexpected.lock().expect("no panic").clone()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Request {
    /// The credential, as it arrived.
    pub(crate) fn credential(&self) -> Option<&str> {
        self.field(AUTHORIZATION)
    }

    pub(crate) fn accept(&self) -> Option<&str> {
        self.field(ACCEPT)
    }

    pub(crate) fn user_agent(&self) -> Option<&str> {
        self.field(USER_AGENT)
    }

    pub(crate) fn via(&self) -> Option<&str> {
        self.field(VIA)
    }

    pub(crate) fn forwarded(&self) -> Option<(&str, &str)> {
        let field = |name| self.field(HeaderName::from_static(name));
        Some((field("x-forwarded-for")?, field("x-forwarded-proto")?))
    }

    fn field(&self, name: HeaderName) -> Option<&str> {
        self.fields.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Listens whenever it is not gone.
async fn run(port: Arc<Port>, shared: Arc<Shared>) {
    let mut mood = shared.mood.subscribe();
    loop {
        let here = mood.wait_for(|mood| *mood != Mood::Gone).await.is_ok();
        let listener = port.listen().and_then(TcpListener::from_std);
        let listener = listener.expect("the port is held, and nobody else listens on it");
        tokio::select! {
            // The listener and the connections go with it.
            _ = mood.wait_for(|mood| *mood == Mood::Gone) => {}
            () = accept(listener, Arc::clone(&shared)), if here => {}
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, &shared));
                    // However it ends: what was seen is what counts.
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn answer(request: http::Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let mut mood = shared.mood.subscribe();
    let now = *mood.borrow_and_update();
    match now {
        Mood::Well => {}
        Mood::Busy if parts.method != Method::GET => {}
        Mood::Gone => return Err(Cut),
        Mood::Silent => {
            drop(mood.wait_for(|mood| *mood != Mood::Silent).await);
            return Err(Cut);
        }
        Mood::Unavailable | Mood::Busy => {
            let reply = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
            return Ok(reply.header(LAST_MODIFIED, modified(59)).body("away".into()).expect("a reply"));
        }
        Mood::Refusing => {
            let reply = Response::builder().status(StatusCode::UNAUTHORIZED).header(LAST_MODIFIED, modified(59));
            return Ok(reply.body(r#"{"error":"Token expired"}"#.into()).expect("a reply"));
        }
    }
    let edition = *shared.edition.lock().expect("no panic");
    let (agent, kind) = match (&parts.method, parts.uri.path()) {
        (&Method::GET, CONFIGURATION | ALIAS) => (queried(&parts.uri), RequestKind::Fetch),
        (&Method::HEAD, CONFIGURATION | ALIAS) => (queried(&parts.uri), RequestKind::Ask),
        (&Method::POST, "/agents/heartbeat") => match beating(&body) {
            Some((agent, edition)) => (Some(agent), RequestKind::Beat(edition)),
            None => (None, RequestKind::Beat(0)),
        },
        _ => (None, RequestKind::Fetch),
    };
    let Some(agent) = agent else {
        let line = format!("{} {} {}", parts.method, parts.uri.path(), String::from_utf8_lossy(&body));
        shared.unexpected.lock().expect("no panic").push(line);
        return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).expect("a reply"));
    };
    let seen = Request { kind, at: Instant::now(), path: parts.uri.path().to_owned(), fields: parts.headers };
    shared.seen.lock().expect("no panic").entry(agent).or_default().push(seen);
    Ok(match kind {
        RequestKind::Beat(_) => Response::new(Full::default()),
        RequestKind::Fetch | RequestKind::Ask => {
            let reply = Response::builder().header(CONTENT_TYPE, "application/toml");
            let text = TEMPLATE.replace("EDITION", &edition.to_string());
            reply.header(LAST_MODIFIED, modified(edition)).body(text.into()).expect("a reply")
        }
    })
}

/// When this edition was made.
fn modified(edition: u32) -> String {
    format!("Wed, 21 Oct 2015 07:{edition:02}:00 GMT")
}

/// The agent that fetches, by its parameter.
fn queried(uri: &http::Uri) -> Option<String> {
    uri.query()?.strip_prefix("agent=").map(str::to_owned)
}

/// The agent that beats and the edition that it runs.
fn beating(body: &[u8]) -> Option<(String, u32)> {
    let message: serde_json::Value = serde_json::from_slice(body).ok()?;
    let is_whole = body.starts_with(b"{\"id\":") && message["schema"] == 1 && message["status"] == "OK";
    let (agent, edition) = message["id"].as_str()?.split_once('@')?;
    is_whole.then_some((agent.to_owned(), edition.parse().ok()?))
}
