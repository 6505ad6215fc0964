//! Who may see what. Clients and upstreams report what they sent and what they got; it knows nothing of how the sidecar
//! works.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::case::{Bearer, Case, reply_like};
use super::sidecar::Tokens;
use super::wire::{Body, Head};

/// Lines of history retained for findings.
const MAX_LINES: usize = 50_000;

/// How a reply's bytes stand to what they promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    /// It can be passed on whole.
    Whole,
    /// It breaks off, or is wrong somewhere: it must never look whole.
    Broken,
    /// It belongs to nobody, and was sent in one piece with the end of another.
    Glued,
    /// It belongs to nobody, and was sent on a connection where nothing was asked.
    Late,
}

/// A reply as an upstream meant it.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) case: u64,
    pub(crate) key: String,
    pub(crate) status: u16,
    pub(crate) length: usize,
    pub(crate) quality: Quality,
    /// When it was sent, if that matters.
    pub(crate) sent: Option<Instant>,
}

/// A reply as a client got it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    /// Its end came as its framing says.
    pub(crate) whole: bool,
}

/// Everything that is known.
pub(crate) struct Judge {
    pub(crate) tokens: Tokens,
    begun: Instant,
    state: Mutex<State>,
    /// There is a finding.
    pub(crate) found: Notify,
}

#[derive(Default)]
struct State {
    cases: HashMap<u64, Known>,
    expected: HashMap<String, Expected>,
    counts: BTreeMap<String, u64>,
    events: VecDeque<HistoryLine>,
    finding: Option<Finding>,
}

struct Known {
    case: Arc<Case>,
    begun: Instant,
    arrivals: usize,
}

struct HistoryLine {
    at: Duration,
    connection: String,
    case: Option<u64>,
    text: String,
}

struct Finding {
    at: Duration,
    text: String,
    connection: String,
    cases: Vec<u64>,
}

impl Judge {
    pub(crate) fn new(tokens: Tokens) -> Self {
        Self { tokens, begun: Instant::now(), state: Mutex::default(), found: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn count(&self, what: &str) {
        *self.state().counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Adds to the history.
    pub(crate) fn note(&self, connection: &str, case: Option<u64>, text: impl Into<String>) {
        let event =
            HistoryLine { at: self.begun.elapsed(), connection: connection.to_owned(), case, text: text.into() };
        let mut state = self.state();
        if state.events.len() == MAX_LINES {
            state.events.pop_front();
        }
        state.events.push_back(event);
    }

    /// Something is wrong. The first time counts.
    pub(crate) fn find(&self, connection: &str, cases: &[u64], text: impl Into<String>) {
        let text = text.into();
        self.note(connection, cases.first().copied(), format!("FINDING: {text}"));
        let at = self.begun.elapsed();
        let finding = Finding { at, text, connection: connection.to_owned(), cases: cases.to_vec() };
        self.state().finding.get_or_insert(finding);
        self.found.notify_one();
    }

    /// A client is about to send this.
    pub(crate) fn sends(&self, connection: &str, case: &Arc<Case>) {
        let known = Known { case: Arc::clone(case), begun: Instant::now(), arrivals: 0 };
        self.state().cases.insert(case.number, known);
        self.count("requests sent");
        let Case { method, target, bearer, framing, length, sent, broken, .. } = &**case;
        let what =
            format!("sends {method} {target} ({bearer:?}), body {framing:?} {length}, sent {sent}, broken {broken}");
        self.note(connection, Some(case.number), what);
    }

    /// A request's head came to an upstream: whose it is, if it may be there.
    pub(crate) fn arrives(&self, connection: &str, head: &Head) -> Option<Arc<Case>> {
        let number = head.one("x-case").and_then(|number| number.parse().ok());
        self.note(connection, number, format!("got {}", head.line));
        let mut state = self.state();
        let known = number.and_then(|number| state.cases.get_mut(&number)).map(|known| {
            known.arrivals += 1;
            (Arc::clone(&known.case), known.arrivals)
        });
        drop(state);
        let Some((case, arrivals)) = known else {
            self.find(connection, &[], format!("a request that nobody sent came to the upstream: {head:?}"));
            return None;
        };
        self.count("requests at the upstream");
        if let Err(problem) = self.check_request(&case, head, arrivals) {
            self.find(connection, &[case.number], format!("{problem}: {head:?}"));
            return None;
        }
        Some(case)
    }

    fn check_request(&self, case: &Case, head: &Head, arrivals: usize) -> Result<(), String> {
        if head.line != format!("{} {} HTTP/1.1", case.method, case.target) {
            return Err(format!("another request line than {} {}", case.method, case.target));
        }
        let user = case.user().ok_or(format!("a request with {:?} got through", case.bearer))?;
        if arrivals > 1 && !matches!(case.method, "GET" | "HEAD") {
            return Err("it came twice".to_owned());
        }
        let token = self.tokens.raw(case.bearer).unwrap_or_default();
        let expected = [
            ("x-tollgate-user", user),
            ("x-forwarded-for", "127.0.0.1"),
            ("authorization", &format!("Bearer {token}")),
        ];
        for (name, value) in expected {
            if head.one(name) != Some(value) {
                return Err(format!("{name} is {:?}", head.all(name)));
            }
        }
        if head.all("host").len() != 1 || head.all("x-tollgate-role").contains(&"root") {
            return Err("Host or role".to_owned());
        }
        for (name, _) in &head.fields {
            let name = name.to_ascii_lowercase();
            let is_ours = ["x-tollgate-user", "x-tollgate-role", "x-tollgate-token-id"].contains(&name.as_str());
            let bad = ["connection", "keep-alive", "te", "upgrade", "http2-settings", "trailer", "expect", "cookie"];
            let bad =
                bad.contains(&&*name) || name.starts_with("proxy-") || ["x-secret", "x-original-url"].contains(&&*name);
            if bad || (name.replace('_', "-").starts_with("x-tollgate") && !is_ours) {
                return Err(format!("a field that should have ended: {name}"));
            }
        }
        match head.body()? {
            Body::Length(length) if length != case.length => Err(format!("a length of {length}, not {}", case.length)),
            Body::Unsaid if case.length > 0 => Err("without its body".to_owned()),
            _ => Ok(()),
        }
    }

    /// An upstream is about to send this reply.
    pub(crate) fn expects(&self, connection: &str, expected: Expected) {
        self.note(
            connection,
            Some(expected.case),
            format!("answers {} {} {:?}, body {}", expected.key, expected.status, expected.quality, expected.length),
        );
        self.state().expected.insert(expected.key.clone(), expected);
    }

    /// It was sent now.
    pub(crate) fn answered(&self, key: &str) {
        if let Some(expected) = self.state().expected.get_mut(key) {
            expected.sent = Some(Instant::now());
        }
    }

    /// A client got this, or a part of it, where the reply to its request was to come.
    pub(crate) fn gets(&self, connection: &str, case: &Case, got: &Got) {
        let Got { status, body, whole, head } = got;
        let key = head.one("x-reply").unwrap_or("ours");
        let part = if *whole { "whole" } else { "part" };
        self.note(connection, Some(case.number), format!("got {status} {key}, {part}, body {}", body.len()));
        match self.check_reply(case, got) {
            Ok(what) => self.count(&format!("{what}, {part}")),
            Err((problem, other)) => {
                let cases: Vec<_> = [case.number].into_iter().chain(other).collect();
                let seen = body[..body.len().min(200)].escape_ascii();
                self.find(
                    connection,
                    &cases,
                    format!("{problem}\n  request: {case:?}\n  reply: {head:?}\n  body: {seen}"),
                );
            }
        }
    }

    fn check_reply(&self, case: &Case, got: &Got) -> Result<String, (String, Option<u64>)> {
        let bare = |problem: &str| Err((problem.to_owned(), None));
        if head_has_hop(&got.head) {
            return bare("a field of the upstream's own hop got through");
        }
        let Some(key) = got.head.one("x-reply") else {
            return check_refusal(case, got).map_err(|problem| (problem, None));
        };
        let state = self.state();
        let (expected, known) =
            (state.expected.get(key).cloned(), state.cases.get(&case.number).map(|known| known.begun));
        drop(state);
        let Some(expected) = expected else { return bare("a reply that no upstream made") };
        let wrong = |problem: &str| Err((problem.to_owned(), Some(expected.case)));
        if case.user().is_none() {
            return wrong("a reply to a token that is not good for it");
        }
        match expected.quality {
            Quality::Glued => return wrong("bytes behind another reply were taken for one"),
            // Sent before anything was asked: who is asked next cannot have missed it. Otherwise nobody can know.
            Quality::Late if expected.sent.zip(known).is_some_and(|(sent, begun)| sent < begun) => {
                return wrong("bytes that were there before the request were taken for its reply");
            }
            Quality::Late => return Ok("taken for a reply, undetectably".to_owned()),
            _ if expected.case != case.number => return wrong("somebody else's reply"),
            Quality::Broken if got.whole => return wrong("a broken reply looks whole"),
            Quality::Whole | Quality::Broken => {}
        }
        if got.status != expected.status {
            return wrong("another status than the upstream's");
        }
        let empty = case.method == "HEAD" || matches!(expected.status, 204 | 304);
        let body = reply_like(key, if empty { 0 } else { expected.length });
        match got.whole {
            true if got.body != body => wrong("another body than the upstream's"),
            false if !body.starts_with(&got.body) => wrong("a part that is no part of the upstream's body"),
            _ => Ok("the upstream's reply".to_owned()),
        }
    }

    /// Ends without a verdict on a reply: nothing of one came.
    pub(crate) fn unanswered(&self, connection: &str, case: &Case, why: &str) {
        self.note(connection, Some(case.number), format!("no reply: {why}"));
        self.count(&format!("no reply: {why}"));
    }

    /// The finding, with its history.
    pub(crate) fn finding(&self) -> Option<String> {
        let state = self.state();
        let finding = state.finding.as_ref()?;
        let mut cases = finding.cases.clone();
        let mut connections = vec![finding.connection.clone()];
        // Where these requests went, too.
        let related = state.events.iter().filter(|event| event.case.is_some_and(|case| cases.contains(&case)));
        connections.extend(related.map(|event| event.connection.clone()));
        let on = |event: &&HistoryLine| connections.contains(&event.connection);
        cases.extend(state.events.iter().filter(on).filter_map(|event| event.case));
        let is_shown = |event: &&HistoryLine| on(event) || event.case.is_some_and(|case| cases.contains(&case));
        let mut text = format!("FINDING after {:.3?}: {}\nhistory:\n", finding.at, finding.text);
        for HistoryLine { at, connection, case, text: what } in state.events.iter().filter(is_shown) {
            let case = case.map(|case| format!(" case {case}")).unwrap_or_default();
            text += &format!("  {:10.4} {connection}{case}: {what}\n", at.as_secs_f64());
        }
        Some(text)
    }

    /// How often what happened.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.state().counts.clone()
    }
}

fn head_has_hop(head: &Head) -> bool {
    let connection = head.all("connection");
    let is_known = |value: &&str| matches!(value.to_ascii_lowercase().as_str(), "close" | "keep-alive");
    !connection.iter().all(is_known) || !head.all("x-hop").is_empty() || !head.all("x-tollgate-internal").is_empty()
}

/// One of Tollgate's own replies: in its form, and for a reason that there is.
fn check_refusal(case: &Case, got: &Got) -> Result<String, String> {
    let Got { status, head, body, whole } = got;
    let possible = match (case.user(), case.bearer) {
        // A body that never comes, a Controller that does not answer.
        (Some(_), _) => matches!(status, 408 | 502 | 503 | 504) || (case.broken && *status == 400),
        (None, Bearer::Revoked | Bearer::Unknown | Bearer::Missing) => *status == 401,
        (None, _) => *status == 403,
    };
    if !possible {
        return Err(format!("an unexpected status {status} of Tollgate's own"));
    }
    if head.one("content-type") != Some("application/json") || !head.all("last-modified").is_empty() {
        return Err("not one of Tollgate's replies, nor the upstream's".to_owned());
    }
    if case.method != "HEAD" && *whole {
        let json: serde_json::Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
        if !json["error"].is_string() || !json["request_id"].is_string() {
            return Err("not Tollgate's JSON".to_owned());
        }
    }
    Ok(format!("refused with {status}"))
}
