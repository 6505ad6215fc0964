//! Reads: what was written, in the order promised.

use tollgate::store::{Batch, Edit, StateFilter, Subject, TokenFilter};
use tollgate::token::{MAX_HISTORY, TokenEvent};

use super::*;

pub(super) async fn users_are_found_by_id_and_by_name<D: Database>() {
    let (_database, store) = store::<D>().await;
    let anna = user("anna");
    let version = commit(&*store, users([Edit::Create(anna.clone())])).await.id;
    let found = Some(Versioned { record: anna.clone(), version });
    assert_eq!(store.user(anna.id).await.expect("reads"), found);
    assert_eq!(store.user_by_name("anna").await.expect("reads"), found);
    assert_eq!(store.user_by_name("Anna").await.expect("reads"), None);
    assert_eq!(store.user(UserId::from_u64(1)).await.expect("reads"), None);
}

pub(super) async fn users_are_listed_newest_first<D: Database>() {
    let (_database, store) = store::<D>().await;
    assert_eq!(store.users(None, 10).await.expect("reads"), []);
    let made: Vec<UserRecord> = (0..5).map(|n| user(&n.to_string())).collect();
    commit(&*store, users(made.iter().cloned().map(Edit::Create))).await;
    let page = async |before, limit| -> Vec<String> {
        let page = store.users(before, limit).await.expect("reads");
        page.into_iter().map(|user| user.record.name).collect()
    };
    assert_eq!(page(None, 2).await, ["4", "3"]);
    assert_eq!(page(Some(made[3].id), 2).await, ["2", "1"]);
    assert_eq!(page(Some(made[1].id), 2).await, ["0"]);
    assert_eq!(page(Some(made[0].id), 2).await, [""; 0]);
    assert_eq!(page(None, 0).await, [""; 0]);
    assert_eq!(page(None, usize::MAX).await, ["4", "3", "2", "1", "0"]);
}

pub(super) async fn tokens_come_in_the_order_asked_for<D: Database>() {
    let (_database, store) = store::<D>().await;
    let anna = user("anna");
    let made = ["a", "b", "c"].map(|name| token(anna.id, name));
    let batch = Batch { users: vec![Edit::Create(anna)], ..tokens(made.clone().map(Edit::Create)) };
    let version = commit(&*store, batch).await.id;
    let found = |n: usize| Some(Versioned { record: made[n].clone(), version });
    let ids = [made[2].id, TokenId::from_u64(7), made[0].id, made[2].id];
    assert_eq!(store.tokens_by_id(&ids).await.expect("reads"), [found(2), None, found(0), found(2)]);
    let digests = [made[1].digest, Digest::of(b"none"), made[0].digest];
    assert_eq!(store.tokens_by_digest(&digests).await.expect("reads"), [found(1), None, found(0)]);
    assert_eq!(store.tokens_by_id(&[]).await.expect("reads"), []);
}

pub(super) async fn tokens_are_listed_newest_first<D: Database>() {
    let (_database, store) = store::<D>().await;
    let owner = UserId::from_u64(1);
    let made: Vec<TokenRecord> = (0..25).map(|n| token(owner, &n.to_string())).collect();
    let (late, early) = made.split_at(12);
    commit(&*store, tokens(early.iter().cloned().map(Edit::Create))).await;
    commit(&*store, tokens(late.iter().cloned().map(Edit::Create))).await;
    let (mut listed, mut before) = (Vec::new(), None);
    loop {
        let page = store.tokens(TokenFilter::default(), before, 10).await.expect("reads");
        let Some(last) = page.last() else { break };
        before = Some(last.record.id);
        listed.extend(page.into_iter().map(|token| token.record));
    }
    assert_eq!(listed, made.into_iter().rev().collect::<Vec<_>>(), "by id, however they came");
}

pub(super) async fn lists_and_counts_follow_the_filter<D: Database>() {
    let (_database, store) = store::<D>().await;
    let expiring = |owner, name: &str, second: i64| TokenRecord {
        expires_at: Some(Timestamp::from_second(second).expect("a time")),
        ..token(owner, name)
    };
    let (anna, berta) = (UserId::from_u64(1), UserId::from_u64(2));
    let made = [
        token(anna, "forever"),
        expiring(anna, "at 100", 100),
        expiring(anna, "at 101", 101),
        revoked(token(anna, "revoked")),
        revoked(expiring(anna, "revoked, at 100", 100)),
        token(berta, "berta's"),
        expiring(berta, "berta's at 99", 99),
        revoked(token(berta, "berta's revoked")),
    ];
    commit(&*store, tokens(made.clone().map(Edit::Create))).await;
    let (active, expired) = (StateFilter::Active { now: 100 }, StateFilter::Expired { now: 100 });
    let expected: [(Option<UserId>, Option<StateFilter>, &[usize]); 10] = [
        (None, None, &[7, 6, 5, 4, 3, 2, 1, 0]),
        (None, Some(active), &[5, 2, 0]),
        (None, Some(StateFilter::Revoked), &[7, 4, 3]),
        (None, Some(expired), &[6, 1]),
        (Some(anna), None, &[4, 3, 2, 1, 0]),
        (Some(anna), Some(active), &[2, 0]),
        (Some(anna), Some(StateFilter::Revoked), &[4, 3]),
        (Some(anna), Some(expired), &[1]),
        (Some(berta), Some(expired), &[6]),
        (Some(UserId::from_u64(3)), None, &[]),
    ];
    for (owner, state, expected) in expected {
        let filter = TokenFilter { owner, state, ..TokenFilter::default() };
        let listed = store.tokens(filter, None, 100).await.expect("reads");
        let listed: Vec<_> = listed.into_iter().map(|token| token.record).collect();
        assert_eq!(listed, expected.iter().map(|n| made[*n].clone()).collect::<Vec<_>>(), "{filter:?}");
        assert_eq!(store.count_tokens(filter).await.expect("counts"), expected.len() as u64, "{filter:?}");
        let after = store.tokens(filter, Some(made[3].id), 1).await.expect("reads");
        let next = expected.iter().find(|n| **n < 3).map(|n| made[*n].id);
        assert_eq!(after.first().map(|token| token.record.id), next, "{filter:?}");
    }
}

pub(super) async fn ids_of_any_size_keep_their_order<D: Database>() {
    let (_database, store) = store::<D>().await;
    let ids = [0, 1, (1 << 63) - 1, 1 << 63, u64::MAX];
    let made =
        ids.map(|id| TokenRecord { id: TokenId::from_u64(id), ..token(UserId::from_u64(u64::MAX), &id.to_string()) });
    commit(&*store, tokens(made.map(Edit::Create))).await;
    let filter = TokenFilter { owner: Some(UserId::from_u64(u64::MAX)), ..TokenFilter::default() };
    let listed = store.tokens(filter, None, 10).await.expect("reads");
    let listed: Vec<u64> = listed.iter().map(|token| token.record.id.to_u64()).collect();
    assert_eq!(listed, ids.into_iter().rev().collect::<Vec<_>>());
    let page = store.tokens(TokenFilter::default(), Some(TokenId::from_u64(1 << 63)), 1).await.expect("reads");
    assert_eq!(page[0].record.id.to_u64(), (1 << 63) - 1);
}

pub(super) async fn history_grows_and_goes_with_its_token<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (kept, gone) = (token(UserId::from_u64(1), "kept"), token(UserId::from_u64(1), "gone"));
    let line = |event| HistoryEntry { event, ..created() };
    let lines = [
        line(TokenEvent::Created),
        line(TokenEvent::Narrowed { lost: PermissionSet::TELEGRAF_AGENT }),
        line(TokenEvent::Reassigned { from: "anna".to_owned(), to: "berta".to_owned() }),
        line(TokenEvent::Revoked { reason: Some("role of anna changed".to_owned()) }),
    ];
    let add = |n: usize| [(kept.id, lines[n].clone()), (gone.id, lines[n].clone())];
    let create = tokens([Edit::Create(kept.clone()), Edit::Create(gone.clone())]);
    let history = [add(0), add(1)].concat();
    let version = commit(&*store, Batch { history, ..create }).await.id;
    commit(&*store, Batch { history: [add(2), add(3)].concat(), ..Batch::default() }).await;
    assert_eq!(store.history(kept.id).await.expect("reads"), lines);
    assert_eq!(store.history(gone.id).await.expect("reads"), lines);
    commit(&*store, tokens([Edit::Delete(Versioned { record: gone.clone(), version })])).await;
    assert_eq!(store.history(kept.id).await.expect("reads"), lines);
    assert_eq!(store.history(gone.id).await.expect("reads"), []);
}

/// Whatever it is added by, and also where there is more at once than stays.
pub(super) async fn the_latest_entries_of_a_history_stay<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (made, other) = (token(UserId::from_u64(1), "made"), token(UserId::from_u64(1), "other"));
    let entry = |number: usize| HistoryEntry { by: number.to_string(), ..created() };
    let (mut number, mut all) = (0, Vec::new());
    let mut next = |count: usize| {
        let entries: Vec<_> = (number..number + count).map(|number| (made.id, entry(number))).collect();
        number += count;
        all.extend(entries.iter().map(|(_, entry)| entry.clone()));
        let latest = all[all.len().saturating_sub(MAX_HISTORY)..].to_vec();
        // Those of another token in between are not counted.
        let of_other = entries.iter().map(|(_, entry)| (other.id, entry.clone()));
        (entries.iter().cloned().zip(of_other).flat_map(|(one, other)| [one, other]).collect::<Vec<_>>(), latest)
    };
    let (history, latest) = next(MAX_HISTORY / 2);
    let create = tokens([Edit::Create(made.clone()), Edit::Create(other.clone())]);
    let version = commit(&*store, Batch { history, ..create }).await.id;
    assert_eq!(store.history(made.id).await.expect("reads"), latest);
    for count in [1, MAX_HISTORY / 2, 1, 1, MAX_HISTORY, 3 * MAX_HISTORY + 7, 1] {
        let (history, latest) = next(count);
        commit(&*store, Batch { history, ..Batch::default() }).await;
        assert_eq!(store.history(made.id).await.expect("reads"), latest, "after {count} more");
    }
    let id = made.id;
    commit(&*store, tokens([made, other].map(|record| Edit::Delete(Versioned { record, version })))).await;
    assert_eq!(store.history(id).await.expect("reads"), []);

    let whole = token(UserId::from_u64(1), "whole");
    let history = (0..MAX_HISTORY + 3).map(|number| (whole.id, entry(number))).collect();
    commit(&*store, Batch { history, ..tokens([Edit::Create(whole.clone())]) }).await;
    let latest: Vec<_> = (3..MAX_HISTORY + 3).map(entry).collect();
    assert_eq!(store.history(whole.id).await.expect("reads"), latest);
}

pub(super) async fn records_come_back_as_they_were_written<D: Database>() {
    let (database, store) = store::<D>().await;
    let awkward = TokenRecord {
        description: "line\nbreak, NUL \0, quote ' \" \\, \u{1f511}".to_owned(),
        permissions: PermissionSet::all(),
        expires_at: Some("2030-01-01T00:00:00.123456789Z".parse().expect("a time")),
        hint: String::new(),
        ..revoked(token(UserId::from_u64(1), "awkward"))
    };
    commit(&*store, tokens([Edit::Create(awkward.clone())])).await;
    let other = database.handle().await;
    assert_eq!(stored(&*other, awkward.id).await.map(|token| token.record), Some(awkward));
}

pub(super) async fn a_large_snapshot_is_complete<D: Database>() {
    let (_database, store) = store::<D>().await;
    // Full chunks and one that is not, of users and of tokens.
    let made: Vec<UserRecord> = (0..5000).map(|n| user(&n.to_string())).collect();
    let held = Batch {
        tokens: (0..9000).map(|n| Edit::Create(token(made[n % 5000].id, &n.to_string()))).collect(),
        ..users(made.iter().cloned().map(Edit::Create))
    };
    commit(&*store, held).await;
    let (position, held) = Held::snapshot(&*store).await;
    assert_eq!((held.owners.len(), held.grants.len()), (5000, 9000));
    assert_eq!(position.checksum, held.checksum());
}

pub(super) async fn items_are_those_of_a_snapshot<D: Database>() {
    let (_database, store) = store::<D>().await;
    let made: Vec<UserRecord> = (0..700).map(|n| user(&n.to_string())).collect();
    let held = Batch {
        tokens: (0..700).map(|n| Edit::Create(token(made[n].id, &n.to_string()))).collect(),
        ..users(made.iter().cloned().map(Edit::Create))
    };
    commit(&*store, held).await;
    let mut all = Vec::new();
    store.snapshot(&mut None, &mut |item| all.push(item)).await.expect("a snapshot");
    let subjects: Vec<_> = all.iter().filter_map(SnapshotItem::subject).collect();
    assert_eq!(subjects.len(), 1_400);
    let absent = [Subject::Token(Digest::of(b"nobody's")), Subject::User(UserId::from_u64(1))];
    let asked: Vec<_> = subjects.into_iter().rev().chain(absent).collect();
    let items = store.items(&asked).await.expect("reads");
    assert_eq!(items.len(), 1_400);
    assert!(items.iter().all(|item| all.contains(item)));
    assert_eq!(store.items(&absent).await.expect("reads"), []);
    assert_eq!(store.items(&[]).await.expect("reads"), []);
}
