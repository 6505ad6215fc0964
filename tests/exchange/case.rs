//! What a client sends: one request with a number of its own, and everything that can be known of it beforehand.

use super::sidecar::Tokens;
use tollgate_harness::random::Random;

/// Whose token a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearer {
    /// Everything.
    Owner,
    /// What an agent needs.
    Agent,
    /// Another user's, to read configurations with.
    Viewer,
    /// Good at first; revoked at some time, each at another.
    Passing(usize),
    Revoked,
    Unknown,
    Missing,
}

/// How many tokens are revoked meanwhile.
pub(crate) const PASSING: usize = 6;

/// How many configurations there are that several ask for.
const SHARED: usize = 4;

/// What a client asks for besides, which decides nothing: a fetch of all is for the whole.
const CONDITIONS: [(&str, &str); 5] = [
    ("If-None-Match", "\"a\""),
    ("If-Modified-Since", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ("Range", "bytes=0-3"),
    ("Cache-Control", "no-store, max-age=0"),
    ("Cache-Control", "only-if-cached"),
];

/// How the end of a request's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) number: u64,
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) bearer: Bearer,
    pub(crate) framing: Framing,
    pub(crate) length: usize,
    /// So much of the body is sent, and nothing more.
    pub(crate) sent: usize,
    /// A chunk in the middle has no size that could be read.
    pub(crate) broken: bool,
    pub(crate) expects_continue: bool,
    pub(crate) minor_version: u8,
    /// Others ask for the same, so that it may be given what another one was answered.
    pub(crate) is_shared: bool,
    /// `Accept-Encoding`.
    pub(crate) accepts_gzip: bool,
    pub(crate) condition: Option<(&'static str, &'static str)>,
}

/// Fields that must not get through, or not as they are.
pub(crate) const FORGED: [(&str, &str); 7] = [
    ("X-Tollgate-User", "root"),
    ("X-Tollgate-Role", "owner"),
    ("X_Tollgate_User", "root"),
    ("X-Original-URL", "/api/users/1"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("Proxy-Authorization", "Basic Zm9v"),
    ("Cookie", "session=1"),
];

/// The same for HTTP/1 alone: HTTP/2 has no such fields.
pub(crate) const HOP_BY_HOP: [&str; 4] = [
    "Connection: keep-alive, X-Secret\r\nX-Secret: hop\r\n",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "TE: trailers\r\nConnection: TE\r\n",
    "Keep-Alive: timeout=5\r\n",
];

impl Case {
    /// A random one. `http2`: there, framing is the protocol's.
    pub(crate) fn random(number: u64, random: &mut Random, http2: bool) -> Self {
        if random.percent(50) {
            return Self::shared(number, random, http2);
        }
        let (method, target) = match random.below(10) {
            0..3 => ("GET", format!("/api/configs/{number}/toml")),
            3 => ("HEAD", format!("/api/configs/{number}/toml")),
            4..8 => ("POST", format!("/agents/heartbeat?case={number}")),
            _ => ("PUT", format!("/api/configs/{number}")),
        };
        let good = if method == "PUT" { Bearer::Owner } else { Bearer::Agent };
        let others = [Bearer::Owner, Bearer::Viewer, Bearer::Revoked, Bearer::Unknown, Bearer::Missing];
        let bearer = if random.percent(75) { good } else { random.one_of(&others).unwrap_or(good) };
        let has_body = random.percent(if matches!(method, "POST" | "PUT") { 95 } else { 20 });
        let minor_version = u8::from(http2 || !random.percent(6));
        let framing = match () {
            () if !has_body => Framing::None,
            () if minor_version == 0 || random.percent(60) => Framing::Length,
            () => Framing::Chunked,
        };
        let length = match random.below(8) {
            _ if !has_body => 0,
            0 => random.below(3),
            1..4 => random.below(900),
            4 => 16 * 1024 - 2 + random.below(5),
            // About what the sockets on the way to the upstream hold.
            5 | 6 => 30_000 + random.below(80_000),
            _ => random.below(300_000),
        };
        let cut = random.percent(5) && length > 0;
        let broken = !http2 && framing == Framing::Chunked && !cut && random.percent(5);
        let sent = if cut { random.below(length) } else { length };
        let expects_continue = has_body && !http2 && minor_version == 1 && random.percent(15);
        Self {
            number,
            method,
            target,
            bearer,
            framing,
            length,
            sent,
            broken,
            expects_continue,
            minor_version,
            is_shared: false,
            accepts_gzip: false,
            condition: None,
        }
    }

    /// One for a configuration that others ask for, too.
    fn shared(number: u64, random: &mut Random, http2: bool) -> Self {
        // Those of about the same number come at about the same time.
        let at_once = usize::try_from(number / 16).unwrap_or(0) % SHARED;
        let name = if random.percent(75) { at_once } else { random.below(SHARED) };
        let query = usize::from(random.percent(25));
        let target = match name % 2 {
            0 => format!("/c/shared-{name}?query={query}"),
            _ => format!("/api/configs/shared-{name}/toml?query={query}"),
        };
        let bearer = match random.below(10) {
            0..6 => Bearer::Agent,
            6 => Bearer::Viewer,
            7 => random.one_of(&[Bearer::Revoked, Bearer::Unknown, Bearer::Missing]).unwrap_or(Bearer::Missing),
            _ => Bearer::Passing(random.below(PASSING)),
        };
        Self {
            number,
            method: if random.percent(25) { "HEAD" } else { "GET" },
            target,
            bearer,
            framing: Framing::None,
            length: 0,
            sent: 0,
            broken: false,
            expects_continue: false,
            minor_version: u8::from(http2 || !random.percent(6)),
            is_shared: true,
            accepts_gzip: random.percent(25),
            condition: if random.percent(30) { random.one_of(&CONDITIONS) } else { None },
        }
    }

    /// What it asks for, whatever the query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Who the upstream is told that it is, if it may get there; of a token that is good at first, while it is.
    pub(crate) fn user(&self) -> Option<&'static str> {
        match (self.bearer, self.method) {
            (Bearer::Owner, _) => Some("olga"),
            (Bearer::Agent | Bearer::Passing(_), "GET" | "HEAD" | "POST") => Some("olga"),
            (Bearer::Viewer, "GET" | "HEAD") => Some("victor"),
            _ => None,
        }
    }

    /// Whether all that its framing promises is sent.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent == self.length && !self.broken
    }

    /// The body, or what it would be.
    pub(crate) fn body(&self, tokens: &Tokens) -> Vec<u8> {
        request_like(self.number, self.length, tokens)
    }

    /// The head in HTTP/1.
    pub(crate) fn head(&self, tokens: &Tokens, random: &mut Random) -> Vec<u8> {
        let Self { method, target, number, minor_version, .. } = self;
        let mut head = format!("{method} {target} HTTP/1.{minor_version}\r\nHost: gate\r\nX-Case: {number}\r\n");
        if let Some(token) = tokens.raw(self.bearer) {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        for (name, value) in FORGED.iter().filter(|_| random.percent(8)) {
            head += &format!("{name}: {value}\r\n");
        }
        for (name, value) in self.fields() {
            head += &format!("{name}: {value}\r\n");
        }
        if random.percent(15) {
            head += random.one_of(&HOP_BY_HOP).unwrap_or_default();
        }
        if self.expects_continue {
            head += "Expect: 100-continue\r\n";
        }
        match self.framing {
            Framing::None => {}
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.length),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        }
        (head + "\r\n").into_bytes()
    }

    /// Fields of its own.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.accepts_gzip.then_some(("Accept-Encoding", "gzip")).into_iter().chain(self.condition)
    }

    /// The body in HTTP/1, as far as it is sent.
    pub(crate) fn framed_body(&self, tokens: &Tokens, random: &mut Random) -> Vec<u8> {
        let mut body = self.body(tokens);
        body.truncate(self.sent);
        match self.framing {
            Framing::None => Vec::new(),
            Framing::Length => body,
            Framing::Chunked => {
                let mut framed = chunked(&body, random);
                if self.broken {
                    framed.extend_from_slice(b"zz\r\nDELETE /api/users/1 HTTP/1.1\r\n\r\n");
                } else if self.is_whole() {
                    framed.extend_from_slice(b"0\r\n\r\n");
                }
                framed
            }
        }
    }
}

/// Chunks of random sizes, without the last one.
pub(crate) fn chunked(body: &[u8], random: &mut Random) -> Vec<u8> {
    let (mut rest, mut framed) = (body, Vec::with_capacity(body.len() + 64));
    let usual = 1 + random.below(20_000).max(body.len() / 100);
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(rest.len().min(1 + random.below(usual)));
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        rest = others;
    }
    framed
}

/// A body that is nobody else's at any place, and full of requests that would be served if they were taken for some.
fn request_like(number: u64, length: usize, tokens: &Tokens) -> Vec<u8> {
    let token = tokens.raw(Bearer::Owner).unwrap_or_default();
    repeat(length, |part| {
        format!(
            "DELETE /api/users/1 HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {token}\r\nX-Body: {number}.{part}\r\n\r\n"
        )
    })
}

/// As [`request_like`], of replies.
pub(crate) fn reply_like(key: &str, length: usize) -> Vec<u8> {
    repeat(length, |part| format!("HTTP/1.1 200 OK\r\nX-Reply: body-{key}.{part}\r\nContent-Length: 3\r\n\r\nbad"))
}

fn repeat(length: usize, part: impl Fn(usize) -> String) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 256);
    for number in 0.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend_from_slice(part(number).as_bytes());
    }
    bytes.truncate(length);
    bytes
}
