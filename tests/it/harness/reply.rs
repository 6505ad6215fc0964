//! Replies: a strict reading of them, and what must hold for each, whatever the test is about.

use super::faulty::SECRET_PLACE;

/// A reply's status line and fields.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) phrase: String,
    /// In order, as they were written.
    pub(crate) fields: Vec<(String, String)>,
}

/// A whole reply.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) ending: Ending,
    to_head: bool,
}

/// What told the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its length, or that it has none.
    Length(usize),
    Chunks,
    Close,
}

impl Head {
    /// Reads a head and is strict about it.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("heads are text");
        let mut lines = text.strip_suffix("\r\n\r\n").expect("an end").split("\r\n");
        let status_line = lines.next().expect("a status line");
        let rest = status_line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{status_line:?}"));
        let (status, phrase) = rest.split_once(' ').unwrap_or_else(|| panic!("{status_line:?}"));
        assert_eq!(status.len(), 3, "{status_line:?}");
        let fields = lines.map(|line| {
            assert!(!line.contains(['\r', '\n']), "a bare CR or LF: {line:?}");
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{line:?}");
            (name.to_owned(), value.to_owned())
        });
        let fields = fields.collect();
        Self { status: status.parse().expect("a status"), phrase: phrase.to_owned(), fields }
    }

    /// The value of a field that is there at most once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there more than once: {self:?}");
        value
    }

    /// Whether Tollgate made the reply itself: scripted ones say that they are not.
    fn is_own(&self) -> bool {
        self.field("Server") != Some("scripted")
    }
}

impl Reply {
    pub(super) fn new(head: Head, to_head: bool) -> Self {
        let length = head.field("Content-Length").map(|value| value.parse().expect("a length"));
        let ending = match (length, head.field("Transfer-Encoding")) {
            (None, Some(coding)) => {
                assert_eq!(coding, "chunked");
                Ending::Chunks
            }
            (_, Some(_)) => panic!("Content-Length and Transfer-Encoding: {head:?}"),
            _ if to_head || matches!(head.status, 204 | 304) => Ending::Length(0),
            (Some(length), None) => Ending::Length(length),
            (None, None) => {
                assert_eq!(head.field("Connection"), Some("close"), "no framing, and no close: {head:?}");
                Ending::Close
            }
        };
        Self { head, body: Vec::new(), ending, to_head }
    }

    /// A reply on a stream of HTTP/2, whole.
    pub(super) fn of_http2(head: Head, body: Vec<u8>, to_head: bool) -> Self {
        let length = head.field("content-length").map(|value| value.parse().expect("a length"));
        for name in ["connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection"] {
            assert!(head.field(name).is_none(), "RFC 9113 section 8.2.2: {head:?}");
        }
        let ending = if to_head { Ending::Length(0) } else { Ending::Length(length.unwrap_or(body.len())) };
        assert_eq!(ending, Ending::Length(body.len()), "{head:?}");
        let reply = Self { head, body, ending, to_head };
        reply.check();
        reply
    }

    /// Takes the body if it is whole; returns how many bytes it took.
    pub(super) fn take_body(&mut self, received: &[u8]) -> Option<usize> {
        match self.ending {
            Ending::Length(length) => {
                self.body = received.get(..length)?.to_vec();
                Some(length)
            }
            Ending::Chunks => {
                let (body, used) = decode_chunks(received)?;
                self.body = body;
                Some(used)
            }
            Ending::Close => None,
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of a field that is there at most once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// Whether the connection ends with it.
    pub(crate) fn closes(&self) -> bool {
        self.field("Connection") == Some("close")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The error of a reply of Tollgate's own.
    pub(crate) fn error(&self) -> String {
        assert!(self.head.is_own(), "this is the upstream's: {self:?}");
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        body["error"].as_str().expect("a text").to_owned()
    }

    /// What must hold for every reply.
    pub(super) fn check(&self) {
        let whole = format!("{:?} {}", self.head, self.body.escape_ascii());
        for secret in ["tc-apiv1_", "X-Tollgate", "x-tollgate", SECRET_PLACE] {
            assert!(!whole.contains(secret), "{secret} in {whole}");
        }
        if self.head.is_own() {
            self.check_own(&whole);
        }
    }

    /// What must hold for every reply that Tollgate makes itself.
    fn check_own(&self, whole: &str) {
        const KNOWN: [&str; 8] = [
            "content-type",
            "cache-control",
            "date",
            "connection",
            "content-length",
            "www-authenticate",
            "retry-after",
            "allow",
        ];
        let Head { status, phrase, fields } = &self.head;
        for (name, _) in fields {
            assert!(KNOWN.contains(&name.to_ascii_lowercase().as_str()), "{name} in {whole}");
        }
        assert_eq!(Some(phrase.as_str()), http::StatusCode::from_u16(*status).expect("valid").canonical_reason());
        assert_eq!(self.field("Content-Type"), Some("application/json"), "{whole}");
        assert_eq!(self.field("Cache-Control"), Some("no-store"), "{whole}");
        assert!(self.field("Date").is_some_and(|date| date.ends_with(" GMT")), "{whole}");
        assert!(self.field("Connection").is_none_or(|value| value == "close"), "{whole}");
        assert!(self.field("Content-Length").is_some(), "{whole}");
        let challenge = self.field("WWW-Authenticate");
        assert_eq!(challenge.is_some_and(|value| value.starts_with("Bearer ")), *status == 401, "{whole}");
        let seconds = self.field("Retry-After").map(|value| value.parse::<u32>().expect("seconds"));
        assert_eq!(seconds.is_some(), matches!(status, 429 | 503), "{whole}");
        assert_eq!(self.field("Allow").is_some(), *status == 405, "{whole}");
        if !self.to_head {
            self.check_own_body(whole);
        }
    }

    fn check_own_body(&self, whole: &str) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{whole}"));
        let names: Vec<_> = body.as_object().expect("an object").keys().map(String::as_str).collect();
        if names == ["ready"] {
            return assert_eq!((self.head.status, &body["ready"]), (200, &true.into()), "{whole}");
        }
        assert_eq!(names, ["error", "request_id"], "{whole}");
        let (error, id) = (body["error"].as_str().expect("a text"), body["request_id"].as_str().expect("a text"));
        assert!(!error.is_empty() && !id.is_empty(), "{whole}");
        assert_eq!(self.text(), format!("{{\"error\":\"{error}\",\"request_id\":\"{id}\"}}"), "the exact form");
        for detail in ["127.0.0.1", "localhost", "refused", "os error", "sqlite"] {
            assert!(!error.contains(detail), "{detail} in {whole}");
        }
    }
}

/// A chunked body, once it is whole, and how many bytes it took. Strict: no extensions, no trailers.
pub(super) fn decode_chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let digits = std::str::from_utf8(&bytes[at..at + line]).expect("a chunk size");
        let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("a chunk size: {digits:?}"));
        at += line + 2;
        let chunk = bytes.get(at..at + size + 2)?;
        assert_eq!(&chunk[size..], b"\r\n", "the end of a chunk");
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
