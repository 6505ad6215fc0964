//! What lies under which key, and how it is written there.
//!
//! ```text
//!   meta       hash    schema, epoch, revision, head, checksum, log_changes, settled (recalls that were taken back),
//!                      frozen (why commits are refused)
//!   users      hash    user id   -> version (the id of the commit that wrote it), space, record as JSON
//!   names      hash    user name -> user id
//!   tokens     hash    token id  -> version, space, record as JSON
//!   grants     hash    digest    -> grant, of active tokens: with `owners`, what a replica holds
//!   owners     hash    user id (8 bytes, little-endian) -> commit id, space, revision, space, owner
//!   revoked    hash    digest    -> token id, of revoked tokens
//!   retired    zset    digests of deleted tokens, by the second of it
//!   by_state   zset    `a` (active) or `r` (revoked), token id; all of score 0, so ordered by their bytes
//!   by_owner   zset    user id, then as in by_state
//!   expiring   zset    token ids of active tokens with an expiry, by its second
//!   history    hash    token id  -> what it began with, as JSON, one line each
//!                      token id, `+` -> how many entries were added since
//!                      token id, two digits -> number of an entry (from 0), space, JSON; the digits are the number's last
//!                      two, so that an entry takes the place of the one that is too old, see `MAX_HISTORY`
//!   log        stream  REVISION-0: i (the commit's id), h (head), c (checksum), d (changes), n (how many), t (ids of tokens, 8
//!                      bytes each, little-endian, that it wrote or deleted and of which `d` does not tell)
//!   cancelled  zset    ids of commits that must not happen any more, by the second of it
//!   token_sets hash    user id -> id of the commit through which a token came to the user last
//!   usage      zset    token id  -> when it was used last, in milliseconds since 1970; `since` -> since when that is recorded
//!   usage:ID         zset    of a token that agents used: `=` and the id of an agent, or `@` and an address -> when that was
//!   usage:ID:agents  hash    the same -> address, perhaps a space and the version; `>` and an address -> the `=` at it;
//!                            `levels` -> see `Levels` in `crate::store::usage`
//!   audit_loose list   entries of the audit trail that are no lines of it yet, in the order of their commits
//!   audit      stream  NUMBER-0: l (a line of the audit trail)
//!   audit_written hash  a place outside -> up to which line the trail was written there
//!   recalled   set     digests, see `Feed::recall`
//!   recall_log list    the same in the order in which they came, until all of them are settled
//!   sidecars   set     ids of sidecars, each with a string `sidecar:ID` that expires: its TTL, its report
//!   sidecar:probe   string  written by probes that replicas confirm
//!   tenure          string  which server has had all reports, and since when, see `tenure`
//!   longest         string  how long sidecars served without the store, at the longest, see `tenure`
//!   unfinished hash   writer, pieces: a registry that is being filled, see `archive`; there is no meta then
//! ```
//!
//! Numbers are decimal; epochs, checksums, heads and the ids of commits and sidecars hexadecimal. The braces around the
//! namespace put all of them into one slot of a cluster. The channel is that of the database too: those of one Redis
//! share their channels.

use std::str::FromStr;
use std::sync::Arc;

use crate::store::schema::OtherSchema;
use crate::store::settings::Namespace;
use crate::store::{
    CommitId, Epoch, Head, LogEntry, NoRegistry, Notice, Position, Revision, Settings, Stamp, StoreUrl, Versioned,
    change,
};
use crate::token::{Digest, HistoryEntry, MAX_HISTORY, Owner, TokenId, TokenRecord, UserId};

use super::earlier::EARLIER;
use super::fault::Fault;
use super::unusable::Unusable;

/// What is written below; grows with every change that an older program could not work with.
pub(super) const SCHEMA: u32 = crate::store::SCHEMA;

macro_rules! keys {
    ($($key:ident = $name:literal is $kind:literal,)*) => {
        /// The keys, but for those of single sidecars.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Key {
            $($key,)*
        }

        impl Key {
            pub(super) const ALL: [Self; [$($name),*].len()] = [$(Self::$key),*];

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$key => $name,)*
                }
            }

            /// What `TYPE` says of it.
            pub(super) const fn kind(self) -> &'static str {
                match self {
                    $(Self::$key => $kind,)*
                }
            }
        }
    };
}

keys! {
    Meta = "meta" is "hash",
    Users = "users" is "hash",
    Names = "names" is "hash",
    Tokens = "tokens" is "hash",
    Grants = "grants" is "hash",
    Owners = "owners" is "hash",
    Revoked = "revoked" is "hash",
    Retired = "retired" is "zset",
    ByState = "by_state" is "zset",
    ByOwner = "by_owner" is "zset",
    Expiring = "expiring" is "zset",
    History = "history" is "hash",
    Log = "log" is "stream",
    Cancelled = "cancelled" is "zset",
    TokenSets = "token_sets" is "hash",
    // With it go the agents of its tokens.
    Usage = "usage" is "zset",
    AuditLoose = "audit_loose" is "list",
    // Those before are what a commit reads and writes, in the order in which its script has them.
    Recalled = "recalled" is "set",
    RecallLog = "recall_log" is "list",
    Audit = "audit" is "stream",
    AuditWritten = "audit_written" is "hash",
    Sidecars = "sidecars" is "set",
    // Beside the reports, where a sidecar's user may also put off a key's end.
    Probe = "sidecar:probe" is "string",
    Tenure = "tenure" is "string",
    Longest = "longest" is "string",
    Unfinished = "unfinished" is "hash",
}

impl Key {
    /// How many of them a commit has.
    const OF_COMMIT: usize = Self::Recalled as usize;

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
    earlier_channel: String,
}

impl Layout {
    pub(super) fn new(namespace: &Namespace, database: u32) -> Self {
        Self {
            namespace: namespace.clone(),
            keys: Key::ALL.map(|key| namespace.key(key.name())),
            channel: namespace.key(format_args!("changes:{database}")),
            earlier_channel: namespace.key("changes"),
        }
    }

    /// Of the namespace and the database that the settings name.
    pub(super) fn of(settings: &Settings) -> Self {
        let database = match &settings.url {
            StoreUrl::Redis(url) => url.database,
            StoreUrl::Sqlite(_) => 0,
        };
        Self::new(&settings.namespace, database)
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

    /// Where commits were announced by the version before, whatever the database.
    pub(super) fn earlier_channel(&self) -> &str {
        &self.earlier_channel
    }

    /// Where a sidecar's report lies.
    pub(super) fn sidecar(&self, id: impl std::fmt::Display) -> String {
        self.namespace.key(format_args!("sidecar:{id}"))
    }

    /// Where the agents of a token lie: by the time of their last use, and what is known of them.
    pub(super) fn agents_of(&self, token: TokenId) -> (String, String) {
        let seen = format!("{}:{token}", self.key(Key::Usage));
        let who = format!("{seen}:agents");
        (seen, who)
    }

    /// The position in the fields [`POSITION`] of meta.
    pub(super) fn position(&self, fields: &PositionFields) -> Result<Position, Fault> {
        let [schema, epoch, revision, head, checksum, _] = fields;
        let Some(schema) = schema else {
            return Err(self.absent());
        };
        let is_earlier = parse_schema(schema)? == EARLIER;
        let position = || {
            let (revision, checksum) = (Revision(parse_decimal(revision.as_ref()?)?), parse_hex(checksum.as_ref()?)?);
            // A store of the schema before chained none: its past is known by the checksum only.
            let head = match is_earlier {
                true => Head::unchained(revision, checksum),
                false => parse_word(head.as_ref()?)?,
            };
            Some(Position { epoch: Epoch(parse_hex(epoch.as_ref()?)?), revision, head, checksum })
        };
        position().ok_or_else(|| Unusable::Damaged(self.key(Key::Meta).to_owned()).into())
    }

    /// There is no registry.
    pub(super) fn absent(&self) -> Fault {
        Fault::Absent(NoRegistry::EmptyNamespace(self.namespace.clone()))
    }
}

/// There is a key of ours with something else in it.
pub(super) fn wrong_type(key: &str, found: &str) -> Fault {
    Unusable::ForeignKey { key: key.to_owned(), kind: found.to_owned() }.into()
}

/// A schema that can be read.
pub(super) fn parse_schema(found: &[u8]) -> Result<u32, Fault> {
    let known = [EARLIER, SCHEMA].into_iter().find(|known| found == known.to_string().as_bytes());
    known.ok_or_else(|| other_schema(found))
}

pub(super) fn other_schema(found: &[u8]) -> Fault {
    let found = String::from_utf8_lossy(found).into_owned();
    Unusable::from(OtherSchema { found, earlier: EARLIER }).into()
}

/// The fields of meta that make a position, and how many recalls were taken back.
pub(super) const POSITION: [&str; 6] = ["schema", "epoch", "revision", "head", "checksum", "settled"];

/// How many recalls were taken back.
pub(super) fn settled(fields: &PositionFields) -> u64 {
    let [.., settled] = fields;
    settled.as_deref().and_then(parse_decimal).unwrap_or_default()
}

/// Their values.
pub(super) type PositionFields = [Option<Vec<u8>>; POSITION.len()];

pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An id or a head: exactly 32 hexadecimal digits.
pub(super) fn parse_word<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A version as it is written. Records of the layout before this one have the revision that wrote them.
pub(super) fn version(id: CommitId) -> Vec<u8> {
    match u64::try_from(id.0) {
        Ok(revision) => revision.to_string().into_bytes(),
        Err(_) => id.to_string().into_bytes(),
    }
}

fn parse_version(text: &[u8]) -> Option<CommitId> {
    parse_word(text).or_else(|| parse_decimal(text).map(|revision| CommitId(revision.into())))
}

/// What was written as commit id, space, revision, space, owner. The layout before this one had the owner only.
pub(super) fn parse_owner(bytes: &[u8]) -> Option<(Owner, Stamp)> {
    let is_stamped = bytes.first().is_some_and(u8::is_ascii_hexdigit);
    if !is_stamped {
        return Some((Owner::decode(bytes).ok()?, Stamp::default()));
    }
    let mut parts = bytes.splitn(3, |byte| *byte == b' ');
    let (id, revision) = (parse_word(parts.next()?)?, Revision(parse_decimal(parts.next()?)?));
    Some((Owner::decode(parts.next()?).ok()?, Stamp { id, revision }))
}

/// Exactly 16 hexadecimal digits.
pub(super) fn parse_hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

/// What was written as version, space, JSON.
pub(super) fn parse_record<R: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<Versioned<R>, String> {
    let space = memchr::memchr(b' ', bytes).ok_or("it has no version")?;
    let version = parse_version(&bytes[..space]).ok_or("its version is not a commit id")?;
    let record = serde_json::from_slice(&bytes[space + 1..]).map_err(|error| error.to_string())?;
    Ok(Versioned { record, version })
}

/// The field of `history` that counts the entries added to a token's.
pub(super) fn history_count(token: &[u8]) -> Vec<u8> {
    [token, b"+"].concat()
}

/// The fields of `history` with the latest of so many entries added to a token's.
pub(super) fn history_entries(token: &[u8], count: u64) -> impl Iterator<Item = Vec<u8>> {
    let places = 0..count.min(MAX_HISTORY as u64);
    places.map(move |place| [token, format!("{place:02}").as_bytes()].concat())
}

/// Two digits number the places.
const _: () = assert!(MAX_HISTORY <= 100);

/// What was written as number, space, JSON.
pub(super) fn parse_history_entry(bytes: &[u8]) -> Result<(u64, HistoryEntry), String> {
    let space = memchr::memchr(b' ', bytes).ok_or("it has no number")?;
    let number = parse_decimal(&bytes[..space]).ok_or("its number is none")?;
    let entry = serde_json::from_slice(&bytes[space + 1..]).map_err(|error| error.to_string())?;
    Ok((number, entry))
}

/// A token's entry in `by_state`.
pub(super) fn by_state(token: &TokenRecord) -> Vec<u8> {
    [&[state(token.is_active())], token.id.to_ascii().as_slice()].concat()
}

/// A token's entry in `by_owner`.
pub(super) fn by_owner(token: &TokenRecord) -> Vec<u8> {
    [token.owner.to_ascii().as_slice(), &by_state(token)].concat()
}

/// What comes before the id in [`by_state`] and [`by_owner`].
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

/// What comes between the position and the changes in an announcement. Any other mark tells a program that does not know it
/// to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// All changes follow.
    Whole,
    /// None do, and they take nothing from anybody.
    Gives,
    /// None do, and they take something.
    Takes,
}

/// Most bytes of changes that are announced, some 120 digests. Each subscriber that does not keep up makes Redis hold them
/// once more.
const ANNOUNCED: usize = 4096;

impl Mark {
    /// Of so many bytes of changes.
    pub(super) fn of(bytes: usize, takes_away: bool) -> Self {
        match takes_away {
            _ if bytes == 0 => Self::Whole,
            true if bytes <= ANNOUNCED => Self::Whole,
            true => Self::Takes,
            false => Self::Gives,
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Whole => " ",
            Self::Gives => "+",
            Self::Takes => "-",
        }
    }
}

/// What the commit script published: epoch, commit id, head, checksum, revision, mark, changes.
pub(super) fn parse_announcement(bytes: &[u8]) -> Option<Notice> {
    let (epoch, rest) = bytes.split_at_checked(16)?;
    let (id, rest) = rest.split_at_checked(32)?;
    let (head, rest) = rest.split_at_checked(32)?;
    let (checksum, rest) = rest.split_at_checked(16)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (epoch, revision) = (Epoch(parse_hex(epoch)?), Revision(parse_decimal(&rest[..digits])?));
    let (id, head, checksum) = (parse_word(id)?, parse_word(head)?, parse_hex(checksum)?);
    match &rest[digits..] {
        [b' ', changes @ ..] => {
            let changes = change::decode(changes).ok()?;
            Some(Notice::Committed { epoch, entry: Arc::new(LogEntry { id, revision, head, checksum, changes }) })
        }
        b"+" => Some(Notice::Advanced { epoch, revision, takes_away: false }),
        b"-" => Some(Notice::Advanced { epoch, revision, takes_away: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_at_their_places() {
        let layout = Layout::new(&Namespace::default(), 7);
        assert_eq!(layout.key(Key::Probe), "{tollgate}:sidecar:probe");
        assert_eq!(layout.channel(), "{tollgate}:changes:7");
        assert_eq!(layout.of_commit().last().map(String::as_str), Some("{tollgate}:audit_loose"));
    }

    const ONE: &str = "00000000000000000000000000000001";

    #[test]
    fn a_position_that_is_not_whole_is_no_position() {
        let layout = Layout::new(&Namespace::default(), 0);
        let fields = |fields: [&str; 6]| fields.map(|field| Some(field.as_bytes().to_vec()));
        let good = ["3", "00000000000000ff", "7", ONE, "000000000000000a", "5"];
        let position = Position { epoch: Epoch(255), revision: Revision(7), head: Head(1), checksum: 10 };
        assert_eq!(layout.position(&fields(good)).ok(), Some(position));
        assert_eq!(settled(&fields(good)), 5);
        let earlier = layout.position(&fields(["1", "00000000000000ff", "7", "", "000000000000000a", ""]));
        let unchained = Head::unchained(Revision(7), 10);
        assert_eq!(earlier.ok(), Some(Position { head: unchained, ..position }), "of the schema before");
        for (place, bad) in [(0, "4"), (1, "ff"), (2, "-7"), (3, "1"), (4, "")] {
            let mut bad_fields = good;
            bad_fields[place] = bad;
            assert!(matches!(layout.position(&fields(bad_fields)), Err(Fault::Unusable(_))), "{bad:?}");
        }
        let absent = layout.position(&Default::default()).expect_err("no registry").to_string();
        assert!(absent.contains("holds no registry"), "{absent}");
    }

    #[test]
    fn announcements_that_are_not_ours_are_passed_over() {
        let good = format!("00000000000000ff{ONE}{ONE}000000000000000a7 ");
        let entry =
            LogEntry { id: CommitId(1), revision: Revision(7), head: Head(1), checksum: 10, changes: Vec::new() };
        let (epoch, revision) = (Epoch(255), entry.revision);
        let whole = Notice::Committed { epoch, entry: Arc::new(entry) };
        assert_eq!(parse_announcement(good.as_bytes()), Some(whole));
        for (mark, takes_away) in [(Mark::Gives, false), (Mark::Takes, true)] {
            let without = good.trim_end().to_owned() + mark.text();
            let advanced = Notice::Advanced { epoch, revision, takes_away };
            assert_eq!(parse_announcement(without.as_bytes()), Some(advanced));
            assert_eq!(parse_announcement((without + "x").as_bytes()), None);
        }
        for bad in
            ["", "00000000000000ff", good.trim_end(), &good.replace(' ', "?"), "hello world, how are you? I am fine "]
        {
            assert_eq!(parse_announcement(bad.as_bytes()), None);
        }
    }

    #[test]
    fn owners_and_versions_are_read_as_the_layout_before_had_them_too() {
        let owner = Owner { name: "anna".to_owned(), role: crate::token::Role::Owner, enabled: true };
        let stamped = [format!("{ONE} 7 ").as_bytes(), &owner.encode()].concat();
        let stamp = Stamp { id: CommitId(1), revision: Revision(7) };
        assert_eq!(parse_owner(&stamped), Some((owner.clone(), stamp)));
        assert_eq!(parse_owner(&owner.encode()), Some((owner, Stamp::default())));
        assert_eq!(parse_owner(b""), None);
        for id in [CommitId(7), CommitId(u128::MAX)] {
            assert_eq!(parse_version(&version(id)), Some(id));
        }
        assert_eq!(version(CommitId(7)), b"7");
    }
}
