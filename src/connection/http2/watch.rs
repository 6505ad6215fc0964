//! A connection's bytes on their way to the HTTP/2 codec, watched for heads that do not end.
//!
//! The codec shows a request only once its header block is complete, so a client could send one byte of it a minute
//! (RFC 9113 section 6.10 lets nothing else come in between). Following the frame headers shows when a block is open.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::Stream;
use crate::worker::alarm::Alarm;

/// RFC 9113 section 4.1.
const FRAME_HEADER: usize = 9;
/// RFC 9113 section 3.4.
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A stream whose incoming frames are watched.
pub(super) struct Watched {
    stream: Stream,
    /// Received before HTTP/2 was recognised; read first.
    received: Vec<u8>,
    frames: Frames,
    /// Runs while a header block, or any frame but of data, is incomplete.
    alarm: Rc<Alarm>,
    deadline: Duration,
}

impl Watched {
    pub(super) fn new(stream: Stream, received: Vec<u8>, alarm: Rc<Alarm>, deadline: Duration) -> Self {
        Self { stream, received, frames: Frames::new(), alarm, deadline }
    }

    fn watch(&mut self, bytes: &[u8]) {
        let was_open = self.frames.is_open();
        let completed = self.frames.follow(bytes);
        match (was_open && !completed, self.frames.is_open()) {
            (false, true) => self.alarm.set(self.deadline),
            (_, false) => self.alarm.clear(),
            (true, true) => {} // the same one is still open
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.received.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let count = buf.remaining().min(self.received.len());
            let rest = self.received.split_off(count);
            buf.put_slice(&std::mem::replace(&mut self.received, rest));
        }
        self.watch(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Follows frames without reading their payloads.
struct Frames {
    preface: usize,
    header: [u8; FRAME_HEADER],
    header_length: usize,
    payload: usize,
    /// A header block began and its last frame did not come yet.
    block: bool,
}

impl Frames {
    fn new() -> Self {
        Self { preface: PREFACE, header: [0; FRAME_HEADER], header_length: 0, payload: 0, block: false }
    }

    fn is_open(&self) -> bool {
        self.block || (self.payload > 0 && self.header[3] != DATA) || self.header_length > 0
    }

    /// Returns whether nothing was open at some point within the bytes.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut completed = false;
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                if self.payload == 0 {
                    self.end_frame();
                }
            } else {
                let count = (FRAME_HEADER - self.header_length).min(bytes.len());
                let (taken, rest) = bytes.split_at(count);
                self.header[self.header_length..self.header_length + count].copy_from_slice(taken);
                self.header_length += count;
                bytes = rest;
                if self.header_length == FRAME_HEADER {
                    self.begin_frame();
                }
            }
            completed |= !self.is_open();
        }
        completed
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, ..] = self.header;
        self.payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.header_length = 0;
        self.block |= self.header[3] == HEADERS;
        if self.payload == 0 {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if matches!(self.header[3], HEADERS | CONTINUATION) && self.header[4] & END_HEADERS != 0 {
            self.block = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + usize::from(length), 0);
        frame
    }

    /// Whether something is open after each byte.
    fn open(bytes: &[u8]) -> Vec<bool> {
        let mut frames = Frames::new();
        frames.follow(&[0; PREFACE]);
        bytes.chunks(1).map(|byte| (frames.follow(byte), frames.is_open()).1).collect()
    }

    #[test]
    fn a_header_block_is_open_until_its_last_frame_ends() {
        let bytes = [frame(HEADERS, 0, 3), frame(CONTINUATION, 0, 0), frame(CONTINUATION, END_HEADERS, 2)].concat();
        let open = open(&bytes);
        assert!(open[..open.len() - 1].iter().all(|open| *open));
        assert!(!open[open.len() - 1]);
    }

    #[test]
    fn data_is_not_a_head() {
        let open = open(&frame(DATA, 0, 3));
        assert_eq!(open[FRAME_HEADER - 1..], [false; 4]);
        assert!(open[..FRAME_HEADER - 1].iter().all(|open| *open));
    }

    #[test]
    fn whole_frames_leave_nothing_open() {
        let mut frames = Frames::new();
        let bytes = [vec![0; PREFACE], frame(4, 0, 6), frame(HEADERS, END_HEADERS, 5), frame(DATA, 0, 9)].concat();
        assert!(frames.follow(&bytes));
        assert!(!frames.is_open());
    }
}
