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
    /// When it was thought out, before it was sent.
    pub(crate) made: Instant,
    /// It is for one.
    pub(crate) has_cookie: bool,
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
    /// The upstream's API sees none of them.
    strips: bool,
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
    /// Tokens that are good no more, by their numbers.
    revoked: HashMap<usize, Revocation>,
    /// When a client had all of a reply for the first time: its fetch is over, and nobody can join it any more.
    landed: HashMap<String, Instant>,
    /// The last answer that said that there is no such thing and has reached its client, by path.
    gone: HashMap<String, Gone>,
}

/// A token is revoked.
#[derive(Clone, Copy)]
struct Revocation {
    /// Everywhere.
    done: Option<Instant>,
}

/// An answer that said that there is no such thing.
#[derive(Clone, Copy)]
struct Gone {
    made: Instant,
    got: Instant,
}

/// What a token is good for at a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    Bad,
    /// It was revoked while that was under way.
    Either,
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
    pub(crate) fn new(tokens: Tokens, strips: bool) -> Self {
        Self { tokens, strips, begun: Instant::now(), state: Mutex::default(), found: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn count(&self, what: &str) {
        *self.state().counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Since the beginning.
    pub(crate) fn time(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A token is about to be revoked, or is so everywhere.
    pub(crate) fn revokes(&self, number: usize, is_done: bool) {
        let what = if is_done { "is revoked everywhere" } else { "is about to be revoked" };
        self.note("a revocation", None, format!("token {number} {what}"));
        self.state().revoked.insert(number, Revocation { done: is_done.then(Instant::now) });
        self.count("revocations");
    }

    /// What the token of a request that began then is good for.
    fn standing(&self, case: &Case, begun: Instant) -> Standing {
        let Bearer::Passing(number) = case.bearer else {
            return if case.user().is_some() { Standing::Good } else { Standing::Bad };
        };
        match self.state().revoked.get(&number) {
            None => Standing::Good,
            Some(Revocation { done: Some(done) }) if *done < begun => Standing::Bad,
            Some(_) => Standing::Either,
        }
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
            (Arc::clone(&known.case), known.arrivals, known.begun)
        });
        drop(state);
        let Some((case, arrivals, begun)) = known else {
            self.find(connection, &[], format!("a request that nobody sent came to the upstream: {head:?}"));
            return None;
        };
        self.count("requests at the upstream");
        let checked = match self.standing(&case, begun) {
            Standing::Bad => Err(format!("a request with {:?} got through", case.bearer)),
            Standing::Good | Standing::Either => self.check_request(&case, head, arrivals),
        };
        if let Err(problem) = checked {
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
        let token = self.tokens.raw(case.bearer).map(|token| format!("Bearer {token}"));
        let is_shown = !self.strips || case.target.starts_with("/agents/");
        let expected = [
            ("x-tollgate-user", Some(user)),
            ("x-forwarded-for", Some("127.0.0.1")),
            ("authorization", token.as_deref().filter(|_| is_shown)),
        ];
        for (name, value) in expected {
            if head.one(name) != value {
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
            let begun = self.state().cases.get(&case.number).map(|known| known.begun);
            let standing = begun.map_or(Standing::Bad, |begun| self.standing(case, begun));
            return check_refusal(case, standing, got).map_err(|problem| (problem, None));
        };
        let state = self.state();
        let (expected, known) =
            (state.expected.get(key).cloned(), state.cases.get(&case.number).map(|known| known.begun));
        let asked = expected.as_ref().and_then(|expected| state.cases.get(&expected.case));
        let asked = asked.map(|known| Arc::clone(&known.case));
        drop(state);
        let (Some(expected), Some(asked)) = (expected, asked) else { return bare("a reply that no upstream made") };
        let wrong = |problem: &str| Err((problem.to_owned(), Some(expected.case)));
        if known.is_none_or(|begun| self.standing(case, begun) == Standing::Bad) {
            return wrong("a reply to a token that is not good for it");
        }
        match expected.quality {
            Quality::Glued => return wrong("bytes behind another reply were taken for one"),
            // Sent before anything was asked: who is asked next cannot have missed it. Otherwise nobody can know.
            Quality::Late if expected.sent.zip(known).is_some_and(|(sent, begun)| sent < begun) => {
                return wrong("bytes that were there before the request were taken for its reply");
            }
            Quality::Late => return Ok("taken for a reply, undetectably".to_owned()),
            Quality::Broken if got.whole => return wrong("a broken reply looks whole"),
            Quality::Whole | Quality::Broken => {}
        }
        let is_stored = got.head.all("cache-status").iter().any(|status| !status.contains("detail=first-look"));
        if (is_stored || expected.case != case.number)
            && let Err(problem) = self.check_anothers(case, &asked, &expected, is_stored, known)
        {
            return wrong(problem);
        }
        if is_stored != got.head.one("age").is_some() {
            return wrong("a stored reply without its age, or another with one");
        }
        if got.status != expected.status {
            return wrong("another status than the upstream's");
        }
        let empty = case.method == "HEAD" || matches!(expected.status, 204 | 304);
        let body = reply_like(key, if empty { 0 } else { expected.length });
        match got.whole {
            true if got.body != body => wrong("another body than the upstream's"),
            false if !body.starts_with(&got.body) => wrong("a part that is no part of the upstream's body"),
            _ if is_stored => Ok("a stored reply".to_owned()),
            true if case.is_shared && got.status == 200 => {
                self.state().landed.entry(key.to_owned()).or_insert_with(Instant::now);
                Ok(if expected.case == case.number { "the upstream's reply" } else { "a shared reply" }.to_owned())
            }
            _ if expected.case != case.number => Ok("a shared reply".to_owned()),
            true => {
                if case.is_shared && matches!(got.status, 404 | 410) {
                    let gone = Gone { made: expected.made, got: Instant::now() };
                    self.state().gone.insert(case.path().to_owned(), gone);
                }
                Ok("the upstream's reply".to_owned())
            }
            false => Ok("the upstream's reply".to_owned()),
        }
    }

    /// Whether a request may be given what another one was answered: one for the same, with the same token.
    fn check_anothers(
        &self,
        case: &Case,
        asked: &Case,
        expected: &Expected,
        is_stored: bool,
        begun: Option<Instant>,
    ) -> Result<(), &'static str> {
        let may_be = case.is_shared
            && (case.target == asked.target)
            && (self.strips || self.tokens.raw(case.bearer) == self.tokens.raw(asked.bearer))
            && asked.method == "GET";
        if !may_be {
            return Err("somebody else's reply");
        }
        if expected.status != 200 || expected.has_cookie || expected.length > 1 << 20 {
            return Err("a reply that is for one was given to another");
        }
        let Some(begun) = begun else { return Err("a reply to a request that nobody sent") };
        if !is_stored {
            // Of a fetch that was under way when it was asked.
            let is_old = self.state().landed.get(&expected.key).is_some_and(|landed| *landed < begun);
            if case.method != "GET" || case.accepts_gzip != asked.accepts_gzip || is_old {
                return Err("a reply of before looks like the upstream's own");
            }
        } else if let Some(gone) = self.state().gone.get(case.path())
            && gone.got < begun
            && expected.made < gone.made
        {
            return Err("what is gone at the upstream was given all the same");
        }
        Ok(())
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
fn check_refusal(case: &Case, standing: Standing, got: &Got) -> Result<String, String> {
    let Got { status, head, body, whole } = got;
    // A body that never comes, a Controller that does not answer.
    let is_broken = || matches!(status, 408 | 502 | 503 | 504) || (case.broken && *status == 400);
    let possible = match (standing, case.bearer) {
        (Standing::Good, _) => is_broken(),
        (Standing::Either, _) => *status == 401 || is_broken(),
        (Standing::Bad, Bearer::Passing(_) | Bearer::Revoked | Bearer::Unknown | Bearer::Missing) => *status == 401,
        (Standing::Bad, _) => *status == 403,
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
