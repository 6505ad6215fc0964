//! The bytes of a snapshot file. All numbers are little-endian.
//!
//! ```text
//!   "tollgate replica"  version u32  store: length u16, name  about how many grants u64
//!   blocks, each:  kind u8  records u32  ...
//!     'o'  users:       id u64  touch 48  length u16  Owner::encode
//!     'g'  grants:      digest 32  Grant::encode 40
//!     'n'  users held to what was seen of them:  id u64  role u8 (0 disabled, else the role and 1)  touch 48
//!     'a'  what is announced of users, at the end of the touch's commit:  as 'n'
//!     't'  tombstones:  digest 32  age in seconds u32         the oldest first
//!     'e'  the end, one record, see Trailer
//!   SHA-256 of all that
//!   when it was last proven: a moment, and the SHA-256 of that hash, whose file it is (see Origin) and the moment
//! ```
//!
//! A touch is the commit that made a user so, and the one that touched the user before (zeros: not known); of each, its id
//! 16 and its revision u64.
//!
//! The last part alone is written again while nothing else changes: see [`Proof`].
//!
//! Version 1, which a sidecar may find after an upgrade, had no commit id and revision with users, grants of 32 bytes, no
//! head in the trailer, and the moment before the trailer's own instead of the last part.

use std::io::{self, Read, Write};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Moment;
use crate::clock::Instant;
use crate::replica::table::{Seen, Touch};
use crate::store::{CommitId, Epoch, Head, Position, Revision, SidecarId, SnapshotItem, Stamp};
use crate::token::{Digest, Grant, Owner, Role, UserId};

pub(super) const MAGIC: &[u8; 16] = b"tollgate replica";
const VERSION: u32 = 2;

const OWNERS: u8 = b'o';
const GRANTS: u8 = b'g';
const HELD: u8 = b'n';
const ANNOUNCED: u8 = b'a';
const TOMBSTONES: u8 = b't';
const END: u8 = b'e';

/// Before commits had ids.
const UNCHAINED: u32 = 1;

/// Least length of a grant with its digest.
const GRANT: usize = 32 + Grant::SHORT;

/// Records of one block: what a damaged count can make the reader ask for is small.
const BLOCK: usize = 16_384;

/// SHA-256 of a file's items.
type Hash = [u8; 32];

/// A digest and for how many seconds it has been one.
pub(super) type Tombstone = (Digest, u32);

/// One thing in a file.
pub(super) enum Item {
    Snapshot(SnapshotItem),
    /// The commit that touched a user before the one that made the user so.
    TouchedBefore(UserId, Stamp),
    Held(UserId, Seen),
    /// What was announced of a user, and not reached in the log.
    Announced(UserId, Seen),
    Tombstone(Tombstone),
}

/// Whose file it is, and which: what proves another sidecar fresh, or the file that this is a copy of, proves nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) sidecar: SidecarId,
    pub(super) inode: u64,
    /// Seconds and nanoseconds: the number of one that is gone is given to another file, its birth is not. Zeros where the file
    /// system does not tell it.
    pub(super) born: (i64, u32),
}

/// SHA-256 of a file's items and of its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal([u8; 32]);

impl Origin {
    fn seal(self, items: &Hash) -> Seal {
        let (sidecar, inode) = (self.sidecar.0.to_le_bytes(), self.inode.to_le_bytes());
        let hash = Sha256::new().chain_update(items).chain_update(sidecar).chain_update(inode);
        let (seconds, nanoseconds) = self.born;
        Seal(hash.chain_update(seconds.to_le_bytes()).chain_update(nanoseconds.to_le_bytes()).finalize().into())
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// When the file was written.
    pub(super) saved: Option<Moment>,
    /// For how long a proof of it may be served from: the store retains the report of its sidecar as long.
    pub(super) bound: Duration,
    /// From where the log makes it exact, and up to where later commits are mixed in. Without it the replica was being
    /// rebuilt: it could be served from, but nothing can go on from there.
    pub(super) position: Option<(Position, Revision)>,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("the file cannot be read: {0}")]
    Io(io::Error),
    #[error("the file is not a snapshot file of this program")]
    Foreign,
    #[error("the file is of version {0}, and this program knows versions up to {VERSION}")]
    Version(u32),
    #[error("the file is of another store, {0:?}")]
    OtherStore(String),
    #[error("the file is cut short")]
    Short,
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Short } else { Self::Io(error) }
    }
}

/// Writes a file, block by block.
pub(super) struct Encoder<W> {
    out: W,
    hash: Sha256,
    block: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// `store` is what the grants were read from.
    pub(super) fn new(out: W, store: &str, grants: usize) -> io::Result<Self> {
        let mut encoder = Self { out, hash: Sha256::new(), block: Vec::new() };
        encoder.block.extend_from_slice(MAGIC);
        encoder.block.extend_from_slice(&VERSION.to_le_bytes());
        let store = name(store);
        encoder.block.extend_from_slice(&u16::try_from(store.len()).unwrap_or(u16::MAX).to_le_bytes());
        encoder.block.extend_from_slice(store);
        encoder.block.extend_from_slice(&(grants as u64).to_le_bytes());
        encoder.put()?;
        Ok(encoder)
    }

    pub(super) fn owners(&mut self, owners: &[(UserId, Owner, Touch)]) -> io::Result<()> {
        self.blocks(OWNERS, owners, |block, (id, owner, touch)| {
            let owner = owner.encode();
            block.extend_from_slice(&id.to_u64().to_le_bytes());
            encode_touch(block, touch);
            // A name has at most 64 bytes, so the length always fits.
            block.extend_from_slice(&u16::try_from(owner.len()).unwrap_or(u16::MAX).to_le_bytes());
            block.extend_from_slice(&owner);
        })
    }

    pub(super) fn grants(&mut self, grants: &[(Digest, Grant)]) -> io::Result<()> {
        self.blocks(GRANTS, grants, |block, (digest, grant)| {
            block.extend_from_slice(digest.as_bytes());
            block.extend_from_slice(&grant.encode());
        })
    }

    /// After the users.
    pub(super) fn held(&mut self, held: &[(UserId, Seen)]) -> io::Result<()> {
        self.seen(HELD, held)
    }

    /// After the users.
    pub(super) fn announced(&mut self, announced: &[(UserId, Seen)]) -> io::Result<()> {
        self.seen(ANNOUNCED, announced)
    }

    fn seen(&mut self, kind: u8, users: &[(UserId, Seen)]) -> io::Result<()> {
        self.blocks(kind, users, |block, (id, seen)| {
            block.extend_from_slice(&id.to_u64().to_le_bytes());
            block.push(seen.role.map_or(0, |role| role as u8 + 1));
            encode_touch(block, &seen.touch);
        })
    }

    /// The oldest first.
    pub(super) fn tombstones(&mut self, tombstones: &[Tombstone]) -> io::Result<()> {
        self.blocks(TOMBSTONES, tombstones, |block, (digest, age)| {
            block.extend_from_slice(digest.as_bytes());
            block.extend_from_slice(&age.to_le_bytes());
        })
    }

    /// Ends the file. `proof` is when the replica was last proven fresh before the first item was written. Hands back what
    /// it was written to, and the seal of its proofs.
    pub(super) fn end(mut self, trailer: &Trailer, proof: Proof, origin: Origin) -> io::Result<(W, Seal)> {
        self.blocks(END, std::slice::from_ref(trailer), |block, trailer| trailer.encode(block))?;
        let hash = Hash::from(self.hash.finalize());
        let seal = origin.seal(&hash);
        self.out.write_all(&hash)?;
        self.out.write_all(&proof.encode(&seal))?;
        Ok((self.out, seal))
    }

    fn blocks<T>(&mut self, kind: u8, records: &[T], encode: impl Fn(&mut Vec<u8>, &T)) -> io::Result<()> {
        for records in records.chunks(BLOCK) {
            self.block.push(kind);
            self.block.extend_from_slice(&u32::try_from(records.len()).unwrap_or(u32::MAX).to_le_bytes());
            for record in records {
                encode(&mut self.block, record);
            }
            self.put()?;
        }
        Ok(())
    }

    fn put(&mut self) -> io::Result<()> {
        self.hash.update(&self.block);
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

fn encode_touch(block: &mut Vec<u8>, touch: &Touch) {
    for stamp in [touch.by, touch.before.unwrap_or_default()] {
        block.extend_from_slice(&stamp.id.0.to_le_bytes());
        block.extend_from_slice(&stamp.revision.0.to_le_bytes());
    }
}

/// As much of a store's name as is written.
fn name(store: &str) -> &[u8] {
    &store.as_bytes()[..store.len().min(usize::from(u16::MAX))]
}

/// Reads a file of this length, of this store, to its end and hands every item to `sink`. Only what is returned says that
/// they were right, and when that was last proven: with an error, none of them may be believed.
pub(super) fn read<R: Read>(
    input: R,
    length: u64,
    store: &str,
    origin: Origin,
    sink: &mut dyn FnMut(Item),
) -> Result<(Trailer, Proof), FormatError> {
    let mut decoder = Decoder { input, version: VERSION, hash: Sha256::new(), block: Vec::new() };
    decoder.header(length, store, sink)?;
    let trailer = loop {
        let ([kind], count) = (decoder.array()?, u32::from_le_bytes(decoder.array()?));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > BLOCK {
            return Err(FormatError::Damaged("a block of impossible length"));
        }
        match kind {
            OWNERS => decoder.owners(count, sink)?,
            GRANTS => decoder.grants(count, sink)?,
            HELD | ANNOUNCED => {
                let item = if kind == HELD { Item::Held } else { Item::Announced };
                for _ in 0..count {
                    let id = UserId::from_u64(u64::from_le_bytes(decoder.array()?));
                    let [role] = decoder.array()?;
                    let role = role.checked_sub(1).map(|index| Role::ALL.get(usize::from(index)).copied());
                    let role = role.map(|role| role.ok_or(FormatError::Damaged("a user"))).transpose()?;
                    sink(item(id, Seen { role, touch: decoder.touch()? }));
                }
            }
            TOMBSTONES => {
                for record in decoder.records::<36>(count)? {
                    let (digest, age) = record.split_at(32);
                    sink(Item::Tombstone((Digest::from_bytes(array(digest)?), u32::from_le_bytes(array(age)?))));
                }
            }
            END if count == 1 => break decoder.trailer()?,
            _ => return Err(FormatError::Damaged("a block of unknown kind")),
        }
    };
    Ok((trailer, decoder.end(origin)?))
}

struct Decoder<R> {
    input: R,
    version: u32,
    hash: Sha256,
    block: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    fn header(&mut self, length: u64, store: &str, sink: &mut dyn FnMut(Item)) -> Result<(), FormatError> {
        // Also one that is too short to say what it is.
        let magic: [u8; 16] = self.array().map_err(|error| match error {
            FormatError::Short => FormatError::Foreign,
            other => other,
        })?;
        if magic != *MAGIC {
            return Err(FormatError::Foreign);
        }
        self.version = u32::from_le_bytes(self.array()?);
        if !matches!(self.version, UNCHAINED | VERSION) {
            return Err(FormatError::Version(self.version));
        }
        let named = u16::from_le_bytes(self.array()?);
        let named = self.bytes(named.into())?;
        if named != name(store) {
            return Err(FormatError::OtherStore(String::from_utf8_lossy(named).into_owned()));
        }
        // Nobody vouches for the number yet: no more than fit.
        let grants = u64::from_le_bytes(self.array()?).min(length / GRANT as u64);
        sink(Item::Snapshot(SnapshotItem::Begin(usize::try_from(grants).unwrap_or_default())));
        Ok(())
    }

    fn owners(&mut self, count: usize, sink: &mut dyn FnMut(Item)) -> Result<(), FormatError> {
        for _ in 0..count {
            let id = UserId::from_u64(u64::from_le_bytes(self.array()?));
            let touch = match self.version {
                UNCHAINED => Touch { by: Stamp::default(), before: None },
                _ => self.touch()?,
            };
            let length = u16::from_le_bytes(self.array()?);
            let owner = Owner::decode(self.bytes(length.into())?).map_err(|_| FormatError::Damaged("a user"))?;
            sink(Item::Snapshot(SnapshotItem::Owner(id, owner, touch.by)));
            touch.before.into_iter().for_each(|before| sink(Item::TouchedBefore(id, before)));
        }
        Ok(())
    }

    fn touch(&mut self) -> Result<Touch, FormatError> {
        let (by, before) = (self.stamp()?, self.stamp()?);
        Ok(Touch { by, before: Some(before).filter(|before| *before != Stamp::default()) })
    }

    fn stamp(&mut self) -> Result<Stamp, FormatError> {
        let id = CommitId(u128::from_le_bytes(self.array()?));
        Ok(Stamp { id, revision: Revision(u64::from_le_bytes(self.array()?)) })
    }

    fn grants(&mut self, count: usize, sink: &mut dyn FnMut(Item)) -> Result<(), FormatError> {
        let length = 32 + if self.version == UNCHAINED { Grant::SHORT } else { Grant::ENCODED };
        for record in self.bytes(count * length)?.chunks_exact(length) {
            let (digest, grant) = record.split_at(32);
            let grant = Grant::decode(grant).map_err(|_| FormatError::Damaged("a grant"))?;
            sink(Item::Snapshot(SnapshotItem::Grant(Digest::from_bytes(array(digest)?), grant)));
        }
        Ok(())
    }

    fn trailer(&mut self) -> Result<Trailer, FormatError> {
        if self.version != UNCHAINED {
            return Trailer::decode(&self.array()?);
        }
        // When it was proven, which nobody has sealed.
        self.bytes(MOMENT)?;
        let (mut bytes, bound) = ([0; Trailer::ENCODED], MOMENT..MOMENT + 8);
        bytes[..bound.start].copy_from_slice(self.bytes(MOMENT)?);
        let length = Trailer::ENCODED - size_of::<Head>() - bound.end;
        bytes[bound.end..][..length].copy_from_slice(self.bytes(length)?);
        let mut trailer = Trailer::decode(&bytes)?;
        if let Some((position, _)) = &mut trailer.position {
            position.head = Head::unchained(position.revision, position.checksum);
        }
        Ok(trailer)
    }

    /// The records of a block, of a fixed length each.
    fn records<const N: usize>(&mut self, count: usize) -> Result<impl Iterator<Item = &[u8; N]>, FormatError> {
        let bytes = self.bytes(count * N)?;
        Ok(bytes.as_chunks::<N>().0.iter())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        array(self.bytes(N)?)
    }

    fn bytes(&mut self, length: usize) -> Result<&[u8], FormatError> {
        self.block.resize(length, 0);
        self.input.read_exact(&mut self.block)?;
        self.hash.update(&self.block);
        Ok(&self.block)
    }

    fn end(mut self, origin: Origin) -> Result<Proof, FormatError> {
        let (mut said, found) = (Hash::default(), Hash::from(self.hash.finalize()));
        self.input.read_exact(&mut said)?;
        if said != found {
            return Err(FormatError::Damaged("its checksum is wrong"));
        }
        let mut proof = Proof(None);
        if self.version != UNCHAINED {
            let mut encoded = [0; Proof::ENCODED];
            self.input.read_exact(&mut encoded)?;
            proof = Proof::decode(&encoded, &origin.seal(&found));
        }
        match self.input.read(&mut [0])? {
            0 => Ok(proof),
            _ => Err(FormatError::Damaged("something follows its end")),
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], FormatError> {
    bytes.try_into().map_err(|_| FormatError::Short)
}

impl Trailer {
    /// A moment, 8 for the bound in milliseconds, then 49 for the position: a byte that says whether the rest counts, first.
    const ENCODED: usize = MOMENT + 8 + 49;

    fn encode(&self, block: &mut Vec<u8>) {
        block.extend_from_slice(&encode_moment(self.saved));
        block.extend_from_slice(&u64::try_from(self.bound.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
        block.push(self.position.is_some().into());
        let words = self.position.map_or(([0; 4], 0), |(Position { epoch, revision, head, checksum }, reaches)| {
            ([epoch.0, revision.0, checksum, reaches.0], head.0)
        });
        for word in words.0 {
            block.extend_from_slice(&word.to_le_bytes());
        }
        block.extend_from_slice(&words.1.to_le_bytes());
    }

    fn decode(bytes: &[u8; Self::ENCODED]) -> Result<Self, FormatError> {
        let (saved, rest) = bytes.split_at(MOMENT);
        let (bound, position) = rest.split_at(8);
        let (words, head) = position[1..].split_at(32);
        let head = Head(u128::from_le_bytes(array(head)?));
        let mut words = words.chunks_exact(8).map(|word| array(word).map(u64::from_le_bytes));
        let mut word = || words.next().ok_or(FormatError::Short)?;
        let at = Position { epoch: Epoch(word()?), revision: Revision(word()?), head, checksum: word()? };
        let reaches = Revision(word()?);
        let bound = Duration::from_millis(u64::from_le_bytes(array(bound)?));
        let position = (position[0] == 1).then_some((at, reaches));
        Ok(Self { saved: decode_moment(array(saved)?), bound, position })
    }
}

/// When a file's items were last proven to be all that was committed, if they were.
///
/// It is written over in place, so a crash of the machine may leave it half written, or not written at all; that crash has
/// also made it worthless, since it counts from the start of the machine. The hash shows it: then there is no proof, and the
/// items are as good as before. It covers theirs and the origin, so that no file can be given the proof of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof(pub(super) Option<Moment>);

impl Proof {
    /// The length of it, at the end of a file.
    pub(super) const ENCODED: usize = MOMENT + size_of::<Hash>();

    /// Of a file with this seal.
    pub(super) fn encode(self, seal: &Seal) -> [u8; Self::ENCODED] {
        let (moment, mut encoded) = (encode_moment(self.0), [0; Self::ENCODED]);
        encoded[..MOMENT].copy_from_slice(&moment);
        encoded[MOMENT..].copy_from_slice(&Self::hash(&moment, seal));
        encoded
    }

    fn decode(bytes: &[u8; Self::ENCODED], seal: &Seal) -> Self {
        let (moment, hash) = bytes.split_at(MOMENT);
        let moment = array(moment).ok().filter(|moment| Self::hash(moment, seal) == hash);
        Self(moment.and_then(decode_moment))
    }

    fn hash(moment: &[u8; MOMENT], seal: &Seal) -> Hash {
        Sha256::new().chain_update(seal.0).chain_update(moment).finalize().into()
    }
}

/// Length of a moment: a byte that says whether there is one, which start of the machine, nanoseconds since.
const MOMENT: usize = 1 + 16 + 8;

fn encode_moment(moment: Option<Moment>) -> [u8; MOMENT] {
    let mut encoded = [0; MOMENT];
    if let Some(Moment { boot, at }) = moment {
        encoded[0] = 1;
        encoded[1..17].copy_from_slice(&boot);
        let nanoseconds = u64::try_from(at.uptime().as_nanos()).unwrap_or(u64::MAX);
        encoded[17..].copy_from_slice(&nanoseconds.to_le_bytes());
    }
    encoded
}

fn decode_moment(bytes: [u8; MOMENT]) -> Option<Moment> {
    let nanoseconds = u64::from_le_bytes(array(&bytes[17..]).ok()?);
    let moment =
        Moment { boot: array(&bytes[1..17]).ok()?, at: Instant::since_boot(Duration::from_nanos(nanoseconds)) };
    (bytes[0] == 1).then_some(moment)
}
