//! Message bodies: how long they are (RFC 9112 section 6), and the chunked coding (section 7.1).

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// After so many bytes; 0 is no body.
    Known(u64),
    /// By the chunked coding.
    Chunked,
}

impl BodyLength {
    /// How many bytes it has, if that was said.
    #[must_use]
    pub fn exact(self) -> Option<u64> {
        if let Self::Known(length) = self { Some(length) } else { None }
    }
}

/// The bytes of a body are not what its framing says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked coding is broken")]
pub struct BrokenChunk;

/// Longest chunk-size line, extensions included, and longest trailer section. Extensions and trailers are dropped, so
/// nobody needs more.
const MAX_LINE: usize = 4096;

/// Follows a body through the bytes of a connection.
#[derive(Debug, Clone)]
pub struct Decoder(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of data remain, and nothing follows.
    Data(u64),
    /// In a chunk-size line: the size so far, digits so far.
    Size(u64, u8),
    /// In a chunk extension; bytes of it so far.
    Extension(u64, usize),
    /// After the CR of a chunk-size line.
    SizeEnd(u64),
    /// In a chunk: bytes that remain.
    Chunk(u64),
    /// After a chunk's data, before CR.
    ChunkEnd,
    /// After a chunk's data and CR.
    ChunkEndLf,
    /// In the trailer section: bytes so far, bytes of the current line so far.
    Trailer(usize, usize),
    /// After a CR in the trailer section.
    TrailerLf(usize, usize),
    Done,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Framing was consumed: so many bytes, none of them data. More may follow in the same bytes.
    Framing(usize),
    /// So many bytes of data.
    Data(usize),
    /// More bytes are needed.
    More,
    /// The body is over.
    End,
}

impl Decoder {
    /// A body of this length, from its first byte.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::Known(0) => State::Done,
            BodyLength::Known(length) => State::Data(length),
            BodyLength::Chunked => State::Size(0, 0),
        })
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// What is left of the body; `None` when only the chunked coding could show, from the middle of it.
    #[must_use]
    pub fn rest(&self) -> Option<BodyLength> {
        match self.0 {
            State::Done => Some(BodyLength::Known(0)),
            State::Data(remaining) => Some(BodyLength::Known(remaining)),
            // At its beginning, or just after a chunk: a decoder could begin here.
            State::Size(0, 0) => Some(BodyLength::Chunked),
            _ => None,
        }
    }

    /// Looks at the next bytes. Those that the returned piece counts must be consumed before the next call.
    ///
    /// # Errors
    /// [`BrokenChunk`]: nothing after this can be trusted; the connection must end.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, BrokenChunk> {
        match &mut self.0 {
            State::Done => Ok(Piece::End),
            _ if bytes.is_empty() => Ok(Piece::More),
            State::Data(remaining) => {
                let count = length_within(bytes, *remaining);
                *remaining -= count as u64;
                if *remaining == 0 {
                    self.0 = State::Done;
                }
                Ok(Piece::Data(count))
            }
            State::Chunk(remaining) => {
                let count = length_within(bytes, *remaining);
                *remaining -= count as u64;
                if *remaining == 0 {
                    self.0 = State::ChunkEnd;
                }
                Ok(Piece::Data(count))
            }
            _ => self.framing(bytes).map(Piece::Framing),
        }
    }

    /// Consumes framing until data, the end of the body, or the end of the bytes.
    fn framing(&mut self, bytes: &[u8]) -> Result<usize, BrokenChunk> {
        for (at, byte) in bytes.iter().enumerate() {
            self.0 = step(self.0, *byte)?;
            if matches!(self.0, State::Chunk(_) | State::Done) {
                return Ok(at + 1);
            }
        }
        Ok(bytes.len())
    }
}

fn length_within(bytes: &[u8], remaining: u64) -> usize {
    usize::try_from(remaining).map_or(bytes.len(), |remaining| remaining.min(bytes.len()))
}

/// One byte of framing.
fn step(state: State, byte: u8) -> Result<State, BrokenChunk> {
    Ok(match (state, byte) {
        // 15 hexadecimal digits cannot overflow, and nobody sends an exabyte.
        (State::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
            let digit = char::from(byte).to_digit(16).ok_or(BrokenChunk)?;
            State::Size(size << 4 | u64::from(digit), digits + 1)
        }
        (State::Size(size, 1..), b'\r') => State::SizeEnd(size),
        (State::Size(size, 1..), b';' | b' ' | b'\t') => State::Extension(size, 0),
        (State::Extension(size, _), b'\r') => State::SizeEnd(size),
        (State::Extension(size, length), b'\t' | b' '..=b'~' | 0x80..) if length < MAX_LINE => {
            State::Extension(size, length + 1)
        }
        (State::SizeEnd(0), b'\n') => State::Trailer(0, 0),
        (State::SizeEnd(size), b'\n') => State::Chunk(size),
        (State::ChunkEnd, b'\r') => State::ChunkEndLf,
        (State::ChunkEndLf, b'\n') => State::Size(0, 0),
        (State::Trailer(total, line), b'\r') => State::TrailerLf(total, line),
        (State::Trailer(total, line), b'\t' | b' '..=b'~' | 0x80..) if total < MAX_LINE => {
            State::Trailer(total + 1, line + 1)
        }
        (State::TrailerLf(_, 0), b'\n') => State::Done,
        (State::TrailerLf(total, _), b'\n') => State::Trailer(total, 0),
        _ => return Err(BrokenChunk),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data of a body, and how many bytes it took, when the bytes come in pieces of this size.
    fn decode(length: BodyLength, bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), BrokenChunk> {
        let mut decoder = Decoder::new(length);
        let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
        loop {
            match decoder.next(&bytes[at..end])? {
                Piece::Framing(count) => at += count,
                Piece::Data(count) => {
                    data.extend_from_slice(&bytes[at..at + count]);
                    at += count;
                }
                Piece::More if end == bytes.len() => return Ok((data, at, false)),
                Piece::More => end = (end + step).min(bytes.len()),
                Piece::End => return Ok((data, at, true)),
            }
        }
    }

    #[test]
    fn chunks_are_joined_and_the_next_request_is_left_alone() {
        let bytes = b"4\r\nWiki\r\n5;ext=\"a b\"\r\npedia\r\n0\r\nTrailer: x\r\n\r\nGET /";
        for step in 1..=bytes.len() {
            assert_eq!(decode(BodyLength::Chunked, bytes, step), Ok((b"Wikipedia".to_vec(), bytes.len() - 5, true)));
        }
    }

    #[test]
    fn known_lengths_end_where_they_say() {
        assert_eq!(decode(BodyLength::Known(3), b"abcd", 2), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(decode(BodyLength::Known(0), b"abcd", 2), Ok((Vec::new(), 0, true)));
        assert_eq!(decode(BodyLength::Known(5), b"abcd", 2), Ok((b"abcd".to_vec(), 4, false)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        let cases: [&[u8]; 14] = [
            b"\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\r\n",
            b"1;a\nb\r\n",
            b"0\r\nX\n",
            b"0\r\n\rX",
            b"1000000000000000\r\n",
        ];
        for bytes in cases {
            assert_eq!(decode(BodyLength::Chunked, bytes, 64), Err(BrokenChunk), "{:?}", bytes.escape_ascii());
        }
        let long = [b"1;".as_slice(), &[b'x'; MAX_LINE + 1]].concat();
        assert_eq!(decode(BodyLength::Chunked, &long, 64), Err(BrokenChunk));
        let long = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(MAX_LINE)].concat();
        assert_eq!(decode(BodyLength::Chunked, &long, 64), Err(BrokenChunk));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_decode_alike(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
            let whole = decode(BodyLength::Chunked, &bytes, bytes.len().max(1));
            prop_assert_eq!(decode(BodyLength::Chunked, &bytes, step).is_ok(), whole.is_ok());
            if let (Ok(a), Ok(b)) = (decode(BodyLength::Chunked, &bytes, step), whole) {
                prop_assert_eq!(a, b);
            }
        }
    }
}
