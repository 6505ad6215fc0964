//! Whether a namespace that was filled has, besides the records, all that a commit derives from them, and nothing else: what
//! sidecars hold, and what lists and searches go by.

use std::collections::{BTreeMap, HashSet};

use redis::Pipeline;

use super::read::PIECE;
use crate::store::archive::{Item, TokenItem, UserItem};
use crate::store::redis::Access;
use crate::store::redis::commit::Entries;
use crate::store::redis::fault::Fault;
use crate::store::redis::layout::{self, Key};
use crate::store::redis::link::Use;
use crate::token::{Digest, TokenRecord};

/// Values by field, in the order asked for.
type Values = Vec<Option<Vec<u8>>>;

/// Scores by member, in the order asked for.
type Scores = Vec<Option<f64>>;

/// How the keys are counted.
const COUNTED: [(Key, &str); 14] = [
    (Key::Users, "HLEN"),
    (Key::Names, "HLEN"),
    (Key::Owners, "HLEN"),
    (Key::TokenSets, "HLEN"),
    (Key::Tokens, "HLEN"),
    (Key::Grants, "HLEN"),
    (Key::Revoked, "HLEN"),
    (Key::History, "HLEN"),
    (Key::ByState, "ZCARD"),
    (Key::ByOwner, "ZCARD"),
    (Key::Expiring, "ZCARD"),
    (Key::Log, "XLEN"),
    (Key::Cancelled, "ZCARD"),
    (Key::RecallLog, "LLEN"),
];

/// Looks at what follows from the records that are read, and counts what there has to be.
pub(super) struct Derived<'a> {
    access: &'a Access,
    /// Which were counted: a scan may bring some twice.
    seen: HashSet<u64>,
    counts: BTreeMap<Key, u64>,
    recalled: HashSet<Digest>,
}

impl<'a> Derived<'a> {
    pub(super) fn new(access: &'a Access) -> Self {
        Self { access, seen: HashSet::new(), counts: BTreeMap::new(), recalled: HashSet::new() }
    }

    pub(super) async fn of_users(&mut self, items: &[Item]) -> Result<(), Fault> {
        let users: Vec<&UserItem> = items.iter().filter_map(Item::as_user).collect();
        if users.is_empty() {
            return Ok(()); // Redis takes no command without a field
        }
        let names: Vec<_> = users.iter().map(|user| user.record.name.as_str()).collect();
        let owner_keys: Vec<_> = users.iter().map(|user| user.record.id.to_u64().to_le_bytes().to_vec()).collect();
        let mut commands = Pipeline::new();
        commands.cmd("HMGET").arg(self.key(Key::Names)).arg(names);
        commands.cmd("HMGET").arg(self.key(Key::Owners)).arg(owner_keys);
        let (ids, owners): (Values, Values) = self.access.link.read(Use::Bulk, &commands).await?;
        for (user, (id, owner)) in users.into_iter().zip(ids.into_iter().zip(owners)) {
            let UserItem { record, version, token_set, .. } = user;
            self.expect(Key::Names, &record.name, id.as_deref() == Some(&record.id.to_ascii()[..]))?;
            let owner = owner.as_deref().and_then(layout::parse_owner);
            let is_owner = owner.is_some_and(|(owner, stamp)| owner == record.owner() && stamp.id == *version);
            self.expect(Key::Owners, &record.id, is_owner)?;
            if self.seen.insert(record.id.to_u64()) {
                self.count([Key::Users, Key::Names, Key::Owners]);
                self.count(token_set.map(|_| Key::TokenSets));
            }
        }
        Ok(())
    }

    pub(super) async fn of_tokens(&mut self, items: &[Item]) -> Result<(), Fault> {
        let tokens: Vec<&TokenItem> = items.iter().filter_map(Item::as_token).collect();
        if tokens.is_empty() {
            return Ok(()); // Redis takes no command without a field
        }
        let of = |part: fn(&TokenRecord) -> Vec<u8>| tokens.iter().map(|token| part(&token.record)).collect::<Vec<_>>();
        let (digests, ids) = (of(|token| token.digest.as_bytes().to_vec()), of(|token| token.id.to_ascii().to_vec()));
        let mut commands = Pipeline::new();
        commands.cmd("HMGET").arg(self.key(Key::Grants)).arg(&digests);
        commands.cmd("HMGET").arg(self.key(Key::Revoked)).arg(&digests);
        commands.cmd("ZMSCORE").arg(self.key(Key::ByState)).arg(of(layout::by_state));
        commands.cmd("ZMSCORE").arg(self.key(Key::ByOwner)).arg(of(layout::by_owner));
        commands.cmd("ZMSCORE").arg(self.key(Key::Expiring)).arg(ids);
        let answer: (Values, Values, Scores, Scores, Scores) = self.access.link.read(Use::Bulk, &commands).await?;
        let (grants, revoked, by_state, by_owner, expiring) = answer;
        let found = grants.into_iter().zip(revoked).zip(by_state.into_iter().zip(by_owner).zip(expiring));
        for (token, ((grant, revoked), ((by_state, by_owner), expiry))) in tokens.into_iter().zip(found) {
            let (id, entries) = (token.record.id, Entries::of(Some(&token.record)));
            let expires_at = token.record.grant().and_then(|grant| grant.expires_at);
            #[expect(clippy::cast_precision_loss, reason = "seconds of a valid time, which a float holds exactly")]
            let expires_at = expires_at.map(|at| at as f64);
            self.expect(Key::Grants, &id, grant == entries.grant)?;
            self.expect(Key::Revoked, &id, revoked == entries.revoked)?;
            self.expect(Key::ByState, &id, by_state == Some(0.0))?;
            self.expect(Key::ByOwner, &id, by_owner == Some(0.0))?;
            self.expect(Key::Expiring, &id, expiry == expires_at)?;
            if self.seen.insert(id.to_u64()) {
                self.count([Key::Tokens, Key::ByState, Key::ByOwner]);
                self.count(entries.grant.map(|_| Key::Grants));
                self.count(entries.revoked.map(|_| Key::Revoked));
                self.count(entries.expiry.map(|_| Key::Expiring));
                self.count(Some(Key::History).filter(|_| !token.history.is_empty()));
            }
        }
        Ok(())
    }

    pub(super) fn of_recalled(&mut self, digests: &[Digest]) {
        for digest in digests {
            if self.recalled.insert(*digest) {
                self.count([Key::RecallLog]);
            }
        }
    }

    /// After all was read: there is no more than that.
    pub(super) async fn is_all(&self) -> Result<(), Fault> {
        let mut commands = Pipeline::new();
        for (key, count) in COUNTED {
            commands.cmd(count).arg(self.key(key));
        }
        let found: Vec<u64> = self.access.link.read(Use::Bulk, &commands).await?;
        for ((key, _), found) in COUNTED.into_iter().zip(found) {
            let expected = self.counts.get(&key).copied().unwrap_or_default();
            if found != expected {
                return Err(Fault::record(self.key(key).to_owned(), format!("it has {found} entries, not {expected}")));
            }
        }
        let mut first = 0;
        loop {
            let mut commands = Pipeline::new();
            commands.cmd("LRANGE").arg(self.key(Key::RecallLog)).arg(first).arg(first + PIECE - 1);
            let (listed,): (Vec<Vec<u8>>,) = self.access.link.read(Use::Bulk, &commands).await?;
            for member in &listed {
                let is_recalled = layout::digest(member).is_some_and(|digest| self.recalled.contains(&digest));
                self.expect(Key::RecallLog, &first, is_recalled)?;
            }
            first += PIECE;
            if listed.len() < PIECE {
                return Ok(());
            }
        }
    }

    fn key(&self, key: Key) -> &str {
        self.access.layout.key(key)
    }

    fn count(&mut self, keys: impl IntoIterator<Item = Key>) {
        keys.into_iter().for_each(|key| *self.counts.entry(key).or_default() += 1);
    }

    fn expect(&self, key: Key, of: &impl std::fmt::Display, is_so: bool) -> Result<(), Fault> {
        let damaged = || Fault::record(format!("{} {of}", self.key(key)), "it is not what the record says");
        if is_so { Ok(()) } else { Err(damaged()) }
    }
}
