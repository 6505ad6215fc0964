//! A request's body as it comes on a connection of HTTP/1 (RFC 9112 section 6).

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;

use super::Inbound;
use crate::http1::body::Piece;
use crate::http1::{BodyLength, Decoder};
use crate::proxy::Proxy;
use crate::proxy::body::{BodyError, Source};
use crate::proxy::pace::Pace;
use crate::worker::alarm::Alarm;

/// Asks a client that waits for it to send its body (RFC 9110 section 10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body that was not there whole with its head. The connection has one handle to it and the upload has the other.
#[derive(Clone)]
pub(super) struct Body(Rc<RefCell<State>>);

struct State {
    inbound: Rc<Inbound>,
    decoder: Decoder,
    pace: Pace,
    alarm: Alarm,
    /// What is left to be sent, and flushed, before the client sends.
    interim: Option<&'static [u8]>,
    /// Who waits for the end of the body to look after the connection again.
    waker: Option<Waker>,
}

impl Body {
    /// `expected`: the client waits for `100 Continue`.
    pub(super) fn new(proxy: &Proxy, inbound: &Rc<Inbound>, length: BodyLength, expected: bool) -> Self {
        // One that has begun to send does not wait (RFC 9110 section 10.1.1).
        let expected = expected && inbound.buffer.borrow().is_empty();
        Self(Rc::new(RefCell::new(State {
            inbound: Rc::clone(inbound),
            decoder: Decoder::new(length),
            pace: Pace::new(&proxy.gate),
            alarm: Alarm::new(&proxy.worker),
            interim: expected.then_some(CONTINUE),
            waker: None,
        })))
    }

    /// What is left of it: see [`Decoder::rest`].
    pub(super) fn rest(&self) -> Option<BodyLength> {
        self.0.borrow().decoder.rest()
    }

    /// Whether all of it was read. If not, the task is woken when it was.
    pub(super) fn poll_done(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        if state.decoder.is_done() {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Source for Body {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut state = self.0.borrow_mut();
        let data = ready!(state.poll_data(context));
        if state.decoder.is_done()
            && let Some(waker) = state.waker.take()
        {
            waker.wake();
        }
        Poll::Ready(data)
    }
}

impl State {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while let Some(interim) = &mut self.interim {
            // The call that writes nothing more flushes.
            let written = interim.is_empty();
            let sent = self.inbound.socket.poll_write(context, interim, &mut b"".as_slice());
            if let Err(error) = ready!(self.paced(context, sent)) {
                return Poll::Ready(Some(Err(error)));
            }
            if written {
                self.interim = None;
            }
        }
        loop {
            let mut buffer = self.inbound.buffer.borrow_mut();
            let Ok(piece) = self.decoder.next(buffer.filled()) else {
                return Poll::Ready(Some(Err(BodyError::Broken)));
            };
            match piece {
                Piece::Framing(count) => buffer.consume(count),
                Piece::Data(count) => {
                    let data = Bytes::copy_from_slice(buffer.filled().get(..count).unwrap_or_default());
                    buffer.consume(count);
                    return Poll::Ready(Some(Ok(data)));
                }
                Piece::End => return Poll::Ready(None),
                Piece::More => {
                    let read = self.inbound.socket.poll_read(context, &mut buffer);
                    drop(buffer);
                    match ready!(self.paced(context, read)) {
                        Ok(0) => return Poll::Ready(Some(Err(BodyError::Gone))),
                        Ok(_) => {}
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
            }
        }
    }

    fn paced(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<std::io::Result<usize>>,
    ) -> Poll<Result<usize, BodyError>> {
        self.pace.poll(&self.alarm, context, polled).map(|outcome| match outcome {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(_)) => Err(BodyError::Gone),
            Err(_) => Err(BodyError::Slow),
        })
    }
}
