//! What a writer does and a request then sees.

use super::entry::Terms;
use super::*;
use crate::clock::Instant;
use crate::store::{Change, CommitId, Head, Revision, Stamp, Subject};
use crate::token::{Grant, Owner};

mod ahead;

fn digest(number: u8) -> Digest {
    Digest::of(&[number])
}

fn grant(number: u8, owner: u64) -> Grant {
    let permissions = PermissionSet::TELEGRAF_AGENT;
    Grant { token: TokenId::from_u64(number.into()), owner: UserId::from_u64(owner), permissions, expires_at: None }
}

fn put(number: u8, owner: u64) -> Change {
    Change::PutGrant(digest(number), grant(number, owner))
}

fn remove(number: u8) -> Change {
    Change::RemoveGrant(digest(number))
}

fn owner(role: Role, enabled: bool) -> Owner {
    Owner { name: "anna".to_owned(), role, enabled }
}

fn user(id: u64, role: Role, enabled: bool) -> Change {
    Change::PutOwner(UserId::from_u64(id), owner(role, enabled))
}

fn entry(changes: Vec<Change>) -> LogEntry {
    LogEntry { id: CommitId(1), revision: Revision(1), head: Head::START.then(CommitId(1)), checksum: 0, changes }
}

fn apply(replica: &Replica, changes: Vec<Change>) -> u64 {
    replica.apply(&entry(changes), Instant::now())
}

fn knows(replica: &Replica, number: u8) -> bool {
    replica.lookup(&digest(number)).is_some()
}

/// A replica with one user and these tokens.
fn with(numbers: &[u8]) -> Replica {
    let replica = Replica::new();
    let tokens = numbers.iter().map(|number| put(*number, 1));
    apply(&replica, std::iter::once(user(1, Role::Manager, true)).chain(tokens).collect());
    replica
}

/// How often `narrowed` changes while `act` runs.
fn bumps(replica: &Replica, act: impl FnOnce(&Replica)) -> u64 {
    let narrowed = replica.narrowed();
    let before = *narrowed.borrow();
    act(replica);
    let after = *narrowed.borrow();
    after - before
}

/// Merges a snapshot that shows the user 1 and these tokens, and sweeps.
fn resync(replica: &Replica, numbers: &[u8]) {
    merge(replica, numbers);
    replica.sweep();
}

fn merge(replica: &Replica, numbers: &[u8]) {
    replica.begin_merge();
    replica.merge(&SnapshotItem::Owner(UserId::from_u64(1), owner(Role::Manager, true), Stamp::default()));
    for number in numbers {
        replica.merge(&SnapshotItem::Grant(digest(*number), grant(*number, 1)));
    }
}

/// The store's checksum with the user 1 as in [`with`] and these tokens.
fn checksum(numbers: &[u8]) -> u64 {
    let user = owner(Role::Manager, true).fingerprint(UserId::from_u64(1));
    numbers.iter().fold(user, |sum, number| sum ^ grant(*number, 1).fingerprint(&digest(*number)))
}

#[test]
fn a_holder_has_what_both_grant_and_role_permit() {
    let replica = Replica::new();
    let full = Grant { permissions: PermissionSet::all(), expires_at: Some(99), ..grant(1, 1) };
    apply(&replica, vec![user(1, Role::Viewer, true), Change::PutGrant(digest(1), full)]);
    let holder = replica.lookup(&digest(1)).expect("known");
    assert_eq!((holder.token, holder.role, holder.expires_at), (TokenId::from_u64(1), Role::Viewer, Some(99)));
    assert_eq!(holder.owner.name(), "anna");
    assert_eq!(holder.permissions, Role::Viewer.permissions());
    for permission in PermissionSet::all().iter() {
        assert_eq!(replica.permits(&digest(1), permission), holder.permissions.contains(permission));
    }
}

#[test]
fn a_removed_token_is_unknown() {
    let replica = with(&[1, 2]);
    apply(&replica, vec![remove(1)]);
    assert!(!knows(&replica, 1) && knows(&replica, 2));
    assert!(!replica.permits(&digest(1), crate::token::permission::HEARTBEAT_WRITE));
}

#[test]
fn one_change_of_a_user_reaches_all_their_tokens() {
    let replica = with(&[1, 2]);
    let held = replica.lookup(&digest(1)).expect("known");
    apply(&replica, vec![user(1, Role::Manager, false)]);
    assert!(!knows(&replica, 1) && !knows(&replica, 2));
    assert_eq!(held.owner.role(), None, "whoever holds the owner sees it too");
    apply(&replica, vec![user(1, Role::Viewer, true)]);
    let holder = replica.lookup(&digest(2)).expect("enabled again");
    assert!(!holder.permissions.contains(crate::token::permission::HEARTBEAT_WRITE));
}

#[test]
fn a_grant_before_its_owner_works_once_the_owner_arrives() {
    let replica = Replica::new();
    apply(&replica, vec![put(1, 1)]);
    assert!(!knows(&replica, 1));
    assert_eq!(replica.status().owners, 0);
    apply(&replica, vec![user(1, Role::Manager, true)]);
    assert_eq!(replica.lookup(&digest(1)).expect("known").owner.name(), "anna");
}

#[test]
fn a_deleted_user_takes_their_tokens_along_and_leaves_nothing() {
    let replica = with(&[1]);
    let owner = Arc::downgrade(&replica.lookup(&digest(1)).expect("known").owner);
    apply(&replica, vec![Change::RemoveOwner(UserId::from_u64(1))]);
    assert!(!knows(&replica, 1));
    assert_eq!(apply(&replica, vec![remove(1)]), 0);
    assert_eq!(owner.strong_count(), 0);
}

#[test]
fn a_user_under_another_name_is_never_shown_under_the_old_one() {
    let replica = with(&[1]);
    let renamed = Owner { name: "berta".to_owned(), role: Role::Manager, enabled: true };
    apply(&replica, vec![Change::PutOwner(UserId::from_u64(1), renamed)]);
    assert_eq!(replica.lookup(&digest(1)).expect("known").owner.name(), "berta");
    apply(&replica, vec![put(2, 1)]);
    assert_eq!(replica.lookup(&digest(2)).expect("known").owner.name(), "berta");
}

/// What a token's grant shares with others.
fn terms(replica: &Replica, number: u8) -> Arc<Terms> {
    Arc::clone(&replica.grants.get(&digest(number)).expect("known").terms)
}

#[test]
fn grants_of_one_user_with_the_same_permissions_share_their_terms() {
    let replica = with(&[1, 2]);
    let other = Grant { permissions: PermissionSet::EMPTY, ..grant(3, 1) };
    apply(&replica, vec![Change::PutGrant(digest(3), other), put(4, 2)]);
    let [one, two, three, four] = [1, 2, 3, 4].map(|number| terms(&replica, number));
    assert!(Arc::ptr_eq(&one, &two));
    assert!(!Arc::ptr_eq(&one, &three), "other permissions");
    assert!(Arc::ptr_eq(&one.owner, &three.owner));
    assert!(!Arc::ptr_eq(&one, &four), "another owner with the same permissions");
    apply(&replica, vec![put(3, 1)]);
    assert!(Arc::ptr_eq(&one, &terms(&replica, 3)), "a changed grant has the terms that it changed to");
}

#[test]
fn however_many_expiries_there_are_the_terms_are_one() {
    const MANY: u16 = 5_000;
    let replica = with(&[]);
    let puts = (0..MANY).map(|number| {
        let expires_at = Some(1_800_000_000 + i64::from(number));
        Change::PutGrant(Digest::of(&number.to_le_bytes()), Grant { expires_at, ..grant(1, 1) })
    });
    apply(&replica, puts.collect());
    let terms = Arc::clone(&replica.grants.get(&Digest::of(&0u16.to_le_bytes())).expect("known").terms);
    assert_eq!(Arc::strong_count(&terms), usize::from(MANY) + 2, "every grant, the writer and this test");
    let holder = replica.lookup(&Digest::of(&(MANY - 1).to_le_bytes())).expect("known");
    assert_eq!(holder.expires_at, Some(1_800_000_000 + i64::from(MANY) - 1));
}

type Act<'a> = &'a dyn Fn(&Replica);

#[test]
fn terms_are_forgotten_with_their_last_grant() {
    let now = Instant::now();
    let narrower = Grant { permissions: PermissionSet::EMPTY, ..grant(2, 1) };
    let ways: [(&str, Act<'_>); 5] = [
        ("removed", &|replica| _ = apply(replica, vec![remove(2)])),
        ("changed", &|replica| _ = apply(replica, vec![Change::PutGrant(digest(2), narrower)])),
        ("given to another user", &|replica| _ = apply(replica, vec![put(2, 2)])),
        ("revoked ahead of its turn", &|replica| replica.revoke(&entry(vec![remove(2)]), now)),
        ("swept", &|replica| resync(replica, &[])),
    ];
    for (how, leave) in ways {
        let replica = with(&[1, 2]);
        let shared = Arc::downgrade(&terms(&replica, 1));
        apply(&replica, vec![remove(1)]);
        assert_eq!(shared.strong_count(), 2, "the other grant and the writer");
        leave(&replica);
        assert_eq!(shared.strong_count(), 0, "{how}");
    }
}

#[test]
fn an_unknown_user_is_forgotten_with_the_last_grant() {
    for ahead in [false, true] {
        let replica = Replica::new();
        apply(&replica, vec![put(1, 1), put(2, 1)]);
        let owner = Arc::downgrade(&terms(&replica, 1).owner);
        apply(&replica, vec![remove(1)]);
        assert_ne!(owner.strong_count(), 0);
        if ahead {
            replica.revoke(&entry(vec![remove(2)]), Instant::now());
        } else {
            apply(&replica, vec![remove(2)]);
        }
        assert_eq!(owner.strong_count(), 0, "ahead of its turn: {ahead}");
    }
}

#[test]
fn a_renamed_users_grants_share_new_terms_and_the_old_ones_are_forgotten() {
    let replica = with(&[1, 2]);
    apply(&replica, vec![put(3, 2)]);
    let (old, other) = (Arc::downgrade(&terms(&replica, 1)), terms(&replica, 3));
    let renamed = Owner { name: "berta".to_owned(), role: Role::Manager, enabled: true };
    apply(&replica, vec![Change::PutOwner(UserId::from_u64(1), renamed.clone()), put(4, 1)]);
    assert_eq!(old.strong_count(), 0);
    for number in [2, 4] {
        assert!(Arc::ptr_eq(&terms(&replica, 1), &terms(&replica, number)));
    }
    assert!(Arc::ptr_eq(&other, &terms(&replica, 3)), "another user's grants stay as they are");
    apply(&replica, vec![Change::PutOwner(UserId::from_u64(1), Owner { enabled: false, ..renamed })]);
    assert!([1, 2, 4].iter().all(|number| !knows(&replica, *number)), "one change still reaches them all");
}

#[test]
fn a_revoked_token_stays_revoked_whatever_the_store_says_later() {
    let replica = with(&[1]);
    apply(&replica, vec![remove(1), remove(2)]);
    apply(&replica, vec![put(1, 1), put(2, 1)]);
    assert!(!knows(&replica, 1), "brought back by the log");
    assert!(!knows(&replica, 2), "removed before it was ever known");
    resync(&replica, &[1, 2, 3]);
    assert!(!knows(&replica, 1) && !knows(&replica, 2) && knows(&replica, 3), "brought back by a snapshot");
    let mut suppressed = replica.suppressed();
    suppressed.sort_unstable();
    assert_eq!(suppressed, [(TokenId::from_u64(1), digest(1)), (TokenId::from_u64(2), digest(2))]);
    resync(&replica, &[2, 3]);
    assert_eq!(replica.suppressed(), [(TokenId::from_u64(2), digest(2))], "the store has dropped the other one");
}

#[test]
fn the_checksum_is_that_of_what_the_store_holds() {
    let replica = with(&[1, 2, 3]);
    assert_eq!(replica.checksum(), checksum(&[1, 2, 3]));
    assert_eq!(apply(&replica, vec![put(2, 1)]), checksum(&[1, 2, 3]), "again the same");
    assert_eq!(apply(&replica, vec![remove(1)]), checksum(&[2, 3]));
    assert_eq!(apply(&replica, vec![put(1, 1)]), checksum(&[1, 2, 3]), "suppressed, but the store has it");
    assert_eq!(apply(&replica, vec![put(1, 1)]), checksum(&[1, 2, 3]));
    assert_eq!(apply(&replica, vec![remove(1)]), checksum(&[2, 3]));
    assert_eq!(apply(&replica, vec![remove(1), user(1, Role::Manager, true)]), checksum(&[2, 3]));
    let others = [Some(i64::from(u32::MAX) + 5), Some(-5), None].map(|expires_at| Grant { expires_at, ..grant(9, 1) });
    for other in others {
        let after = apply(&replica, vec![Change::PutGrant(digest(9), other)]);
        assert_eq!(after, checksum(&[2, 3]) ^ other.fingerprint(&digest(9)));
    }
}

#[test]
fn a_revocation_ahead_of_its_turn_holds_at_once_and_keeps_the_checksum() {
    let replica = with(&[1, 2]);
    let ahead = entry(vec![put(3, 1), remove(1), user(1, Role::Owner, true)]);
    assert_eq!(bumps(&replica, |replica| replica.revoke(&ahead, Instant::now())), 1);
    assert!(!knows(&replica, 1) && !knows(&replica, 3));
    assert_eq!(replica.lookup(&digest(2)).expect("known").role, Role::Manager, "only revocations run ahead");
    assert_eq!(replica.checksum(), checksum(&[1, 2]), "the store's state before that entry");
    assert_eq!(apply(&replica, vec![remove(1)]), checksum(&[2]));
    assert_eq!(replica.status().suppressed, 0);
}

#[test]
fn whatever_may_narrow_a_grant_is_announced_once_per_entry() {
    let full = Grant { permissions: PermissionSet::all(), expires_at: Some(50), ..grant(1, 1) };
    let start = || {
        let replica = Replica::new();
        let users = [user(1, Role::Administrator, true), user(2, Role::Owner, true)];
        apply(&replica, users.into_iter().chain([Change::PutGrant(digest(1), full), put(2, 1)]).collect());
        replica
    };
    let with_grant = |grant: Grant| vec![Change::PutGrant(digest(1), grant)];
    let cases = [
        (vec![remove(1), remove(2), user(1, Role::Viewer, true)], 1),
        (vec![remove(9)], 0),
        (with_grant(Grant { permissions: PermissionSet::TELEGRAF_AGENT, ..full }), 1),
        (with_grant(Grant { owner: UserId::from_u64(2), ..full }), 1),
        (with_grant(Grant { expires_at: Some(49), ..full }), 1),
        (with_grant(Grant { expires_at: None, ..full }), 0),
        (vec![put(5, 1)], 0),
        (vec![user(1, Role::Manager, true)], 1),
        (vec![user(1, Role::Administrator, false)], 1),
        (vec![user(1, Role::Owner, true)], 0),
        (vec![Change::RemoveOwner(UserId::from_u64(1))], 1),
    ];
    for (changes, expected) in cases {
        let replica = start();
        let seen = bumps(&replica, |replica| _ = apply(replica, changes.clone()));
        assert_eq!(seen, expected, "{changes:?}");
    }
}

#[test]
fn a_merge_serves_the_old_until_it_is_swept() {
    let replica = with(&[1, 2]);
    merge(&replica, &[2, 3]);
    assert!(knows(&replica, 1) && knows(&replica, 2) && knows(&replica, 3));
    assert_eq!(replica.checksum(), checksum(&[2, 3]), "only what the snapshot showed");
    assert_eq!(bumps(&replica, |replica| replica.sweep()), 1);
    assert!(!knows(&replica, 1) && knows(&replica, 2) && knows(&replica, 3));
    assert_eq!(replica.checksum(), checksum(&[2, 3]));
}

#[test]
fn changes_during_a_merge_survive_the_sweep() {
    let replica = with(&[1, 2]);
    merge(&replica, &[1, 1, 3]);
    assert_eq!(replica.checksum(), checksum(&[1, 3]), "an item that comes twice counts once");
    assert_eq!(apply(&replica, vec![put(4, 1), remove(3), remove(2)]), checksum(&[1, 4]));
    replica.sweep();
    assert!(knows(&replica, 1) && knows(&replica, 4) && !knows(&replica, 2) && !knows(&replica, 3));
    assert_eq!(replica.checksum(), checksum(&[1, 4]));
}

/// That a snapshot does not show a token says nothing; that the store knows it as revoked does.
#[test]
fn what_vanished_stays_out_only_where_the_store_knows_that_it_was_removed() {
    for is_removed in [false, true] {
        let replica = Replica::new();
        resync(&replica, &[1, 2]);
        resync(&replica, &[2]);
        assert!(!knows(&replica, 1));
        assert_eq!(replica.vanished(9), [digest(1)]);
        replica.explain(&[digest(1)], &[is_removed], Instant::now());
        assert_eq!((replica.vanished(9), replica.status().tombstones), (vec![], usize::from(is_removed)));
        resync(&replica, &[1, 2]);
        assert_eq!((knows(&replica, 1), knows(&replica, 2)), (!is_removed, true));
        assert_eq!(replica.checksum(), checksum(&[1, 2]));
    }
}

#[test]
fn what_vanished_is_asked_about_page_by_page_and_what_came_back_meanwhile_goes() {
    let replica = Replica::new();
    resync(&replica, &[1, 2, 3, 4]);
    replica.repair(&[Subject::Token(digest(1))], &[]);
    resync(&replica, &[]);
    let all = replica.vanished(9);
    assert_eq!((all.len(), all[0]), (4, digest(1)), "what was read again for a repair too");
    resync(&replica, &[1]);
    replica.explain(&all[..3], &[true, false], Instant::now());
    assert!(!knows(&replica, 1), "the store shows it again: it has lost that it was revoked");
    assert_eq!(replica.suppressed().len(), 1);
    assert_eq!(replica.vanished(9), all[2..], "of the third of the page nothing was said");
    assert_eq!(replica.vanished(1), all[2..3]);
    apply(&replica, vec![remove(1), put(2, 1), remove(2)]);
    assert_eq!(replica.vanished(9).len(), 2, "what was seen removed did not vanish");
}

#[test]
fn an_abandoned_merge_loses_nothing_and_resurrects_nothing() {
    let replica = Replica::new();
    resync(&replica, &[1, 2, 3]);
    apply(&replica, vec![remove(1)]);
    merge(&replica, &[1, 2, 4]); // breaks off: 3 was not reached, 4 is new
    assert!(!knows(&replica, 1) && knows(&replica, 2) && knows(&replica, 3) && knows(&replica, 4));
    resync(&replica, &[2, 3]);
    assert!(!knows(&replica, 1) && knows(&replica, 2) && knows(&replica, 3) && !knows(&replica, 4));
    assert_eq!(replica.vanished(9), [digest(4)]);
    resync(&replica, &[2, 3, 4]);
    assert!(knows(&replica, 4));
}

#[test]
fn a_user_that_a_snapshot_does_not_show_has_no_standing() {
    let replica = with(&[1]);
    replica.begin_merge();
    replica.merge(&SnapshotItem::Grant(digest(1), grant(1, 1)));
    assert!(knows(&replica, 1), "not before the sweep");
    assert_eq!(bumps(&replica, |replica| replica.sweep()), 1);
    assert!(!knows(&replica, 1));
    apply(&replica, vec![user(1, Role::Manager, true)]);
    assert!(knows(&replica, 1));
}

#[test]
fn damaged_entries_are_counted_per_snapshot() {
    let replica = with(&[1]);
    replica.begin_merge();
    replica.merge(&SnapshotItem::Damaged { key: "grants/7".to_owned() });
    assert_eq!(replica.status().damaged, 1);
    replica.begin_merge();
    assert_eq!(replica.status().damaged, 0);
}

#[tokio::test]
async fn ready_means_proven_fresh_for_the_first_time() {
    let replica = with(&[1]);
    assert_eq!(replica.staleness(Instant::now()), None);
    let (ready, ()) = tokio::join!(replica.ready(), async { replica.confirm(Instant::now()) });
    assert_eq!(ready, ());
    replica.ready().await;
    assert!(replica.staleness(Instant::now()).is_some());
}

#[test]
fn debug_output_shows_no_digest() {
    let replica = with(&[1]);
    assert!(!format!("{replica:?}").contains(&digest(1).to_string()));
}

/// A snapshot that shows the user 1 and the token 1, the user as made by this commit.
fn resync_with(replica: &Replica, owner: Owner, stamp: Stamp) {
    replica.begin_merge();
    // An item may come twice.
    for _ in 0..2 {
        replica.merge(&SnapshotItem::Owner(UserId::from_u64(1), owner.clone(), stamp));
    }
    replica.merge(&SnapshotItem::Grant(digest(1), grant(1, 1)));
    replica.sweep();
}

const fn by(id: u128, revision: u64) -> Stamp {
    Stamp { id: CommitId(id), revision: Revision(revision) }
}

/// A replica with the token 1, whose owner became so by the commit 8.
fn seen(role: Role, enabled: bool) -> Replica {
    let replica = with(&[1]);
    let Stamp { id, revision } = by(8, 8);
    replica.apply(&LogEntry { id, revision, ..entry(vec![user(1, role, enabled)]) }, Instant::now());
    replica
}

#[test]
fn a_user_who_was_seen_disabled_stays_so_when_the_store_has_lost_it() {
    let replica = seen(Role::Manager, false);
    resync_with(&replica, owner(Role::Manager, true), by(1, 1));
    assert!(!knows(&replica, 1));
    assert_eq!((replica.held_users(), replica.status().held), (vec!["anna".to_owned()], 1));
    let sum = owner(Role::Manager, true).fingerprint(UserId::from_u64(1)) ^ grant(1, 1).fingerprint(&digest(1));
    assert_eq!(replica.checksum(), sum, "the checksum is that of what the store holds");
    resync_with(&replica, owner(Role::Manager, true), by(1, 1));
    assert!(!knows(&replica, 1), "whatever number of times it is read");
    // A commit that touches the user: its revision was given out before.
    let Stamp { id, revision } = by(9, 4);
    let entry = LogEntry { id, revision, ..entry(vec![user(1, Role::Manager, true)]) };
    replica.apply(&entry, Instant::now());
    assert!(knows(&replica, 1) && replica.held_users().is_empty());
}

#[test]
fn a_user_who_was_seen_with_a_weaker_role_keeps_it_when_the_store_has_lost_it() {
    let replica = seen(Role::Viewer, true);
    resync_with(&replica, owner(Role::Manager, true), by(1, 1));
    assert_eq!(replica.lookup(&digest(1)).map(|holder| holder.role), Some(Role::Viewer));
    // Narrower still is taken, and is what the store holds.
    resync_with(&replica, owner(Role::Manager, false), by(2, 2));
    assert!(!knows(&replica, 1) && replica.held_users().is_empty());
}

#[test]
fn a_later_word_on_a_user_is_taken_from_a_snapshot() {
    for stamp in [by(9, 9), by(9, 8)] {
        let replica = seen(Role::Manager, false);
        resync_with(&replica, owner(Role::Manager, true), stamp);
        assert!(knows(&replica, 1) && replica.held_users().is_empty(), "{stamp:?}");
    }
}

/// The store lost the commit, and others have its revisions. Nothing touched the user between the commits 5 and 8.
#[test]
fn a_new_word_on_a_user_is_one_whatever_its_revision() {
    for (shown, is_new) in [(by(5, 5), false), (by(9, 5), true), (by(9, 6), true), (by(9, 7), true), (by(4, 4), false)]
    {
        let replica = with(&[1]);
        for (Stamp { id, revision }, enabled) in [(by(5, 5), true), (by(8, 8), false)] {
            let change = user(1, Role::Manager, enabled);
            replica.apply(&LogEntry { id, revision, ..entry(vec![change]) }, Instant::now());
        }
        resync_with(&replica, owner(Role::Manager, true), shown);
        assert_eq!((knows(&replica, 1), replica.held_users().is_empty()), (is_new, is_new), "{shown:?}");
        resync_with(&replica, owner(Role::Manager, true), by(10, 6));
        assert!(knows(&replica, 1), "a later one is new in any case");
    }
}

/// What was in between was not seen: it may be what the store shows.
#[test]
fn a_user_is_held_where_it_cannot_be_told_which_word_is_older() {
    let replica = with(&[1]);
    let enabled = user(1, Role::Manager, true);
    let Stamp { id, revision } = by(2, 2);
    replica.apply(&LogEntry { id, revision, ..entry(vec![enabled]) }, Instant::now());
    resync_with(&replica, owner(Role::Manager, false), by(8, 8));
    resync_with(&replica, owner(Role::Manager, true), by(5, 5));
    assert!(!knows(&replica, 1));
    assert_eq!(replica.held_users(), ["anna"]);
}

/// Reads these tokens again, of which there are those.
fn repair(replica: &Replica, asked: &[u8], found: &[u8]) -> u64 {
    let asked: Vec<_> = asked.iter().map(|number| Subject::Token(digest(*number))).collect();
    let found: Vec<_> = found.iter().map(|number| SnapshotItem::Grant(digest(*number), grant(*number, 1))).collect();
    replica.repair(&asked, &found)
}

#[test]
fn what_lost_writes_made_is_gone_and_may_come_again() {
    let replica = with(&[1, 2]);
    assert_eq!(bumps(&replica, |replica| assert_eq!(repair(replica, &[2], &[]), checksum(&[1]))), 1);
    assert!(knows(&replica, 1) && !knows(&replica, 2));
    assert_eq!(replica.status().tombstones, 0);
    assert_eq!(apply(&replica, vec![put(2, 1)]), checksum(&[1, 2]));
    assert!(knows(&replica, 2));
}

#[test]
fn what_lost_writes_revoked_stays_refused_and_counts() {
    let replica = with(&[1, 2, 3]);
    apply(&replica, vec![remove(1), remove(2)]);
    assert_eq!(repair(&replica, &[1, 2, 3], &[1, 3]), checksum(&[1, 3]));
    assert!(!knows(&replica, 1) && !knows(&replica, 2) && knows(&replica, 3));
    assert_eq!(replica.suppressed(), [(TokenId::from_u64(1), digest(1))]);
    assert_eq!(repair(&replica, &[1], &[]), checksum(&[3]), "gone for good");
    assert_eq!(replica.status().suppressed, 0);
}

#[test]
fn whom_lost_writes_narrowed_stays_so_and_whom_they_made_is_gone() {
    let replica = with(&[1]);
    let (anna, other) = (UserId::from_u64(1), UserId::from_u64(2));
    let lost = Owner { name: "lost".to_owned(), role: Role::Manager, enabled: true };
    let lost = vec![Change::PutOwner(other, lost), put(7, 2), user(1, Role::Manager, false)];
    replica.apply(&LogEntry { id: CommitId(9), revision: Revision(9), ..entry(lost) }, Instant::now());
    assert!(knows(&replica, 7) && !knows(&replica, 1));
    let asked = [Subject::User(anna), Subject::User(other), Subject::Token(digest(7))];
    let before = Stamp { id: CommitId(1), revision: Revision(1) };
    let shown = SnapshotItem::Owner(anna, owner(Role::Manager, true), before);
    assert_eq!(replica.repair(&asked, &[shown]), checksum(&[1]));
    assert_eq!((replica.held_users(), replica.status().owners), (vec!["anna".to_owned()], 1));
    assert!(!knows(&replica, 7) && !knows(&replica, 1));
    let entry = LogEntry { id: CommitId(10), revision: Revision(2), ..entry(vec![user(1, Role::Manager, true)]) };
    replica.apply(&entry, Instant::now());
    assert!(knows(&replica, 1), "a new word");
}
