//! What a sidecar holds, in bits: one per token. It does what the real table does; a test compares the two.

use tollgate::clock::Instant;

use tollgate::replica::sync::Table;
use tollgate::store::{Change, Epoch, LogEntry, Revision, SnapshotItem, Subject};

use crate::world::{self, Tokens};

/// The table of one sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    /// Accepted, while the replica is fresh.
    pub(crate) grants: Tokens,
    /// Refused although the store holds them.
    pub(crate) suppressed: Tokens,
    /// Refused for good.
    pub(crate) tombstones: Tokens,
    /// Of `grants` and `suppressed`: those that the latest snapshot, or a change since, has shown.
    seen: Tokens,
    /// Gone, and whether they were revoked the store has not said.
    pub(crate) vanished: Tokens,
    /// The tick as of which everything committed is in here.
    pub(crate) as_of: Option<u8>,
    /// The latest entry of the log since the latest snapshot began.
    pub(crate) applied: Revision,
    /// It was just proven fresh.
    pub(crate) confirmed: bool,
    /// Proofs count from this moment on, where not all do; `None` within: none does.
    pub(crate) counts_from: Option<Option<Instant>>,
    /// Lost writes were just made up for.
    pub(crate) mended: bool,
}

impl Held {
    /// Nothing, and that is exact.
    pub(crate) fn new() -> Self {
        Self {
            grants: 0,
            suppressed: 0,
            tombstones: 0,
            seen: 0,
            vanished: 0,
            as_of: None,
            applied: Revision(0),
            confirmed: false,
            counts_from: None,
            mended: false,
        }
    }

    pub(crate) fn checksum(&self) -> u64 {
        ((self.grants | self.suppressed) & self.seen).into()
    }

    pub(crate) fn begin_merge(&mut self) {
        (self.seen, self.applied) = (0, Revision(0));
    }

    /// What an earlier run held counts as its last word.
    pub(crate) fn adopt(&mut self, tombstones: Tokens, as_of: Option<u8>) {
        self.refuse(tombstones);
        self.as_of = as_of;
    }

    pub(crate) fn put(&mut self, token: Tokens) {
        let refused = (self.tombstones | self.suppressed) & token != 0;
        if refused {
            self.suppressed |= token
        } else {
            self.grants |= token
        };
        self.seen |= token;
    }

    fn remove(&mut self, token: Tokens) {
        self.tombstones |= token;
        self.grants &= !token;
        self.suppressed &= !token;
    }

    /// The store was asked about these, and knows some of them as revoked.
    pub(crate) fn explain(&mut self, asked: Tokens, revoked: Tokens) {
        self.vanished &= !asked;
        self.refuse(revoked);
    }

    /// Seen revoked, or recalled.
    pub(crate) fn refuse(&mut self, tokens: Tokens) {
        self.tombstones |= tokens;
        self.suppressed |= self.grants & tokens;
        self.grants &= !tokens;
    }
}

impl Table for Held {
    fn apply(&mut self, entry: &LogEntry, _now: Instant) -> u64 {
        self.applied = entry.revision;
        for change in &entry.changes {
            match change {
                Change::PutGrant(digest, _) => self.put(world::token(digest)),
                Change::RemoveGrant(digest) => self.remove(world::token(digest)),
                Change::PutOwner(..) | Change::RemoveOwner(_) => {}
            }
        }
        self.checksum()
    }

    fn revoke(&mut self, entry: &LogEntry, _now: Instant) {
        for change in &entry.changes {
            if let Change::RemoveGrant(digest) = change {
                self.refuse(world::token(digest));
            }
        }
    }

    /// There is nothing else here that could be narrowed.
    fn anticipate(&mut self, _epoch: Epoch, entry: &LogEntry, now: Instant) {
        self.revoke(entry, now);
    }

    fn repair(&mut self, subjects: &[Subject], found: &[SnapshotItem], _now: Instant) -> u64 {
        (self.applied, self.mended) = (Revision(0), true);
        let asked = subjects.iter().fold(0, |tokens, subject| tokens | world::about(subject));
        let before = self.grants;
        self.grants &= !asked;
        self.suppressed &= !asked;
        let found = found.iter().filter_map(SnapshotItem::subject);
        found.for_each(|subject| self.put(world::about(&subject)));
        self.vanished |= before & !self.grants;
        self.checksum()
    }

    fn sweep(&mut self) {
        self.vanished |= self.grants & !self.seen;
        self.grants &= self.seen;
        self.suppressed &= self.seen;
    }

    fn confirm(&mut self, as_of: Instant) {
        if self.counts_from.is_some_and(|from| from.is_none_or(|from| as_of < from)) {
            return;
        }
        self.as_of = self.as_of.max(Some(world::tick(as_of)));
        self.confirmed = true;
    }
}

/// The bits against the real table: the same calls, the same answers.
mod same {
    use proptest::prelude::*;
    use tollgate::replica::Replica;
    use tollgate::store::{CommitId, Head, SnapshotItem, Stamp};
    use tollgate::token::{Owner, Role};

    use super::*;
    use crate::world::{digest, grant, owner, token};

    const TOKENS: u8 = 4;

    #[derive(Debug, Clone)]
    enum Call {
        Put(u8),
        Remove(u8),
        Revoke(u8),
        Recall(u8),
        BeginMerge,
        Merge(u8),
        Sweep,
        /// Of what vanished, these are known as revoked.
        Explain(Tokens),
        /// Of these, those are found.
        Mend(Tokens, Tokens),
    }

    fn call() -> impl Strategy<Value = Call> {
        let token = 0..TOKENS;
        prop_oneof![
            4 => token.clone().prop_map(Call::Put),
            2 => token.clone().prop_map(Call::Remove),
            1 => token.clone().prop_map(Call::Revoke),
            1 => token.clone().prop_map(Call::Recall),
            1 => Just(Call::BeginMerge),
            3 => token.prop_map(Call::Merge),
            1 => Just(Call::Sweep),
            1 => any::<Tokens>().prop_map(Call::Explain),
            1 => any::<(Tokens, Tokens)>().prop_map(|(asked, found)| Call::Mend(asked, found & asked)),
        ]
    }

    proptest! {
        #[test]
        fn the_bits_do_what_the_table_does(calls in proptest::collection::vec(call(), 0..60)) {
            let (mut bits, real) = (Held::new(), Replica::new());
            // One user, whose part of the real checksum is left out.
            let somebody = Owner { name: "anna".to_owned(), role: Role::Manager, enabled: true };
            let (user, part) = (owner(), somebody.fingerprint(owner()));
            real.merge(&SnapshotItem::Owner(user, somebody.clone(), Stamp::default()));
            let now = Instant::now();
            let (id, revision, head) = (CommitId(1), Revision(1), Head::START.then(CommitId(1)));
            let entry = |change| LogEntry { id, revision, head, checksum: 0, changes: vec![change] };
            for call in calls {
                match call {
                    Call::Put(token) => {
                        let entry = entry(Change::PutGrant(digest(token), grant(token)));
                        bits.apply(&entry, now);
                        real.apply(&entry, now);
                    }
                    Call::Remove(token) => {
                        let entry = entry(Change::RemoveGrant(digest(token)));
                        bits.apply(&entry, now);
                        real.apply(&entry, now);
                    }
                    Call::Revoke(token) => {
                        let entry = entry(Change::RemoveGrant(digest(token)));
                        bits.revoke(&entry, now);
                        real.revoke(&entry, now);
                    }
                    Call::Recall(token) => {
                        bits.refuse(1 << token);
                        real.recall(&[digest(token)]);
                    }
                    Call::BeginMerge => {
                        bits.begin_merge();
                        real.begin_merge();
                        real.merge(&SnapshotItem::Owner(user, somebody.clone(), Stamp::default()));
                    }
                    Call::Merge(token) => {
                        bits.put(1 << token);
                        real.merge(&SnapshotItem::Grant(digest(token), grant(token)));
                    }
                    Call::Mend(asked, found) => {
                        let tokens = |set: Tokens| (0..TOKENS).filter(move |token| set >> token & 1 == 1);
                        let asked: Vec<_> = tokens(asked).map(|token| Subject::Token(digest(token))).collect();
                        let item = |token| SnapshotItem::Grant(digest(token), grant(token));
                        let found: Vec<_> = tokens(found).map(item).collect();
                        bits.repair(&asked, &found, now);
                        real.repair(&asked, &found);
                    }
                    Call::Sweep => {
                        bits.sweep();
                        real.sweep();
                    }
                    Call::Explain(revoked) => {
                        let asked = real.vanished(usize::from(TOKENS) * 60);
                        let tokens: Vec<_> = asked.iter().map(token).collect();
                        let is_removed: Vec<_> = tokens.iter().map(|token| revoked & token != 0).collect();
                        let all = tokens.iter().fold(0, |all, token| all | token);
                        prop_assert_eq!(all, bits.vanished);
                        bits.explain(all, all & revoked);
                        real.explain(&asked, &is_removed, now);
                    }
                }
                let ours = (0..TOKENS).filter(|token| bits.checksum() >> token & 1 == 1);
                let checksum = ours.fold(part, |sum, token| sum ^ grant(token).fingerprint(&digest(token)));
                prop_assert_eq!(real.checksum(), checksum);
                for token in 0..TOKENS {
                    let (held, accepted) = (bits.grants >> token & 1 == 1, real.lookup(&digest(token)).is_some());
                    prop_assert_eq!(held, accepted, "token {}", token);
                }
                let status = real.status();
                let count = |tokens: Tokens| tokens.count_ones() as usize;
                prop_assert_eq!(status.suppressed, count(bits.suppressed));
                // To the bits, a recalled token has a tombstone too.
                let refused = status.tombstones.max(status.recalled)..=status.tombstones + status.recalled;
                prop_assert!(refused.contains(&count(bits.tombstones)));
            }
        }
    }
}
