//! What an upstream answers, byte for byte, and what that means.

use std::ops::Range;
use std::time::Instant;

use super::case::{Case, chunked, reply_like};
use super::judge::{Expected, Quality};
use tollgate_harness::random::Random;

/// An answer that was thought out.
pub(crate) struct Answer {
    /// For the counts.
    pub(crate) kind: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What is sent in one piece.
    pub(crate) joint: Option<Range<usize>>,
    /// Nothing, if it has no head that could be passed on.
    pub(crate) expected: Option<Expected>,
    /// What else is in `bytes`.
    pub(crate) stray: Option<Expected>,
    pub(crate) then: Then,
}

/// What follows an answer.
pub(crate) enum Then {
    /// The next request.
    GoOn,
    Close,
    Reset,
    /// Nothing more is said.
    Hang,
    /// A reply that nobody asked for, after a while.
    Late(Stray),
    /// Nobody could tell any more whose the next answer is.
    Poisoned,
}

/// A reply to nobody.
pub(crate) struct Stray {
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Expected,
}

/// How the end of a reply is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    Close,
    Http10Length,
    Http10Close,
}

const KINDS: [(usize, &str); 15] = [
    (60, "as it should be"),
    (4, "cut, and closed"),
    (4, "cut, and reset"),
    (2, "cut, and nothing more"),
    (3, "a length too long, and closed"),
    (4, "a length too short"),
    (3, "broken chunks"),
    (3, "closed without a word"),
    (3, "reset without a word"),
    (1, "silence"),
    (2, "two lengths"),
    (2, "switched protocols"),
    (2, "no HTTP"),
    (5, "a second reply behind it"),
    (5, "a second reply later"),
];

/// Of one that is away.
const OUTAGES: [(usize, &str); 5] = [
    (6, "as it should be"), // and says so
    (3, "closed without a word"),
    (3, "reset without a word"),
    (1, "silence"),
    (2, "cut, and reset"),
];

impl Answer {
    pub(crate) fn random(key: &str, case: &Case, is_away: bool, random: &mut Random) -> Self {
        let statuses = [200, 200, 200, 200, 200, 201, 204, 304, 401, 404, 500, 503];
        let away = [502, 503, 504];
        let status = random.one_of(if is_away { &away } else { &statuses[..] }).unwrap_or(200);
        let length = match random.below(6) {
            0 => 0,
            1..4 => random.below(900),
            4 => random.below(40_000),
            // More than is stored or shared.
            _ if case.is_shared && random.percent(10) => (1 << 20) + random.below(100_000),
            _ => random.below(300_000),
        };
        let kind = random.weighed(if is_away { &OUTAGES } else { &KINDS[..] }).unwrap_or("as it should be");
        let framings = [
            (5, Framing::Length),
            (4, Framing::Chunked),
            (1, Framing::Close),
            (1, Framing::Http10Length),
            (1, Framing::Http10Close),
        ];
        let mut framing = random.weighed(&framings).unwrap_or(Framing::Length);
        if matches!(
            kind,
            "a second reply behind it"
                | "a second reply later"
                | "a length too short"
                | "a length too long, and closed"
        ) {
            // Where the reply's end is that of the connection, there is nothing behind it.
            framing =
                if random.percent(50) || kind.starts_with("a length") { Framing::Length } else { Framing::Chunked };
        }
        // What is behind a reply must be there when the reply is: in one packet, so no window may be full before.
        let length =
            if matches!(kind, "a second reply behind it" | "a length too short") { length.min(4000) } else { length };
        let framing = if kind == "broken chunks" { Framing::Chunked } else { framing };
        let empty = case.method == "HEAD" || matches!(status, 204 | 304);
        let has_cookie = random.percent(10);
        let expected = Expected {
            case: case.number,
            key: key.to_owned(),
            status,
            length,
            quality: Quality::Whole,
            sent: None,
            made: Instant::now(),
            has_cookie,
        };
        let mut plan = Plan { expected, framing, empty, interim: interim(case, random), random };
        plan.make(kind)
    }
}

/// Interim replies that come first.
fn interim(case: &Case, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    while random.percent(12) {
        let line = random.one_of(&["100 Continue", "102 Processing", "103 Early Hints"]).unwrap_or_default();
        bytes.extend_from_slice(format!("HTTP/1.1 {line}\r\nX-Interim: {}\r\n\r\n", case.number).as_bytes());
    }
    bytes
}

/// A reply that is being made.
struct Plan<'a> {
    expected: Expected,
    framing: Framing,
    /// There is no body, whatever the head says.
    empty: bool,
    interim: Vec<u8>,
    random: &'a mut Random,
}

impl Plan<'_> {
    fn make(&mut self, kind: &'static str) -> Answer {
        let bytes = self.whole();
        let mut answer = Answer {
            kind,
            joint: None,
            expected: Some(self.expected.clone()),
            stray: None,
            then: self.afterwards(),
            bytes,
        };
        match kind {
            "as it should be" => {}
            "closed without a word" => answer.says_nothing(b"", Then::Close),
            "reset without a word" => answer.says_nothing(b"", Then::Reset),
            "silence" => answer.says_nothing(b"", Then::Hang),
            "no HTTP" => {
                let words =
                    ["\x16\x03\x01\x02", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n", "ok\r\n\r\n"];
                answer.says_nothing(self.random.one_of(&words).unwrap_or_default().as_bytes(), Then::Close);
            }
            "switched protocols" => {
                answer.says_nothing(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
                    Then::Hang,
                );
            }
            "two lengths" => {
                let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\nabcd";
                answer.says_nothing(text.as_bytes(), Then::Hang);
            }
            "cut, and closed" | "cut, and reset" | "cut, and nothing more" => self.cut(&mut answer),
            "a length too long, and closed" if !self.empty => {
                let more = self.expected.length + 1 + self.random.below(500);
                answer.bytes = [self.head(&format!("Content-Length: {more}\r\n")), self.body()].concat();
                self.spoil(&mut answer, Then::Close);
            }
            "a length too short" if !self.empty && self.expected.length > 1 => self.short(&mut answer),
            "broken chunks" if !self.empty => {
                let mut bytes = self.head("Transfer-Encoding: chunked\r\n");
                bytes.extend_from_slice(&chunked(&self.body(), self.random));
                let ends = ["xyz\r\n", "-1\r\n\r\n", "\r\n\r\n", "0\r\n", "0\r\nX: y\r\n", "FFFFFFFFFFFFFFFFF\r\n"];
                bytes.extend_from_slice(self.random.one_of(&ends).unwrap_or_default().as_bytes());
                answer.bytes = bytes;
                self.spoil(&mut answer, Then::Close);
            }
            "a second reply behind it" => self.glue(&mut answer),
            "a second reply later" => answer.then = Then::Late(self.stray(Quality::Late)),
            _ => answer.kind = "as it should be",
        }
        answer
    }

    fn body(&self) -> Vec<u8> {
        reply_like(&self.expected.key, self.expected.length)
    }

    fn head(&self, fields: &str) -> Vec<u8> {
        let Expected { key, status, .. } = &self.expected;
        let version = matches!(self.framing, Framing::Http10Length | Framing::Http10Close);
        let version = if version { "1.0" } else { "1.1" };
        let cookie = if self.expected.has_cookie { format!("Set-Cookie: {key}=1\r\n") } else { String::new() };
        let head = format!(
            "HTTP/{version} {status} Word\r\nX-Reply: {key}\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
             Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n{cookie}{fields}\r\n"
        );
        [self.interim.as_slice(), head.as_bytes()].concat()
    }

    /// All of it.
    fn whole(&mut self) -> Vec<u8> {
        let length = format!("Content-Length: {}\r\n", self.expected.length);
        let fields = match self.framing {
            // RFC 9110 section 8.6: not with 204.
            _ if self.expected.status == 204 => "",
            Framing::Length | Framing::Http10Length => &length,
            Framing::Chunked => "Transfer-Encoding: chunked\r\n",
            Framing::Close | Framing::Http10Close => "",
        };
        let mut bytes = self.head(fields);
        if !self.empty {
            let body = self.body();
            if self.framing == Framing::Chunked {
                bytes.extend_from_slice(&chunked(&body, self.random));
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                bytes.extend_from_slice(&body);
            }
        }
        bytes
    }

    fn afterwards(&mut self) -> Then {
        match self.framing {
            Framing::Close | Framing::Http10Close if !self.empty => Then::Close,
            _ if self.random.percent(6) => Then::Close,
            // A reply that is whole stays so.
            Framing::Length if self.random.percent(3) => Then::Reset,
            _ => Then::GoOn,
        }
    }

    fn spoil(&mut self, answer: &mut Answer, then: Then) {
        self.expected.quality = Quality::Broken;
        answer.expected = Some(self.expected.clone());
        answer.then = then;
    }

    /// Ends at any byte.
    fn cut(&mut self, answer: &mut Answer) {
        let kind = answer.kind;
        let then = || match kind {
            "cut, and closed" => Then::Close,
            "cut, and reset" => Then::Reset,
            _ => Then::Hang,
        };
        let whole = answer.bytes.len();
        let head = answer.bytes.len().saturating_sub(if self.empty { 0 } else { self.expected.length });
        let cut = if self.random.percent(40) { self.random.below(head + 1) } else { self.random.below(whole) };
        let cut = cut.min(whole.saturating_sub(1));
        answer.bytes.truncate(cut);
        let by_close = matches!(self.framing, Framing::Close | Framing::Http10Close);
        self.spoil(answer, then());
        if by_close && !self.empty && kind == "cut, and closed" && cut >= head {
            // Nobody could tell: it is a shorter reply.
            self.expected.length = cut - head;
            self.expected.quality = Quality::Whole;
            answer.expected = Some(self.expected.clone());
        }
    }

    /// The rest of the body is behind the reply's end.
    fn short(&mut self, answer: &mut Answer) {
        let body = self.body();
        let said = self.random.below(self.expected.length);
        let mut bytes = self.head(&format!("Content-Length: {said}\r\n"));
        let end = bytes.len() + said;
        bytes.extend_from_slice(&body);
        answer.joint = Some(end.saturating_sub(80)..bytes.len());
        answer.bytes = bytes;
        self.expected.length = said;
        answer.expected = Some(self.expected.clone());
        answer.then = Then::Poisoned;
    }

    fn glue(&mut self, answer: &mut Answer) {
        let stray = self.stray(Quality::Glued);
        let end = answer.bytes.len();
        answer.bytes.extend_from_slice(&stray.bytes);
        answer.joint = Some(end.saturating_sub(80)..answer.bytes.len());
        answer.stray = Some(stray.expected);
        answer.then = Then::Poisoned;
    }

    fn stray(&mut self, quality: Quality) -> Stray {
        let (key, length) = (format!("stray-{}", self.expected.key), self.random.below(500));
        let expected = Expected { key: key.clone(), status: 200, length, quality, ..self.expected.clone() };
        // Nobody can tell whose it is: with this it is nobody else's, too.
        let fields = format!("Set-Cookie: stray=1\r\nContent-Length: {length}\r\n");
        let head = format!("HTTP/1.1 200 Word\r\nX-Reply: {key}\r\n{fields}\r\n");
        Stray { bytes: [head.as_bytes(), &reply_like(&key, length)].concat(), expected }
    }
}

impl Answer {
    /// There is no reply in it.
    fn says_nothing(&mut self, bytes: &[u8], then: Then) {
        self.bytes = bytes.to_vec();
        self.expected = None;
        self.then = then;
    }
}
