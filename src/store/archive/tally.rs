//! What was handed over, counted: the same for two stores that hold the same.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::item::Item;
use crate::token::{Digest, UserId};

/// What a registry is, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many users.
    pub users: u64,
    /// How many tokens, revoked ones too.
    pub tokens: u64,
    /// How many digests of deleted tokens.
    pub retired: u64,
    /// How many digests that sidecars recalled.
    pub recalled: u64,
    /// How many lines of the audit trail.
    #[serde(default)]
    pub audit: u64,
    /// That of users and active tokens, as positions have it.
    #[serde(with = "hex")]
    pub checksum: u64,
    /// Of everything, history too: the XOR of the first 64 bits of each item's SHA-256.
    #[serde(with = "hex")]
    pub contents: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { users, tokens, retired, recalled, audit, contents, .. } = self;
        let s = |count: u64| if count == 1 { "" } else { "s" };
        write!(f, "{users} user{}, {tokens} token{}, {retired} deleted and ", s(*users), s(*tokens))?;
        write!(f, "{recalled} recalled digest{}, ", s(*recalled))?;
        write!(f, "{audit} audit {} ({contents:016x})", if *audit == 1 { "entry" } else { "entries" })
    }
}

/// Counts items. It knows of each which it was, so that what is handed over twice counts once; and who has which name, so that
/// nobody is let through whose name another one still has.
#[derive(Debug, Default)]
pub struct Tally {
    users: HashMap<u64, (String, Counted)>,
    names: HashMap<String, UserId>,
    tokens: HashMap<u64, Counted>,
    retired: HashSet<Digest>,
    recalled: HashSet<Digest>,
    audit: u64,
    /// The last one's number.
    audit_seq: u64,
    /// What the entries that are no lines yet add.
    loose: u64,
    checksum: u64,
    contents: u64,
}

/// What an item adds to both checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    checksum: u64,
    contents: u64,
}

impl Tally {
    /// Lets through what is new. What is another one than before comes after its end; what is the same comes once.
    pub fn take(&mut self, items: Vec<Item>) -> Vec<Item> {
        let mut taken = Vec::with_capacity(items.len());
        for item in items {
            match &item {
                Item::User(user) => {
                    let (id, name) = (user.record.id, user.record.name.clone());
                    let checksum = user.record.owner().fingerprint(id);
                    let counted = Counted { checksum, contents: contents(&item) };
                    if self.users.get(&id.to_u64()).is_some_and(|(_, before)| *before == counted) {
                        continue;
                    }
                    // Who had the name before is no more, or has another one by now and comes again.
                    let namesake = self.names.get(&name).copied().filter(|other| *other != id);
                    let gone = [Some(id), namesake].into_iter().flatten();
                    taken.extend(gone.filter(|id| self.remove_user(*id)).map(Item::NoUser));
                    self.names.insert(name.clone(), id);
                    self.users.insert(id.to_u64(), (name, counted));
                    self.count(counted);
                }
                Item::Token(token) => {
                    let checksum = token.record.grant().map_or(0, |grant| grant.fingerprint(&token.record.digest));
                    let (id, counted) = (token.record.id, Counted { checksum, contents: contents(&item) });
                    match self.tokens.insert(id.to_u64(), counted) {
                        Some(before) if before == counted => continue,
                        Some(before) => {
                            self.count(before);
                            taken.push(Item::NoToken(id));
                        }
                        None => {}
                    }
                    self.count(counted);
                }
                Item::Retired(retired) if !self.retired.insert(retired.digest) => continue,
                Item::Recalled(digest) if !self.recalled.insert(*digest) => continue,
                // Its age passes, and is no part of what it is.
                Item::Retired(retired) => self.contents ^= contents(&("retired", retired.digest)),
                Item::Recalled(_) => self.contents ^= contents(&item),
                // It goes on while it is read, and is no part of what a registry is.
                Item::Usage(usage) if !self.tokens.contains_key(&usage.token.to_u64()) => continue,
                Item::Usage(_) | Item::UsageSince(_) => {}
                Item::Audit { seq, .. } if *seq <= self.audit_seq => continue,
                Item::Audit { seq, .. } => {
                    (self.audit, self.audit_seq) = (self.audit + 1, *seq);
                    self.contents ^= contents(&item);
                }
                Item::AuditLoose(entries) => {
                    let loose = if entries.is_empty() { 0 } else { contents(&item) };
                    if loose == self.loose {
                        continue;
                    }
                    self.contents ^= std::mem::replace(&mut self.loose, loose) ^ loose;
                }
                Item::NoUser(id) if !self.remove_user(*id) => continue,
                Item::NoUser(_) => {}
                Item::NoToken(id) => match self.tokens.remove(&id.to_u64()) {
                    Some(before) => self.count(before),
                    None => continue,
                },
            }
            taken.push(item);
        }
        taken
    }

    /// Whether there was one.
    fn remove_user(&mut self, id: UserId) -> bool {
        let Some((name, before)) = self.users.remove(&id.to_u64()) else { return false };
        self.names.remove(&name);
        self.count(before);
        true
    }

    /// Adds what is not counted, and takes away what is.
    fn count(&mut self, counted: Counted) {
        self.checksum ^= counted.checksum;
        self.contents ^= counted.contents;
    }

    /// What was let through so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            users: self.users.len() as u64,
            tokens: self.tokens.len() as u64,
            retired: self.retired.len() as u64,
            recalled: self.recalled.len() as u64,
            audit: self.audit,
            checksum: self.checksum,
            contents: self.contents,
        }
    }
}

/// The first 64 bits of the hash of what it is written as.
fn contents(item: &impl Serialize) -> u64 {
    let mut hash = Sha256::new();
    // A hash takes whatever it is given, and records are written as what they were read from.
    serde_json::to_writer(Hashing(&mut hash), item).ok();
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        <[u8; 32]>::from(hash.finalize());
    u64::from_be_bytes(first)
}

struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A number as 16 hexadecimal digits: not every reader of JSON holds one of 64 bits.
pub(super) mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in super::super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:016x}"))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
