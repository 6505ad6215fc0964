//! A store that loses writes and goes on: every shape of that. Commits are chained here, as they are in a store.

use super::*;
use crate::replica::sync::repair::PAGE;
use crate::token::{Grant, PermissionSet, TokenId, UserId};

/// A commit that revokes the token of this number, at the next revision; the number is also its id.
fn then(before: Position, number: u8) -> (LogEntry, Position) {
    let id = CommitId(number.into());
    let (revision, head) = (before.revision.next(), before.head.then(id));
    let position = Position { revision, head, checksum: sum(revision.0), ..before };
    let changes = vec![Change::RemoveGrant(digest(number))];
    (LogEntry { id, revision, head, checksum: position.checksum, changes }, position)
}

/// Some more after it.
fn line(from: Position, numbers: std::ops::RangeInclusive<u8>) -> Vec<(LogEntry, Position)> {
    let mut last = from;
    let next = |number| {
        let next = then(last, number);
        last = next.1;
        next
    };
    numbers.map(next).collect()
}

fn digest(number: u8) -> Digest {
    Digest::of(&[number])
}

fn subject(number: u8) -> Subject {
    Subject::Token(digest(number))
}

/// In the order in which they are asked for.
fn subjects(numbers: impl IntoIterator<Item = u8>) -> Vec<Subject> {
    let mut subjects: Vec<_> = numbers.into_iter().map(subject).collect();
    subjects.sort_unstable();
    subjects
}

fn item(number: u8) -> SnapshotItem {
    let (token, owner) = (TokenId::from_u64(number.into()), UserId::from_u64(1));
    SnapshotItem::Grant(digest(number), Grant { token, owner, permissions: PermissionSet::EMPTY, expires_at: None })
}

fn log(line: &[(LogEntry, Position)]) -> Input {
    Input::Changes(Changes::Entries(line.iter().map(|(entry, _)| entry.clone()).collect()))
}

fn notify(scene: &mut Scene, line: &[(LogEntry, Position)]) {
    for (entry, _) in line {
        assert_eq!(scene.on(committed(EPOCH, entry.clone())), idle());
    }
}

fn position(line: &[(LogEntry, Position)]) -> Input {
    Input::Position(line.last().expect("some").1.into())
}

/// The question that follows the probe after a fork was found.
fn asks_for_ancestor(scene: &mut Scene, store: Position, latest: u64, heads: usize) {
    assert_eq!(scene.on(Input::Tick), reads(Read::Position));
    match scene.on(Input::Position(store.into())).read {
        Some(Read::Ancestor { latest: from, heads: asked }) => {
            assert_eq!((from, asked.len()), (Revision(latest), heads));
        }
        other => panic!("{other:?}"),
    }
}

/// Settled at 5, and live up to 8 by the commits 6 to 8.
fn live() -> (Scene, Vec<(LogEntry, Position)>) {
    let mut scene = Scene::settled(5);
    let old = line(at(5), 6..=8);
    notify(&mut scene, &old);
    scene.calls();
    (scene, old)
}

#[test]
fn only_what_the_lost_commits_were_about_is_read_again_and_the_log_tells_the_rest() {
    let (mut scene, old) = live();
    let new = line(old[0].1, 107..=109);
    let sent_at = scene.probe();
    assert_eq!(scene.on(position(&new)), reads(Read::Changes { after: Revision(8) }));
    assert_eq!(scene.on(log(&new[2..])), finds(Finding::Forked(Revision(9))));
    assert_eq!(scene.machine.position(), None);
    asks_for_ancestor(&mut scene, new[2].1, 8, 4);
    assert_eq!(scene.on(Input::Ancestor(Some(Revision(6)))), reads(Read::Items(subjects([7, 8]))));
    assert!(!scene.machine.is_caught_up());
    scene.table.mended = 12; // one of them shows a later commit
    let asked_at = scene.seconds + 1;
    assert_eq!(scene.on(Input::Items(vec![item(7)])), reads(Read::Position));
    assert_eq!(scene.calls(), [Call::Mend(subjects([7, 8]), vec![item(7)])]);
    assert_eq!(scene.on(position(&new)), reads(Read::Changes { after: Revision(6) }));
    assert_eq!(scene.on(log(&new)), finds(Finding::Synced(new[2].1)));
    let applied = [Call::Apply(7), Call::Apply(8), Call::Apply(9)];
    assert_eq!(scene.calls(), [&applied[..], &[Call::Confirm(asked_at)]].concat(), "and not as of {sent_at}");
    assert_eq!(scene.machine.position(), Some(new[2].1));
}

#[test]
fn a_store_that_is_shorter_now_needs_nothing_of_the_log() {
    let (mut scene, old) = live();
    scene.probe();
    assert_eq!(scene.on(position(&old[..2])), finds(regressed(8, 7)));
    asks_for_ancestor(&mut scene, old[1].1, 8, 4);
    assert_eq!(scene.on(Input::Ancestor(Some(Revision(7)))), reads(Read::Items(subjects([8]))));
    scene.table.mended = sum(7);
    assert_eq!(scene.on(Input::Items(vec![])), reads(Read::Position));
    assert_eq!(scene.on(position(&old[..2])), finds(Finding::Synced(old[1].1)));
    assert!(matches!(scene.calls()[..], [Call::Mend(..), Call::Confirm(_)]), "nothing is swept");
    assert!(scene.machine.is_caught_up());
}

#[test]
fn a_revision_that_was_given_out_again_is_no_proof() {
    let (mut scene, old) = live();
    let new = line(old[1].1, 108..=108);
    scene.probe();
    assert_eq!(scene.on(position(&new)), finds(Finding::Forked(Revision(8))));
    assert_eq!(scene.calls(), []);
}

#[test]
fn a_notice_of_another_history_leads_to_the_fork_at_once_and_is_no_reason_to_apply_it() {
    let (mut scene, old) = live();
    let new = line(old[1].1, 108..=109);
    assert_eq!(scene.on(committed(EPOCH, new[1].0.clone())), reads(Read::Changes { after: Revision(8) }));
    assert_eq!(scene.calls(), [Call::Anticipate(9)]);
    assert_eq!(scene.on(log(&new[1..])), finds(Finding::Forked(Revision(9))));
}

#[test]
fn a_repair_that_does_not_come_out_even_ends_in_a_snapshot() {
    let (mut scene, old) = live();
    repaired(&mut scene, &old[..2], [8]);
    scene.table.mended = sum(7) ^ 1;
    scene.on(Input::Items(vec![]));
    assert_eq!(scene.on(position(&old[..2])), finds(Finding::Unproven(Revision(7))));
    scene.calls();
    scene.resync(7);
    assert!(scene.calls().contains(&Call::Sweep));
}

/// The store is at the end of this line; these are asked for.
fn repaired(scene: &mut Scene, line: &[(LogEntry, Position)], about: impl IntoIterator<Item = u8>) {
    let last = line.last().expect("some").1;
    scene.on(Input::Tick);
    scene.on(Input::Position(last.into()));
    let latest = scene.on(Input::Tick);
    assert_eq!(latest, reads(Read::Position));
    assert!(matches!(scene.on(Input::Position(last.into())).read, Some(Read::Ancestor { .. })));
    assert_eq!(scene.on(Input::Ancestor(Some(last.revision))), reads(Read::Items(subjects(about))));
}

#[test]
fn forks_one_after_the_other_add_up() {
    let (mut scene, old) = live();
    repaired(&mut scene, &old[..2], [8]);
    scene.on(Input::Items(vec![]));
    // Before the checksum could be compared, the store goes on, and loses that too, and what was left of before.
    let new = line(old[1].1, 108..=110);
    assert_eq!(scene.on(position(&new)), reads(Read::Changes { after: Revision(7) }));
    assert_eq!(scene.on(log(&new[..1])), reads(Read::Changes { after: Revision(8) }));
    assert_eq!(scene.on(Input::Changes(Changes::Below)), reads(Read::Position));
    assert_eq!(scene.on(position(&old[..1])), finds(regressed(8, 6)));
    asks_for_ancestor(&mut scene, old[0].1, 8, 4);
    assert_eq!(scene.on(Input::Ancestor(Some(Revision(6)))), reads(Read::Items(subjects([8, 108, 7]))));
    scene.table.mended = sum(6);
    scene.on(Input::Items(vec![]));
    assert_eq!(scene.on(position(&old[..1])), finds(Finding::Synced(old[0].1)));
    // And once more, from there on.
    let newer = line(old[0].1, 207..=208);
    notify(&mut scene, &newer);
    repaired(&mut scene, &newer[..1], [208]);
}

#[test]
fn a_failed_read_is_tried_again_after_a_probe_from_where_it_was() {
    let (mut scene, old) = live();
    scene.probe();
    scene.on(position(&old[..2]));
    asks_for_ancestor(&mut scene, old[1].1, 8, 4);
    assert_eq!(scene.on(Input::Failed), idle());
    asks_for_ancestor(&mut scene, old[1].1, 8, 4);
    assert_eq!(scene.on(Input::Ancestor(Some(Revision(7)))), reads(Read::Items(subjects([8]))));
    assert_eq!(scene.on(Input::Failed), idle());
    assert_eq!(scene.on(Input::Tick), reads(Read::Position));
    assert_eq!(scene.on(position(&old[..2])), reads(Read::Items(subjects([8]))));
}

#[test]
fn much_is_read_again_in_pages_between_which_probes_go_first() {
    let mut scene = Scene::settled(5);
    let (mut entry, position) = then(at(5), 6);
    let digests = (0..2 * PAGE as u64).map(|number| Digest::of(&number.to_le_bytes()));
    entry.changes = digests.map(Change::RemoveGrant).chain([Change::RemoveOwner(UserId::from_u64(1))]).collect();
    notify(&mut scene, &[(entry, position)]);
    scene.probe();
    scene.on(Input::Position(at(5).into()));
    asks_for_ancestor(&mut scene, at(5), 6, 2);
    let page = |step: Step| match step.read {
        Some(Read::Items(page)) => page,
        other => panic!("{other:?}"),
    };
    let first = page(scene.on(Input::Ancestor(Some(Revision(5)))));
    assert_eq!((first.len(), first.last()), (PAGE, Some(&Subject::User(UserId::from_u64(1)))), "users come first");
    scene.on(Input::Tick);
    assert_eq!(scene.on(Input::Items(vec![])), reads(Read::Position));
    assert_eq!(page(scene.on(Input::Position(at(5).into()))).len(), PAGE);
    assert_eq!(page(scene.on(Input::Items(vec![]))).len(), 1);
    assert_eq!(scene.on(Input::Items(vec![])), reads(Read::Position));
}

#[test]
fn commits_that_changed_nobody_are_undone_without_reading() {
    let mut scene = Scene::settled(5);
    let (mut entry, position) = then(at(5), 6);
    entry.changes.clear();
    notify(&mut scene, &[(entry, position)]);
    scene.probe();
    scene.on(Input::Position(at(5).into()));
    asks_for_ancestor(&mut scene, at(5), 6, 2);
    scene.table.mended = sum(5);
    scene.calls();
    assert_eq!(scene.on(Input::Ancestor(Some(Revision(5)))), reads(Read::Position));
    assert_eq!(scene.calls(), [Call::Mend(vec![], vec![])], "whoever writes the table down knows that it went back");
    assert_eq!(scene.on(Input::Position(at(5).into())), finds(Finding::Synced(at(5))));
}

#[test]
fn a_fork_under_a_snapshot_that_is_not_settled_needs_another_one() {
    let mut scene = Scene::unproven();
    let step = scene.on(Input::Position(at(4).into()));
    assert_eq!(step, Step { read: None, findings: vec![regressed(5, 4), Finding::NoCommonAncestor] });
    scene.resync(4);
}

#[test]
fn a_log_that_follows_us_beside_a_position_that_does_not_is_damaged() {
    let (mut scene, old) = live();
    let new = line(old[1].1, 108..=108);
    scene.probe();
    scene.on(position(&new));
    asks_for_ancestor(&mut scene, new[0].1, 8, 4);
    assert_eq!(scene.on(Input::Ancestor(Some(Revision(8)))), finds(Finding::LogIncomplete(Revision(8))));
    scene.resync(8);
}

#[test]
fn another_epoch_ends_a_repair() {
    let (mut scene, old) = live();
    scene.probe();
    scene.on(position(&old[..2]));
    scene.on(Input::Tick);
    let other = Position { epoch: Epoch(2), ..old[1].1 };
    assert_eq!(scene.on(Input::Position(other.into())), finds(Finding::OtherEpoch(Epoch(2))));
    scene.on(Input::Tick);
    assert_eq!(scene.on(Input::Position(other.into())), reads(Read::Snapshot));
}

#[test]
fn during_a_repair_only_what_takes_away_is_taken_from_notices() {
    let (mut scene, old) = live();
    repaired(&mut scene, &old[..2], [8]);
    scene.calls();
    let new = line(old[1].1, 108..=108);
    assert_eq!(scene.on(committed(EPOCH, new[0].0.clone())), idle());
    assert_eq!(scene.calls(), [Call::Anticipate(8)]);
}

/// A store whose entries contradict its checksum does so after a repair too.
#[test]
fn the_difference_of_a_store_that_contradicts_itself_is_expected_after_a_repair() {
    let mut scene = Scene::new();
    for _ in 0..2 {
        scene.on(Input::Tick);
        scene.on(Input::Position(at(5).into()));
        scene.on(Input::Snapshot { position: at(5), checksum: sum(5) ^ 2 });
        scene.on(Input::Position(at(5).into()));
    }
    scene.table.error = 2;
    let old = line(at(5), 6..=7);
    notify(&mut scene, &old);
    repaired(&mut scene, &old[..1], [7]);
    scene.table.mended = sum(6) ^ 2;
    scene.on(Input::Items(vec![]));
    assert_eq!(scene.on(position(&old[..1])), finds(Finding::Synced(old[0].1)));
}
