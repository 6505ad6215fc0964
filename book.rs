//! The judge: what was sent on purpose, what the upstream got of it and did, and what the client saw. Every exchange has a
//! number that its head and both bodies carry, so that nothing can be taken for something else unseen.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::answer::{Answer, End};
use super::request::{Fault, Request};
use super::text::Text;
use super::wire::Head;

/// How long the sidecar waits for a reply, and within one.
pub(crate) const SIDECAR_PATIENCE: Duration = Duration::from_secs(2);

/// Who half-closes after its request is served for so long.
const HALF_CLOSED: Duration = Duration::from_millis(900);

/// A reply that nobody asked for and that comes while the next request is on its way cannot be told from the answer to
/// that. After this time no request can still be on its way.
const CROSSING: Duration = Duration::from_secs(2);

/// Longest memory of an exchange.
const MEMORY: Duration = Duration::from_secs(60);

/// Events kept for the story of a finding.
const HISTORY: usize = 100_000;

/// Fields that end at each hop.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "x-hop",
    "http2-settings",
    "proxy-authorization",
];

/// One connection of a client or to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Client(u64),
    Upstream(u64),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(number) => write!(f, "client {number}"),
            Self::Upstream(number) => write!(f, "upstream {number}"),
        }
    }
}

/// What a client saw of one reply.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `None`: nothing.
    pub(crate) head: Option<Head>,
    /// Bytes of the body.
    pub(crate) length: u64,
    /// Whether all of them are this exchange's.
    pub(crate) is_exact: bool,
    /// The body's beginning.
    pub(crate) start: Vec<u8>,
    pub(crate) ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    Cut,
    /// The client gave up waiting.
    Stuck,
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self { head: None, length: 0, is_exact: true, start: Vec::new(), ending: Ending::Cut }
    }

    /// Some more of the body.
    pub(crate) fn data(&mut self, text: &Text, data: &[u8]) {
        self.is_exact &= text.has(self.length, data);
        self.length += data.len() as u64;
        let room = 1000usize.saturating_sub(self.start.len());
        self.start.extend(data.iter().take(room));
    }
}

/// Something that must not be.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) rule: &'static str,
    pub(crate) what: String,
    /// All that happened on the connections that have to do with it.
    pub(crate) story: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n{}", self.rule, self.what, self.story)
    }
}

#[derive(Debug)]
struct Exchange {
    request: Request,
    answer: Answer,
    authorization: Option<String>,
    client: Who,
    began: Instant,
    arrivals: Vec<Arrival>,
    /// It must not be served any more: the connection that it came on had ended before it.
    is_void: bool,
    /// The client never sent the body.
    is_withheld: bool,
    /// It crossed a reply that nobody asked for.
    is_crossed: bool,
    half_closed: Option<Instant>,
}

/// One time that its head reached an upstream.
#[derive(Debug)]
struct Arrival {
    on: Who,
    /// There were requests before it.
    is_reused: bool,
    read: u64,
    /// Its reply began.
    is_answered: bool,
    /// All of the reply was sent.
    is_done: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    exchanges: BTreeMap<u64, Exchange>,
    last: u64,
    /// Replies that nobody asked for: where, when, and whether they came late.
    unasked: BTreeMap<u64, (Who, Instant, bool)>,
    history: VecDeque<(Instant, Who, String)>,
    counts: BTreeMap<String, u64>,
    findings: Vec<Finding>,
    forgiven: Vec<String>,
    began: Option<Instant>,
}

impl Book {
    /// Faults that are known, and only counted.
    pub(crate) fn forgive(&self, rules: &[String]) {
        self.with(|inner| inner.forgiven = rules.to_vec());
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().expect("no panic"))
    }

    /// A number for a connection.
    pub(crate) fn number(&self) -> u64 {
        self.with(|inner| {
            inner.last += 1;
            inner.last
        })
    }

    pub(crate) fn note(&self, who: Who, what: String) {
        self.with(|inner| inner.note(who, what));
    }

    /// Something must not be.
    pub(crate) fn finding(&self, rule: &'static str, what: String, who: &[Who]) {
        self.with(|inner| inner.finding(rule, what, who));
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.with(|inner| inner.findings.clone())
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.with(|inner| inner.counts.clone())
    }

    /// A client is about to send this.
    pub(crate) fn begins(&self, client: Who, request: &Request, answer: &Answer, authorization: Option<&str>) -> u64 {
        self.with(|inner| {
            inner.last += 1;
            let now = Instant::now();
            let exchange = Exchange {
                request: request.clone(),
                answer: answer.clone(),
                authorization: authorization.map(str::to_owned),
                client,
                began: now,
                arrivals: Vec::new(),
                is_void: false,
                is_withheld: false,
                is_crossed: false,
                half_closed: None,
            };
            inner.exchanges.insert(inner.last, exchange);
            while let Some(entry) = inner.exchanges.first_entry()
                && now - entry.get().began > MEMORY
            {
                entry.remove();
            }
            inner.count(&format!("request: {}", kind(request)));
            inner.note(client, format!("sends {}: {request:?}; to be answered so: {answer:?}", inner.last));
            inner.last
        })
    }

    /// The client ended its sending side, with everything sent.
    pub(crate) fn half_closes(&self, ids: &[u64]) {
        self.with(|inner| {
            for id in ids {
                if let Some(exchange) = inner.exchanges.get_mut(id) {
                    exchange.half_closed = Some(Instant::now());
                }
            }
        });
    }

    /// The client will not send this one's body.
    pub(crate) fn withholds(&self, id: u64) {
        self.with(|inner| {
            if let Some(exchange) = inner.exchanges.get_mut(&id) {
                exchange.is_withheld = true;
            }
        });
    }

    /// The connection ended, by what was said on it, before these.
    pub(crate) fn are_void(&self, ids: &[u64]) {
        self.with(|inner| {
            for id in ids {
                let Some(exchange) = inner.exchanges.get_mut(id) else { continue };
                exchange.is_void = true;
                let who = (exchange.client, exchange.arrivals.first().map(|arrival| arrival.on));
                if let (client, Some(upstream)) = who {
                    let what = format!("{id} was served although the connection had ended before it");
                    inner.finding("smuggled", what, &[client, upstream]);
                }
            }
        });
    }

    /// A head reached an upstream. `None`: nobody sent that.
    pub(crate) fn arrives(&self, on: Who, head: &Head, number: usize, secure: bool) -> Option<(u64, Request, Answer)> {
        self.with(|inner| {
            inner.note(on, format!("gets {head:?}"));
            match inner.arrival(on, head, number, secure) {
                Ok(found) => Some(found),
                Err((rule, what, client)) => {
                    inner.finding(rule, what, &[Some(on), client].into_iter().flatten().collect::<Vec<_>>());
                    None
                }
            }
        })
    }

    /// A request came after a late reply on its connection: it may get that as its answer.
    pub(crate) fn crosses(&self, id: u64, since: Instant) {
        self.with(|inner| {
            if since.elapsed() < CROSSING
                && let Some(exchange) = inner.exchanges.get_mut(&id)
            {
                exchange.is_crossed = true;
                inner.count("crossed a late reply");
            }
        });
    }

    /// Some of a body reached an upstream, or its end.
    pub(crate) fn body(&self, on: Who, id: u64, text: &Text, data: &[u8], ended: bool) {
        self.with(|inner| {
            let Some(exchange) = inner.exchanges.get_mut(&id) else { return };
            let (client, length) = (exchange.client, exchange.request.length);
            let may_end = exchange.request.is_whole() && !exchange.is_withheld;
            let Some(arrival) = exchange.arrivals.last_mut() else { return };
            let at = arrival.read;
            arrival.read += data.len() as u64;
            let read = arrival.read;
            if !text.has(at, data) || read > length {
                let differs = (0..data.len()).find(|byte| !text.has(at + *byte as u64, &data[*byte..=*byte])).unwrap_or(0);
                let shown = data[differs..].iter().take(200).copied().collect::<Vec<_>>();
                let what = format!(
                    "the body of {id} is not the client's at byte {} of {length}: {:?}",
                    at + differs as u64,
                    shown.escape_ascii().to_string()
                );
                inner.finding("body", what, &[on, client]);
            } else if ended && (read != length || !may_end) {
                inner.finding("body", format!("the body of {id} ends well after {read} of {length} bytes"), &[on, client]);
            }
            if ended {
                inner.note(on, format!("has the whole body of {id}"));
            }
        });
    }

    /// An upstream begins to answer.
    pub(crate) fn answers(&self, on: Who, id: u64) {
        self.with(|inner| {
            inner.note(on, format!("answers {id}"));
            inner.arrived(id, |arrival| arrival.is_answered = true);
        });
    }

    /// An upstream has sent all of its answer.
    pub(crate) fn answered(&self, on: Who, id: u64) {
        self.with(|inner| {
            inner.note(on, format!("has answered {id}"));
            inner.arrived(id, |arrival| arrival.is_done = true);
        });
    }

    /// An upstream is about to send a reply that nobody asked for; its number.
    pub(crate) fn unasked(&self, on: Who, is_late: bool) -> u64 {
        self.with(|inner| {
            inner.last += 1;
            inner.unasked.insert(inner.last, (on, Instant::now(), is_late));
            inner.note(on, format!("sends what nobody asked for: {}", inner.last));
            inner.last
        })
    }

    /// What became of an exchange, as its client sees it. `excused`: the connection was over before, for a good reason.
    pub(crate) async fn sees(&self, id: u64, seen: &Seen, excused: bool) {
        let tag = seen.head.as_ref().and_then(|head| head.all("x-exchange").next());
        if tag.is_some_and(|tag| tag.starts_with("unasked")) {
            // Perhaps the request that crossed it has yet to be read.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.with(|inner| inner.sees(id, seen, excused));
    }
}

/// For the counts.
fn kind(request: &Request) -> String {
    match (request.refusal(), request.fault) {
        (_, Some(Fault::Head(_))) => "ambiguous head".to_owned(),
        (Some((_, text)), _) => format!("to be refused: {text}"),
        (None, Some(Fault::Chunk(_))) => "broken chunk".to_owned(),
        (None, Some(Fault::Stops(_))) => "stops within its body".to_owned(),
        (None, Some(Fault::Resets(_))) => "resets within its body".to_owned(),
        (None, _) => "right".to_owned(),
    }
}

impl Inner {
    fn note(&mut self, who: Who, what: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let now = Instant::now();
        self.began.get_or_insert(now);
        self.history.push_back((now, who, what));
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    fn finding(&mut self, rule: &'static str, what: String, who: &[Who]) {
        self.count(&format!("finding: {rule}"));
        if self.forgiven.iter().any(|forgiven| forgiven == rule) {
            return;
        }
        let began = self.began.unwrap_or_else(Instant::now);
        let lines = self.history.iter().filter(|(_, other, _)| who.contains(other));
        let lines = lines.map(|(at, who, what)| format!("  {:9.4} {who} {what}", (*at - began).as_secs_f64()));
        let story = lines.collect::<Vec<_>>().join("\n");
        self.findings.push(Finding { rule, what, story });
    }

    fn arrived(&mut self, id: u64, change: impl FnOnce(&mut Arrival)) {
        if let Some(arrival) = self.exchanges.get_mut(&id).and_then(|exchange| exchange.arrivals.last_mut()) {
            change(arrival);
        }
    }

    fn arrival(
        &mut self,
        on: Who,
        head: &Head,
        number: usize,
        secure: bool,
    ) -> Result<(u64, Request, Answer), (&'static str, String, Option<Who>)> {
        let wrong = |what: String| ("framing", what, None);
        let (method, target) = head.request_line().map_err(wrong)?;
        head.request_framing().map_err(wrong)?;
        let tag = head.one("x-exchange").map_err(wrong)?.unwrap_or("nothing");
        let nobody = || ("smuggled", format!("nobody sent this: {head:?}"), None);
        let id: u64 = tag.parse().map_err(|_| nobody())?;
        let exchange = self.exchanges.get_mut(&id).ok_or_else(nobody)?;
        let client = Some(exchange.client);
        let request = &exchange.request;
        if request.refusal().is_some() {
            return Err(("unchecked", format!("{id} had to be refused"), client));
        }
        if exchange.is_void {
            return Err(("smuggled", format!("{id} is served although its connection had ended before it"), client));
        }
        if (method, target, secure) != (request.method, request.target(id).as_str(), request.secure) {
            return Err(("fields", format!("{id} is {method} {target} now, secure: {secure}"), client));
        }
        let authorization = head.one("authorization").map_err(wrong)?;
        if authorization != exchange.authorization.as_deref() {
            return Err(("fields", format!("{id} has another credential now"), client));
        }
        let hosts = head.all("host").count();
        let hop = head.fields.iter().find(|(name, _)| HOP_BY_HOP.contains(&name.to_ascii_lowercase().as_str()));
        if let (1, None) = (hosts, hop) {
        } else {
            return Err(("fields", format!("{id} has {hosts} Host fields, and {hop:?}"), client));
        }
        let is_repeatable = matches!(method, "GET" | "HEAD");
        if let Some(before) = exchange.arrivals.last()
            && !(is_repeatable && before.is_reused && !before.is_answered)
        {
            return Err(("repeated", format!("{id} was sent again, after {before:?}"), client));
        }
        exchange.arrivals.push(Arrival { on, is_reused: number > 0, read: 0, is_answered: false, is_done: false });
        let found = (id, request.clone(), exchange.answer.clone());
        self.count(if number > 0 { "upstream connection: used again" } else { "upstream connection: new" });
        Ok(found)
    }

    fn sees(&mut self, id: u64, seen: &Seen, excused: bool) {
        let Some(exchange) = self.exchanges.get(&id) else { return };
        let client = exchange.client;
        let mut who = vec![client];
        who.extend(exchange.arrivals.iter().map(|arrival| arrival.on));
        let unasked = self.unasked_in(seen);
        who.extend(unasked.map(|(on, _, _)| on));
        let verdict = exchange.judge(id, seen, excused, unasked);
        let what = match &seen.head {
            None => "nothing".to_owned(),
            Some(head) => format!("{head:?}, {} bytes", seen.length),
        };
        self.note(client, format!("sees of {id}: {what}, {:?}", seen.ending));
        match verdict {
            Ok(kind) => self.count(&format!("seen: {kind}")),
            Err((rule, what)) => self.finding(rule, format!("{id}: {what}"), &who),
        }
    }

    fn unasked_in(&self, seen: &Seen) -> Option<(Who, Instant, bool)> {
        let number = seen.head.as_ref()?.all("x-exchange").next()?.strip_prefix("unasked ")?;
        self.unasked.get(&number.parse().ok()?).copied()
    }
}

impl Exchange {
    /// What kind of end it was, or which rule it breaks.
    fn judge(
        &self,
        id: u64,
        seen: &Seen,
        excused: bool,
        unasked: Option<(Who, Instant, bool)>,
    ) -> Result<&'static str, (&'static str, String)> {
        if seen.ending == Ending::Stuck {
            return Err(("stuck", format!("nothing more came: {seen:?}")));
        }
        let Some(head) = &seen.head else { return self.judge_silence(excused).map(|()| "no reply") };
        if self.is_crossed {
            return Ok("crossed a late reply");
        }
        let Some(tag) = head.one("x-exchange").map_err(|what| ("foreign", what))? else {
            return self.judge_refusal(head, seen);
        };
        if tag != id.to_string() {
            let is_late = unasked.is_some_and(|(_, _, is_late)| is_late);
            return Err(("foreign", format!("it got the reply of {tag} (late: {is_late})")));
        }
        if !seen.is_exact {
            return Err(("foreign", format!("its body is not its own: {:?}", seen.start.escape_ascii().to_string())));
        }
        if let Some((status, text)) = self.request.refusal() {
            return Err(("unchecked", format!("it had to be refused, {status:?} {text}")));
        }
        let hop = head.fields.iter().find(|(name, value)| {
            let name = name.to_ascii_lowercase();
            HOP_BY_HOP.contains(&name.as_str()) && !(name == "connection" && value == "close")
        });
        if hop.is_some() || head.status() != Ok(self.answer.status) || head.all("server").ne(["scripted"]) {
            return Err(("fields", format!("{hop:?} in {head:?}, whose status was to be {}", self.answer.status)));
        }
        let allowed = self.answer.allows(self.request.to_head(), self.request.length > 0);
        match seen.ending {
            Ending::Whole if allowed.whole.as_ref().is_some_and(|length| length.contains(&seen.length)) => Ok("whole"),
            Ending::Whole => {
                Err(("false end", format!("{} bytes look like a whole reply: {allowed:?} {head:?}", seen.length)))
            }
            Ending::Cut if allowed.cut || self.may_be_cut() => Ok("cut within"),
            _ => Err(("lost", format!("the reply was cut after {} bytes, allowed was {allowed:?}", seen.length))),
        }
    }

    fn judge_silence(&self, excused: bool) -> Result<(), (&'static str, String)> {
        let allowed = self.answer.allows(self.request.to_head(), self.request.length > 0);
        if excused || allowed.cut || self.may_be_cut() || self.is_crossed {
            return Ok(());
        }
        Err(("lost", format!("no reply, allowed was {allowed:?}")))
    }

    /// Whether the client has cut it itself.
    fn may_be_cut(&self) -> bool {
        let for_long = self.half_closed.is_some_and(|since| since.elapsed() > HALF_CLOSED);
        matches!(self.request.fault, Some(Fault::Stops(_) | Fault::Resets(_))) || for_long
    }

    /// A reply without a number is the sidecar's own.
    fn judge_refusal(&self, head: &Head, seen: &Seen) -> Result<&'static str, (&'static str, String)> {
        let undocumented = |what: &str| Err(("refusal", format!("{what}: {head:?} {:?}", seen.start.escape_ascii().to_string())));
        let Ok(status) = head.status() else { return undocumented("no status") };
        let is_json = head.all("content-type").eq(["application/json"]) && head.all("cache-control").eq(["no-store"]);
        if seen.ending != Ending::Whole {
            return if self.may_be_cut() { Ok("cut within a refusal") } else { undocumented("it is not whole") };
        }
        let mut error = String::new();
        if !self.request.to_head() {
            let body: serde_json::Value = serde_json::from_slice(&seen.start).unwrap_or_default();
            let Some(text) = body["error"].as_str() else { return undocumented("no JSON") };
            error = text.to_owned();
            if body["request_id"].as_str().is_none() || body.as_object().is_none_or(|body| body.len() != 2) {
                return undocumented("not the form of a refusal");
            }
        }
        if !is_json || head.all("last-modified").next().is_some() {
            return undocumented("not the fields of a refusal");
        }
        let says = |text: &str| error == text || self.request.to_head();
        if let Some((statuses, text)) = self.request.refusal() {
            return match statuses.contains(&status) && (says(text) || text.is_empty()) {
                true => Ok("refused rightly"),
                false => undocumented("another refusal was to come"),
            };
        }
        let allowed = self.answer.allows(self.request.to_head(), self.request.length > 0);
        let waited = self.began.elapsed() >= SIDECAR_PATIENCE - Duration::from_millis(100);
        let delivered = self.arrivals.last().is_some_and(|arrival| arrival.is_done);
        let is_repeatable = matches!(self.request.method, "GET" | "HEAD") && self.request.length == 0;
        match status {
            504 if says("Upstream timeout") && waited => Ok("504"),
            408 if says("Request timeout") && waited => Ok("408"),
            400 if says("Malformed request body") && !self.request.is_whole() => Ok("400 for a broken body"),
            502 if !says("Upstream unavailable") => undocumented("another text"),
            502 if allowed.refused || self.may_be_cut() => Ok("502"),
            // The connection that it was sent on may have died before.
            502 if self.arrivals.is_empty() && !is_repeatable => Ok("502, never arrived"),
            502 if delivered => Err(("lost", format!("it was answered ({:?}), and is 502", self.answer.end))),
            _ => undocumented("nothing explains it"),
        }
    }
}

/// Whether something comes after its reply that belongs to nothing.
pub(crate) fn is_followed(end: End) -> bool {
    matches!(end, End::Glued(_) | End::Late(_))
}
