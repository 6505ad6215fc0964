//! What is written into a namespace that is being filled, in parts that a line carries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use redis::cmd;

use crate::store::archive::{Item, TokenItem, UsageItem, UserItem};
use crate::store::redis::commit::Entries;
use crate::store::redis::fault::Fault;
use crate::store::redis::layout::{self, Key, Layout};
use crate::store::redis::{Access, read, usage};
use crate::token::{TokenId, TokenRecord, UserRecord};

/// Writes of some items.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece(VecDeque<Write>);

/// A command, its key, and what comes after that.
type Write = (&'static str, Place, Vec<Vec<u8>>);

/// What is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Key(Key),
    /// When the agents of a token used it.
    Seen(TokenId),
    /// What is known of them.
    Who(TokenId),
}

impl Place {
    pub(super) fn key(self, layout: &Layout) -> String {
        match self {
            Self::Key(key) => layout.key(key).to_owned(),
            Self::Seen(token) => layout.agents_of(token).0,
            Self::Who(token) => layout.agents_of(token).1,
        }
    }
}

impl From<Key> for Place {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}

/// The command that adds an entry to a stream, which is one whole.
const ENTRY: &str = "XADD";

impl Piece {
    /// Most arguments of one script.
    const MOST: usize = 20_000;

    /// About how many bytes each takes besides its own.
    const OF_ARGUMENT: usize = 8;

    /// What makes the items of what is there. Of each user and token its last item counts; what is removed is looked up as it
    /// is there now, and removed before anything is written.
    pub(super) async fn of(access: &Access, now: u64, items: &[Item]) -> Result<Self, Fault> {
        let (mut users, mut tokens, mut others) = (BTreeMap::new(), BTreeMap::new(), Vec::<&Item>::new());
        let (mut gone_users, mut gone_tokens) = (BTreeSet::new(), BTreeSet::new());
        for item in items {
            match item {
                Item::User(user) => drop(users.insert(user.record.id, user)),
                Item::Token(token) => drop(tokens.insert(token.record.id, token)),
                Item::NoUser(id) => {
                    users.remove(id);
                    gone_users.insert(*id);
                }
                Item::NoToken(id) => {
                    tokens.remove(id);
                    others.retain(|item| !matches!(item, Item::Usage(usage) if usage.token == *id));
                    gone_tokens.insert(*id);
                }
                Item::Retired(_)
                | Item::Recalled(_)
                | Item::Usage(_)
                | Item::UsageSince(_)
                | Item::Audit { .. }
                | Item::AuditLoose(_) => others.push(item),
            }
        }
        let mut piece = Self::default();
        let gone_users: Vec<_> = gone_users.into_iter().collect();
        for user in read::users_by_id(access, &gone_users).await?.into_iter().flatten() {
            piece.remove_user(&user.record);
        }
        let gone_tokens: Vec<_> = gone_tokens.into_iter().collect();
        for token in read::tokens_by_id(access, &gone_tokens).await?.into_iter().flatten() {
            piece.remove_token(&token.record);
            let (seen, who) = access.layout.agents_of(token.record.id);
            access.ask::<u64>(cmd("UNLINK").arg(seen).arg(who)).await?;
        }
        users.into_values().try_for_each(|user| piece.add_user(user))?;
        tokens.into_values().try_for_each(|token| piece.add_token(token))?;
        others.into_iter().for_each(|item| piece.add(now, item));
        Ok(piece)
    }

    /// What comes beside users and tokens.
    fn add(&mut self, now: u64, item: &Item) {
        match item {
            Item::Retired(retired) => {
                let at = now.saturating_sub(retired.age).to_string().into_bytes();
                self.write("ZADD", Key::Retired, [at, retired.digest.as_bytes().to_vec()]);
            }
            Item::Recalled(digest) => {
                self.write("SADD", Key::Recalled, [digest.as_bytes().to_vec()]);
                self.write("RPUSH", Key::RecallLog, [digest.as_bytes().to_vec()]);
            }
            Item::Usage(usage) => self.add_usage(usage),
            Item::UsageSince(since) => {
                let at = since.as_millisecond().to_string().into_bytes();
                self.write("ZADD", Key::Usage, [at, usage::SINCE.as_bytes().to_vec()]);
            }
            Item::Audit { seq, line } => {
                let arguments = vec![format!("{seq}-0").into_bytes(), b"l".to_vec(), line.clone().into_bytes()];
                self.0.push_back((ENTRY, Place::Key(Key::Audit), arguments));
            }
            Item::AuditLoose(entries) => {
                // Empties it.
                self.write("LTRIM", Key::AuditLoose, [b"1".to_vec(), b"0".to_vec()]);
                if !entries.is_empty() {
                    self.write("RPUSH", Key::AuditLoose, entries.iter().map(|entry| entry.clone().into_bytes()));
                }
            }
            Item::User(_) | Item::Token(_) | Item::NoUser(_) | Item::NoToken(_) => {}
        }
    }

    fn add_usage(&mut self, UsageItem { token, last_used, levels, agents }: &UsageItem) {
        let at = |moment: &Timestamp| moment.as_millisecond().to_string().into_bytes();
        self.write("ZADD", Key::Usage, [at(last_used), token.to_ascii().to_vec()]);
        for agent in agents {
            let name = agent.name.key().into_bytes();
            self.write("ZADD", Place::Seen(*token), [at(&agent.last_used), name]);
            self.write("HSET", Place::Who(*token), usage::fields(agent));
        }
        if !levels.is_empty() {
            self.write("HSET", Place::Who(*token), [b"levels".to_vec(), levels.clone().into_bytes()]);
        }
    }

    /// Under each key in the order of these calls.
    fn write(&mut self, command: &'static str, place: impl Into<Place>, arguments: impl IntoIterator<Item = Vec<u8>>) {
        let place = place.into();
        match self.0.iter_mut().rev().find(|(_, of, _)| *of == place) {
            Some((last, _, all)) if *last == command => all.extend(arguments),
            _ => self.0.push_back((command, place, arguments.into_iter().collect())),
        }
    }

    /// The first writes, as many as one script has room for, and about so many bytes, but one at least. None after the last one.
    pub(super) fn take(&mut self, most: usize) -> Vec<Write> {
        let (mut taken, mut count, mut bytes) = (Vec::new(), 0, 0);
        while let Some((command, place, mut arguments)) = self.0.pop_front() {
            // Fields go with their values, and scores with their members; an entry is one.
            let together = if command == ENTRY { arguments.len() } else { 2 };
            let fitting = arguments.chunks(together).take_while(|some| {
                let of_some = some.iter().map(|argument| argument.len() + Self::OF_ARGUMENT).sum::<usize>();
                let fits = count == 0 || (bytes + of_some <= most && count + some.len() <= Self::MOST);
                if fits {
                    (count, bytes) = (count + some.len(), bytes + of_some);
                }
                fits
            });
            let rest = arguments.split_off((fitting.count() * together).min(arguments.len()));
            if !arguments.is_empty() {
                taken.push((command, place, arguments));
            }
            if !rest.is_empty() {
                self.0.push_front((command, place, rest));
                break;
            }
        }
        taken
    }

    fn remove_user(&mut self, user: &UserRecord) {
        let id = user.id.to_ascii().to_vec();
        self.write("HDEL", Key::Names, [user.name.clone().into_bytes()]);
        for key in [Key::Users, Key::TokenSets] {
            self.write("HDEL", key, [id.clone()]);
        }
        self.write("HDEL", Key::Owners, [user.id.to_u64().to_le_bytes().to_vec()]);
    }

    fn remove_token(&mut self, token: &TokenRecord) {
        let (id, digest) = (token.id.to_ascii().to_vec(), token.digest.as_bytes().to_vec());
        let entries = Entries::of(Some(token));
        for key in [Key::Tokens, Key::History] {
            self.write("HDEL", key, [id.clone()]);
        }
        for key in [Key::Grants, Key::Revoked] {
            self.write("HDEL", key, [digest.clone()]);
        }
        self.write("ZREM", Key::ByState, entries.by_state);
        self.write("ZREM", Key::ByOwner, entries.by_owner);
        self.write("ZREM", Key::Usage, [id.clone()]);
        self.write("ZREM", Key::Expiring, [id]);
    }

    fn add_user(&mut self, user: &UserItem) -> Result<(), Fault> {
        let UserItem { record, version, revision, token_set } = user;
        let (id, version_text) = (record.id.to_ascii().to_vec(), layout::version(*version));
        self.write("HSET", Key::Users, [id.clone(), versioned(&version_text, &json(record)?)]);
        self.write("HSET", Key::Names, [record.name.clone().into_bytes(), id.clone()]);
        let stamp = format!("{version} {revision} ").into_bytes();
        let owner = [stamp, record.owner().encode()].concat();
        self.write("HSET", Key::Owners, [record.id.to_u64().to_le_bytes().to_vec(), owner]);
        if let Some(set) = token_set {
            self.write("HSET", Key::TokenSets, [id, set.to_string().into_bytes()]);
        }
        Ok(())
    }

    fn add_token(&mut self, token: &TokenItem) -> Result<(), Fault> {
        let TokenItem { record, version, history } = token;
        let (id, digest) = (record.id.to_ascii().to_vec(), record.digest.as_bytes().to_vec());
        let entries = Entries::of(Some(record));
        self.write("HSET", Key::Tokens, [id.clone(), versioned(&layout::version(*version), &json(record)?)]);
        for (key, value) in [(Key::Grants, entries.grant), (Key::Revoked, entries.revoked)] {
            if let Some(value) = value {
                self.write("HSET", key, [digest.clone(), value]);
            }
        }
        for (key, entry) in [(Key::ByState, entries.by_state), (Key::ByOwner, entries.by_owner)] {
            if let Some(entry) = entry {
                self.write("ZADD", key, [b"0".to_vec(), entry]);
            }
        }
        if let Some(at) = entries.expiry {
            self.write("ZADD", Key::Expiring, [at, id.clone()]);
        }
        if !history.is_empty() {
            let lines: Result<Vec<_>, _> = history.iter().map(json).collect();
            self.write("HSET", Key::History, [id, lines?.join(&b'\n')]);
        }
        Ok(())
    }
}

fn versioned(version: &[u8], record: &[u8]) -> Vec<u8> {
    [version, b" ", record].concat()
}

fn json(record: &impl serde::Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(record).map_err(|problem| Fault::record("a new record".to_owned(), problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_in_parts_is_all_in_its_order() {
        let argument = |number: usize| vec![b'x'; number % 7];
        let filled = || {
            let mut piece = Piece::default();
            piece.write("HDEL", Key::Names, [b"old".to_vec()]);
            piece.write("HSET", Key::Users, (0..40).map(argument));
            piece.write("HSET", Key::Names, (0..6).map(argument));
            piece.write("RPUSH", Key::RecallLog, (0..5).map(argument));
            let line = || vec![b"7-0".to_vec(), b"l".to_vec(), b"line".to_vec()];
            piece.0.extend([line(), line()].map(|entry| (ENTRY, Place::Key(Key::Audit), entry)));
            piece
        };
        for most in [0, 1, 50, 200, 1 << 20] {
            let (mut piece, mut again, mut parts) = (filled(), Piece::default(), 0);
            loop {
                let writes = piece.take(most);
                if writes.is_empty() {
                    break;
                }
                let all = writes.iter().flat_map(|(_, _, arguments)| arguments);
                let bytes: usize = all.map(|argument| argument.len() + Piece::OF_ARGUMENT).sum();
                assert!(bytes <= most.max(32), "{bytes} of {most}");
                for (command, place, arguments) in writes {
                    assert!(command != "HSET" || arguments.len().is_multiple_of(2));
                    match command {
                        ENTRY => again.0.push_back((command, place, arguments)),
                        _ => again.write(command, place, arguments),
                    }
                }
                parts += 1;
            }
            assert_eq!(again, filled(), "{most}");
            assert_eq!(parts == 1, most > 1000, "{most}: {parts}");
        }
    }
}
