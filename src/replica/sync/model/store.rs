//! A store with all its pasts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::store::{
    Change, Changes, CommitId, Epoch, Head, LogEntry, Notice, Position, Revision, SnapshotItem, Stamp, Subject,
};
use crate::token::{Digest, Grant, Owner, Permission, UserId};

/// What the store holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) owners: BTreeMap<u64, (Owner, Stamp)>,
    pub(super) grants: BTreeMap<u64, Grant>,
    /// Tokens that it knows as revoked or deleted.
    pub(super) removed: BTreeSet<u64>,
}

pub(super) fn digest(token: u64) -> Digest {
    Digest::of(&token.to_le_bytes())
}

impl Content {
    pub(super) fn apply(&mut self, changes: &[Change], stamp: Stamp) {
        for change in changes {
            match change {
                Change::PutGrant(_, grant) => drop(self.grants.insert(grant.token.to_u64(), *grant)),
                Change::RemoveGrant(digest) => {
                    self.removed
                        .extend(self.grants.extract_if(.., |token, _| self::digest(*token) == *digest).map(|it| it.0));
                }
                Change::PutOwner(id, owner) => drop(self.owners.insert(id.to_u64(), (owner.clone(), stamp))),
                Change::RemoveOwner(id) => drop(self.owners.remove(&id.to_u64())),
            }
        }
    }

    pub(super) fn lets_in(&self, token: u64, permission: Permission) -> bool {
        self.grants.get(&token).is_some_and(|grant| {
            let owner = self.owners.get(&grant.owner.to_u64());
            let is_able = |(owner, _): &(Owner, _)| owner.enabled && owner.role.permissions().contains(permission);
            grant.permissions.contains(permission) && owner.is_some_and(is_able)
        })
    }

    pub(super) fn checksum(&self) -> u64 {
        let owners = self.owners.iter().map(|(id, (owner, _))| owner.fingerprint(UserId::from_u64(*id)));
        let grants = self.grants.iter().map(|(token, grant)| grant.fingerprint(&digest(*token)));
        owners.chain(grants).fold(0, |sum, fingerprint| sum ^ fingerprint)
    }
}

/// A state that the store was in, in one of its pasts.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) position: Position,
    pub(super) parent: Option<usize>,
    pub(super) entry: Option<Arc<LogEntry>>,
    /// When it ceased to be the store's state; `None` while it is.
    pub(super) until: Option<u64>,
}

#[derive(Debug)]
pub(super) struct ModelStore {
    pub(super) nodes: Vec<Node>,
    pub(super) current: usize,
    pub(super) log_from: Revision,
    pub(super) tokens: u64,
    /// It was not always what it went on from.
    pub(super) has_lost: bool,
    /// A state of any past was restored: what it shows may be newer than what it goes on from.
    pub(super) was_restored: bool,
}

impl ModelStore {
    pub(super) fn new() -> Self {
        let position = Position { epoch: Epoch(0), revision: Revision(0), head: Head::START, checksum: 0 };
        let root = Node { content: Content::default(), position, parent: None, entry: None, until: None };
        Self { nodes: vec![root], current: 0, log_from: Revision(0), tokens: 0, has_lost: false, was_restored: false }
    }

    pub(super) fn now(&self) -> &Node {
        &self.nodes[self.current]
    }

    pub(super) fn become_node(&mut self, node: Node, time: u64) {
        self.nodes[self.current].until = Some(time);
        self.nodes.push(node);
        self.current = self.nodes.len() - 1;
    }

    pub(super) fn commit(&mut self, changes: Vec<Change>, time: u64) -> Notice {
        let Position { epoch, revision, head, .. } = self.now().position;
        let mut content = self.now().content.clone();
        // One for each node: never drawn before, although its revision may have been given out before.
        let id = CommitId(self.nodes.len() as u128);
        content.apply(&changes, Stamp { id, revision: revision.next() });
        let (revision, head, checksum) = (revision.next(), head.then(id), content.checksum());
        let entry = Arc::new(LogEntry { id, revision, head, checksum, changes });
        let (position, parent) = (entry.committed(epoch).position, Some(self.current));
        self.become_node(Node { content, position, parent, entry: Some(Arc::clone(&entry)), until: None }, time);
        Notice::Committed { epoch, entry }
    }

    pub(super) fn lose_writes(&mut self, count: u8, time: u64) {
        self.has_lost = true;
        self.nodes[self.current].until = Some(time);
        for _ in 0..count {
            let Some(parent) = self.now().parent else { break };
            self.current = parent;
        }
        self.nodes[self.current].until = None;
    }

    pub(super) fn restore(&mut self, state: u8, time: u64) {
        (self.has_lost, self.was_restored) = (true, true);
        let backup = &self.nodes[usize::from(state) % self.nodes.len()];
        let position = Position { epoch: Epoch(self.nodes.len() as u64), ..backup.position };
        let node = Node { content: backup.content.clone(), position, parent: None, entry: None, until: None };
        self.log_from = position.revision;
        self.become_node(node, time);
    }

    /// At most so many entries at once.
    pub(super) fn changes(&self, after: Revision, limit: usize) -> Changes {
        let mut entries = Vec::new();
        let mut node = self.now();
        if node.position.revision < after {
            return Changes::Below;
        }
        if node.position.revision > after && after < self.log_from {
            return Changes::Truncated;
        }
        while node.position.revision > after {
            let (Some(entry), Some(parent)) = (&node.entry, node.parent) else { return Changes::Truncated };
            entries.insert(0, LogEntry::clone(entry));
            node = &self.nodes[parent];
        }
        if entries.len() > limit {
            entries.truncate(limit);
            return Changes::Page(entries);
        }
        Changes::Entries(entries)
    }

    /// Whether this commit led to a node.
    pub(super) fn has_come_by(&self, node: usize, id: CommitId) -> bool {
        let mut past = std::iter::successors(Some(node), |node| self.nodes[*node].parent);
        past.any(|node| self.nodes[node].entry.as_ref().is_some_and(|entry| entry.id == id))
    }

    pub(super) fn ancestor(&self, latest: Revision, heads: &[Head]) -> Option<Revision> {
        let past = std::iter::successors(Some(self.current), |node| self.nodes[*node].parent);
        let log = past.map(|node| self.nodes[node].position).filter(|position| position.revision > self.log_from);
        let known = |position: &Position| {
            let back = usize::try_from(latest.0.checked_sub(position.revision.0)?).ok()?;
            (heads.get(back) == Some(&position.head)).then_some(position.revision)
        };
        log.filter_map(|position| known(&position)).next()
    }

    pub(super) fn items(&self, subjects: &[Subject]) -> Vec<SnapshotItem> {
        let Content { owners, grants, .. } = &self.now().content;
        let item = |subject: &Subject| match subject {
            Subject::User(id) => {
                let (owner, stamp) = owners.get(&id.to_u64())?;
                Some(SnapshotItem::Owner(*id, owner.clone(), *stamp))
            }
            Subject::Token(wanted) => {
                let (_, grant) = grants.iter().find(|(token, _)| digest(**token) == *wanted)?;
                Some(SnapshotItem::Grant(*wanted, *grant))
            }
        };
        subjects.iter().filter_map(item).collect()
    }

    /// A token that it does not know: one that it has lost, if it has, or one that there never was.
    pub(super) fn unknown_token(&mut self, again: bool) -> u64 {
        let Content { grants, removed, .. } = &self.now().content;
        let is_lost = |token: &u64| !grants.contains_key(token) && !removed.contains(token);
        let lost = (0..self.tokens).find(is_lost).filter(|_| again);
        lost.unwrap_or_else(|| {
            self.tokens += 1;
            self.tokens - 1
        })
    }

    /// Which of these it knows as removed.
    pub(super) fn removed(&self, digests: &[Digest]) -> Vec<bool> {
        let removed: BTreeSet<_> = self.now().content.removed.iter().map(|token| digest(*token)).collect();
        digests.iter().map(|digest| removed.contains(digest)).collect()
    }

    /// Whether the state with this checksum, or one that it came from, was the store's at or after a time. A store that
    /// lost writes can come to an equal position by other commits: what it holds is then the same, so that counts too.
    pub(super) fn was_current_since(&self, checksum: u64, time: u64) -> bool {
        let current = |node: &Node| node.until.is_none_or(|until| until >= time);
        let recent = |index: usize| {
            let position = self.nodes[index].position;
            self.nodes.iter().any(|node| node.position == position && current(node))
        };
        let past = |index: usize| std::iter::successors(Some(index), |index| self.nodes[*index].parent);
        let mut with_checksum = (0..self.nodes.len()).filter(|index| self.nodes[*index].position.checksum == checksum);
        with_checksum.any(|index| past(index).any(recent))
    }
}
