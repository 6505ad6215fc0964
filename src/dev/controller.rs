//! A stand-in for Telegraf Controller: enough of it to try Tollgate, on two ports as the real one has them.
//!
//! ```text
//!   API         GET, HEAD       /api/configs                     which configurations there are
//!               GET, HEAD, PUT  /api/configs/{id}/toml           one of them; the query fills in its parameters
//!               GET, HEAD       /api/config-groups               which groups of them there are
//!               PUT             /api/config-groups/{id}          its members, a list
//!               GET, HEAD       /api/config-groups/{id}/toml     all of a group, one after the other
//!               GET, HEAD       /c/{alias}                       either, by another name
//!               PUT, DELETE     /api/{configs,config-groups}/{id}/aliases/{alias}
//!               GET, HEAD       /api/constants                   what `::{name}` stands for in configurations
//!               PUT             /api/constants/{name}            its value, as it is
//!               POST            /api/tokens                      with a value of one's own, or without
//!               GET, HEAD       /api/tokens/capabilities
//!               GET, HEAD       /api/agents                      who has reported, and when
//!               GET, HEAD       /api/heartbeat/health
//!               GET, HEAD       /api/heartbeat/agent/{id}/latest-heartbeat
//!               GET, HEAD       /api/heartbeat/agent/{id}/logs
//!   heartbeats  POST            /agents/heartbeat                checked against the shape that Telegraf sends
//! ```
//!
//! An alias does in place of an id.
//!
//! It asks nobody for a token: that is Tollgate's part. Who sent a heartbeat it takes from the `X-Forwarded-For` and
//! `X-Tollgate-*` fields that Tollgate sets. All is in memory, within bounds.

mod catalog;
mod tokens;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::heartbeat::{AgentStatus, Heartbeat, Object};
use super::ports::Listeners;
use crate::lock::Mutex;
use catalog::{Catalog, CatalogError, Rendered, Target};
use tokens::Tokens;

/// Largest heartbeat, in bytes.
const MAX_HEARTBEAT_BYTES: usize = 10 * 1024 * 1024;

/// Largest configuration, in bytes.
const MAX_CONFIGURATION_BYTES: usize = 1024 * 1024;

/// Agents remembered; beyond that the one that was silent longest is forgotten.
const MAX_AGENTS: usize = 10_000;

/// Log entries remembered of an agent, and the characters of each.
const MAX_LOGS: usize = 20;
const MAX_LOG_CHARACTERS: usize = 500;

/// Connections at once on each port; accepting pauses above it.
const MAX_CONNECTIONS: usize = 1024;

/// Longest wait for the head of a request, and then for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A running stand-in. It ends when this is dropped, and with it every connection.
#[derive(Debug)]
pub(crate) struct Controller {
    pub api: SocketAddr,
    pub heartbeat: SocketAddr,
    state: Arc<State>,
    _servers: JoinSet<()>,
}

impl Controller {
    /// Starts serving both ports, without configurations.
    ///
    /// # Errors
    /// When the address of a listener cannot be read.
    pub(crate) fn start(listeners: Listeners) -> io::Result<Self> {
        let Listeners { api, heartbeat } = listeners;
        let state = Arc::new(State::default());
        let (api_address, heartbeat_address) = (api.local_addr()?, heartbeat.local_addr()?);
        let mut servers = JoinSet::new();
        servers.spawn(accept(api, Server::Api, state.clone()));
        servers.spawn(accept(heartbeat, Server::Heartbeat, state.clone()));
        Ok(Self { api: api_address, heartbeat: heartbeat_address, state, _servers: servers })
    }

    /// Adds a configuration, or replaces the one with this id. Placeholders in its text (`&{name}`, `&{name:default}`)
    /// are filled in whenever it is fetched, and constants (`::{name}`).
    pub(crate) fn put_configuration(&self, id: &str, text: String) {
        self.state.catalog.lock().put_configuration(id, text, Timestamp::now());
    }

    /// Lets a configuration be fetched by another name, too.
    ///
    /// # Errors
    /// When it is no alias.
    pub(crate) fn put_alias(&self, alias: &str, configuration: &str) -> Result<(), impl Error + Send + Sync + use<>> {
        self.state.catalog.lock().put_alias(alias, Target::Configuration(configuration.to_owned()))
    }
}

/// Which of the two ports a request came in by.
#[derive(Debug, Clone, Copy)]
enum Server {
    Api,
    Heartbeat,
}

async fn accept(listener: TcpListener, server: Server, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer.ip(), server, state.clone()));
                }
                // Out of descriptors, most likely; some will be free again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, peer: IpAddr, server: Server, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = state.clone();
        async move {
            let answer = match server {
                Server::Api => api(&state, request).await,
                Server::Heartbeat => heartbeat(&state, peer, request).await,
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(ErrorReply::into_response))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that breaks is the client's business.
    connection.await.ok();
}

type ApiResult = Result<Response<Full<Bytes>>, ErrorReply>;

async fn api(state: &State, request: Request<Incoming>) -> ApiResult {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let query = head.uri.query().unwrap_or_default();
    let ["api", path @ ..] = path.as_slice() else {
        return match (path.as_slice(), &head.method) {
            (["c", alias], &Method::GET | &Method::HEAD) => {
                let catalog = state.catalog.lock();
                toml(catalog.render(&catalog.target(alias)?, query)?)
            }
            (["c", _], _) => Err(ErrorReply::method("GET, HEAD")),
            _ => Err(no_path()),
        };
    };
    let now = Timestamp::now();
    match (path, &head.method) {
        (["configs"], &Method::GET | &Method::HEAD) => Ok(json(StatusCode::OK, &state.catalog.lock().configurations())),
        (["config-groups"], &Method::GET | &Method::HEAD) => Ok(json(StatusCode::OK, &state.catalog.lock().groups())),
        (["constants"], &Method::GET | &Method::HEAD) => Ok(json(StatusCode::OK, &state.catalog.lock().constants())),
        (["agents"], &Method::GET | &Method::HEAD) => Ok(json(StatusCode::OK, &state.list_agents())),
        ([kind @ ("configs" | "config-groups"), name, "toml"], &Method::GET | &Method::HEAD) => {
            let catalog = state.catalog.lock();
            toml(catalog.render(&target(&catalog, kind, name)?, query)?)
        }
        (["configs", name, "toml"], &Method::PUT) => {
            let id = state.catalog.lock().configuration_id(name)?;
            let text = read_text(body).await?;
            Ok(json(StatusCode::OK, &state.catalog.lock().put_configuration(&id, text, now)))
        }
        (["config-groups", id], &Method::PUT) => {
            let members = read_json(body).await?;
            Ok(json(StatusCode::OK, &state.catalog.lock().put_group(id, members, now)?))
        }
        ([kind @ ("configs" | "config-groups"), name, "aliases", alias], method @ (&Method::PUT | &Method::DELETE)) => {
            let mut catalog = state.catalog.lock();
            let target = target(&catalog, kind, name)?;
            match *method {
                Method::PUT => catalog.put_alias(alias, target)?,
                _ => catalog.delete_alias(alias, &target)?,
            }
            Ok(json(StatusCode::OK, &serde_json::json!({ "alias": alias })))
        }
        (["constants", name], &Method::PUT) => {
            let value = read_text(body).await?;
            Ok(json(StatusCode::OK, &state.catalog.lock().put_constant(name, value, now)?))
        }
        (["tokens", "capabilities"], &Method::GET | &Method::HEAD) => {
            Ok(json(StatusCode::OK, &serde_json::json!({ "preSharedTokensEnabled": true })))
        }
        (["tokens"], &Method::POST) => {
            let new = read_json(body).await?;
            let created = state.tokens.lock().create(new);
            created
                .map(|token| json(StatusCode::CREATED, &token))
                .map_err(|(status, reason)| ErrorReply::new(status, reason))
        }
        (["heartbeat", "health"], &Method::GET | &Method::HEAD) => {
            Ok(json(StatusCode::OK, &serde_json::json!({ "status": "ok" })))
        }
        (["heartbeat", "agent", id, what @ ("latest-heartbeat" | "logs")], &Method::GET | &Method::HEAD) => {
            let agents = state.agents.lock();
            let unknown = || ErrorReply::not_found(format_args!("no agent `{id}` has reported"));
            let reported = agents.get(*id).ok_or_else(unknown)?;
            Ok(if *what == "logs" { json(StatusCode::OK, &reported.logs) } else { json(StatusCode::OK, reported) })
        }
        (["configs", _, "toml"], _) => Err(ErrorReply::method("GET, HEAD, PUT")),
        (["configs" | "config-groups", _, "aliases", _], _) => Err(ErrorReply::method("PUT, DELETE")),
        (["config-groups" | "constants", _], _) => Err(ErrorReply::method("PUT")),
        (["tokens"], _) => Err(ErrorReply::method("POST")),
        (["configs" | "config-groups" | "constants" | "agents"], _)
        | (["config-groups", _, "toml"] | ["tokens", "capabilities"] | ["heartbeat", "health"], _)
        | (["heartbeat", "agent", _, "latest-heartbeat" | "logs"], _) => Err(ErrorReply::method("GET, HEAD")),
        _ => Err(no_path()),
    }
}

fn no_path() -> ErrorReply {
    ErrorReply::not_found("no such path in this stand-in for Telegraf Controller")
}

/// What is meant by an id or an alias below one of these two.
fn target(catalog: &Catalog, kind: &str, name: &str) -> Result<Target, CatalogError> {
    match catalog.target(name) {
        // It names a group as well where ids of configurations are.
        Ok(target) => Ok(target),
        Err(_) if kind == "configs" => catalog.configuration_id(name).map(Target::Configuration),
        Err(_) => catalog.group_id(name).map(Target::Group),
    }
}

fn toml(Rendered { text, last_modified }: Rendered) -> ApiResult {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/toml"));
    response.headers_mut().insert(LAST_MODIFIED, http_date(last_modified)?);
    Ok(response)
}

async fn heartbeat(state: &State, peer: IpAddr, request: Request<Incoming>) -> ApiResult {
    let (head, body) = request.into_parts();
    match (head.uri.path(), head.method) {
        ("/agents/heartbeat", Method::POST) => {
            let body = read(body, MAX_HEARTBEAT_BYTES).await?;
            let heartbeat = Heartbeat::parse(&body)
                .map_err(|reason| ErrorReply::bad(format_args!("not a heartbeat as Telegraf sends it: {reason}")))?;
            state.record(heartbeat, peer, &head.headers, Timestamp::now());
            Ok(json(StatusCode::OK, &serde_json::json!({ "status": "ok" })))
        }
        ("/agents/heartbeat", _) => Err(ErrorReply::method("POST")),
        _ => Err(ErrorReply::not_found("no such path on this stand-in for the heartbeat server")),
    }
}

async fn read(body: Incoming, max_bytes: usize) -> Result<Bytes, ErrorReply> {
    let too_large =
        || ErrorReply::new(StatusCode::PAYLOAD_TOO_LARGE, format_args!("the body has more than {max_bytes} bytes"));
    // Said before the client is asked for a body that it announced as too large.
    if body.size_hint().lower() > u64::try_from(max_bytes).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    match tokio::time::timeout(READ_TIMEOUT, Limited::new(body, max_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ErrorReply::bad("the body was cut off")),
        Err(_) => Err(ErrorReply::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

async fn read_text(body: Incoming) -> Result<String, ErrorReply> {
    let text = read(body, MAX_CONFIGURATION_BYTES).await?;
    String::from_utf8(text.into()).map_err(|_| ErrorReply::bad("a configuration or a value is UTF-8 text"))
}

async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, ErrorReply> {
    let body = read(body, MAX_CONFIGURATION_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ErrorReply::bad(format_args!("not the JSON that belongs here, at line {line}, column {column}"))
    })
}

/// A reply that is not 2xx.
#[derive(Debug)]
struct ErrorReply {
    status: StatusCode,
    reason: String,
    allow: Option<&'static str>,
}

impl ErrorReply {
    fn new(status: StatusCode, reason: impl ToString) -> Self {
        Self { status, reason: reason.to_string(), allow: None }
    }

    fn bad(reason: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    fn not_found(reason: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }

    fn method(allow: &'static str) -> Self {
        let reason = format_args!("this path has {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, reason) }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = json(self.status, &serde_json::json!({ "error": self.reason }));
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<CatalogError> for ErrorReply {
    fn from(error: CatalogError) -> Self {
        let status = match error {
            CatalogError::NoConfiguration(_) | CatalogError::NoGroup(_) | CatalogError::NoAlias(_) => {
                StatusCode::NOT_FOUND
            }
            CatalogError::AliasTaken => StatusCode::CONFLICT,
            CatalogError::Full => StatusCode::INSUFFICIENT_STORAGE,
            CatalogError::NoConstants(_)
            | CatalogError::Parameters(_)
            | CatalogError::InvalidAlias
            | CatalogError::InvalidConstant => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error)
    }
}

/// JSON as a person at a terminal likes it: indented, with a newline at the end.
fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    // Maps with text keys and plain records: nothing in them can fail to be written.
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// RFC 9110 section 5.6.7, such as `Wed, 22 Oct 2025 14:02:30 GMT`.
fn http_date(at: Timestamp) -> Result<HeaderValue, ErrorReply> {
    let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok();
    text.and_then(|text| HeaderValue::try_from(text).ok()).ok_or_else(|| {
        ErrorReply::new(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{at} cannot be written as a date of HTTP"))
    })
}

/// What the stand-in remembers.
#[derive(Debug, Default)]
struct State {
    catalog: Mutex<Catalog>,
    tokens: Mutex<Tokens>,
    agents: Mutex<BTreeMap<String, Agent>>,
}

/// An agent that has reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Agent {
    id: String,
    hostname: Option<String>,
    version: String,
    status: Option<AgentStatus>,
    /// Of the agent, as Tollgate passed it on.
    address: String,
    last_seen: Timestamp,
    heartbeats: u64,
    /// The token it came with last, and whose that is.
    token_id: Option<String>,
    user: Option<String>,
    /// The latest ones, `source: message`. Asked for by themselves.
    #[serde(skip)]
    logs: Vec<String>,
}

impl State {
    fn list_agents(&self) -> Vec<Agent> {
        self.agents.lock().values().cloned().collect()
    }

    fn record(&self, heartbeat: Heartbeat, peer: IpAddr, headers: &HeaderMap, now: Timestamp) {
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // The first address is the agent's own, each proxy adds that of its client at the end.
        let forwarded = field("x-forwarded-for")
            .and_then(|list| list.split(',').next().map(|first| first.trim().to_owned()))
            .filter(|first| !first.is_empty());
        let mut agents = self.agents.lock();
        let heartbeats = agents.get(&heartbeat.id).map_or(0, |agent| agent.heartbeats) + 1;
        if heartbeats == 1 && agents.len() >= MAX_AGENTS {
            let silent = agents.values().min_by_key(|agent| agent.last_seen).map(|agent| agent.id.clone());
            silent.and_then(|id| agents.remove(&id));
        }
        let logs = heartbeat.logs.unwrap_or_default().into_iter().rev().take(MAX_LOGS).rev();
        let logs = logs.map(|Object(entry)| {
            let message: String = entry.message.chars().take(MAX_LOG_CHARACTERS).collect();
            format!("{}: {message}", entry.source)
        });
        let agent = Agent {
            id: heartbeat.id.clone(),
            logs: logs.collect(),
            hostname: heartbeat.hostname,
            version: heartbeat.version,
            status: heartbeat.status,
            address: forwarded.unwrap_or_else(|| peer.to_string()),
            last_seen: whole_seconds(now),
            heartbeats,
            token_id: field("x-tollgate-token-id"),
            user: field("x-tollgate-user"),
        };
        agents.insert(heartbeat.id, agent);
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests;
