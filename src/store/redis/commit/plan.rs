//! A batch, laid out as the script takes it: what must hold, then what to write.

use std::collections::{BTreeMap, HashSet};

use redis::{Cmd, Pipeline};

use super::super::fault::Fault;
use super::super::layout::{self, Key, Layout, Mark, SCHEMA};
use super::super::script;
use super::CommitFailure;
use crate::store::{Batch, Change, CommitError, CommitId, Edit, Pin, Retention, change};
use crate::token::{Digest, MAX_HISTORY, TokenId, TokenRecord, UserRecord};

const SCRIPT: &str = concat!("#!lua\n", include_str!("../commit.lua"));

/// The same for a batch that only takes away: Redis runs it although its memory is full.
const SCRIPT_THAT_TAKES_AWAY: &str = concat!("#!lua flags=allow-oom\n", include_str!("../commit.lua"));

/// What to do under one key, by the name that the script knows it by. What goes comes before what is put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Write {
    RemoveFields,
    RemoveMembers,
    /// Tokens whose histories go.
    ForgetHistories,
    /// Tokens whose use is forgotten, with their agents.
    Disuse,
    PutFields,
    /// As `PutFields`, with the commit's id before each value.
    PutRecords,
    /// As `PutFields`, with the commit's id and revision before each value.
    PutStamped,
    /// Fields whose value is the commit's id.
    Mark,
    /// Tokens, each with an entry that comes after those of its history.
    AppendEntries,
    PutMembers,
    /// Items that come after those of a list.
    Append,
    /// Members whose score is the time.
    Retire,
}

impl Write {
    const fn name(self) -> &'static str {
        match self {
            Self::RemoveFields => "HDEL",
            Self::RemoveMembers => "ZREM",
            Self::ForgetHistories => "FORGET",
            Self::Disuse => "DISUSE",
            Self::PutFields => "HSET",
            Self::PutRecords => "VERSIONED",
            Self::PutStamped => "STAMPED",
            Self::Mark => "MARK",
            Self::AppendEntries => "APPEND",
            Self::PutMembers => "ZADD",
            Self::Append => "RPUSH",
            Self::Retire => "RETIRE",
        }
    }
}

/// Items that are handed over with their number before them.
type List = Vec<Vec<u8>>;

/// What the script is to check and to write.
#[derive(Debug)]
pub(super) struct Plan {
    script: &'static str,
    no_users: bool,
    /// Users, each with the id that its token set must have; the empty one means none.
    token_sets: List,
    checksum_delta: u64,
    pub(super) changes: Vec<Change>,
    /// As they are written.
    encoded: Vec<u8>,
    mark: Mark,
    /// Ids of the tokens that it writes or deletes and whose changes do not tell the id.
    untold: Vec<u8>,
    /// Users and tokens that must have these versions; the empty one means none at all.
    users: (List, List),
    tokens: (List, List),
    /// Tokens that must exist.
    present: List,
    free_digests: List,
    free_names: List,
    writes: BTreeMap<(Write, Key), List>,
}

impl Plan {
    pub(super) fn of(batch: &Batch) -> Result<Self, CommitFailure> {
        batch.check().map_err(Fault::from)?;
        let mut plan = Self {
            script: if batch.only_takes_away() { SCRIPT_THAT_TAKES_AWAY } else { SCRIPT },
            no_users: batch.pins.contains(&Pin::NoUsers),
            token_sets: List::new(),
            checksum_delta: batch.checksum_delta(),
            changes: Vec::new(),
            encoded: Vec::new(),
            mark: Mark::Whole,
            untold: untold(batch),
            users: (List::new(), List::new()),
            tokens: (List::new(), List::new()),
            present: List::new(),
            free_digests: List::new(),
            free_names: List::new(),
            writes: BTreeMap::new(),
        };
        plan.changes = batch.changes();
        plan.encoded = change::encode(&plan.changes);
        plan.mark = Mark::of(plan.encoded.len(), batch.takes_away());
        for pin in &batch.pins {
            if let Pin::TokensOf { user, since } = pin {
                let since = since.map_or(Vec::new(), layout::version);
                plan.token_sets.extend([user.to_ascii().to_vec(), since]);
            }
        }
        plan.add_users(&batch.users)?;
        plan.check_digests(&batch.tokens)?;
        for edit in &batch.tokens {
            plan.add_token(edit)?;
        }
        for user in batch.receivers() {
            plan.write(Write::Mark, Key::TokenSets, [user.to_ascii().to_vec()]);
        }
        plan.add_history(batch)?;
        if !batch.audit.is_empty() {
            plan.write(Write::Append, Key::AuditLoose, batch.audit.iter().cloned());
        }
        Ok(plan)
    }

    /// The script's invocation under an id.
    pub(super) fn command(&self, layout: &Layout, retention: &Retention, id: CommitId) -> Pipeline {
        // The text goes along each time: the server finds what it compiled before by its hash, and nothing has to be
        // done when it has forgotten it.
        let mut command = script("EVAL", self.script, layout.of_commit());
        command.arg(layout.channel()).arg(id.to_string()).arg(SCHEMA);
        command.arg(format!("{:016x}", self.checksum_delta));
        command.arg(self.changes.len()).arg(&self.encoded).arg(self.mark.text()).arg(&self.untold);
        command.arg(retention.log_entries).arg(retention.log_changes);
        command.arg(retention.tombstones).arg(retention.tombstone_age.as_secs()).arg(MAX_HISTORY);
        for list in [&self.users.0, &self.users.1, &self.tokens.0, &self.tokens.1] {
            add_list(&mut command, list);
        }
        command.arg(self.no_users.to_string());
        for list in [&self.token_sets, &self.present, &self.free_digests, &self.free_names] {
            add_list(&mut command, list);
        }
        for ((write, key), list) in &self.writes {
            command.arg(write.name()).arg(key.of_commit());
            add_list(&mut command, list);
        }
        let mut pipeline = Pipeline::new();
        pipeline.add_command(command);
        pipeline
    }

    fn write(&mut self, write: Write, key: Key, arguments: impl IntoIterator<Item = Vec<u8>>) {
        self.writes.entry((write, key)).or_default().extend(arguments);
    }

    fn add_users(&mut self, edits: &[Edit<UserRecord>]) -> Result<(), CommitFailure> {
        let given_up: HashSet<&str> = edits.iter().filter_map(|edit| Some(names(edit).0?.as_str())).collect();
        let mut taken = HashSet::new();
        for edit in edits {
            let id = edit.record().id.to_ascii().to_vec();
            self.users.0.push(id.clone());
            self.users.1.push(version(edit));
            let (old_name, new_name) = names(edit);
            if let Some(name) = old_name {
                self.write(Write::RemoveFields, Key::Names, [name.clone().into_bytes()]);
            }
            if let Some(name) = new_name {
                if !taken.insert(name) {
                    return Err(CommitError::NameTaken(name.clone()).into());
                }
                // What another user of the batch gives up is removed first.
                if !given_up.contains(name.as_str()) {
                    self.free_names.push(name.clone().into_bytes());
                }
                self.write(Write::PutFields, Key::Names, [name.clone().into_bytes(), id.clone()]);
            }
            let owner_key = edit.record().id.to_u64().to_le_bytes().to_vec();
            match edit {
                Edit::Create(user) | Edit::Update { after: user, .. } => {
                    self.write(Write::PutRecords, Key::Users, [id, json(user)?]);
                    self.write(Write::PutStamped, Key::Owners, [owner_key, user.owner().encode()]);
                }
                Edit::Delete(_) => {
                    self.write(Write::RemoveFields, Key::Users, [id.clone()]);
                    self.write(Write::RemoveFields, Key::TokenSets, [id]);
                    self.write(Write::RemoveFields, Key::Owners, [owner_key]);
                }
                Edit::Require(_) => {}
            }
        }
        Ok(())
    }

    /// What can be said of digests without the store: that two tokens of one batch share one.
    fn check_digests(&mut self, edits: &[Edit<TokenRecord>]) -> Result<(), CommitFailure> {
        // A token that the batch deletes has not retired its digest yet when the script looks.
        let deleted = edits.iter().filter(|edit| edit.after().is_none()).map(|edit| edit.record().digest);
        let (deleted, mut seen) = (deleted.collect::<HashSet<_>>(), HashSet::new());
        for edit in edits {
            let Edit::Create(token) = edit else { continue };
            if deleted.contains(&token.digest) {
                return Err(CommitError::DigestRetired(token.digest).into());
            }
            if !seen.insert(token.digest) {
                return Err(CommitError::DigestTaken(token.digest).into());
            }
            self.free_digests.push(bytes_of(&token.digest));
        }
        Ok(())
    }

    fn add_token(&mut self, edit: &Edit<TokenRecord>) -> Result<(), CommitFailure> {
        let id = edit.record().id.to_ascii().to_vec();
        self.tokens.0.push(id.clone());
        self.tokens.1.push(version(edit));
        let after = match edit {
            Edit::Create(after) | Edit::Update { after, .. } => {
                self.write(Write::PutRecords, Key::Tokens, [id.clone(), json(after)?]);
                Some(after)
            }
            Edit::Delete(before) => {
                self.write(Write::RemoveFields, Key::Tokens, [id.clone()]);
                self.write(Write::ForgetHistories, Key::History, [id.clone()]);
                self.write(Write::Disuse, Key::Usage, [id.clone()]);
                self.write(Write::Retire, Key::Retired, [bytes_of(&before.record.digest)]);
                None
            }
            Edit::Require(_) => return Ok(()),
        };
        let digest = bytes_of(&edit.record().digest);
        let before = Entries::of(edit.before().map(|before| &before.record));
        self.move_entries(digest, id, before, Entries::of(after));
        Ok(())
    }

    /// Changes what follows from a record, where it differs.
    fn move_entries(&mut self, digest: Vec<u8>, id: Vec<u8>, before: Entries, after: Entries) {
        for (key, before, after) in
            [(Key::Grants, before.grant, after.grant), (Key::Revoked, before.revoked, after.revoked)]
        {
            match after {
                after if after == before => {}
                Some(value) => self.write(Write::PutFields, key, [digest.clone(), value]),
                None => self.write(Write::RemoveFields, key, [digest.clone()]),
            }
        }
        for (key, before, after) in
            [(Key::ByState, before.by_state, after.by_state), (Key::ByOwner, before.by_owner, after.by_owner)]
        {
            if before != after {
                before.into_iter().for_each(|entry| self.write(Write::RemoveMembers, key, [entry]));
                after.into_iter().for_each(|entry| self.write(Write::PutMembers, key, [b"0".to_vec(), entry]));
            }
        }
        match after.expiry {
            after if after == before.expiry => {}
            Some(at) => self.write(Write::PutMembers, Key::Expiring, [at, id]),
            None => self.write(Write::RemoveMembers, Key::Expiring, [id]),
        }
    }

    fn add_history(&mut self, batch: &Batch) -> Result<(), CommitFailure> {
        let mut histories: BTreeMap<TokenId, Vec<Vec<u8>>> = BTreeMap::new();
        for (id, entry) in &batch.history {
            histories.entry(*id).or_default().push(json(entry)?);
        }
        // Of those in the batch it is known that they exist, and which are new.
        let in_batch: BTreeMap<TokenId, &Edit<TokenRecord>> =
            batch.tokens.iter().map(|edit| (edit.record().id, edit)).collect();
        for (id, mut entries) in histories {
            entries.drain(..entries.len().saturating_sub(MAX_HISTORY));
            let (edit, id) = (in_batch.get(&id), id.to_ascii().to_vec());
            if let Some(Edit::Create(_)) = edit {
                self.write(Write::PutFields, Key::History, [id, entries.join(&b'\n')]);
                continue;
            }
            if edit.is_none() {
                self.present.push(id.clone());
            }
            let pairs = entries.into_iter().flat_map(|entry| [id.clone(), entry]);
            self.write(Write::AppendEntries, Key::History, pairs);
        }
        Ok(())
    }
}

/// What follows from a token's record, if there is one: what is under its digest in `grants` and in `revoked`, its entries
/// in the indexes, and its expiry.
pub(in super::super) struct Entries {
    pub(in super::super) grant: Option<Vec<u8>>,
    pub(in super::super) revoked: Option<Vec<u8>>,
    pub(in super::super) by_state: Option<Vec<u8>>,
    pub(in super::super) by_owner: Option<Vec<u8>>,
    pub(in super::super) expiry: Option<Vec<u8>>,
}

impl Entries {
    pub(in super::super) fn of(token: Option<&TokenRecord>) -> Self {
        let grant = token.and_then(TokenRecord::grant);
        Self {
            revoked: token.filter(|_| grant.is_none()).map(|token| token.id.to_ascii().to_vec()),
            by_state: token.map(layout::by_state),
            by_owner: token.map(layout::by_owner),
            expiry: grant.and_then(|grant| grant.expires_at).map(|at| at.to_string().into_bytes()),
            grant: grant.map(|grant| grant.encode().to_vec()),
        }
    }
}

/// Which tokens a batch touches of which its changes do not tell: those that it revokes or deletes, and those that were
/// revoked. Who reads the registry while it changes needs them.
fn untold(batch: &Batch) -> Vec<u8> {
    let writes = |edit: &&Edit<TokenRecord>| !matches!(edit, Edit::Require(_));
    let is_told = |edit: &&Edit<TokenRecord>| {
        let (before, after) =
            (edit.before().and_then(|before| before.record.grant()), edit.after().and_then(TokenRecord::grant));
        after.is_some() && after != before
    };
    let edited = batch.tokens.iter().filter(writes).filter(|edit| !is_told(edit)).map(|edit| edit.record().id);
    let edits: HashSet<TokenId> = batch.tokens.iter().filter(writes).map(|edit| edit.record().id).collect();
    let continued = batch.history.iter().map(|(id, _)| *id).filter(|id| !edits.contains(id));
    edited.chain(continued).flat_map(|id| id.to_u64().to_le_bytes()).collect()
}

/// The name that an edit of a user gives up, and the one that it takes.
fn names(edit: &Edit<UserRecord>) -> (Option<&String>, Option<&String>) {
    match edit {
        Edit::Create(after) => (None, Some(&after.name)),
        Edit::Update { before, after } if before.record.name != after.name => {
            (Some(&before.record.name), Some(&after.name))
        }
        Edit::Delete(before) => (Some(&before.record.name), None),
        Edit::Update { .. } | Edit::Require(_) => (None, None),
    }
}

/// How the stored record must begin.
fn version<R>(edit: &Edit<R>) -> Vec<u8> {
    edit.before().map_or(Vec::new(), |before| [&layout::version(before.version)[..], b" "].concat())
}

fn add_list(command: &mut Cmd, list: &List) {
    command.arg(list.len());
    for item in list {
        command.arg(item.as_slice());
    }
}

fn bytes_of(digest: &Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

fn json(record: &impl serde::Serialize) -> Result<Vec<u8>, CommitFailure> {
    serde_json::to_vec(record).map_err(|problem| Fault::record("a new record".to_owned(), problem).into())
}
