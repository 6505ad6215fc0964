//! What is known of commits that were not reached yet.

use super::*;
use crate::store::Epoch;
use crate::token::permission::HEARTBEAT_WRITE;

const EPOCH: Epoch = Epoch(1);

/// At this revision, by the commit of that number.
fn numbered(revision: u64, changes: Vec<Change>) -> LogEntry {
    LogEntry { id: CommitId(revision.into()), revision: Revision(revision), ..entry(changes) }
}

fn announce(replica: &Replica, revision: u64, changes: Vec<Change>) {
    replica.anticipate(EPOCH, &numbered(revision, changes), Instant::now());
}

fn follow(replica: &Replica, revision: u64, changes: Vec<Change>) {
    replica.apply(&numbered(revision, changes), Instant::now());
}

/// Whether a heartbeat is let in; `None`: that is in doubt.
fn lets_in(replica: &Replica, number: u8) -> Option<bool> {
    let holder = replica.lookup(&digest(number)).filter(|holder| holder.permissions.contains(HEARTBEAT_WRITE));
    let Some(holder) = holder else { return Some(false) };
    let is_in_doubt = replica.doubts(&digest(number), &holder, HEARTBEAT_WRITE);
    assert_eq!(replica.permits(&digest(number), HEARTBEAT_WRITE), !is_in_doubt, "what runs goes by the same");
    (!is_in_doubt).then_some(true)
}

fn disabled(id: u64) -> Change {
    user(id, Role::Manager, false)
}

fn enabled(id: u64) -> Change {
    user(id, Role::Manager, true)
}

#[test]
fn an_announced_narrowing_is_in_doubt_until_its_turn_and_nothing_before_it_undoes_that() {
    let replica = with(&[1, 2]);
    let ahead = numbered(9, vec![disabled(1)]);
    assert_eq!(bumps(&replica, |replica| replica.anticipate(EPOCH, &ahead, Instant::now())), 1);
    assert_eq!(lets_in(&replica, 1), None);
    assert_eq!(replica.checksum(), checksum(&[1, 2]), "the store's state before that entry");
    follow(&replica, 7, vec![disabled(1)]);
    assert_eq!(lets_in(&replica, 1), Some(false), "so it is at 7");
    follow(&replica, 8, vec![enabled(1), put(3, 1)]);
    assert_eq!((lets_in(&replica, 1), lets_in(&replica, 3)), (None, None));
    replica.apply(&ahead, Instant::now());
    assert_eq!(lets_in(&replica, 1), Some(false));
    follow(&replica, 10, vec![enabled(1)]);
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(true), 0));
}

/// Each is a whole state, so the last one counts: she was enabled in between, which was not announced.
#[test]
fn a_later_announcement_takes_the_place_of_an_earlier_one() {
    let replica = with(&[1]);
    announce(&replica, 7, vec![disabled(1)]);
    announce(&replica, 9, vec![enabled(1)]);
    assert_eq!(lets_in(&replica, 1), Some(true));
    announce(&replica, 8, vec![disabled(1)]);
    assert_eq!(lets_in(&replica, 1), None, "out of order: perhaps of another past");
    follow(&replica, 8, vec![disabled(1)]);
    follow(&replica, 9, vec![enabled(1)]);
    assert_eq!(lets_in(&replica, 1), Some(true));
}

#[test]
fn a_token_is_in_doubt_that_gets_another_owner_fewer_permissions_or_an_end() {
    let with_grant = |grant: Grant| vec![Change::PutGrant(digest(1), grant)];
    let narrower = Grant { permissions: PermissionSet::EMPTY, ..grant(1, 1) };
    let ended = Grant { expires_at: Some(9), ..grant(1, 1) };
    let cases = [
        (vec![], with_grant(narrower), None),
        (vec![enabled(2)], with_grant(grant(1, 2)), Some(true)),
        (vec![user(2, Role::Viewer, true)], with_grant(grant(1, 2)), None),
        (vec![disabled(2)], with_grant(grant(1, 2)), None),
        // Who that is, the log before it tells.
        (vec![], with_grant(grant(1, 2)), None),
        (vec![enabled(2)], vec![Change::PutGrant(digest(1), grant(1, 2)), disabled(2)], None),
        (vec![], with_grant(grant(1, 1)), Some(true)),
    ];
    for (before, ahead, expected) in cases {
        let replica = with(&[1, 2]);
        follow(&replica, 2, before);
        announce(&replica, 9, ahead.clone());
        assert_eq!((lets_in(&replica, 1), lets_in(&replica, 2)), (expected, Some(true)), "{ahead:?}");
        follow(&replica, 9, ahead);
        assert!(lets_in(&replica, 1).is_some(), "it is reached");
    }
    let replica = with(&[1]);
    announce(&replica, 9, with_grant(ended));
    let holder = replica.lookup(&digest(1)).expect("known");
    assert!(replica.doubts(&digest(1), &holder, HEARTBEAT_WRITE), "new requests");
    assert!(replica.permits(&digest(1), HEARTBEAT_WRITE), "that a token expires ends no request");
}

#[test]
fn what_was_announced_and_a_later_proof_does_not_show_is_lost_and_users_stay_so() {
    let replica = with(&[1]);
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    replica.anticipate(EPOCH, &numbered(9, vec![disabled(1)]), start + second);
    replica.reach(start);
    assert_eq!((lets_in(&replica, 1), replica.status().held), (None, 0), "a proof of before says nothing");
    assert_eq!(bumps(&replica, |replica| replica.reach(start + second * 2)), 1);
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(false), 1));
    follow(&replica, 10, vec![enabled(1)]);
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(true), 0), "a command has touched the user");
}

/// The store has lost writes, and shows user 1 as enabled by another commit of this revision.
fn shows(replica: &Replica, revision: u64) {
    let stamp = Stamp { id: CommitId((1000 + revision).into()), revision: Revision(revision) };
    let shown = SnapshotItem::Owner(UserId::from_u64(1), owner(Role::Manager, true), stamp);
    replica.repair(&[Subject::User(UserId::from_u64(1))], &[shown]);
}

/// With the announced commit went one on the same user that the table had.
#[test]
fn who_is_read_again_as_before_both_lost_commits_stays_as_announced() {
    let replica = with(&[1]);
    shows(&replica, 3);
    follow(&replica, 6, vec![enabled(1)]);
    announce(&replica, 9, vec![disabled(1)]);
    shows(&replica, 3);
    replica.reach(Instant::now());
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(false), 1));
    // A new word, although its revision is below that of the lost one.
    shows(&replica, 7);
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(true), 0));
}

/// As above, and the table had come closer to the announced commit before both were lost.
#[test]
fn who_was_touched_on_the_way_to_a_lost_commit_stays_as_announced() {
    let replica = with(&[1]);
    shows(&replica, 3);
    announce(&replica, 9, vec![disabled(1)]);
    follow(&replica, 6, vec![enabled(1)]);
    shows(&replica, 3);
    replica.reach(Instant::now());
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(false), 1));
}

/// As above, and then a command changes the user, under a revision below that of the lost commits.
#[test]
fn who_is_changed_after_both_lost_commits_is_not_held_to_them() {
    let replica = with(&[1]);
    shows(&replica, 3);
    follow(&replica, 6, vec![enabled(1)]);
    announce(&replica, 9, vec![disabled(1)]);
    shows(&replica, 3);
    follow(&replica, 4, vec![disabled(1)]);
    follow(&replica, 5, vec![enabled(1)]);
    replica.reach(Instant::now());
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(true), 0));
}

/// Once more with the store going on: the revision of the lost commit is another one's. That the user was enabled before it, or
/// since, cannot be told: so it was before.
#[test]
fn what_came_in_its_turn_before_the_lost_commit_counts_as_earlier() {
    let replica = with(&[1]);
    announce(&replica, 9, vec![disabled(1)]);
    follow(&replica, 8, vec![enabled(1)]);
    let other = LogEntry { id: CommitId(1009), ..numbered(9, vec![put(2, 1)]) };
    replica.apply(&other, Instant::now());
    assert_eq!(lets_in(&replica, 1), None, "that it was lost, only a proof tells");
    replica.reach(Instant::now());
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(false), 1));
    follow(&replica, 10, vec![enabled(1)]);
    assert_eq!((lets_in(&replica, 1), replica.status().held), (Some(true), 0));
}

/// Also of a user whom the table did not know when it was announced.
#[test]
fn who_was_made_on_the_way_to_a_lost_commit_stays_as_announced() {
    let replica = with(&[1]);
    announce(&replica, 9, vec![disabled(2)]);
    follow(&replica, 6, vec![enabled(2), put(3, 2)]);
    assert_eq!(lets_in(&replica, 3), None);
    replica.reach(Instant::now());
    assert_eq!((lets_in(&replica, 3), replica.status().held), (Some(false), 1));
    // Whose making was lost too is nobody.
    announce(&replica, 12, vec![disabled(4)]);
    replica.reach(Instant::now());
    follow(&replica, 7, vec![enabled(4), put(5, 4)]);
    assert_eq!((lets_in(&replica, 5), replica.status().held), (Some(true), 1));
}

#[test]
fn what_a_repair_has_read_is_not_undone_by_the_log_that_comes_before_it() {
    let replica = with(&[1, 2]);
    follow(&replica, 2, vec![user(3, Role::Manager, true), put(3, 3), put(4, 3)]);
    let id = UserId::from_u64;
    let stamp = Stamp { id: CommitId(19), revision: Revision(19) };
    let owner = SnapshotItem::Owner(id(1), owner(Role::Manager, false), stamp);
    let narrow = SnapshotItem::Grant(digest(3), Grant { permissions: PermissionSet::EMPTY, ..grant(3, 3) });
    let subjects = [Subject::User(id(1)), Subject::Token(digest(3)), Subject::Token(digest(4))];
    replica.repair(&subjects, &[owner, narrow]);
    assert!((1..=4).all(|number| lets_in(&replica, number) == Some(false)), "as the store has it now");
    follow(&replica, 17, vec![disabled(1)]);
    follow(&replica, 18, vec![enabled(1), put(3, 3), put(4, 3), put(5, 3)]);
    let all = |replica: &Replica| [1, 2, 3, 4, 5].map(|number| lets_in(replica, number));
    assert_eq!(all(&replica), [None, None, None, None, Some(true)]);
    follow(&replica, 19, vec![disabled(1)]);
    assert_eq!(all(&replica), [Some(false), Some(false), None, None, Some(true)]);
    // Later than what was read.
    follow(&replica, 20, vec![enabled(1)]);
    assert_eq!(all(&replica), [Some(true), Some(true), None, None, Some(true)]);
    replica.reach(Instant::now());
    assert_eq!(all(&replica), [Some(true); 5]);
}

#[test]
fn what_a_snapshot_has_read_is_not_undone_by_the_log_that_comes_before_it() {
    let replica = with(&[1, 2, 3]);
    replica.begin_merge();
    let stamp = Stamp { id: CommitId(19), revision: Revision(19) };
    replica.merge(&SnapshotItem::Owner(UserId::from_u64(1), owner(Role::Manager, true), stamp));
    replica.merge(&SnapshotItem::Grant(digest(1), Grant { permissions: PermissionSet::EMPTY, ..grant(1, 1) }));
    replica.merge(&SnapshotItem::Grant(digest(2), grant(2, 1)));
    // All of them may have been narrowed or removed before they were read.
    follow(&replica, 18, vec![put(1, 1), put(2, 1), put(3, 1), put(4, 1)]);
    let all = |replica: &Replica| [1, 2, 3, 4].map(|number| lets_in(replica, number));
    assert_eq!(all(&replica), [None, Some(true), None, None]);
    replica.sweep();
    replica.reach(Instant::now());
    assert_eq!(all(&replica), [Some(true); 4]);
    follow(&replica, 20, vec![put(5, 1)]);
    assert_eq!(lets_in(&replica, 5), Some(true));
}

#[test]
fn what_is_held_is_bounded_and_ends_with_a_proof() {
    let replica = with(&[1]);
    for user in 0..40_000 {
        announce(&replica, 9 + user, vec![disabled(100 + user)]);
    }
    announce(&replica, 50_000, vec![disabled(1)]);
    assert_eq!(lets_in(&replica, 1), Some(true), "it waits for its turn");
    replica.reach(Instant::now());
    announce(&replica, 50_001, vec![disabled(1)]);
    assert_eq!(lets_in(&replica, 1), None);
}
