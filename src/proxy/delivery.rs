//! An answer of the cache on its way to one client: all of it is here, and it is cut like any other.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Frame;

use super::body::Cut;
use super::exchange::Exchange;
use super::tally::Outcome;
use crate::worker::alarm::Admitted;

/// Largest piece of a stored answer that is handed on at once: what was handed on cannot be cut any more.
const STORED_PIECE: usize = 16 * 1024;

/// An answer of the cache on its way to one client.
pub(super) struct Delivery {
    pub(super) exchange: Rc<Exchange>,
    /// It is cut like any other when its token is revoked.
    pub(super) _admitted: Option<Admitted>,
    /// Of all of it.
    pub(super) outcome: Outcome,
}

impl Delivery {
    /// The next piece of `data`; the end of it, or of the permission to have it.
    pub(super) fn poll_frame(
        &self,
        data: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.exchange.alarm.poll(context).is_ready() {
            return Poll::Ready(Some(Err(Cut)));
        }
        if data.is_empty() {
            return Poll::Ready(None);
        }
        let piece = data.split_to(data.len().min(STORED_PIECE));
        let received = &self.exchange.received;
        received.set(received.get() + piece.len());
        if data.is_empty() {
            self.exchange.settle();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        match self.exchange.is_settled() {
            true => self.exchange.end(StatusCode::OK.as_u16(), self.outcome),
            false => self.exchange.end(0, Outcome::Cut),
        }
    }
}
