//! An answer of the cache on its way to one client: all of it is here, and it is cut like any other.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Frame;

use super::body::Cut;
use super::cache::Blocks;
use super::exchange::Exchange;
use super::tally::Outcome;
use crate::worker::alarm::Admitted;

/// An answer of the cache on its way to one client.
pub(super) struct Delivery {
    pub(super) exchange: Rc<Exchange>,
    /// It is cut like any other when its token is revoked.
    pub(super) _admitted: Option<Admitted>,
    /// Of all of it.
    pub(super) outcome: Outcome,
    /// What is left of it.
    pub(super) body: Blocks,
}

impl Delivery {
    /// The next block of it; its end, or that of the permission to have it.
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.exchange.alarm.poll(context).is_ready() {
            return Poll::Ready(Some(Err(Cut)));
        }
        let Some(block) = self.body.take() else { return Poll::Ready(None) };
        let received = &self.exchange.received;
        received.set(received.get() + block.len());
        self.settle_at_end();
        Poll::Ready(Some(Ok(Frame::data(block))))
    }

    /// With nothing left to give, it is done.
    pub(super) fn settle_at_end(&self) {
        if self.body.len() == 0 {
            self.exchange.settle();
        }
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
