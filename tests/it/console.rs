//! The admin API against a running sidecar, called as programs call it.

mod alone;
mod audit;
mod bulk;
mod create;
mod described;
mod find;
mod host;
mod input;
mod moving;
mod purge;
mod roles;
mod rotate;
mod twice;
mod usage;
mod users;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tollgate::token::{PermissionSet, Role};

use crate::harness::{Site, Token, within};

/// What a call was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// In lower case.
    fields: Vec<(String, String)>,
    body: Value,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body of a call that was done.
    #[track_caller]
    fn done(self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{self:?}");
        self.body
    }

    /// The status of a call that was refused, and what kind of problem it says.
    #[track_caller]
    fn problem(&self) -> (u16, &str) {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{self:?}");
        let kind = self.body["type"].as_str().and_then(|kind| kind.strip_prefix("urn:tollgate:problem:"));
        (self.status, kind.expect("a kind"))
    }

    fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

/// A call: its method, its path, and what else is said.
#[derive(Debug, Clone)]
struct Call {
    head: String,
    fields: String,
    host: String,
    body: Option<String>,
}

impl Call {
    fn new(method: &str, path: &str) -> Self {
        let host = "127.0.0.1:9900".to_owned();
        Self { head: format!("{method} {path} HTTP/1.1"), fields: String::new(), host, body: None }
    }

    fn by(self, token: &str) -> Self {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    fn json(self, body: &Value) -> Self {
        self.raw("application/json", &body.to_string())
    }

    fn raw(mut self, kind: &str, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self.with("Content-Type", kind).with("Content-Length", &body.len().to_string())
    }

    async fn send(self, address: SocketAddr) -> Answer {
        let stream = within("connecting", TcpStream::connect(address)).await.expect("connects");
        self.send_over(stream).await
    }

    async fn send_over(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Answer {
        let Self { head, fields, host, body } = self;
        let body = body.unwrap_or_default();
        let request = format!("{head}\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut reply = Vec::new();
        within("a reply", stream.read_to_end(&mut reply)).await.expect("receives");
        let reply = String::from_utf8(reply).expect("text");
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {reply:?}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let fields: Vec<_> = lines.filter_map(field).collect();
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        let answer = Answer { status: status.expect("a status"), fields, body };
        assert_eq!(answer.field("cache-control"), Some("no-store"), "{answer:?}");
        answer
    }
}

/// A call by somebody of the site.
async fn call(site: &Site, token: &Token, method: &str, path: &str, body: Option<Value>) -> Answer {
    let call = Call::new(method, path).by(&token.raw);
    let call = match &body {
        Some(body) => call.json(body),
        None => call,
    };
    call.send(site.sidecar.admin()).await
}

async fn get(site: &Site, token: &Token, path: &str) -> Answer {
    call(site, token, "GET", path, None).await
}

async fn post(site: &Site, token: &Token, path: &str, body: Value) -> Answer {
    call(site, token, "POST", path, Some(body)).await
}

/// A user with this role, and a token with all that the role permits.
async fn person(site: &Site, name: &str, role: Role) -> Token {
    site.user(name, role).await;
    let permissions: Vec<_> = role.permissions().iter().map(|permission| permission.to_string()).collect();
    site.token(name, &permissions.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The ids of a list.
fn ids(list: &Value) -> Vec<String> {
    let tokens = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    tokens.iter().map(|token| token["id"].as_str().expect("an id").to_owned()).collect()
}

/// What an agent's token permits, as names.
fn agent_permissions() -> Value {
    json!(PermissionSet::TELEGRAF_AGENT.iter().map(|permission| permission.to_string()).collect::<Vec<_>>())
}

/// Asks again until it holds, no more often than one token may call.
async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
}
