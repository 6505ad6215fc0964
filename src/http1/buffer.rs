//! Read buffers, and a pool of them: a connection holds one only while it has something to read.

use std::cell::{Cell, RefCell};

/// Bytes that were received and not consumed yet.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// How far it was ever filled, since it was last wiped.
    used: usize,
}

impl Buffer {
    /// An empty buffer.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0, used: 0 }
    }

    /// How many bytes it has room for.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What was received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether nothing is left to consume.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room to receive into, after moving what is left to the front if the end is reached. Empty: the buffer is full.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Notes that so many bytes of [`Buffer::room`] were received.
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
        self.used = self.used.max(self.end);
    }

    /// Drops bytes from the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Empties it and overwrites what it held: credentials must not lie about in idle memory.
    fn wipe(&mut self) {
        if let Some(used) = self.bytes.get_mut(..self.used) {
            used.fill(0);
        }
        (self.start, self.end, self.used) = (0, 0, 0);
    }
}

/// A worker's spare buffers, the last used first. However many are used at once, none is made anew while as many go on being
/// used; those that are not are given back to the system, a part every second.
pub(crate) struct Pool {
    capacity: Cell<usize>,
    buffers: Spares<Buffer>,
    heads: Spares<Vec<u8>>,
}

/// Room for a usual head; one that outgrew this many bytes many times over is freed.
const HEAD_BYTES: usize = 1024;

impl Pool {
    /// A pool of buffers of this many bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: Cell::new(capacity), buffers: Spares::default(), heads: Spares::default() }
    }

    /// From now on buffers are of this many bytes.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        if self.capacity.replace(capacity) != capacity {
            self.buffers.clear();
        }
    }

    /// An empty buffer.
    pub(crate) fn take(&self) -> Buffer {
        self.buffers.take().unwrap_or_else(|| Buffer::new(self.capacity.get()))
    }

    /// Takes a buffer back. It may hold credentials, so it is overwritten.
    pub(crate) fn put(&self, mut buffer: Buffer) {
        buffer.wipe();
        if buffer.size() == self.capacity.get() {
            self.buffers.put(buffer);
        }
    }

    /// An empty vector to write a head into.
    pub(crate) fn take_head(&self) -> Vec<u8> {
        self.heads.take().unwrap_or_else(|| Vec::with_capacity(HEAD_BYTES))
    }

    /// Takes it back.
    pub(crate) fn put_head(&self, mut head: Vec<u8>) {
        if head.capacity() <= 16 * HEAD_BYTES {
            head.clear();
            self.heads.put(head);
        }
    }

    /// Gives back half of what was not used since the last call. How much is left.
    pub(crate) fn trim(&self) -> usize {
        self.buffers.trim() + self.heads.trim()
    }
}

/// Spare things of one kind.
struct Spares<T> {
    items: RefCell<Vec<T>>,
    /// Fewest that were there since the last trim: so many nobody needed.
    unused: Cell<usize>,
}

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Self { items: RefCell::default(), unused: Cell::new(0) }
    }
}

impl<T> Spares<T> {
    fn clear(&self) {
        self.items.borrow_mut().clear();
        self.unused.set(0);
    }

    fn take(&self) -> Option<T> {
        let mut items = self.items.borrow_mut();
        let item = items.pop();
        self.unused.set(self.unused.get().min(items.len()));
        item
    }

    fn put(&self, item: T) {
        self.items.borrow_mut().push(item);
    }

    fn trim(&self) -> usize {
        let mut items = self.items.borrow_mut();
        let unused = self.unused.get().min(items.len());
        // The first are those that were used longest ago.
        items.drain(..unused.div_ceil(2));
        items.shrink_to(64);
        self.unused.set(items.len());
        items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_makes_room_by_moving_what_is_left() {
        let mut buffer = Buffer::new(4);
        buffer.room().copy_from_slice(b"abcd");
        buffer.received(4);
        assert!(buffer.room().is_empty());
        buffer.consume(3);
        assert_eq!(buffer.room().len(), 3);
        assert_eq!(buffer.filled(), b"d");
    }

    #[test]
    fn a_returned_buffer_holds_nothing_of_its_last_use() {
        let pool = Pool::new(4);
        let mut buffer = pool.take();
        buffer.room().copy_from_slice(b"abcd");
        buffer.received(4);
        buffer.consume(4);
        pool.put(buffer);
        assert_eq!(*pool.take().bytes, [0; 4]);
    }

    #[test]
    fn what_is_not_used_is_given_back_by_and_by() {
        let pool = Pool::new(4);
        let taken: Vec<_> = (0..100).map(|_| pool.take()).collect();
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        pool.trim();
        let left = || pool.buffers.items.borrow().len();
        assert_eq!(left(), 100, "all were used since the last time");
        pool.put(pool.take());
        for _ in 0..10 {
            pool.trim();
            let held: Vec<_> = (0..20).map(|_| pool.take()).collect();
            held.into_iter().for_each(|buffer| pool.put(buffer));
        }
        assert!((20..25).contains(&left()), "{}", left());
    }
}
