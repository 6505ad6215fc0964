//! What lies under which key, and how it is written there.
//!
//! ```text
//!   meta       hash    schema, epoch, revision, checksum, log_changes
//!   users      hash    user id   -> version, space, record as JSON
//!   names      hash    user name -> user id
//!   tokens     hash    token id  -> version, space, record as JSON
//!   grants     hash    digest    -> grant, of active tokens: with `owners`, what a replica holds
//!   owners     hash    user id (8 bytes, little-endian) -> owner
//!   revoked    hash    digest    -> token id, of revoked tokens
//!   retired    zset    digests of deleted tokens, by the second of it
//!   by_state   zset    `a` (active) or `r` (revoked), token id; all of score 0, so ordered by their bytes
//!   by_owner   zset    user id, then as in by_state
//!   expiring   zset    token ids of active tokens with an expiry, by its second
//!   history    hash    token id  -> JSON, one line each
//!   log        stream  REVISION-0: c (checksum), d (changes), n (how many), i (the commit's id)
//!   cancelled  zset    ids of commits that must not happen any more, by the second of it
//!   recalled   set     digests, see `Store::recall`
//!   sidecars   set     ids of sidecars, each with a string `sidecar:ID` that expires: how long it was kept, its report
//!   probe      string  written by probes that replicas confirm
//! ```
//!
//! Numbers are decimal; epochs, checksums and the ids of commits and sidecars hexadecimal. The braces around the
//! namespace put all of them into one slot of a cluster.

use crate::store::settings::Namespace;
use crate::store::{Epoch, LogEntry, Position, Revision, SidecarId, Versioned, change};
use crate::token::{Digest, TokenId, TokenRecord, UserId};

use super::fault::Fault;

/// What is written below; grows with every change that an older program could not work with.
pub(super) const SCHEMA: &str = "1";

/// The keys, but for those of single sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Meta,
    Users,
    Names,
    Tokens,
    Grants,
    Owners,
    Revoked,
    Retired,
    ByState,
    ByOwner,
    Expiring,
    History,
    Log,
    Cancelled,
    Recalled,
    Sidecars,
    Probe,
}

impl Key {
    /// Those that a commit reads and writes, in the order in which its script has them, then the others.
    pub(super) const ALL: [Self; 17] = [
        Self::Meta,
        Self::Users,
        Self::Names,
        Self::Tokens,
        Self::Grants,
        Self::Owners,
        Self::Revoked,
        Self::Retired,
        Self::ByState,
        Self::ByOwner,
        Self::Expiring,
        Self::History,
        Self::Log,
        Self::Cancelled,
        Self::Recalled,
        Self::Sidecars,
        Self::Probe,
    ];

    /// How many of them a commit has.
    const OF_COMMIT: usize = 14;

    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Users => "users",
            Self::Names => "names",
            Self::Tokens => "tokens",
            Self::Grants => "grants",
            Self::Owners => "owners",
            Self::Revoked => "revoked",
            Self::Retired => "retired",
            Self::ByState => "by_state",
            Self::ByOwner => "by_owner",
            Self::Expiring => "expiring",
            Self::History => "history",
            Self::Log => "log",
            Self::Cancelled => "cancelled",
            Self::Recalled => "recalled",
            Self::Sidecars => "sidecars",
            Self::Probe => "probe",
        }
    }

    /// What `TYPE` says of it.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Meta
            | Self::Users
            | Self::Names
            | Self::Tokens
            | Self::Grants
            | Self::Owners
            | Self::Revoked
            | Self::History => "hash",
            Self::Retired | Self::ByState | Self::ByOwner | Self::Expiring | Self::Cancelled => "zset",
            Self::Recalled | Self::Sidecars => "set",
            Self::Log => "stream",
            Self::Probe => "string",
        }
    }

    /// Its place among the keys of the commit script, from 1.
    pub(super) const fn of_commit(self) -> usize {
        self as usize + 1
    }
}

/// The keys and the channel of one namespace.
#[derive(Debug)]
pub(super) struct Layout {
    namespace: Namespace,
    keys: [String; Key::ALL.len()],
    channel: String,
}

impl Layout {
    pub(super) fn new(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            keys: Key::ALL.map(|key| namespace.key(key.name())),
            channel: namespace.key("changes"),
        }
    }

    pub(super) fn key(&self, key: Key) -> &str {
        &self.keys[key as usize]
    }

    /// The keys that a commit reads and writes.
    pub(super) fn of_commit(&self) -> &[String] {
        &self.keys[..Key::OF_COMMIT]
    }

    /// Where commits are announced.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Where a sidecar's report lies.
    pub(super) fn sidecar(&self, id: SidecarId) -> String {
        self.namespace.key(format_args!("sidecar:{id}"))
    }

    /// The position in the fields [`POSITION`] of meta.
    pub(super) fn position(&self, fields: &PositionFields) -> Result<Position, Fault> {
        let [schema, epoch, revision, checksum] = fields;
        let Some(schema) = schema else {
            return Err(self.absent());
        };
        if schema != SCHEMA.as_bytes() {
            return Err(other_schema(schema));
        }
        let position = || {
            Some(Position {
                epoch: Epoch(parse_hex(epoch.as_ref()?)?),
                revision: Revision(parse_decimal(revision.as_ref()?)?),
                checksum: parse_hex(checksum.as_ref()?)?,
            })
        };
        position()
            .ok_or_else(|| Fault::Unusable(format!("has a damaged {}: restore it from a backup", self.key(Key::Meta))))
    }

    /// There is no registry.
    pub(super) fn absent(&self) -> Fault {
        Fault::Absent(format!("holds no registry in the namespace `{}`: run `tollgate init`", self.namespace))
    }
}

/// There is a key of ours with something else in it.
pub(super) fn wrong_type(key: &str, found: &str) -> Fault {
    Fault::Unusable(format!("has a {found} at {key} that is not ours: name another namespace"))
}

pub(super) fn other_schema(found: &[u8]) -> Fault {
    let found = String::from_utf8_lossy(found);
    Fault::Unusable(format!("has schema {found}, this program knows {SCHEMA}: use the program that made it"))
}

/// The fields of meta that make a position.
pub(super) const POSITION: [&str; 4] = ["schema", "epoch", "revision", "checksum"];

/// Their values.
pub(super) type PositionFields = [Option<Vec<u8>>; POSITION.len()];

pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Exactly 16 hexadecimal digits.
pub(super) fn parse_hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

/// What was written as version, space, JSON.
pub(super) fn parse_record<R: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<Versioned<R>, String> {
    let space = memchr::memchr(b' ', bytes).ok_or("it has no version")?;
    let version = parse_decimal(&bytes[..space]).ok_or("its version is no number")?;
    let record = serde_json::from_slice(&bytes[space + 1..]).map_err(|error| error.to_string())?;
    Ok(Versioned { record, version: Revision(version) })
}

/// A token's entry in `by_state`.
pub(super) fn by_state(token: &TokenRecord) -> Vec<u8> {
    [&[state(token.is_active())], token.id.to_ascii().as_slice()].concat()
}

/// A token's entry in `by_owner`.
pub(super) fn by_owner(token: &TokenRecord) -> Vec<u8> {
    [token.owner.to_ascii().as_slice(), &by_state(token)].concat()
}

/// What stands before the id in [`by_state`] and [`by_owner`].
pub(super) fn index_prefix(owner: Option<UserId>, active: bool) -> Vec<u8> {
    let mut prefix = owner.map_or(Vec::new(), |owner| owner.to_ascii().to_vec());
    prefix.push(state(active));
    prefix
}

const fn state(active: bool) -> u8 {
    if active { b'a' } else { b'r' }
}

/// The id at the end of an index entry.
pub(super) fn indexed_id(entry: &[u8]) -> Option<TokenId> {
    std::str::from_utf8(entry.last_chunk::<13>()?).ok()?.parse().ok()
}

pub(super) fn digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}

/// What the commit script published: epoch, checksum, revision, space, changes.
pub(super) fn parse_announcement(bytes: &[u8]) -> Option<(Epoch, LogEntry)> {
    let (epoch, rest) = bytes.split_at_checked(16)?;
    let (checksum, rest) = rest.split_at_checked(16)?;
    let space = memchr::memchr(b' ', rest)?;
    let revision = Revision(parse_decimal(&rest[..space])?);
    let changes = change::decode(&rest[space + 1..]).ok()?;
    Some((Epoch(parse_hex(epoch)?), LogEntry { revision, checksum: parse_hex(checksum)?, changes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_at_their_places() {
        for (place, key) in Key::ALL.into_iter().enumerate() {
            assert_eq!(key as usize, place, "{key:?}");
        }
        let layout = Layout::new(&Namespace::default());
        assert_eq!(layout.key(Key::Probe), "{tollgate}:probe");
        assert_eq!(layout.of_commit().last().map(String::as_str), Some("{tollgate}:cancelled"));
    }

    #[test]
    fn a_position_that_is_not_whole_is_no_position() {
        let layout = Layout::new(&Namespace::default());
        let fields = |fields: [&str; 4]| fields.map(|field| Some(field.as_bytes().to_vec()));
        let good = fields(["1", "00000000000000ff", "7", "000000000000000a"]);
        assert_eq!(
            layout.position(&good).ok(),
            Some(Position { epoch: Epoch(255), revision: Revision(7), checksum: 10 })
        );
        for bad in [
            ["2", "00000000000000ff", "7", "000000000000000a"],
            ["1", "ff", "7", "000000000000000a"],
            ["1", "00000000000000ff", "-7", "000000000000000a"],
            ["1", "00000000000000ff", "7", ""],
        ] {
            assert!(matches!(layout.position(&fields(bad)), Err(Fault::Unusable(_))), "{bad:?}");
        }
        let absent = layout.position(&[None, None, None, None]).expect_err("no registry").to_string();
        assert!(absent.contains("tollgate init"), "{absent}");
    }

    #[test]
    fn announcements_that_are_not_ours_are_passed_over() {
        assert_eq!(
            parse_announcement(b"00000000000000ff000000000000000a7 "),
            Some((Epoch(255), LogEntry { revision: Revision(7), checksum: 10, changes: Vec::new() }))
        );
        for bad in [
            b"".as_slice(),
            b"00000000000000ff",
            b"00000000000000ff000000000000000a7",
            b"hello world, how are you? I am fine ",
        ] {
            assert_eq!(parse_announcement(bad), None);
        }
    }
}
