//! The rules, one by one, against a table that records its calls.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::store::{Change, CommitId};
use crate::token::Digest;

mod forks;

const EPOCH: Epoch = Epoch(1);

/// The store's checksum at a revision, in these tests.
fn sum(revision: u64) -> u64 {
    revision * 1_000
}

fn at(revision: u64) -> Position {
    let (revision, checksum) = (Revision(revision), sum(revision));
    Position { epoch: EPOCH, revision, head: Head::unchained(revision, checksum), checksum }
}

/// Not chained, so that a test can begin anywhere.
fn entry(revision: u64) -> LogEntry {
    let Position { revision, head, checksum, .. } = at(revision);
    LogEntry { id: CommitId::default(), revision, head, checksum, changes: Vec::new() }
}

fn entries(revisions: std::ops::RangeInclusive<u64>) -> Input {
    Input::Changes(Changes::Entries(revisions.map(entry).collect()))
}

fn notice(revision: u64) -> Input {
    committed(EPOCH, entry(revision))
}

fn committed(epoch: Epoch, entry: LogEntry) -> Input {
    Input::Notice(Notice::Committed { epoch, entry: Arc::new(entry) })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Apply(u64),
    Revoke(u64),
    Anticipate(u64),
    /// What was read again, and of it what was found.
    Mend(Vec<Subject>, Vec<SnapshotItem>),
    Sweep,
    /// Seconds since the start.
    Confirm(u64),
}

/// Records its calls, and answers with the checksum that the store would have there, or with a wrong one.
struct Recorder {
    start: Instant,
    calls: Vec<Call>,
    error: u64,
    /// The checksum after lost writes were made up for.
    mended: u64,
}

impl Table for Recorder {
    fn apply(&mut self, entry: &LogEntry, _now: Instant) -> u64 {
        self.calls.push(Call::Apply(entry.revision.0));
        sum(entry.revision.0) ^ self.error
    }

    fn revoke(&mut self, entry: &LogEntry, _now: Instant) {
        self.calls.push(Call::Revoke(entry.revision.0));
    }

    fn anticipate(&mut self, _epoch: Epoch, entry: &LogEntry, _now: Instant) {
        self.calls.push(Call::Anticipate(entry.revision.0));
    }

    fn repair(&mut self, subjects: &[Subject], found: &[SnapshotItem], _now: Instant) -> u64 {
        self.calls.push(Call::Mend(subjects.to_vec(), found.to_vec()));
        self.mended
    }

    fn sweep(&mut self) {
        self.calls.push(Call::Sweep);
    }

    fn confirm(&mut self, as_of: Instant) {
        self.calls.push(Call::Confirm((as_of - self.start).as_secs()));
    }
}

/// A machine with its table; each event comes one second after the one before.
struct Scene {
    machine: Synchroniser,
    table: Recorder,
    seconds: u64,
}

impl Scene {
    fn new() -> Self {
        let table = Recorder { start: Instant::now(), calls: Vec::new(), error: 0, mended: 0 };
        Self { machine: Synchroniser::new(), table, seconds: 0 }
    }

    /// Settled at a revision, with nothing outstanding.
    fn settled(revision: u64) -> Self {
        let mut scene = Self::new();
        scene.resync(revision);
        scene.calls();
        scene
    }

    /// Has asked for a snapshot of a store at 5.
    fn asked() -> Self {
        let mut scene = Self::new();
        scene.on(Input::Tick);
        scene.on(Input::Position(at(5).into()));
        scene
    }

    /// Has the snapshot, and no position read after it.
    fn unproven() -> Self {
        let mut scene = Self::asked();
        scene.on(snapshot(5));
        scene
    }

    fn meets_another_epoch(&mut self, position: Position) {
        let found = Finding::OtherEpoch(position.epoch);
        assert_eq!(self.on(Input::Position(position.into())), finds(found));
    }

    fn resync(&mut self, revision: u64) {
        assert_eq!(self.on(Input::Tick).read, Some(Read::Position));
        assert_eq!(self.on(Input::Position(at(revision).into())).read, Some(Read::Snapshot));
        assert_eq!(self.on(snapshot(revision)).read, Some(Read::Position));
        assert_eq!(self.on(Input::Position(at(revision).into())).findings, [Finding::Synced(at(revision))]);
        assert_eq!(self.machine.position(), Some(at(revision)));
    }

    fn on(&mut self, input: Input) -> Step {
        self.seconds += 1;
        self.machine.on(input, self.table.start + Duration::from_secs(self.seconds), &mut self.table)
    }

    /// The calls since the last time.
    fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.table.calls)
    }

    fn probe(&mut self) -> u64 {
        assert_eq!(self.on(Input::Tick), reads(Read::Position));
        self.table.calls.clear();
        self.seconds
    }
}

fn snapshot(revision: u64) -> Input {
    Input::Snapshot { position: at(revision), checksum: sum(revision) }
}

fn reads(read: Read) -> Step {
    Step { read: Some(read), findings: Vec::new() }
}

fn finds(finding: Finding) -> Step {
    Step { read: None, findings: vec![finding] }
}

fn regressed(from: u64, to: u64) -> Finding {
    Finding::Regressed { from: Revision(from), to: Revision(to) }
}

fn idle() -> Step {
    Step::default()
}

#[test]
fn a_snapshot_counts_only_after_a_position_read_after_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.on(Input::Tick), reads(Read::Position));
    assert_eq!(scene.on(Input::Position(at(5).into())), reads(Read::Snapshot));
    assert_eq!(scene.on(snapshot(5)), reads(Read::Position)); // at 3 s
    assert_eq!((scene.calls(), scene.machine.position()), (vec![], None));
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Changes { after: Revision(5) }));
    assert_eq!((scene.calls(), scene.machine.position()), (vec![], None));
    assert_eq!(scene.on(entries(6..=8)), finds(Finding::Synced(at(7))));
    assert_eq!(scene.calls(), [Call::Apply(6), Call::Apply(7), Call::Sweep, Call::Confirm(3), Call::Apply(8)]);
    assert_eq!(scene.machine.position(), Some(at(8)));
}

#[test]
fn checksums_within_a_mixed_snapshot_are_not_compared() {
    let mut scene = Scene::asked();
    // The snapshot already shows something of 6 and 7.
    scene.on(Input::Snapshot { position: at(5), checksum: 12 });
    scene.table.error = 34;
    assert_eq!(scene.on(notice(6)), idle());
    scene.table.error = 0;
    scene.on(Input::Position(at(7).into()));
    assert_eq!(scene.on(entries(6..=7)), finds(Finding::Synced(at(7))));
}

#[test]
fn notices_that_overtake_the_position_after_a_snapshot_settle_it_too() {
    let mut scene = Scene::unproven();
    scene.on(notice(6));
    scene.on(notice(7));
    assert_eq!(scene.on(Input::Position(at(6).into())), finds(Finding::Synced(at(7))));
}

#[test]
fn the_next_notice_applies_and_proves_nothing() {
    let mut scene = Scene::settled(5);
    assert_eq!(scene.on(notice(6)), idle());
    assert_eq!(scene.calls(), [Call::Apply(6)]);
    assert_eq!(scene.machine.position(), Some(at(6)));
}

#[test]
fn a_repeated_notice_only_revokes_again() {
    let mut scene = Scene::settled(5);
    scene.on(notice(6));
    scene.calls();
    assert_eq!((scene.on(notice(6)), scene.on(notice(5)), scene.on(notice(4))), (idle(), idle(), idle()));
    assert_eq!(scene.calls(), [Call::Revoke(6), Call::Revoke(5), Call::Revoke(4)]);
    assert_eq!(scene.machine.position(), Some(at(6)));
}

#[test]
fn a_gap_reads_the_log_and_takes_away_ahead_of_it() {
    let mut scene = Scene::settled(5);
    assert_eq!(scene.on(notice(7)), reads(Read::Changes { after: Revision(5) }));
    assert_eq!(scene.on(notice(9)), idle(), "one read at a time");
    assert_eq!(scene.on(entries(6..=8)), reads(Read::Changes { after: Revision(8) }));
    let calls = scene.calls();
    assert_eq!(calls, [Call::Anticipate(7), Call::Anticipate(9), Call::Apply(6), Call::Apply(7), Call::Apply(8)]);
    assert_eq!(scene.on(notice(9)), idle());
    assert_eq!(scene.on(entries(9..=9)), idle(), "what notices brought meanwhile is not applied again");
    assert_eq!(scene.calls(), [Call::Apply(9)]);
}

#[test]
fn a_gap_that_the_log_does_not_know_is_left_to_the_next_probe() {
    let mut scene = Scene::settled(5);
    scene.on(notice(9));
    assert_eq!(scene.on(Input::Changes(Changes::Entries(vec![]))), idle());
    scene.probe();
    assert_eq!(scene.on(Input::Position(at(5).into())), idle());
    assert_eq!(scene.machine.position(), Some(at(5)));
}

#[test]
fn something_moved_reads_the_log_again_and_again_but_never_instead_of_a_probe() {
    let mut scene = Scene::settled(5);
    let moved = || Input::Notice(Notice::Moved);
    assert_eq!(scene.on(moved()), reads(Read::Changes { after: Revision(5) }));
    assert_eq!(scene.on(moved()), idle());
    assert_eq!(scene.on(entries(6..=6)), reads(Read::Changes { after: Revision(6) }));
    assert_eq!((scene.on(moved()), scene.on(Input::Tick)), (idle(), idle()));
    assert_eq!(scene.on(entries(7..=7)), reads(Read::Position));
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Changes { after: Revision(7) }));
}

/// The snapshot was of 5 when it began, and of a store that has lost 5 when it ended: it shows what 5 had revoked.
/// On a line whose round trip is as long as the time between probes.
#[test]
fn a_probe_that_is_due_when_the_last_one_is_answered_leaves_the_log_its_turn() {
    let mut scene = Scene::settled(5);
    let sent_at = scene.probe();
    assert_eq!(scene.on(Input::Tick), idle());
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Changes { after: Revision(5) }));
    assert_eq!(scene.on(entries(6..=7)), reads(Read::Position));
    assert_eq!(scene.calls(), [Call::Apply(6), Call::Apply(7), Call::Confirm(sent_at)]);
    // What has no more to read is asked again.
    assert_eq!(scene.on(Input::Tick), idle());
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Position));
}

#[test]
fn a_notice_of_what_a_snapshot_should_show_revokes_all_the_same() {
    let mut scene = Scene::unproven();
    assert_eq!(scene.on(notice(5)), idle());
    assert_eq!(scene.calls(), [Call::Revoke(5)]);
}

#[test]
fn lost_notices_are_asked_for_at_once() {
    let mut scene = Scene::settled(5);
    assert_eq!(scene.on(Input::Notice(Notice::Lost)), reads(Read::Position));
    let mut scene = Scene::new();
    assert_eq!(scene.on(Input::Notice(Notice::Lost)), reads(Read::Position));
}

#[test]
fn an_equal_position_is_fresh_as_of_before_it_was_asked_for() {
    let mut scene = Scene::settled(5);
    let sent_at = scene.probe();
    assert_eq!(scene.on(Input::Position(at(5).into())), idle());
    assert_eq!(scene.calls(), [Call::Confirm(sent_at)]);
}

#[test]
fn a_greater_position_is_fresh_once_reached_by_whatever_way() {
    let mut scene = Scene::settled(5);
    let sent_at = scene.probe();
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Changes { after: Revision(5) }));
    scene.on(notice(6));
    assert_eq!(scene.calls(), [Call::Apply(6)]);
    scene.on(notice(7));
    assert_eq!(scene.calls(), [Call::Apply(7), Call::Confirm(sent_at)]);
}

/// It will never be reached: the store has lost it, and may come to its revision by other commits.
/// Who is behind is probed beside the log, and as fresh as the last position that it has reached.
#[test]
fn of_positions_above_the_first_and_the_last_are_proofs() {
    let mut scene = Scene::settled(5);
    let asked: Vec<_> = [7, 8, 9]
        .map(|above| {
            let asked = scene.probe();
            scene.on(Input::Position(at(above).into()));
            scene.on(Input::Failed);
            asked
        })
        .into();
    assert_eq!(scene.on(notice(6)), idle());
    scene.calls();
    scene.on(notice(7));
    assert_eq!(scene.calls(), [Call::Apply(7), Call::Confirm(asked[0])]);
    scene.on(notice(8));
    scene.on(notice(9));
    assert_eq!(scene.calls(), [Call::Apply(8), Call::Apply(9), Call::Confirm(asked[2])]);
}

#[test]
fn a_position_above_is_forgotten_once_a_later_one_is_not() {
    let mut scene = Scene::settled(5);
    scene.probe();
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Changes { after: Revision(5) }));
    assert_eq!(scene.on(notice(6)), idle());
    assert_eq!(scene.on(Input::Changes(Changes::Truncated)), reads(Read::Position));
    assert_eq!(scene.on(Input::Position(at(6).into())), idle());
    assert!(scene.machine.is_caught_up());
}

#[test]
fn a_position_that_notices_overtook_is_no_regression_and_still_a_proof() {
    let mut scene = Scene::settled(5);
    let sent_at = scene.probe();
    scene.on(notice(6));
    scene.on(notice(7));
    assert_eq!(scene.on(Input::Position(at(5).into())), idle());
    assert_eq!(scene.calls(), [Call::Apply(6), Call::Apply(7), Call::Confirm(sent_at)]);
}

#[test]
fn an_overtaken_position_with_another_checksum_is_a_divergence() {
    let mut scene = Scene::settled(5);
    scene.probe();
    scene.on(notice(6));
    let other = Position { checksum: 1, ..at(5) };
    assert_eq!(scene.on(Input::Position(other.into())), finds(Finding::Diverged(Revision(5))));
}

#[test]
fn a_position_below_where_we_were_when_asking_is_a_regression() {
    let mut scene = Scene::settled(5);
    scene.probe();
    scene.on(notice(6));
    assert_eq!(scene.on(Input::Position(at(4).into())), finds(regressed(5, 4)));
    assert_eq!(scene.machine.position(), None);
    unrelated(&mut scene);
    scene.resync(4);
}

#[test]
fn another_checksum_at_the_same_revision_is_a_divergence() {
    let mut scene = Scene::settled(5);
    scene.probe();
    let other = Position { checksum: 1, ..at(5) };
    assert_eq!(scene.on(Input::Position(other.into())), finds(Finding::Diverged(Revision(5))));
    assert_eq!(scene.calls(), [], "never fresh");
    scene.resync(5);
    assert!(scene.calls().contains(&Call::Sweep));
}

#[test]
fn an_entry_that_leads_to_another_checksum_is_a_divergence_and_stops_there() {
    let mut scene = Scene::settled(5);
    scene.on(Input::Notice(Notice::Moved));
    scene.calls();
    scene.table.error = 1;
    assert_eq!(scene.on(entries(6..=8)), finds(Finding::Diverged(Revision(6))));
    assert_eq!(scene.calls(), [Call::Apply(6)]);
}

#[test]
fn another_past_under_a_known_revision_is_asked_about() {
    let mut scene = Scene::settled(5);
    scene.on(notice(6));
    scene.calls();
    let other = LogEntry { head: Head(1), ..entry(6) };
    assert_eq!(scene.on(committed(EPOCH, other)), reads(Read::Position));
    assert_eq!(scene.calls(), [Call::Anticipate(6)]);
}

#[test]
fn another_epoch_resyncs_but_only_the_position_can_tell() {
    let mut scene = Scene::settled(5);
    assert_eq!(scene.on(committed(Epoch(2), entry(6))), reads(Read::Position));
    assert_eq!(scene.calls(), [Call::Anticipate(6)], "a revocation is one in any epoch");
    assert_eq!(scene.on(Input::Position(at(5).into())), idle(), "it was late news of an old epoch");
    scene.probe();
    scene.meets_another_epoch(Position { epoch: Epoch(2), ..at(5) });
}

#[test]
fn a_store_replaced_under_a_snapshot_is_noticed() {
    let mut scene = Scene::unproven();
    scene.meets_another_epoch(Position { epoch: Epoch(2), ..at(5) });
    assert_eq!(scene.calls(), []);
}

#[test]
fn a_truncated_log_resyncs() {
    let mut scene = Scene::settled(5);
    scene.on(notice(9));
    assert_eq!(scene.on(Input::Changes(Changes::Truncated)), reads(Read::Position), "or it lost writes: ask");
    assert_eq!(scene.on(Input::Position(at(9).into())), reads(Read::Changes { after: Revision(5) }));
    assert_eq!(scene.on(Input::Changes(Changes::Truncated)), finds(Finding::LogTruncated(Revision(5))));
    scene.calls();
    scene.resync(9);
    assert!(matches!(scene.calls()[..], [Call::Sweep, Call::Confirm(_)]));
}

#[test]
fn a_store_below_us_is_a_regression_as_its_position_tells() {
    let mut scene = Scene::settled(5);
    scene.on(notice(9));
    assert_eq!(scene.on(Input::Changes(Changes::Below)), reads(Read::Position));
    assert_eq!(scene.on(Input::Position(at(4).into())), finds(regressed(5, 4)));
    unrelated(&mut scene);
    // The store goes on past where we were before the next answer.
    scene.resync(9);
}

#[test]
fn a_log_that_is_truncated_for_no_reason_is_not_read_over_and_over() {
    let mut scene = Scene::settled(5);
    scene.on(notice(9));
    assert_eq!(scene.on(Input::Changes(Changes::Truncated)), reads(Read::Position));
    assert_eq!(scene.on(Input::Position(at(5).into())), idle());
}

#[test]
fn a_truncated_log_that_notices_overtook_needs_no_snapshot() {
    let mut scene = Scene::settled(5);
    scene.on(notice(7));
    scene.on(notice(6));
    assert_eq!(scene.on(Input::Changes(Changes::Truncated)), reads(Read::Position));
    assert_eq!(scene.on(Input::Position(at(7).into())), reads(Read::Changes { after: Revision(6) }));
}

#[test]
fn a_log_with_a_gap_resyncs_and_one_that_ends_early_is_asked_about() {
    let mut scene = Scene::settled(5);
    scene.on(Input::Notice(Notice::Moved));
    assert_eq!(scene.on(entries(7..=8)), finds(Finding::LogIncomplete(Revision(5))));
    let mut scene = Scene::settled(5);
    scene.probe();
    scene.on(Input::Position(at(7).into()));
    assert_eq!(scene.on(entries(6..=6)), reads(Read::Changes { after: Revision(6) }), "some progress: go on");
    assert_eq!(scene.on(Input::Changes(Changes::Entries(vec![]))), reads(Read::Position), "or it lost writes: ask");
}

#[test]
fn failed_reads_wait_for_the_next_tick_and_lose_nothing() {
    let mut scene = Scene::settled(5);
    scene.on(notice(7));
    assert_eq!(scene.on(Input::Failed), idle());
    assert_eq!(scene.machine.position(), Some(at(5)));
    scene.probe();
    assert_eq!(scene.on(Input::Failed), idle());
    let sent_at = scene.probe();
    scene.on(Input::Position(at(7).into()));
    scene.on(entries(6..=7));
    assert_eq!(scene.calls(), [Call::Apply(6), Call::Apply(7), Call::Confirm(sent_at)]);
    let mut scene = Scene::asked();
    assert_eq!(scene.on(Input::Failed), idle(), "not another snapshot at once");
    scene.resync(5);
}

#[test]
fn a_connection_that_came_back_during_a_read_that_fails_is_asked_at_once() {
    let mut scene = Scene::settled(5);
    scene.probe();
    assert_eq!(scene.on(Input::Notice(Notice::Lost)), idle(), "one read at a time");
    assert_eq!(scene.on(Input::Failed), reads(Read::Position));
    assert_eq!(scene.on(Input::Failed), idle());
    assert_eq!(scene.on(Input::Notice(Notice::Lost)), reads(Read::Position));
}

#[test]
fn caught_up_is_settled_with_nothing_heard_above() {
    let mut scene = Scene::new();
    assert!(!scene.machine.is_caught_up());
    scene.resync(5);
    assert!(scene.machine.is_caught_up());
    scene.on(notice(7));
    assert!(!scene.machine.is_caught_up(), "heard of");
    scene.on(entries(6..=7));
    assert!(scene.machine.is_caught_up());
    scene.on(Input::Notice(Notice::Moved));
    assert!(!scene.machine.is_caught_up(), "something moved");
    scene.on(entries(8..=8));
    scene.probe();
    scene.on(Input::Position(at(9).into()));
    assert!(!scene.machine.is_caught_up(), "a position above");
}

/// As an earlier run left it: at 5, with some of what was committed up to 7 mixed in.
fn resumed(found: u64) -> Scene {
    let machine = Synchroniser::resumed(at(5), found);
    Scene { machine, ..Scene::new() }
}

#[test]
fn what_an_earlier_run_left_is_settled_by_the_log() {
    let mut scene = resumed(12);
    assert_eq!(scene.machine.position(), None);
    assert_eq!(scene.on(Input::Tick), reads(Read::Position)); // at 1 s
    assert_eq!(scene.on(Input::Position(at(8).into())), reads(Read::Changes { after: Revision(5) }));
    assert_eq!(scene.calls(), [], "nothing is fresh yet");
    assert_eq!(scene.on(entries(6..=8)), finds(Finding::Synced(at(8))));
    assert_eq!(scene.calls(), [Call::Apply(6), Call::Apply(7), Call::Apply(8), Call::Sweep, Call::Confirm(1)]);
}

#[test]
fn what_an_earlier_run_left_is_given_up_where_the_store_has_no_such_history() {
    let mut scene = resumed(12);
    scene.on(Input::Tick);
    assert_eq!(scene.on(Input::Position(at(5).into())), finds(Finding::Unproven(Revision(5))), "lost 6 and 7");
    scene.resync(9);
    assert!(scene.calls().contains(&Call::Sweep));
    let mut scene = resumed(sum(5));
    scene.on(Input::Tick);
    scene.meets_another_epoch(Position { epoch: Epoch(2), ..at(9) });
}

#[test]
fn during_a_snapshot_only_what_takes_away_is_taken_from_notices() {
    let mut scene = Scene::asked();
    assert_eq!((scene.on(notice(6)), scene.on(Input::Notice(Notice::Moved))), (idle(), idle()));
    assert_eq!(scene.calls(), [Call::Anticipate(6)]);
}

#[test]
fn a_snapshot_with_another_checksum_is_read_again_and_then_believed() {
    let mut scene = Scene::new();
    let wrong = |scene: &mut Scene, checksum| {
        scene.on(Input::Tick);
        scene.on(Input::Position(at(5).into()));
        scene.on(Input::Snapshot { position: at(5), checksum });
        scene.on(Input::Position(at(5).into())).findings
    };
    assert_eq!(wrong(&mut scene, sum(5) ^ 1), [Finding::Unproven(Revision(5))]);
    assert_eq!(wrong(&mut scene, sum(5) ^ 2), [Finding::Unproven(Revision(5))], "not the same twice");
    assert_eq!(scene.calls(), []);
    let believed = [Finding::Contradiction(Revision(5)), Finding::Synced(at(5))];
    assert_eq!(wrong(&mut scene, sum(5) ^ 2), believed);
    assert!(matches!(scene.calls()[..], [Call::Sweep, Call::Confirm(_)]));
    // From here on the difference is expected; once it changes, the store is asked again.
    scene.table.error = 2;
    assert_eq!(scene.on(notice(6)), idle());
    scene.table.error = 0;
    assert_eq!(scene.on(notice(7)), finds(Finding::Diverged(Revision(7))));
}

/// The store's log shows nothing of what the table came by.
fn unrelated(scene: &mut Scene) {
    assert_eq!(scene.on(Input::Tick), reads(Read::Position));
    let step = scene.on(Input::Position(at(4).into()));
    assert!(matches!(step.read, Some(Read::Ancestor { .. })), "{step:?}");
    assert_eq!(scene.on(Input::Ancestor(None)), finds(Finding::NoCommonAncestor));
}

#[test]
fn answers_to_nothing_that_was_asked_change_nothing() {
    let mut scene = Scene::settled(5);
    let before = scene.machine.clone();
    for input in [
        Input::Position(at(1).into()),
        entries(6..=7),
        snapshot(1),
        Input::Ancestor(None),
        Input::Items(vec![]),
        Input::Failed,
    ] {
        assert_eq!(scene.on(input), idle());
    }
    assert_eq!((scene.machine, scene.table.calls), (before, vec![]));
}

#[test]
fn a_revision_at_the_end_of_numbers_is_no_panic() {
    let mut scene = Scene::settled(u64::MAX / 1_000);
    let removal = vec![Change::RemoveGrant(Digest::of(b"a"))];
    let last = LogEntry { revision: Revision(u64::MAX), changes: removal, ..entry(0) };
    assert!(scene.on(committed(EPOCH, last)).read.is_some());
    let first = entry(0);
    assert_eq!(scene.on(committed(EPOCH, first)), idle());
}
