//! The bodies of an exchange: a client's on its way up, an upstream's on its way down. Both are streamed; what is small is
//! there whole before anything is taken from the upstream for it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::delivery::Delivery;
use super::exchange::Exchange;
use super::forward::Passage;
use super::refusal::Refusal;
use super::usage::AgentReader;
use crate::upstream::Step;
use crate::worker::alarm::Admitted;

/// A body up to this many bytes is there whole before a place or an upstream connection is taken for it: what drips in
/// holds nothing.
pub(crate) const GATHERED: usize = 16 * 1024;

/// Why a request's body does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// The client is gone.
    #[error("the client closed the connection during its request")]
    Gone,
    /// The client is too slow.
    #[error("the client's request body came too slowly")]
    Slow,
    /// It is over the limit.
    #[error("the request body is over the limit")]
    TooLarge,
    /// It is not what its framing said.
    #[error("the request body is malformed")]
    Broken,
    /// The client waits for `100 Continue`, which its protocol's server does not send.
    #[error("the client waits for an interim reply")]
    Waits,
}

/// A body as its protocol delivers it. It knows the client's pace and ends only where its framing says so.
pub(crate) trait Source {
    /// The next piece; `None` at the end. Bounded in time by the source itself.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;
}

/// A request's body on its way to the upstream.
pub(crate) struct Upload {
    state: State,
    /// Bytes that may still come.
    limit: u64,
}

enum State {
    /// All of it.
    Whole(Bytes),
    /// What came already, and where the rest comes from. Boxed: it is rare, and most bodies shall not carry its weight.
    Streamed(Box<Streamed>),
}

struct Streamed {
    begun: Bytes,
    source: Box<dyn Source>,
    /// Bytes still to be handed on, if that was said.
    length: Option<u64>,
    progress: Rc<Progress>,
    /// Counts for the upstream's time to answer once all was handed on.
    exchange: Option<(Rc<Exchange>, Duration)>,
    /// Looks at its first pieces.
    reader: Option<AgentReader>,
}

/// How far a streamed body is, for who waits for the reply to it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// All of it was handed on.
    pub(crate) done: Cell<bool>,
    /// It broke off.
    pub(crate) error: Cell<Option<BodyError>>,
    /// The reply has begun: its deadlines are no longer this body's concern.
    pub(crate) answered: Cell<bool>,
}

impl Upload {
    /// A body that is here whole.
    pub(crate) fn whole(data: Bytes) -> Self {
        Self { state: State::Whole(data), limit: u64::MAX }
    }

    /// One that is still coming: `length` bytes if that was said, and at most `limit`.
    pub(crate) fn streamed(source: Box<dyn Source>, length: Option<u64>, limit: u64) -> Self {
        let streamed =
            Streamed { begun: Bytes::new(), source, length, progress: Rc::default(), exchange: None, reader: None };
        Self { state: State::Streamed(Box::new(streamed)), limit }
    }

    /// Whether it is here whole.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole(_))
    }

    /// Whether its length was said and is over the limit.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(&self.state, State::Streamed(streamed) if streamed.length.is_some_and(|length| length > self.limit))
    }

    /// Waits for the body, if it is small.
    ///
    /// # Errors
    /// [`BodyError`], when it does not come.
    pub(crate) async fn gather(&mut self) -> Result<(), BodyError> {
        let State::Streamed(streamed) = &mut self.state else { return Ok(()) };
        if streamed.length.is_some_and(|length| length > GATHERED as u64) {
            return Ok(());
        }
        let mut gathered = BytesMut::new();
        while gathered.len() < GATHERED {
            match poll_fn(|context| streamed.source.poll_data(context)).await.transpose()? {
                // All of it in one piece needs no copy.
                Some(data) if gathered.is_empty() && streamed.length == Some(data.len() as u64) => {
                    self.state = State::Whole(data);
                    return Ok(());
                }
                Some(data) if data.len() as u64 > self.limit => return Err(BodyError::TooLarge),
                Some(data) => {
                    self.limit -= data.len() as u64;
                    gathered.extend_from_slice(&data);
                }
                None => {
                    self.state = State::Whole(gathered.freeze());
                    return Ok(());
                }
            }
        }
        streamed.begun = gathered.freeze();
        Ok(())
    }

    /// What has come of it, if that is more than nothing.
    pub(super) fn begun(&self) -> Option<&[u8]> {
        let begun = match &self.state {
            State::Whole(data) => return Some(data),
            State::Streamed(streamed) => &streamed.begun,
        };
        if begun.is_empty() { None } else { Some(begun) }
    }

    /// Shows its first pieces to this reader as they pass.
    pub(super) fn show(&mut self, reader: AgentReader) {
        if let State::Streamed(streamed) = &mut self.state {
            streamed.reader = Some(reader);
        }
    }

    /// From here on it is handed to an upstream that has `timeout` to answer once it has all of it. `None`: it has that
    /// already.
    pub(crate) fn forwarded(&mut self, exchange: &Rc<Exchange>, timeout: Duration) -> Option<Rc<Progress>> {
        let State::Streamed(streamed) = &mut self.state else { return None };
        streamed.exchange = Some((Rc::clone(exchange), timeout));
        Some(Rc::clone(&streamed.progress))
    }

    /// A copy, if it is here whole: costs nothing but a count.
    pub(crate) fn try_clone(&self) -> Option<Self> {
        match &self.state {
            State::Whole(data) => Some(Self::whole(data.clone())),
            State::Streamed(_) => None,
        }
    }
}

impl Default for Upload {
    fn default() -> Self {
        Self::whole(Bytes::new())
    }
}

impl Streamed {
    fn poll_data(&mut self, limit: &mut u64, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        // What was gathered has been counted already.
        let data = if self.begun.is_empty() {
            match ready!(self.source.poll_data(context)) {
                Some(Ok(data)) => match limit.checked_sub(data.len() as u64) {
                    Some(left) => {
                        *limit = left;
                        Some(Ok(data))
                    }
                    None => Some(Err(BodyError::TooLarge)),
                },
                other => other,
            }
        } else {
            Some(Ok(std::mem::take(&mut self.begun)))
        };
        match &data {
            Some(Ok(data)) => {
                self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
                drop(self.reader.take_if(|reader| reader.is_done_with(data)));
            }
            Some(Err(error)) => self.progress.error.set(Some(*error)),
            None => {}
        }
        if data.is_none() || self.length == Some(0) {
            self.end();
        }
        Poll::Ready(data)
    }

    /// The upstream has all of it: now it owes an answer.
    fn end(&mut self) {
        if !self.progress.done.replace(true)
            && !self.progress.answered.get()
            && let Some((exchange, timeout)) = &self.exchange
        {
            exchange.alarm.set(*timeout);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { state, limit } = self.get_mut();
        match state {
            State::Whole(data) if data.is_empty() => Poll::Ready(None),
            State::Whole(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            State::Streamed(streamed) => {
                streamed.poll_data(limit, context).map(|data| data.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Whole(data) => data.is_empty(),
            State::Streamed(streamed) => streamed.progress.done.get(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Whole(data) => SizeHint::with_exact(data.len() as u64),
            State::Streamed(streamed) => streamed.length.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Slow => Self::Timeout,
            BodyError::TooLarge => Self::BodyTooLarge,
            BodyError::Broken => Self::BrokenBody,
            BodyError::Waits => Self::Expectation,
            BodyError::Gone => Self::Gone,
        }
    }
}

/// A reply cannot be delivered to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's reply broke off")]
pub(crate) struct Cut;

/// A reply's body on its way to the client.
pub(crate) struct Relayed {
    /// What is here already.
    begun: Bytes,
    /// What the upstream has yet to send; `None`: nothing.
    rest: Option<Rest>,
    /// Of an answer that was stored or is shared: what it is, and whose.
    delivery: Option<Delivery>,
}

/// What came of receiving a body.
pub(super) enum Collected {
    /// All of it.
    Whole(Bytes),
    /// There is more of it than is wanted.
    TooLarge,
    /// Nothing has come for a while.
    Paused,
    /// It has come so far without a pause, and is not whole by then.
    Late,
}

/// What is still to come of an upstream's reply. Its end is the end that its framing says; whatever else ends it is an error,
/// so that a broken reply never looks complete.
struct Rest {
    body: Incoming,
    passage: Passage,
    /// Longest pause.
    pause: Duration,
}

impl Relayed {
    pub(super) fn new(begun: Bytes, body: Incoming, passage: Passage, pause: Duration) -> Self {
        let mut rest = Rest { body, passage, pause };
        if rest.body.is_end_stream() {
            rest.passage.complete();
        }
        Self { begun, rest: Some(rest), delivery: None }
    }

    /// One that is Tollgate's own.
    pub(super) fn own(data: Bytes) -> Self {
        Self { begun: data, rest: None, delivery: None }
    }

    /// One that the cache had.
    pub(super) fn stored(delivery: Delivery) -> Self {
        delivery.settle_at_end();
        Self { begun: Bytes::new(), rest: None, delivery: Some(delivery) }
    }

    /// Receives all of it, if it has no more than `limit` bytes, comes without such a pause, and is whole by `due`. Otherwise nothing of
    /// it is lost, and it may be called again.
    ///
    /// # Errors
    /// [`Cut`], when it breaks off.
    pub(super) async fn collect(
        &mut self,
        limit: usize,
        pause: Duration,
        due: Option<Instant>,
    ) -> Result<Collected, Cut> {
        let mut collected = BytesMut::new();
        let ending = loop {
            let frame = poll_fn(|context| Pin::new(&mut *self).poll_frame(context));
            let left = due.map(|due| due.saturating_duration_since(Instant::now())).filter(|left| *left < pause);
            match tokio::time::timeout(left.unwrap_or(pause), frame).await {
                Ok(None) => return Ok(Collected::Whole(collected.freeze())),
                Ok(Some(frame)) => collected.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                Err(_) if left.is_some() => break Collected::Late,
                Err(_) => break Collected::Paused,
            }
            if collected.len() > limit {
                break Collected::TooLarge;
            }
        };
        self.begun = collected.freeze();
        Ok(ending)
    }

    /// It is this exchange's from here on.
    pub(super) fn hand_over(&mut self, exchange: &Rc<Exchange>, admitted: Option<Admitted>) {
        if let Some(rest) = &mut self.rest {
            rest.passage.hand_over(exchange, admitted);
        }
    }

    fn stored_left(&self) -> usize {
        self.delivery.as_ref().map_or(0, |delivery| delivery.body.len())
    }

    /// The request's body was not read to its end, so what follows on the client's connection is not a request.
    pub(crate) fn leaves_upload(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.passage.leaves_upload())
    }
}

impl Rest {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            let expected = self.body.size_hint().exact();
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                self.passage.exchange.goes_on();
                // The client may have been waited for since, by the same alarm.
                let waited = self.passage.exchange.waiting.replace(true);
                let alarm = &self.passage.exchange.alarm;
                if !waited || !alarm.is_set() {
                    alarm.set(self.pause);
                }
                return Poll::Pending;
            };
            if self.passage.exchange.waiting.replace(false) {
                self.passage.exchange.alarm.clear();
            }
            match frame {
                Some(Ok(frame)) if frame.is_data() => {
                    let received = &self.passage.exchange.received;
                    received.set(received.get() + frame.data_ref().map_or(0, Bytes::len));
                    // Now: who knows the length does not ask for an end.
                    match self.body.is_end_stream() {
                        true => self.passage.complete(),
                        false => self.passage.exchange.goes_on(),
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Ok(_)) => {} // trailers end here
                None if expected.is_none_or(|left| left == 0) => {
                    self.passage.complete();
                    return Poll::Ready(None);
                }
                None => return Poll::Ready(Some(Err(self.passage.fail(Step::Reply, &"it ended early")))),
                Some(Err(error)) => return Poll::Ready(Some(Err(self.passage.fail(Step::Reply, &error)))),
            }
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { begun, rest, delivery } = &mut *self;
        if let Some(delivery) = delivery {
            return delivery.poll_frame(context);
        }
        // Before the body: what may go on no longer is not relayed because it happens to be there.
        if let Some(rest) = rest
            && let Poll::Ready(interrupt) = rest.passage.exchange.alarm.poll(context)
        {
            return Poll::Ready(Some(Err(rest.passage.interrupted(interrupt))));
        }
        if !begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(begun)))));
        }
        rest.as_mut().map_or(Poll::Ready(None), |rest| rest.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty()
            && self.stored_left() == 0
            && self.rest.as_ref().is_none_or(|rest| rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or(Some(0), |rest| rest.body.size_hint().exact());
        let here = (self.begun.len() + self.stored_left()) as u64;
        rest.map(|left| SizeHint::with_exact(here + left)).unwrap_or_default()
    }
}
