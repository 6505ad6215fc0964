//! Reads everything that there is.

use std::collections::BTreeSet;

use redis::{Cmd, FromRedisValue, Pipeline, cmd, from_redis_value};
use tokio::try_join;

use super::verify::Derived;
use crate::store::archive::{Inventory, Item, Items, Retired, TokenItem, UserItem};
use crate::store::redis::fault::Fault;
use crate::store::redis::layout::{self, Key, PositionFields};
use crate::store::redis::link::Use;
use crate::store::redis::log::{LoggedFields, log_entry};
use crate::store::redis::{Access, read, snapshot, trail, usage};
use crate::store::{Change, CommitId, Position};
use crate::token::{TokenId, UserId};

/// Records asked for at once.
pub(super) const PIECE: usize = 500;

/// Entries of the log read at once.
const ENTRIES: usize = 100;

/// How often what was changed meanwhile is read again.
const ROUNDS: usize = 100;

/// How often a scan begins anew because another server answers.
const SERVERS: usize = 3;

/// Values by field, in the order asked for.
type Values = Vec<Option<Vec<u8>>>;

/// Fields and their values.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Hands over everything.
pub(in super::super) async fn dump(access: &Access, items: &Items) -> Result<Inventory, Fault> {
    let mut reader = Reader::new(access, items, None);
    let mut position = read::position(access).await?;
    reader.everything().await?;
    for _ in 0..ROUNDS {
        // Before it is known whether all is read: then no entry is of a commit that came later.
        reader.audit().await?;
        let touched = Touched::after(access, position).await?;
        if let Some(inventory) = touched.inventory.filter(|now| now.position == position && reader.knows(&touched)) {
            access.link.release(Use::Bulk);
            return Ok(inventory);
        }
        reader.again(&touched).await?;
        position = touched.position;
    }
    Err(Fault::TooBusy)
}

/// What commits changed.
struct Touched {
    /// With those to whom tokens came.
    users: BTreeSet<UserId>,
    tokens: BTreeSet<TokenId>,
    /// The last of them.
    position: Position,
    /// What the store says of itself there, if nothing was committed while it said that.
    inventory: Option<Inventory>,
    /// How many digests were ever recalled.
    recalls: u64,
}

/// What [`Touched::after`] asks for: entries, the position, how many users, tokens, retired and recalled digests there are, and
/// the position again.
type Looked = (Vec<LoggedFields>, PositionFields, [u64; 4], PositionFields);

impl Touched {
    /// Reads the log after a position, to its end.
    async fn after(access: &Access, before: Position) -> Result<Self, Fault> {
        let (users, tokens) = (BTreeSet::new(), BTreeSet::new());
        let mut touched = Self { users, tokens, position: before, inventory: None, recalls: 0 };
        loop {
            let (entries, fields, [users, tokens, retired, recalled], then) = touched.look(access).await?;
            let newest = access.layout.position(&fields)?;
            if newest.epoch != before.epoch || newest.revision < touched.position.revision {
                return Err(Fault::OtherHistory);
            }
            for (id, fields) in &entries {
                touched.add(access, id, fields)?;
            }
            if newest.revision <= touched.position.revision {
                // Trimmed, or another history; further where it was committed in between.
                if newest.revision == touched.position.revision && newest != touched.position {
                    return Err(Fault::OtherHistory);
                }
                let position = newest;
                let inventory = Inventory { position, users, tokens, retired };
                touched.inventory = (access.layout.position(&then)? == newest).then_some(inventory);
                touched.recalls = recalled + layout::settled(&then);
                return Ok(touched);
            }
            if entries.is_empty() {
                return Ok(touched); // committed in between
            }
        }
    }

    /// Asks the primary: a scan may go on at one that is none any more, and its end may not.
    async fn look(&self, access: &Access) -> Result<Looked, Fault> {
        let key = |key| access.layout.key(key);
        let mut commands = Pipeline::new();
        // In this order: where nothing comes after the position, nothing did when the log was read either.
        let after = format!("({}", self.position.revision.0);
        commands.cmd("XRANGE").arg(key(Key::Log)).arg(after).arg("+").arg("COUNT").arg(ENTRIES);
        commands.cmd("HMGET").arg(key(Key::Meta)).arg(&layout::POSITION);
        commands.cmd("HLEN").arg(key(Key::Users)).cmd("HLEN").arg(key(Key::Tokens)).cmd("ZCARD").arg(key(Key::Retired));
        commands.cmd("SCARD").arg(key(Key::Recalled));
        commands.cmd("HMGET").arg(key(Key::Meta)).arg(&layout::POSITION);
        commands.cmd("ROLE");
        for _ in 0..SERVERS {
            let answer = access.link.read(Use::Bulk, &commands).await?;
            let (entries, fields, users, tokens, retired, recalled, then, role) = answer;
            let role: Vec<redis::Value> = role;
            let role = role.into_iter().next().and_then(|name| from_redis_value::<String>(name).ok());
            if role.as_deref() == Some("master") {
                return Ok((entries, fields, [users, tokens, retired, recalled], then));
            }
            access.link.discard();
        }
        Err(Fault::NotPrimary)
    }

    fn add(&mut self, access: &Access, id: &str, fields: &[Vec<u8>]) -> Result<(), Fault> {
        let damaged = |problem: &str| Fault::record(format!("{} {id}", access.layout.key(Key::Log)), problem);
        let entry = log_entry(id, fields).map_err(damaged)?;
        // One of the version before does not tell which tokens it touches.
        if !entry.follows(self.position.head, self.position.revision) || entry.id == CommitId::default() {
            return Err(Fault::OtherHistory);
        }
        for change in &entry.changes {
            match change {
                Change::PutGrant(_, grant) => {
                    self.tokens.insert(grant.token);
                    self.users.insert(grant.owner);
                }
                Change::PutOwner(user, _) | Change::RemoveOwner(user) => drop(self.users.insert(*user)),
                Change::RemoveGrant(_) => {}
            }
        }
        let others = fields.chunks_exact(2).find(|pair| pair[0] == b"t").map_or(&[][..], |pair| &pair[1]);
        let others = others.as_chunks().0.iter().map(|id| TokenId::from_u64(u64::from_le_bytes(*id)));
        self.tokens.extend(others);
        let position = entry.committed(self.position.epoch).position;
        self.position = position;
        Ok(())
    }
}

/// How far a scan is. Its cursor belongs to one run of one server: to another one, whose order is another, it says nothing, and
/// the scan begins anew. What is handed over twice counts once.
struct Scan {
    command: &'static str,
    key: Key,
    cursor: u64,
    run: String,
    servers: usize,
    is_over: bool,
}

impl Scan {
    fn of(command: &'static str, key: Key) -> Self {
        Self { command, key, cursor: 0, run: String::new(), servers: 0, is_over: false }
    }

    /// The next piece; `None` after the last one.
    async fn next<T: FromRedisValue>(&mut self, access: &Access) -> Result<Option<T>, Fault> {
        while !self.is_over {
            let mut commands = Pipeline::new();
            commands.cmd(self.command).arg(access.layout.key(self.key)).arg(self.cursor).arg("COUNT").arg(PIECE);
            // The same connection answers both.
            commands.cmd("INFO").arg("server");
            let ((next, found), info): ((u64, T), String) = access.link.read(Use::Bulk, &commands).await?;
            let run = snapshot::run_in(&info).unwrap_or_default();
            if self.run == run || self.cursor == 0 {
                (self.cursor, self.is_over) = (next, next == 0);
                run.clone_into(&mut self.run);
                return Ok(Some(found));
            }
            self.servers += 1;
            if self.servers >= SERVERS {
                return Err(Fault::OtherServers);
            }
            self.cursor = 0;
        }
        Ok(None)
    }
}

/// Reads, and hands over.
pub(super) struct Reader<'a> {
    access: &'a Access,
    items: &'a Items,
    /// What follows from the records is looked at too: nobody else writes meanwhile.
    derived: Option<Derived<'a>>,
    /// By the server's clock: what was deleted before was handed over.
    retired_since: f64,
    /// How many digests had been recalled when these were read.
    recalls: u64,
    /// The line of the audit trail that was handed over last.
    audit_seq: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(access: &'a Access, items: &'a Items, derived: Option<Derived<'a>>) -> Self {
        Self { access, items, derived, retired_since: 0.0, recalls: 0, audit_seq: 0 }
    }

    /// Scans all there is.
    pub(super) async fn everything(&mut self) -> Result<(), Fault> {
        let mut scan = Scan::of("HSCAN", Key::Users);
        while let Some(found) = scan.next::<Pairs>(self.access).await? {
            let (ids, records): (Vec<_>, Vec<_>) = found.into_iter().unzip();
            let users = self.users(&ids, records.into_iter().map(Some).collect()).await?;
            if let Some(derived) = &mut self.derived {
                derived.of_users(&users).await?;
            }
            self.hand_over(users).await?;
        }
        let mut all = BTreeSet::new();
        let mut scan = Scan::of("HSCAN", Key::Tokens);
        while let Some(found) = scan.next::<Pairs>(self.access).await? {
            let (ids, records): (Vec<_>, Vec<_>) = found.into_iter().unzip();
            let tokens = self.tokens(&ids, records.into_iter().map(Some).collect()).await?;
            if let Some(derived) = &mut self.derived {
                derived.of_tokens(&tokens).await?;
            }
            all.extend(tokens.iter().filter_map(Item::as_token).map(|token| token.record.id));
            self.hand_over(tokens).await?;
        }
        self.retired().await?;
        self.recalled().await?;
        let since = usage::usage(self.access, &[]).await?.since;
        self.hand_over(since.into_iter().map(Item::UsageSince).collect()).await?;
        self.usage(all).await?;
        match &self.derived {
            Some(derived) => derived.is_all().await,
            None => Ok(()),
        }
    }

    /// Reads again what was changed. Only that: in a busy registry something is, whenever all is read.
    async fn again(&mut self, touched: &Touched) -> Result<(), Fault> {
        let tokens: Vec<_> = touched.tokens.iter().map(|id| id.to_ascii().to_vec()).collect();
        let of_tokens = async {
            let mut owners = BTreeSet::new();
            for ids in tokens.chunks(PIECE) {
                let tokens = self.tokens(ids, self.values(Key::Tokens, ids).await?).await?;
                owners.extend(tokens.iter().filter_map(Item::as_token).map(|token| token.record.owner));
                self.hand_over(tokens).await?;
            }
            Ok::<_, Fault>(owners)
        };
        let ((), owners) = try_join!(self.users_again(touched.users.iter().copied()), of_tokens)?;
        // To whom revoked tokens came, the log does not tell.
        self.users_again(owners.difference(&touched.users).copied()).await?;
        if !tokens.is_empty() {
            self.retired().await?;
        }
        // What was handed over of them before went with what they were.
        self.usage(touched.tokens.iter().copied()).await?;
        match self.knows(touched) {
            true => Ok(()),
            false => self.recalled().await,
        }
    }

    /// How tokens were used, those that were.
    async fn usage(&self, tokens: impl IntoIterator<Item = TokenId>) -> Result<(), Fault> {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for tokens in tokens.chunks(PIECE) {
            self.hand_over(usage::items(self.access, tokens, PIECE).await?).await?;
        }
        Ok(())
    }

    async fn users_again(&self, ids: impl Iterator<Item = UserId>) -> Result<(), Fault> {
        let ids: Vec<_> = ids.map(|id| id.to_ascii().to_vec()).collect();
        for ids in ids.chunks(PIECE) {
            self.hand_over(self.users(ids, self.values(Key::Users, ids).await?).await?).await?;
        }
        Ok(())
    }

    /// Whether nothing was recalled since that was read. What is settled in between is revoked in the log.
    fn knows(&self, touched: &Touched) -> bool {
        touched.inventory.is_none() || self.recalls == touched.recalls
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        let (answer,) = self.access.link.read(Use::Bulk, Pipeline::new().add_command(command.clone())).await?;
        Ok(answer)
    }

    async fn hand_over(&self, items: Vec<Item>) -> Result<(), Fault> {
        self.items.send(items).await.map_err(|_| Fault::NobodyListens)
    }

    async fn values(&self, key: Key, fields: &[Vec<u8>]) -> Result<Values, Fault> {
        match fields {
            [] => Ok(Values::new()), // Redis takes no command without a field
            fields => self.ask(cmd("HMGET").arg(self.access.layout.key(key)).arg(fields)).await,
        }
    }

    /// Users; those without a record are no more.
    async fn users(&self, ids: &[Vec<u8>], records: Values) -> Result<Vec<Item>, Fault> {
        let mut named = Vec::with_capacity(ids.len());
        for id in ids {
            named.push(self.id::<UserId>(Key::Users, id)?);
        }
        let owner_keys: Vec<_> = named.iter().map(|id| id.to_u64().to_le_bytes().to_vec()).collect();
        let (owners, sets) = try_join!(self.values(Key::Owners, &owner_keys), self.values(Key::TokenSets, ids))?;
        let mut users = Vec::with_capacity(ids.len());
        for ((id, name), ((record, owner), set)) in ids.iter().zip(named).zip(records.iter().zip(&owners).zip(&sets)) {
            let Some(record) = record else {
                users.push(Item::NoUser(name));
                continue;
            };
            let damaged = |key, problem: &str| self.damaged(key, id, problem);
            let user = layout::parse_record(record).map_err(|problem| damaged(Key::Users, &problem))?;
            // Without one it was deleted meanwhile.
            let stamp = match owner {
                Some(owner) => layout::parse_owner(owner).ok_or_else(|| damaged(Key::Owners, "no owner"))?.1,
                None => Default::default(),
            };
            let set = set.as_deref().map(layout::parse_word::<CommitId>);
            let token_set = set.map(|set| set.ok_or_else(|| damaged(Key::TokenSets, "no commit id"))).transpose()?;
            let (version, revision) = (user.version, stamp.revision);
            users.push(Item::User(UserItem { record: user.record, version, revision, token_set }));
        }
        Ok(users)
    }

    /// Tokens, with their histories; those without a record are no more.
    async fn tokens(&self, ids: &[Vec<u8>], records: Values) -> Result<Vec<Item>, Fault> {
        let mut named = Vec::with_capacity(ids.len());
        for id in ids {
            named.push(self.id::<TokenId>(Key::Tokens, id)?);
        }
        let keys: Vec<_> = named.iter().map(|id| id.to_ascii()).collect();
        let histories = read::histories(self.access, Use::Bulk, &keys).await?;
        let mut tokens = Vec::with_capacity(ids.len());
        for ((id, key), (record, history)) in named.into_iter().zip(&keys).zip(records.iter().zip(histories)) {
            let Some(record) = record else {
                tokens.push(Item::NoToken(id));
                continue;
            };
            let token = layout::parse_record(record).map_err(|problem| self.damaged(Key::Tokens, key, &problem))?;
            tokens.push(Item::Token(TokenItem { record: token.record, version: token.version, history }));
        }
        Ok(tokens)
    }

    /// Digests of deleted tokens, by the time of it, from where it was left off.
    async fn retired(&mut self) -> Result<(), Fault> {
        let key = self.access.layout.key(Key::Retired);
        let (now, _): (u64, u64) = self.ask(&cmd("TIME")).await?;
        let mut offset = 0;
        loop {
            let mut range = cmd("ZRANGE");
            range.arg(key).arg(self.retired_since).arg("+inf").arg("BYSCORE");
            range.arg("LIMIT").arg(offset).arg(PIECE).arg("WITHSCORES");
            let found: Vec<(Vec<u8>, f64)> = self.ask(&range).await?;
            let mut retired = Vec::with_capacity(found.len());
            for (digest, at) in &found {
                let digest = layout::digest(digest).ok_or_else(|| self.damaged(Key::Retired, digest, "no digest"))?;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since 1970")]
                let age = now.saturating_sub(*at as u64);
                retired.push(Item::Retired(Retired { digest, age }));
            }
            self.hand_over(retired).await?;
            // Many can be of one second.
            match found.last() {
                Some((_, last)) if *last > self.retired_since => {
                    offset = found.iter().filter(|(_, at)| at == last).count();
                    self.retired_since = *last;
                }
                _ => offset += found.len(),
            }
            if found.len() < PIECE {
                return Ok(());
            }
        }
    }

    /// What sidecars recalled.
    async fn recalled(&mut self) -> Result<(), Fault> {
        let mut commands = Pipeline::new();
        commands.cmd("SCARD").arg(self.access.layout.key(Key::Recalled));
        commands.cmd("HMGET").arg(self.access.layout.key(Key::Meta)).arg(&layout::POSITION);
        let (count, fields): (u64, PositionFields) = self.access.link.read(Use::Bulk, &commands).await?;
        self.recalls = count + layout::settled(&fields);
        let mut scan = Scan::of("SSCAN", Key::Recalled);
        while let Some(found) = scan.next::<Vec<Vec<u8>>>(self.access).await? {
            // Whoever can add members can add others than digests, which nobody reads.
            let digests: Vec<_> = found.iter().filter_map(|member| layout::digest(member)).collect();
            if let Some(derived) = &mut self.derived {
                derived.of_recalled(&digests);
            }
            self.hand_over(digests.into_iter().map(Item::Recalled).collect()).await?;
        }
        Ok(())
    }

    /// The audit trail from where it was left off, and what is loose. Whatever is chained in between has lines: so where there
    /// are none after the loose entries were read, these are the ones that come next.
    pub(super) async fn audit(&mut self) -> Result<(), Fault> {
        let mut loose: Option<Vec<Vec<u8>>> = None;
        loop {
            let lines = trail::after(self.access, self.audit_seq, PIECE).await?;
            match (lines.last(), loose.take()) {
                (Some(last), _) => self.audit_seq = last.seq,
                (None, Some(loose)) => return self.hand_over(vec![Item::of_loose(&loose)]).await,
                (None, None) => {
                    let key = self.access.layout.key(Key::AuditLoose);
                    loose = Some(self.ask(cmd("LRANGE").arg(key).arg(0).arg(-1)).await?);
                }
            }
            self.hand_over(lines.iter().map(Item::of_audit).collect()).await?;
        }
    }

    fn id<T: std::str::FromStr>(&self, key: Key, id: &[u8]) -> Result<T, Fault> {
        let parsed = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        parsed.ok_or_else(|| self.damaged(key, id, "its name is not an id"))
    }

    fn damaged(&self, key: Key, id: &[u8], problem: &str) -> Fault {
        Fault::record(format!("{} {}", self.access.layout.key(key), String::from_utf8_lossy(id)), problem)
    }
}
