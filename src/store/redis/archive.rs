//! Everything that is in a namespace, handed over while it goes on; and a namespace that is filled from elsewhere.
//!
//! Redis has no snapshots. So all is scanned, and then read again what the log says was changed since the scan began, until
//! nothing was:
//!
//! ```text
//!   position P ─► users, tokens with histories ─► recalled ─► log after P? ─┬─ none, and the position is P: done
//!                       ▲   users, retired, the tokens that were touched ◄──┴─ entries up to P'
//!                       └────────────────────────────── P := P' ◄──┘
//! ```
//!
//! A namespace that is being filled has `unfinished`, which says by whom and how many pieces are written, and no meta. Each piece
//! is a script that checks both: what a failover lost, or another command has taken over, is noticed with the next one.

use std::collections::BTreeSet;
use std::time::Instant;

use async_trait::async_trait;
use jiff::Timestamp;
use redis::{Cmd, Pipeline, cmd};

use super::commit::Entries;
use super::fault::Fault;
use super::layout::{self, Key, Layout, SCHEMA};
use super::link::Use;
use super::log::LoggedFields;
use super::unusable::Unusable;
use super::usage::SINCE;
use super::{Access, RedisStore, read, script};
use crate::store::archive::{CopyError, Item, Items, Retired, TokenItem, Unfinished, UsageItem, UserItem, succeeding};
use crate::store::{Change, CommitId, NoRegistry, Position, Retention, Settings, StoreError};
use crate::token::{TokenId, UserId};

const BEGIN: &str = include_str!("begin.lua");
const FILL: &str = include_str!("fill.lua");
const FINISH: &str = include_str!("finish.lua");
const FREEZE: &str = include_str!("freeze.lua");

/// Records asked for at once.
const PIECE: usize = 500;

/// Entries of the log read at once.
const ENTRIES: usize = 100;

/// How often what was changed meanwhile is read again.
const ROUNDS: usize = 1000;

/// Values by field, in the order asked for.
type Values = Vec<Option<Vec<u8>>>;

/// Hands over everything.
pub(super) async fn dump(access: &Access, items: &Items) -> Result<Position, Fault> {
    let mut reader = Reader::new(access, items);
    let mut position = super::read::position(access).await?;
    reader.everything().await?;
    for _ in 0..ROUNDS {
        // Before it is known whether all is read: then no entry is of a commit that came later.
        reader.audit().await?;
        let touched = Touched::after(access, position).await?;
        if touched.position == position {
            access.link.release(Use::Bulk);
            return Ok(position);
        }
        reader.users().await?;
        reader.retired().await?;
        reader.touched(&touched).await?;
        // What was handed over of them before went with what they were.
        reader.usage(&touched.tokens.iter().copied().collect::<Vec<_>>()).await?;
        position = touched.position;
    }
    Err(Fault::TooBusy)
}

/// What commits changed.
struct Touched {
    users: BTreeSet<UserId>,
    tokens: BTreeSet<TokenId>,
    /// The last of them.
    position: Position,
}

impl Touched {
    /// Reads the log after a position, to its end.
    async fn after(access: &Access, before: Position) -> Result<Self, Fault> {
        let mut touched = Self { users: BTreeSet::new(), tokens: BTreeSet::new(), position: before };
        loop {
            let mut commands = Pipeline::new();
            // In this order: where nothing comes after the position, nothing did when the log was read either.
            commands.cmd("XRANGE").arg(access.layout.key(Key::Log));
            commands.arg(format!("({}", touched.position.revision.0)).arg("+").arg("COUNT").arg(ENTRIES);
            commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&layout::POSITION);
            let (entries, fields): (Vec<LoggedFields>, _) = access.link.read(Use::Bulk, &commands).await?;
            let newest = access.layout.position(&fields)?;
            if newest.epoch != before.epoch || newest.revision < touched.position.revision {
                return Err(Fault::OtherHistory);
            }
            for (id, fields) in &entries {
                touched.add(access, id, fields)?;
            }
            if entries.is_empty() {
                return match newest == touched.position {
                    true => Ok(touched),
                    // Trimmed, or another history.
                    false if newest.revision == touched.position.revision => Err(Fault::OtherHistory),
                    // Committed in between.
                    false => Ok(touched),
                };
            }
        }
    }

    fn add(&mut self, access: &Access, id: &str, fields: &[Vec<u8>]) -> Result<(), Fault> {
        let damaged = |problem: &str| Fault::record(format!("{} {id}", access.layout.key(Key::Log)), problem);
        let entry = super::log::log_entry(id, fields).map_err(damaged)?;
        // One of the version before does not tell which tokens it touches.
        if !entry.follows(self.position.head, self.position.revision) || entry.id == CommitId::default() {
            return Err(Fault::OtherHistory);
        }
        for change in &entry.changes {
            match change {
                Change::PutGrant(_, grant) => drop(self.tokens.insert(grant.token)),
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

struct Reader<'a> {
    access: &'a Access,
    items: &'a Items,
    /// By the server's clock: what was deleted before was handed over.
    retired_since: f64,
    /// Those that were handed over.
    tokens: Vec<TokenId>,
    /// The line of the audit trail that was handed over last.
    audit_seq: u64,
}

impl<'a> Reader<'a> {
    fn new(access: &'a Access, items: &'a Items) -> Self {
        Self { access, items, retired_since: 0.0, tokens: Vec::new(), audit_seq: 0 }
    }

    /// Scans all there is.
    async fn everything(&mut self) -> Result<(), Fault> {
        self.users().await?;
        let mut cursor = 0;
        loop {
            let (next, found) = self.step(Key::Tokens, cursor).await?;
            let (ids, records): (Vec<_>, Vec<_>) = found.into_iter().unzip();
            for id in &ids {
                self.tokens.push(self.id(Key::Tokens, id)?);
            }
            self.tokens(&ids, records.into_iter().map(Some).collect()).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        self.retired().await?;
        self.recalled().await?;
        let since = super::usage::usage(self.access, &[]).await?.since;
        self.hand_over(since.into_iter().map(Item::UsageSince).collect()).await?;
        let tokens = std::mem::take(&mut self.tokens);
        self.usage(&tokens).await
    }

    /// How tokens were used, those that were.
    async fn usage(&self, tokens: &[TokenId]) -> Result<(), Fault> {
        for tokens in tokens.chunks(PIECE) {
            self.hand_over(super::usage::items(self.access, tokens, PIECE).await?).await?;
        }
        Ok(())
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        let (answer,) = self.access.link.read(Use::Bulk, Pipeline::new().add_command(command.clone())).await?;
        Ok(answer)
    }

    async fn hand_over(&self, items: Vec<Item>) -> Result<(), Fault> {
        self.items.send(items).await.map_err(|_| Fault::NobodyListens)
    }

    async fn step(&self, key: Key, cursor: u64) -> Result<(u64, Vec<(Vec<u8>, Vec<u8>)>), Fault> {
        self.ask(cmd("HSCAN").arg(self.access.layout.key(key)).arg(cursor).arg("COUNT").arg(PIECE)).await
    }

    async fn values(&self, key: Key, fields: &[Vec<u8>]) -> Result<Values, Fault> {
        match fields {
            [] => Ok(Values::new()), // Redis takes no command without a field
            fields => self.ask(cmd("HMGET").arg(self.access.layout.key(key)).arg(fields)).await,
        }
    }

    async fn users(&self) -> Result<(), Fault> {
        let mut cursor = 0;
        loop {
            let (next, found) = self.step(Key::Users, cursor).await?;
            let ids: Vec<_> = found.iter().map(|(id, _)| id.clone()).collect();
            let mut owner_keys = Vec::with_capacity(ids.len());
            for id in &ids {
                owner_keys.push(self.id::<UserId>(Key::Users, id)?.to_u64().to_le_bytes().to_vec());
            }
            let (owners, sets) =
                (self.values(Key::Owners, &owner_keys).await?, self.values(Key::TokenSets, &ids).await?);
            let mut users = Vec::with_capacity(ids.len());
            for ((id, record), (owner, set)) in found.iter().zip(owners.iter().zip(&sets)) {
                let damaged = |key, problem: &str| self.damaged(key, id, problem);
                let user = layout::parse_record(record).map_err(|problem| damaged(Key::Users, &problem))?;
                // Without one it was deleted meanwhile.
                let stamp = match owner {
                    Some(owner) => layout::parse_owner(owner).ok_or_else(|| damaged(Key::Owners, "no owner"))?.1,
                    None => Default::default(),
                };
                let set = set.as_deref().map(layout::parse_word::<CommitId>);
                let token_set =
                    set.map(|set| set.ok_or_else(|| damaged(Key::TokenSets, "no commit id"))).transpose()?;
                let (version, revision) = (user.version, stamp.revision);
                users.push(Item::User(UserItem { record: user.record, version, revision, token_set }));
            }
            self.hand_over(users).await?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Tokens, with their histories; those without a record are no more.
    async fn tokens(&self, ids: &[Vec<u8>], records: Values) -> Result<(), Fault> {
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
        self.hand_over(tokens).await
    }

    async fn touched(&self, touched: &Touched) -> Result<(), Fault> {
        let users: Vec<_> = touched.users.iter().map(|id| id.to_ascii().to_vec()).collect();
        let found = self.values(Key::Users, &users).await?;
        let gone = touched.users.iter().zip(found).filter(|(_, user)| user.is_none());
        self.hand_over(gone.map(|(id, _)| Item::NoUser(*id)).collect()).await?;
        let ids: Vec<_> = touched.tokens.iter().map(|id| id.to_ascii().to_vec()).collect();
        for ids in ids.chunks(PIECE) {
            self.tokens(ids, self.values(Key::Tokens, ids).await?).await?;
        }
        Ok(())
    }

    /// Digests of deleted tokens, by the time of it, from where it was left off.
    async fn retired(&mut self) -> Result<(), Fault> {
        let key = self.access.layout.key(Key::Retired);
        let (now,): (u64,) = {
            let time: (u64, u64) = self.ask(&cmd("TIME")).await?;
            (time.0,)
        };
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

    /// The audit trail from where it was left off, and what is loose. Whatever is chained in between has lines: so where there
    /// are none after the loose entries were read, these are the ones that come next.
    async fn audit(&mut self) -> Result<(), Fault> {
        let mut loose: Option<Vec<Vec<u8>>> = None;
        loop {
            let lines = super::trail::after(self.access, self.audit_seq, PIECE).await?;
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

    /// Before the log is read for the last time: what is settled in between is revoked there.
    async fn recalled(&self) -> Result<(), Fault> {
        let (key, mut cursor) = (self.access.layout.key(Key::Recalled), 0);
        loop {
            let (next, found): (u64, Vec<Vec<u8>>) =
                self.ask(cmd("SSCAN").arg(key).arg(cursor).arg("COUNT").arg(PIECE)).await?;
            // Whoever can add members can add others than digests, which nobody reads.
            let digests = found.iter().filter_map(|member| layout::digest(member));
            self.hand_over(digests.map(Item::Recalled).collect()).await?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
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

/// A namespace that is being filled.
#[derive(Debug)]
pub(crate) struct RedisUnfinished {
    store: RedisStore,
    /// Ours: of who fills a namespace, the last one to begin.
    writer: String,
    pieces: u64,
    /// When that was, by the server's clock.
    began: u64,
}

impl RedisUnfinished {
    /// Removes what another one has left unfinished.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where there is a registry, or something else.
    pub(crate) async fn begin(settings: &Settings) -> Result<Self, StoreError> {
        let store = RedisStore::new(settings, Retention::default())?;
        let begun = Self::make(&store.access).await;
        let (writer, began) = store.map_fault("making the registry", begun).await?;
        Ok(Self { store, writer, pieces: 0, began })
    }

    async fn make(access: &Access) -> Result<(String, u64), Fault> {
        // Nothing is made where it would be lost.
        if let Some(problem) = super::replay::problem(access).await? {
            return Err(problem.into());
        }
        remove_usage(access).await?;
        let writer = CommitId::random().map_err(Fault::Entropy)?.to_string();
        let mut begin = script("EVAL", BEGIN, &keys(access));
        let answer: Vec<String> = access.ask(begin.arg(&writer)).await?;
        understand(access, &answer)?;
        let (seconds, _): (u64, u64) = access.ask(&cmd("TIME")).await?;
        Ok((writer, seconds))
    }

    async fn fill(&mut self, items: &[Item]) -> Result<(), Fault> {
        let access = std::sync::Arc::clone(&self.store.access);
        let mut piece = Piece::default();
        for item in items {
            piece.add(&access, self.began, item).await?;
        }
        for writes in piece.in_parts() {
            self.pieces += 1;
            let mut fill = script("EVAL", FILL, &keys(&access));
            fill.arg(&self.writer).arg(self.pieces);
            for (command, place, arguments) in &writes {
                fill.arg(*command).arg(place.key(&access.layout)).arg(arguments.len()).arg(arguments);
            }
            // Done twice, it finds that it was done.
            let answer: Vec<String> = access.ask(&fill).await?;
            understand(&access, &answer)?;
        }
        Ok(())
    }

    /// Makes a registry of it. [`Unfinished::finish`] says what is open when that is not answered.
    async fn end(&self, after: Position) -> Result<Position, Ending> {
        let (access, (id, position)) = (&self.store.access, succeeding(after).map_err(Fault::Entropy)?);
        let mut finish = script("EVAL", FINISH, &keys(access));
        finish.arg(&self.writer).arg(self.pieces).arg(SCHEMA).arg(position.epoch.to_string());
        finish.arg(position.revision.0).arg(position.head.to_string()).arg(format!("{:016x}", position.checksum));
        finish.arg(id.to_string());
        let mut commands = Pipeline::new();
        commands.add_command(finish);
        if access.quorum > 0 {
            commands.cmd("WAIT").arg(access.quorum).arg(super::commit::CONFIRM_TIMEOUT.as_millis());
        }
        let deadline = Instant::now() + super::commit::RESOLVE_TIMEOUT;
        let mut is_open = false;
        loop {
            // Done twice, it finds what it did the first time.
            match Self::attempt(access, &commands).await {
                Ok(()) => return Ok(position),
                Err(fault @ Fault::Unconfirmed { .. }) => return Err(Ending::Unknown(fault)),
                Err(fault) => {
                    is_open |= fault.leaves_open();
                    if !is_open {
                        return Err(fault.into());
                    }
                    if fault.is_final() || Instant::now() >= deadline {
                        return Err(Ending::Unknown(fault));
                    }
                    tracing::debug!(store = access.name, reason = %fault, "asking again whether it is complete");
                    tokio::time::sleep(super::commit::RESOLVE_PAUSE).await;
                }
            }
        }
    }

    async fn attempt(access: &Access, commands: &Pipeline) -> Result<(), Fault> {
        if access.quorum == 0 {
            let (answer,): (Vec<String>,) = access.link.send(Use::Main, commands).await?;
            return understand(access, &answer);
        }
        let (answer, confirmed): (Vec<String>, u64) = access.link.send(Use::Confirming, commands).await?;
        understand(access, &answer)?;
        match confirmed < u64::from(access.quorum) {
            true => Err(Fault::Unconfirmed { confirmed, wanted: access.quorum }),
            false => Ok(()),
        }
    }
}

/// Why it was not made a registry, or why that is not known.
enum Ending {
    Failed(Fault),
    Unknown(Fault),
}

impl From<Fault> for Ending {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

#[async_trait]
impl Unfinished for RedisUnfinished {
    async fn write(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for items in items.chunks(PIECE) {
            outcome = outcome.and(self.fill(items).await);
            if outcome.is_err() {
                break;
            }
        }
        self.store.map_fault("filling the registry", outcome).await
    }

    async fn read(&mut self, items: Items) -> Result<(), StoreError> {
        let access = &self.store.access;
        let mut reader = Reader::new(access, &items);
        let read = async {
            reader.everything().await?;
            reader.audit().await
        };
        let read = read.await;
        self.store.map_fault("reading the new registry", read).await
    }

    async fn finish(self: Box<Self>, after: Position) -> Result<Position, CopyError> {
        let operation = "finishing the registry";
        match self.end(after).await {
            Ok(position) => Ok(position),
            Err(Ending::Failed(fault)) => Ok(self.store.map_fault(operation, Err(fault)).await?),
            Err(Ending::Unknown(fault)) => Err(CopyError::Unknown(fault.during(operation, &self.store.access.name))),
        }
    }
}

/// There is no registry: perhaps one that is not finished.
pub(super) async fn absent(access: &Access, found: NoRegistry) -> Fault {
    let key = access.layout.key(Key::Unfinished);
    match access.ask::<u64>(cmd("EXISTS").arg(key)).await {
        Ok(1) => Unusable::Unfinished(key.to_owned()).into(),
        _ => Fault::Absent(found),
    }
}

/// Removes the agents of tokens that another command has left unfinished: each token has keys of its own for them.
async fn remove_usage(access: &Access) -> Result<(), Fault> {
    let (unfinished, usage) = (access.layout.key(Key::Unfinished), access.layout.key(Key::Usage));
    let mut commands = Pipeline::new();
    commands.cmd("EXISTS").arg(unfinished).cmd("EXISTS").arg(access.layout.key(Key::Meta));
    if access.link.read::<(u64, u64)>(Use::Main, &commands).await? != (1, 0) {
        return Ok(());
    }
    loop {
        let found: Vec<String> = access.ask(cmd("ZRANGE").arg(usage).arg(0).arg(PIECE - 1)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let mut commands = Pipeline::new();
        for token in found.iter().filter_map(|token| token.parse().ok()) {
            let (seen, who) = access.layout.agents_of(token);
            commands.cmd("UNLINK").arg(seen).arg(who).ignore();
        }
        commands.cmd("ZREM").arg(usage).arg(&found).ignore();
        access.link.read::<()>(Use::Main, &commands).await?;
    }
}

/// What says who fills it, and then what a registry has, meta first.
fn keys(access: &Access) -> Vec<&str> {
    let of_commit = access.layout.of_commit().iter().map(String::as_str);
    let others = [Key::Recalled, Key::RecallLog, Key::Audit, Key::AuditWritten].map(|key| access.layout.key(key));
    [access.layout.key(Key::Unfinished)].into_iter().chain(of_commit).chain(others).collect()
}

fn understand(access: &Access, answer: &[String]) -> Result<(), Fault> {
    let layout = &access.layout;
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["done"] => Ok(()),
        ["registry"] => Err(Unusable::NotEmpty.into()),
        ["foreign", key] => {
            Err(Unusable::Leftover { key: key.to_owned(), meta: layout.key(Key::Meta).to_owned() }.into())
        }
        ["lost"] => Err(Fault::PieceLost),
        ["taken"] => Err(Unusable::Filled.into()),
        ["absent"] => Err(layout.absent()),
        ["forbidden", what] => Err(Fault::NotPermitted(what.to_owned())),
        _ => Err(Fault::UnexpectedAnswer(answer.join(" "))),
    }
}

/// Writes of some items.
#[derive(Default)]
struct Piece(Vec<Write>);

/// A command, its key, and what comes after that.
type Write = (&'static str, Place, Vec<Vec<u8>>);

/// What is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Key(Key),
    /// When the agents of a token used it.
    Seen(TokenId),
    /// What is known of them.
    Who(TokenId),
}

impl Place {
    fn key(self, layout: &Layout) -> String {
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

impl Piece {
    /// Most arguments of one script.
    const MOST: usize = 20_000;

    fn write(&mut self, command: &'static str, place: impl Into<Place>, arguments: impl IntoIterator<Item = Vec<u8>>) {
        let place = place.into();
        match self.0.iter_mut().rev().find(|(_, of, _)| *of == place) {
            Some((last, _, all)) if *last == command => all.extend(arguments),
            _ => self.0.push((command, place, arguments.into_iter().collect())),
        }
    }

    /// As few scripts as have room for all.
    fn in_parts(self) -> Vec<Vec<Write>> {
        let (mut parts, mut count) = (vec![Vec::new()], 0);
        for write in self.0 {
            count += write.2.len();
            if count > Self::MOST {
                count = write.2.len();
                parts.push(Vec::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push(write);
            }
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    async fn add(&mut self, access: &Access, now: u64, item: &Item) -> Result<(), Fault> {
        match item {
            Item::User(user) => self.add_user(user),
            Item::Token(token) => self.add_token(token),
            Item::Retired(retired) => {
                let at = now.saturating_sub(retired.age).to_string().into_bytes();
                self.write("ZADD", Key::Retired, [at, retired.digest.as_bytes().to_vec()]);
                Ok(())
            }
            Item::Recalled(digest) => {
                self.write("SADD", Key::Recalled, [digest.as_bytes().to_vec()]);
                self.write("RPUSH", Key::RecallLog, [digest.as_bytes().to_vec()]);
                Ok(())
            }
            Item::Audit { seq, line } => {
                let arguments = vec![format!("{seq}-0").into_bytes(), b"l".to_vec(), line.clone().into_bytes()];
                self.0.push(("XADD", Place::Key(Key::Audit), arguments));
                Ok(())
            }
            Item::AuditLoose(entries) => {
                // Empties it.
                self.0.push(("LTRIM", Place::Key(Key::AuditLoose), vec![b"1".to_vec(), b"0".to_vec()]));
                if !entries.is_empty() {
                    let entries = entries.iter().map(|entry| entry.clone().into_bytes());
                    self.0.push(("RPUSH", Place::Key(Key::AuditLoose), entries.collect()));
                }
                Ok(())
            }
            Item::NoUser(id) => {
                if let Some(user) = super::read::user(access, *id).await? {
                    let ascii = id.to_ascii().to_vec();
                    self.write("HDEL", Key::Names, [user.record.name.into_bytes()]);
                    self.write("HDEL", Key::Users, [ascii.clone()]);
                    self.write("HDEL", Key::TokenSets, [ascii]);
                    self.write("HDEL", Key::Owners, [id.to_u64().to_le_bytes().to_vec()]);
                }
                Ok(())
            }
            Item::NoToken(id) => {
                if let Some(token) = super::read::tokens_by_id(access, &[*id]).await?.pop().flatten() {
                    self.remove(*id, &token.record);
                    let (seen, who) = access.layout.agents_of(*id);
                    access.ask::<u64>(cmd("UNLINK").arg(seen).arg(who)).await?;
                }
                Ok(())
            }
            Item::Usage(usage) => {
                self.add_usage(usage);
                Ok(())
            }
            Item::UsageSince(since) => {
                let at = since.as_millisecond().to_string().into_bytes();
                self.write("ZADD", Key::Usage, [at, SINCE.as_bytes().to_vec()]);
                Ok(())
            }
        }
    }

    fn remove(&mut self, id: TokenId, token: &crate::token::TokenRecord) {
        let (id, digest) = (id.to_ascii().to_vec(), token.digest.as_bytes().to_vec());
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

    fn add_usage(&mut self, UsageItem { token, last_used, levels, agents }: &UsageItem) {
        let at = |moment: &Timestamp| moment.as_millisecond().to_string().into_bytes();
        self.write("ZADD", Key::Usage, [at(last_used), token.to_ascii().to_vec()]);
        for agent in agents {
            let name = agent.name.key().into_bytes();
            self.write("ZADD", Place::Seen(*token), [at(&agent.last_used), name]);
            self.write("HSET", Place::Who(*token), super::usage::fields(agent));
        }
        if !levels.is_empty() {
            self.write("HSET", Place::Who(*token), [b"levels".to_vec(), levels.clone().into_bytes()]);
        }
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

/// Refuses changes from now on, for this reason; or, without one, takes them again.
pub(super) async fn freeze(access: &Access, reason: Option<&str>) -> Result<(), Fault> {
    let mut freeze = script("EVAL", FREEZE, &[access.layout.key(Key::Meta)]);
    let answer: Vec<String> = access.ask(freeze.arg(reason)).await?;
    understand(access, &answer)
}

/// The reason, if changes are refused.
pub(super) async fn frozen(access: &Access) -> Result<Option<String>, Fault> {
    let (frozen,): (Option<String>,) = access.ask(cmd("HMGET").arg(access.layout.key(Key::Meta)).arg("frozen")).await?;
    Ok(frozen)
}
