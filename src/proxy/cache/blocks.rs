//! A body in memory, in blocks of just the sizes that allocators have.
//!
//! An allocator has four sizes between a number of bytes and twice that, and what lies in between takes the next larger: up to a quarter
//! of it is lost. So a body is cut where it is as long as such a size, again and again, until the rest is short.

use std::sync::Arc;

use bytes::Bytes;

/// Largest block. It is handed on at once, and what was handed on cannot be cut any more.
const MAX_BLOCK: usize = 16 * 1024;

/// Up to here less is lost in rounding a block up than another block takes.
const SMALL: usize = 256;

/// A body, of which any number of clients are given the blocks without a copy.
#[derive(Debug, Clone)]
pub(in super::super) struct Blocks {
    blocks: Arc<[Box<[u8]>]>,
    /// How many of them were taken.
    taken: usize,
}

/// One block.
struct Block {
    blocks: Arc<[Box<[u8]>]>,
    at: usize,
}

impl Blocks {
    /// A copy of this.
    pub(super) fn new(mut body: &[u8]) -> Self {
        let next = || {
            let (block, rest) = body.split_at_checked(block(body.len())).filter(|(block, _)| !block.is_empty())?;
            body = rest;
            Some(Box::from(block))
        };
        Self { blocks: std::iter::from_fn(next).collect::<Vec<_>>().into(), taken: 0 }
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self::new(b"")
    }

    /// The blocks that were not taken yet.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().skip(self.taken).map(|block| &**block)
    }

    /// How many bytes are left.
    pub(in super::super) fn len(&self) -> usize {
        self.iter().map(<[u8]>::len).sum()
    }

    /// How many bytes of memory all of it takes, the rounding of the last block aside.
    pub(super) fn size(&self) -> usize {
        self.blocks.iter().map(|block| block.len() + size_of_val(block)).sum()
    }

    /// The next block.
    pub(in super::super) fn take(&mut self) -> Option<Bytes> {
        self.blocks.get(self.taken)?;
        let block = Block { blocks: Arc::clone(&self.blocks), at: self.taken };
        self.taken += 1;
        Some(Bytes::from_owner(block))
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.blocks.get(self.at).map_or(&[], |block| block)
    }
}

impl PartialEq for Blocks {
    fn eq(&self, other: &Self) -> bool {
        // What is as long is cut in the same places.
        self.iter().eq(other.iter())
    }
}

/// How long the first block is of a body of so many bytes.
fn block(length: usize) -> usize {
    match length {
        MAX_BLOCK.. => MAX_BLOCK,
        ..=SMALL => length,
        // Of a number its first three binary digits; not a power of two: these begin where one could, and what is before the first is lost.
        _ => {
            let digits = length.ilog2() - 2;
            match length >> digits {
                0b100 => 0b111 << (digits - 1),
                first => first << digits,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_all_of_its_blocks_and_little_of_them_is_lost() {
        let text: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        for length in (0..70_000).step_by(97).chain([1, 512, 513, 4096, 16_384, 65_536, 1 << 20]) {
            let mut blocks = Blocks::new(&text[..length]);
            assert_eq!(blocks.len(), length);
            assert_eq!(blocks.iter().collect::<Vec<_>>().concat(), text[..length]);
            // As an allocator rounds up: to four steps in each doubling.
            let rounded = |length: usize| length.next_multiple_of(1 << ((length - 1).max(64).ilog2() - 2));
            let lost: usize = blocks.iter().map(|block| rounded(block.len()) - block.len()).sum();
            assert!(lost < 64, "{length}: {lost}");
            let mut taken = Vec::new();
            while let Some(block) = blocks.take() {
                assert!(block.len() <= MAX_BLOCK);
                taken.extend_from_slice(&block);
                assert_eq!(blocks.len(), length - taken.len());
            }
            assert_eq!(taken, text[..length]);
        }
    }
}
