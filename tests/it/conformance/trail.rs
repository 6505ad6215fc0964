//! The audit trail: left with a commit, chained in steps.

use tollgate::audit::Head;
use tollgate::store::{AuditLine, CommitError, TrailEnds, TrailStep};

use super::*;

fn entry(number: usize) -> Vec<u8> {
    format!("{{\"timestamp\":\"2026-01-02T03:04:05Z\",\"number\":{number}}}").into_bytes()
}

/// Leaves so many entries.
pub(super) async fn leave(store: &dyn Store, count: usize) {
    store.note(&(0..count).map(entry).collect::<Vec<_>>()).await.expect("leaves them");
}

/// Leaves and chains so many.
pub(super) async fn chain(store: &dyn Store, count: usize) {
    leave(store, count).await;
    while store.trail_ends(0).await.expect("reads").loose_count > 0 {
        assert!(store.link(&step(store.trail_ends(200).await.expect("reads"))).await.expect("answers"));
    }
}

/// The step that chains what was read.
fn step(TrailEnds { last, loose, .. }: TrailEnds) -> TrailStep {
    let mut head = last.as_ref().map_or_else(Head::start, Head::of);
    let line = |entry: &Vec<u8>| {
        let (line, next) = head.next(entry);
        head = next;
        line
    };
    TrailStep { lines: loose.iter().map(line).collect(), last, loose, remove_through: None }
}

async fn ends(store: &dyn Store) -> TrailEnds {
    store.trail_ends(100).await.expect("reads")
}

fn numbers(lines: &[AuditLine]) -> Vec<u64> {
    lines.iter().map(|line| line.seq).collect()
}

pub(super) async fn entries_of_a_commit_are_loose_until_a_step_is_taken<D: Database>() {
    let (_database, store) = store::<D>().await;
    assert_eq!(ends(&*store).await, TrailEnds::default());
    let batch = Batch { audit: vec![entry(1), entry(2)], ..users([Edit::Create(user("anna"))]) };
    commit(&*store, batch).await;
    let position = store.position().await.expect("reads");
    store.note(&[entry(3)]).await.expect("leaves it");
    let read = ends(&*store).await;
    assert_eq!((&read.loose, read.loose_count), (&vec![entry(1), entry(2), entry(3)], 3));
    let first = store.trail_ends(1).await.expect("reads");
    assert_eq!((first.loose.len(), first.loose_count), (1, 3));
    let step = step(read);
    assert!(store.link(&step).await.expect("answers"));
    let after = ends(&*store).await;
    assert_eq!((after.first.as_ref(), after.last.as_ref()), (step.lines.first(), step.lines.last()));
    assert_eq!((after.loose.len(), after.loose_count), (0, 0));
    assert_eq!(store.position().await.expect("reads"), position, "none of it is a commit");
}

pub(super) async fn a_commit_that_fails_leaves_no_entry<D: Database>() {
    let (_database, store) = store::<D>().await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    let batch = Batch { audit: vec![entry(1)], ..users([Edit::Create(anna)]) };
    assert!(matches!(store.commit(batch).await, Err(CommitError::Conflict | CommitError::NameTaken(_))));
    assert_eq!(ends(&*store).await, TrailEnds::default());
}

pub(super) async fn a_step_is_taken_only_where_all_is_as_it_was_read<D: Database>() {
    let (_database, store) = store::<D>().await;
    commit(&*store, user_batch("anna")).await;
    leave(&*store, 3).await;
    let good = step(ends(&*store).await);
    let other = AuditLine { seq: 1, text: b"{}".to_vec() };
    for bad in [
        TrailStep { last: Some(other.clone()), ..good.clone() },
        TrailStep { loose: vec![entry(0), entry(2), entry(1)], ..good.clone() },
        TrailStep { loose: vec![entry(0), entry(1), entry(2), entry(3)], ..good.clone() },
    ] {
        assert!(!store.link(&bad).await.expect("answers"), "{bad:?}");
    }
    assert_eq!(ends(&*store).await.last, None, "nothing of it was done");
    assert!(store.link(&good).await.expect("answers"));
    assert!(!store.link(&good).await.expect("answers"), "it was taken");
    leave(&*store, 1).await;
    let next = step(ends(&*store).await);
    let last = next.last.clone().expect("a line");
    for last in [None, Some(AuditLine { text: b"{}".to_vec(), ..last.clone() }), Some(AuditLine { seq: 2, ..last })] {
        assert!(!store.link(&TrailStep { last, ..next.clone() }).await.expect("answers"));
    }
    assert!(store.freeze(Some("a copy"), None).await.expect("freezes"));
    assert!(!store.link(&next).await.expect("answers"), "it is frozen");
    store.note(&[entry(9)]).await.expect("leaves none");
    assert_eq!(ends(&*store).await.loose_count, 1);
    assert!(store.freeze(None, None).await.expect("lifts it"));
    assert!(store.link(&next).await.expect("answers"));
}

pub(super) async fn of_steps_at_once_one_is_taken<D: Database>() {
    let (database, store) = store::<D>().await;
    commit(&*store, user_batch("anna")).await;
    for _ in 0..5 {
        leave(&*store, 20).await;
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let handle = database.handle().await;
            tasks.push(tokio::spawn(async move {
                let step = step(ends(&*handle).await);
                !step.lines.is_empty() && handle.link(&step).await.expect("answers")
            }));
        }
        let mut taken = 0;
        for task in tasks {
            taken += usize::from(task.await.expect("ends"));
        }
        assert_eq!(taken, 1);
    }
    let lines = store.trail_after(0, 1000).await.expect("reads");
    assert_eq!(numbers(&lines), (1..=100).collect::<Vec<_>>());
}

pub(super) async fn lines_are_read_from_both_ends_and_go_from_the_first<D: Database>() {
    let (_database, store) = store::<D>().await;
    commit(&*store, user_batch("anna")).await;
    chain(&*store, 10).await;
    let after = async |seq, limit| numbers(&store.trail_after(seq, limit).await.expect("reads"));
    let before = async |seq, limit| numbers(&store.trail_before(seq, limit).await.expect("reads"));
    assert_eq!((after(0, 3).await, after(8, 5).await), (vec![1, 2, 3], vec![9, 10]));
    assert_eq!((after(10, 3).await, after(u64::MAX >> 1, 3).await), (vec![], vec![]));
    assert_eq!((before(None, 3).await, before(Some(3), 5).await), (vec![10, 9, 8], vec![2, 1]));
    assert_eq!((before(Some(1), 3).await, before(Some(0), 3).await), (vec![], vec![]));
    leave(&*store, 1).await;
    let step = TrailStep { remove_through: Some(4), ..step(ends(&*store).await) };
    assert!(store.link(&step).await.expect("answers"));
    assert_eq!(after(0, 100).await, (5..=11).collect::<Vec<_>>());
    assert_eq!(ends(&*store).await.first.map(|line| line.seq), Some(5));
}

pub(super) async fn how_far_it_was_written_is_remembered_by_place<D: Database>() {
    let (_database, store) = store::<D>().await;
    commit(&*store, user_batch("anna")).await;
    assert_eq!(store.written_to("file:a").await.expect("reads"), None);
    store.set_written_to("file:a", 3).await.expect("writes");
    store.set_written_to("file:b", 1).await.expect("writes");
    store.set_written_to("file:a", 7).await.expect("writes");
    let written = async |place| store.written_to(place).await.expect("reads");
    assert_eq!((written("file:a").await, written("file:b").await, written("file:c").await), (Some(7), Some(1), None));
}

fn user_batch(name: &str) -> Batch {
    users([Edit::Create(user(name))])
}
