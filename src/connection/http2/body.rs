//! The bodies of a stream: the request's as hyper receives it, and the reply's as hyper sends it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::proxy::Proxy;
use crate::proxy::body::{BodyError, Cut, Relayed, Source};
use crate::proxy::exchange::Exchange;
use crate::proxy::pace::Pace;
use crate::worker::alarm::Alarm;

/// How long a client may wait for `100 Continue` before it sends all the same. hyper's server sends none, so who waits longer
/// learns it from the final status.
const CONTINUE_TIME: Duration = Duration::from_secs(3);

/// A request's body.
pub(super) struct Received {
    body: Incoming,
    alarm: Alarm,
    pace: Pace,
    /// Its pace once it goes on: the client may be waiting for 100 Continue.
    expects_continue: Option<Pace>,
}

impl Received {
    pub(super) fn new(exchange: &Exchange, body: Incoming, expects_continue: bool) -> Self {
        let Proxy { worker, gate, .. } = &*exchange.proxy;
        let (pace, expects_continue) = match expects_continue {
            true => (Pace::within(CONTINUE_TIME), Some(Pace::new(gate))),
            false => (Pace::new(gate), None),
        };
        Self { body, alarm: Alarm::new(worker), pace, expects_continue }
    }
}

impl Source for Received {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let (count, frame) = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => (Poll::Pending, None),
                Poll::Ready(frame) => (Poll::Ready(Ok(length(frame.as_ref()))), frame),
            };
            if ready!(self.pace.poll(&self.alarm, context, count)).is_err() {
                let error = if self.expects_continue.is_some() { BodyError::Waits } else { BodyError::Slow };
                return Poll::Ready(Some(Err(error)));
            }
            // Something came, so the client waits for 100 Continue no longer.
            if let Some(pace) = self.expects_continue.take() {
                self.pace = pace;
            }
            match frame {
                Some(Ok(frame)) => {
                    // Trailers end here.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                None if self.body.is_end_stream() => return Poll::Ready(None),
                // hyper takes a stream that was reset without an error for one that ended.
                None | Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Gone))),
            }
        }
    }
}

fn length(frame: Option<&Result<Frame<Bytes>, hyper::Error>>) -> usize {
    frame.and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len)).unwrap_or(0)
}

/// A reply's body.
pub(super) enum Reply {
    /// Ours, as far as it was not handed out.
    Own(Bytes),
    /// The upstream's.
    Relayed(Box<Paced>),
}

/// An upstream's reply, at the client's pace.
pub(super) struct Paced {
    body: Relayed,
    exchange: Rc<Exchange>,
    pace: Pace,
    /// What was received and not yet handed out: pieces are small, since a client's pace is measured in them.
    rest: Bytes,
}

impl Reply {
    pub(super) fn relayed(body: Relayed, exchange: &Rc<Exchange>) -> Self {
        let pace = Pace::new(&exchange.proxy.gate);
        Self::Relayed(Box::new(Paced { body, exchange: Rc::clone(exchange), pace, rest: Bytes::new() }))
    }
}

impl Paced {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        // Asked again: the client has taken what it was handed.
        self.pace.taken(&self.exchange.alarm);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                // hyper resets the stream with the reason that it finds here.
                Some(Err(Cut)) => return Poll::Ready(Some(Err(Reason::CANCEL.into()))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(self.pace.piece()));
        self.pace.hand(&self.exchange.alarm, piece.len());
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match self.get_mut() {
            Self::Own(body) if body.is_empty() => Poll::Ready(None),
            Self::Own(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
            Self::Relayed(paced) => paced.poll_piece(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_empty(),
            Self::Relayed(paced) => paced.rest.is_empty() && paced.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => SizeHint::with_exact(body.len() as u64),
            Self::Relayed(paced) => match paced.body.size_hint().exact() {
                Some(left) => SizeHint::with_exact(left + paced.rest.len() as u64),
                None => SizeHint::default(),
            },
        }
    }
}
