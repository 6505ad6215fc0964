//! Pages asked for as a browser would, with all that it says in our hands.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::harness::within;

/// What was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// A hidden field of the page's first form that has it.
    pub(super) fn hidden(&self, name: &str) -> String {
        let (_, rest) = self.body.split_once(&format!("name=\"{name}\" value=\"")).expect("the field");
        rest.split('"').next().expect("its value").to_owned()
    }

    /// The cookie that is set, without its attributes.
    pub(super) fn cookie(&self) -> String {
        let cookie = self.field("set-cookie").unwrap_or_else(|| panic!("{} {}", self.head, self.body));
        cookie.split(';').next().expect("a cookie").to_owned()
    }
}

/// Somebody with cookies and an origin.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) origin: Option<String>,
    pub(super) cookie: String,
    pub(super) csrf: String,
    /// Further fields of the head.
    pub(super) more: String,
}

impl Client {
    pub(super) fn of(site: &Site) -> Self {
        let address = site.sidecar.admin();
        let (host, origin) = (address.to_string(), Some(format!("http://{address}")));
        Self { address, host, origin, cookie: String::new(), csrf: String::new(), more: String::new() }
    }

    pub(super) async fn send(&self, method: &str, path: &str, form: Option<&str>) -> Answer {
        let Self { host, cookie, more, .. } = self;
        let body = form.unwrap_or_default();
        let mut fields = format!("Host: {host}\r\nCookie: {cookie}\r\n{more}");
        if form.is_some() {
            let origin = self.origin.iter().map(|origin| format!("Origin: {origin}\r\n")).collect::<String>();
            let kind = "Content-Type: application/x-www-form-urlencoded";
            fields.push_str(&format!("{origin}{kind}\r\nContent-Length: {}\r\n", body.len()));
        }
        let mut stream = within("connecting", TcpStream::connect(self.address)).await.expect("connects");
        let request = format!("{method} {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut reply = Vec::new();
        within("a reply", stream.read_to_end(&mut reply)).await.expect("receives");
        let reply = String::from_utf8(reply).expect("text");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(super) async fn post(&self, path: &str, form: &str) -> Answer {
        self.send("POST", path, Some(&format!("csrf={}&{form}", self.csrf))).await
    }

    /// Asks the API.
    pub(super) async fn api(&self, token: &Token, path: &str) -> Answer {
        let more = format!("Authorization: Bearer {}\r\n", token.raw);
        Self { cookie: String::new(), more, ..self.clone() }.get(path).await
    }

    /// Signs in, and returns the reply that says so.
    pub(super) async fn sign_in(&mut self, token: &Token) -> Answer {
        self.sign_in_to(token, "/fleet").await
    }

    /// The same, to go on at this page.
    pub(super) async fn sign_in_to(&mut self, token: &Token, next: &str) -> Answer {
        let page = self.get("/sign-in").await;
        (self.cookie, self.csrf) = (page.cookie(), page.hidden("csrf"));
        let reply = self.post("/sign-in", &format!("token={}&next={next}", token.raw)).await;
        assert_eq!(reply.status, 303, "{}", reply.body);
        self.cookie = reply.cookie();
        self.csrf = self.get(next).await.hidden("csrf");
        reply
    }
}

pub(super) async fn owner(site: &Site) -> Client {
    let mut client = Client::of(site);
    client.sign_in(&site.owner).await;
    client
}

pub(super) async fn count(site: &Site) -> u64 {
    site.registry.store().count_tokens(tollgate::store::TokenFilter::default()).await.expect("counts")
}
