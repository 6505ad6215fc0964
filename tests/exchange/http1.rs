//! Clients of HTTP/1: several requests on a connection, sent in pieces and at any pace, left at any place.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::PATIENCE;
use super::case::Case;
use super::judge::{Got, Judge};
use super::wire::{Body, End, Head, Inbox, MetReset, Outbox, Pieces, WireError};
use tollgate_harness::random::Random;

/// How a client ends what it sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It stays until it has all replies.
    Stay,
    /// It sends no more, and reads on.
    HalfClose,
    /// It resets after so long.
    Reset(Duration),
}

/// One connection from beginning to end.
pub(crate) async fn play(
    stream: TcpStream,
    name: &str,
    judge: &Arc<Judge>,
    cases: Vec<Arc<Case>>,
    random: &mut Random,
) {
    // Without it, pieces come together, no more.
    stream.set_nodelay(true).unwrap_or_default();
    let leave = match random.below(12) {
        0 => Leave::Reset(random.time(0, 300)),
        1 | 2 => Leave::HalfClose,
        _ => Leave::Stay,
    };
    let (reader, writer) = stream.into_split();
    // How many replies came; and whether an interim one allows the next body.
    let (replies, progress) = watch::channel((0_usize, false));
    let over = Arc::new(AtomicBool::new(false));
    let sender = Sender {
        name: name.to_owned(),
        judge: Arc::clone(judge),
        cases: cases.clone(),
        random: random.clone(),
        pipelined: random.percent(40),
        leave,
        over: Arc::clone(&over),
    };
    let outbox = Outbox::new(writer);
    let met_reset = outbox.met_reset();
    let sending = tokio::spawn(sender.send(outbox, progress));
    let slow = random.percent(12);
    let mut receiver =
        Receiver { inbox: Inbox::new(reader), met_reset, name, judge, replies, slow, random: random.clone() };
    let received = async {
        for case in &cases {
            if !receiver.reply(case).await {
                return;
            }
        }
        // All was answered, so nothing more may come.
        let more = timeout(receiver.random.time(0, 20), receiver.inbox.fill()).await;
        if let Ok(Ok(())) = more {
            let text = receiver.inbox.unread();
            let text = text[..text.len().min(300)].escape_ascii().to_string();
            judge.find(name, &[], format!("bytes behind the last reply: {text}"));
        }
    };
    match leave {
        // The sender resets: what is received until then is looked at.
        Leave::Reset(after) => timeout(after, received).await.unwrap_or_default(),
        _ => received.await,
    }
    over.store(true, Ordering::Relaxed);
    sending.abort();
    drop(sending.await);
    if matches!(leave, Leave::Reset(_)) {
        judge.note(name, None, "resets");
        receiver.inbox.resets();
    }
    judge.note(name, None, "closes");
}

struct Sender {
    name: String,
    judge: Arc<Judge>,
    cases: Vec<Arc<Case>>,
    random: Random,
    pipelined: bool,
    leave: Leave,
    over: Arc<AtomicBool>,
}

impl Sender {
    /// Returns the stream, so that it ends when the receiver says so.
    async fn send(mut self, mut writer: Outbox, mut progress: watch::Receiver<(usize, bool)>) -> Outbox {
        for (number, case) in self.cases.clone().iter().enumerate() {
            // One after the other, or as soon as there is room.
            if !self.pipelined && progress.wait_for(|(replies, _)| *replies >= number).await.is_err() {
                return writer;
            }
            self.judge.sends(&self.name, case);
            let mut bytes = case.head(&self.judge.tokens, &mut self.random);
            let body = case.framed_body(&self.judge.tokens, &mut self.random);
            if case.expects_continue {
                if self.write(&mut writer, &bytes).await.is_err() {
                    return writer;
                }
                bytes.clear();
                let go = progress.wait_for(|(replies, interim)| *replies > number || (*replies == number && *interim));
                // RFC 9110 section 10.1.1: a client should not wait for ever.
                timeout(Duration::from_millis(300), go).await.map(drop).unwrap_or_default();
            }
            bytes.extend_from_slice(&body);
            if self.write(&mut writer, &bytes).await.is_err() {
                return writer;
            }
            if !case.is_whole() {
                // What follows would be part of this.
                writer.finish().await;
                return writer;
            }
        }
        if self.leave == Leave::HalfClose {
            self.judge.note(&self.name, None, "sends no more");
            writer.finish().await;
        }
        // Dropping it would say so, too.
        while !self.over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(200)).await;
        }
        writer
    }

    async fn write(&mut self, writer: &mut Outbox, mut bytes: &[u8]) -> std::io::Result<()> {
        let whole = self.random.percent(60);
        while !bytes.is_empty() {
            let count = if whole { bytes.len() } else { 1 + self.random.below(bytes.len()) };
            writer.write(&bytes[..count]).await?;
            bytes = &bytes[count..];
            if !bytes.is_empty() && self.random.percent(40) {
                sleep(self.random.time(0, 10)).await;
            }
        }
        Ok(())
    }
}

struct Receiver<'a> {
    inbox: Inbox<OwnedReadHalf>,
    met_reset: MetReset,
    name: &'a str,
    judge: &'a Judge,
    replies: watch::Sender<(usize, bool)>,
    slow: bool,
    random: Random,
}

impl Receiver<'_> {
    /// The reply to this request. Whether there can be another.
    async fn reply(&mut self, case: &Case) -> bool {
        match timeout(PATIENCE, self.receive(case)).await {
            Ok(goes_on) => goes_on,
            Err(_) => {
                self.judge.find(
                    self.name,
                    &[case.number],
                    format!("neither a reply nor an end within {PATIENCE:?}: {case:?}"),
                );
                false
            }
        }
    }

    async fn receive(&mut self, case: &Case) -> bool {
        let head = loop {
            match self.inbox.head().await {
                Ok(head) if head.line.starts_with("HTTP/1.1 1") => {
                    if head.one("x-interim").is_some_and(|number| number != case.number.to_string()) {
                        self.judge.find(self.name, &[case.number], format!("somebody else's interim reply: {head:?}"));
                        return false;
                    }
                    self.judge.count("interim replies to clients");
                    self.replies.send_modify(|(_, interim)| *interim = true);
                }
                Ok(head) => break head,
                Err(stop) => {
                    self.stopped(case, None, stop);
                    return false;
                }
            }
        };
        let status = head.line.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)?.parse().ok());
        let framing = head.body();
        let (Some(status), Ok(framing)) = (status, framing) else {
            self.judge.find(self.name, &[case.number], format!("no reply of HTTP/1.1: {head:?}"));
            return false;
        };
        let closes = head.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        let empty = case.method == "HEAD" || matches!(status, 204 | 304);
        if framing == Body::Unsaid && !empty && !closes {
            self.judge.find(self.name, &[case.number], format!("a reply without an end: {head:?}"));
            return false;
        }
        let mut pieces = Pieces::new(if empty { Body::Length(0) } else { framing });
        let mut got = Got { status, head, body: Vec::new(), whole: false };
        loop {
            if self.slow {
                sleep(self.random.time(0, 30)).await;
            }
            match pieces.next(&mut self.inbox).await {
                Ok(Some(piece)) => got.body.extend_from_slice(&piece),
                Ok(None) => break,
                Err(stop) => {
                    self.stopped(case, Some(&got), stop);
                    return false;
                }
            }
        }
        if framing == Body::Unsaid && !empty && *self.met_reset.lock().unwrap_or_else(PoisonError::into_inner) {
            self.stopped(case, Some(&got), WireError::End(End::Reset));
            return false;
        }
        got.whole = true;
        self.judge.gets(self.name, case, &got);
        self.replies.send_modify(|state| *state = (state.0 + 1, false));
        if closes {
            self.closed(case).await;
        }
        !closes
    }

    /// After a reply that says that the connection closes.
    async fn closed(&mut self, case: &Case) {
        let more = timeout(PATIENCE, self.inbox.fill()).await;
        match more {
            Ok(Ok(())) => self.judge.find(self.name, &[case.number], "more after the end of the connection was said"),
            Ok(Err(_)) => {}
            Err(_) => self.judge.find(self.name, &[case.number], "a connection that should close does not"),
        }
    }

    fn stopped(&self, case: &Case, got: Option<&Got>, stop: WireError) {
        match stop {
            WireError::Bad(problem) => {
                self.judge.find(self.name, &[case.number], format!("no HTTP: {problem}, {got:?}"))
            }
            WireError::End(end) => {
                if let Some(got) = got {
                    self.judge.gets(self.name, case, got);
                }
                self.judge.unanswered(self.name, case, if end == End::Clean { "closed" } else { "reset" });
            }
        }
    }
}

/// For other clients: a head as HTTP/1 would have it.
pub(crate) fn head_of(line: String, fields: &http::HeaderMap) -> Head {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Head { line, fields: fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect() }
}
