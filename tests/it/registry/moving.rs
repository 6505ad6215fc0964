//! Tokens that are exported and imported elsewhere: what is the same then, and what is refused.

use std::collections::HashMap;

use proptest::prelude::*;
use tollgate::registry::Past;
use tollgate::token::{Digest, HistoryEntry, MAX_HISTORY, Reason};

use super::commands::{self, state};
use super::*;

/// The lines of an export, as an import reads them.
async fn lines(registry: &Registry, full: bool) -> Vec<(usize, Box<ImportLine>)> {
    let mut export = registry.export(&operator(), full).await.expect("begins");
    let mut lines = Vec::new();
    while let Some(page) = export.next_page().await.expect("reads") {
        for line in page {
            let text = serde_json::to_string(&line).expect("serializes");
            lines.push((lines.len() + 1, parse_line(&text, None).expect(&text)));
        }
    }
    lines
}

/// A registry with the same users, and one token of the Owner's.
async fn with_users_of(registry: &Registry) -> Fixture {
    let (users, _) = everything(registry).await;
    let there = Fixture::start().await;
    for user in users.into_iter().filter(|user| user.name != "olga") {
        let role = if user.role == Role::Owner { Role::Administrator } else { user.role };
        there.add(&user.name, role).await;
        if user.role == Role::Owner {
            there.registry.transfer_ownership(&operator(), &user.name).await.expect("transfers");
        }
        if user.status == UserStatus::Disabled {
            there.registry.set_status(&operator(), &user.name, user.status).await.expect("disables");
        }
    }
    let (users, _) = everything(registry).await;
    for user in users.into_iter().filter(|user| user.name == "olga" && user.role != Role::Owner) {
        there.registry.set_role(&operator(), "olga", user.role).await.expect("changes");
        there.registry.set_status(&operator(), "olga", user.status).await.expect("changes");
    }
    there
}

/// Everything of a token but the id of its owner, who has another one elsewhere.
async fn told(registry: &Registry) -> HashMap<Digest, (TokenRecord, String, Vec<HistoryEntry>)> {
    let (users, tokens) = everything(registry).await;
    let names: HashMap<_, _> = users.into_iter().map(|user| (user.id, user.name)).collect();
    let mut told = HashMap::new();
    for token in tokens {
        let history = registry.store().history(token.id).await.expect("reads");
        let name = names[&token.owner].clone();
        told.insert(
            token.digest,
            (TokenRecord { owner: tollgate::token::UserId::from_u64(0), ..token }, name, history),
        );
    }
    told
}

/// Same: of every token the id, digest, owner's name, description, permissions, state, hint, expiry, and when and by whom it was
/// made; and its history, with one line more, that it was imported.
async fn is_the_same_elsewhere(registry: &Registry) {
    let there = with_users_of(registry).await;
    let lines = lines(registry, true).await;
    let imported = there.registry.import(&operator(), lines.clone(), ALL_OR_NONE).await.expect("imports");
    let (here, mut found) = (told(registry).await, told(&there.registry).await);
    assert_eq!((imported.tokens.len(), found.len()), (here.len(), here.len() + 1));
    for (digest, (record, owner, history)) in here {
        let (its_record, its_owner, mut its_history) = found.remove(&digest).expect("imported");
        let last = its_history.pop().expect("a line more");
        assert_eq!((last.event, last.by.as_str()), (TokenEvent::Imported, "cli:test"));
        assert_eq!((its_record, its_owner, its_history), (record, owner, history));
    }
    let (revision, count) = (there.revision().await, lines.len());
    let again = there.registry.import(&operator(), lines, SKIP_EXISTING).await.expect("repeats");
    assert_eq!((again.skipped, again.differing, there.revision().await), (count, 0, revision));
}

/// What works here works there, but for tokens that were given to Viewers: nobody can make one for them.
async fn works_elsewhere(registry: &Registry) {
    let there = with_users_of(registry).await;
    let lines = lines(registry, false).await;
    let imported = there.registry.import(&operator(), lines, KEEP_GOING).await.expect("imports");
    let of_viewers = |line: &&tollgate::registry::RefusedLine| {
        matches!(line.reason, LineError::Refused(RegistryError::NoTokensForViewer(_)))
    };
    assert_eq!(imported.refused.iter().filter(of_viewers).count(), imported.refused.len(), "{:?}", imported.refused);
    let (users, tokens) = everything(registry).await;
    let works = |token: &&TokenRecord| {
        let owner = users.iter().find(|user| user.id == token.owner).expect("exists");
        token.is_active()
            && !token.is_expired(Timestamp::now())
            && owner.status == UserStatus::Active
            && !token.permissions.is_empty()
    };
    let working: HashSet<_> = tokens.iter().filter(works).map(|token| token.digest).collect();
    assert_eq!(imported.tokens.len() + imported.refused.len(), working.len());
    let (here, found) = (told(registry).await, told(&there.registry).await);
    for (digest, (record, owner, _)) in &found {
        let Some((before, name, _)) = here.get(digest) else { continue };
        assert!(working.contains(digest));
        let told =
            |token: &TokenRecord| (token.description.clone(), token.permissions, token.hint.clone(), token.expires_at);
        assert_eq!((told(record), owner), (told(before), name));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_exported_is_the_same_where_it_is_imported(steps in prop::collection::vec(commands::command(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let fixture = Fixture::start().await;
            for (name, role) in [("adam", Role::Administrator), ("max", Role::Manager), ("vera", Role::Manager)] {
                fixture.add(name, role).await;
                fixture.create(name).await;
            }
            for command in &steps {
                let before = state(&fixture.registry).await;
                // What is refused changes nothing.
                drop(commands::run(&fixture.registry, &operator(), command, &before).await);
            }
            is_the_same_elsewhere(&fixture.registry).await;
            works_elsewhere(&fixture.registry).await;
        });
    }
}

#[tokio::test]
async fn a_past_does_not_take_the_place_of_another_token() {
    let here = Fixture::start().await;
    here.add("max", Role::Manager).await;
    here.import("max", 3).await;
    let there = with_users_of(&here.registry).await;
    let mut lines = lines(&here.registry, true).await;
    lines.truncate(3);
    let other = there.create("max").await;
    let id = |line: &mut ImportLine, id: TokenId| line.past.as_mut().expect("full").id = id;
    id(&mut lines[0].1, other.id);
    let twice = lines[1].1.past.as_ref().expect("full").id;
    id(&mut lines[2].1, twice);
    let imported = there.registry.import(&operator(), lines, KEEP_GOING).await.expect("keeps going");
    assert_eq!(imported.tokens.len(), 1);
    let reasons: Vec<_> = imported.refused.iter().map(|refused| &refused.reason).collect();
    assert!(
        matches!(reasons[..], [LineError::Refused(RegistryError::IdTaken(id)), LineError::RepeatedId(2)] if *id == other.id),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn a_token_that_was_revoked_on_one_side_only_is_not_skipped() {
    let here = Fixture::start().await;
    here.add("max", Role::Manager).await;
    here.import("max", 2).await;
    let there = with_users_of(&here.registry).await;
    let active = lines(&here.registry, true).await;
    there.registry.import(&operator(), active.clone(), ALL_OR_NONE).await.expect("imports");
    let ids: Vec<_> = here.tokens("max", None).await.iter().map(|token| token.id).collect();
    here.registry.revoke(&operator(), &ids[..1], false).await.expect("revokes");
    there.registry.revoke(&operator(), &ids[1..], false).await.expect("revokes");
    let revoked = lines(&here.registry, true).await;
    let options = ImportOptions { keep_going: true, skip_existing: true };
    let imported = there.registry.import(&operator(), revoked, options).await.expect("keeps going");
    let reasons: Vec<_> = imported.refused.iter().map(|refused| &refused.reason).collect();
    assert!(
        matches!(
            reasons[..],
            [
                LineError::Refused(RegistryError::RevokedElsewhere { token: works }),
                LineError::Refused(RegistryError::DigestRevoked { token: revoked }),
            ] if (*works, *revoked) == (ids[0], ids[1])
        ),
        "{reasons:?}"
    );
}

/// Else whoever may make tokens could write a history that never was, or keep a token that their role cannot have.
#[tokio::test]
async fn a_past_is_for_administrators_and_gives_no_more_than_the_role() {
    let here = Fixture::start().await;
    here.add("max", Role::Manager).await;
    let mut line = lines(&here.registry, true).await.remove(0).1;
    let there = Fixture::start().await;
    let max = there.add("max", Role::Manager).await;
    assert_eq!(kind(there.registry.export(&max, false).await.map(drop)), ErrorKind::Forbidden);
    line.user = "max".into();
    let refused = there.registry.import(&max, vec![(1, line.clone())], ALL_OR_NONE).await.expect_err("refused");
    let ImportError::Refused { refused, .. } = refused else { panic!("{refused:?}") };
    assert!(matches!(refused[0].reason, LineError::Refused(RegistryError::Forbidden { .. })), "{refused:?}");

    let imported = there.registry.import(&operator(), vec![(1, line)], ALL_OR_NONE).await.expect("imports");
    let token = there.registry.token(&operator(), imported.tokens[0].id).await.expect("exists");
    assert_eq!(token.record.permissions, Role::Manager.permissions());
    let lost = Role::Owner.permissions().without(Role::Manager.permissions());
    let events: Vec<_> = token.history.into_iter().map(|entry| entry.event).collect();
    assert_eq!(events, [TokenEvent::Created, TokenEvent::Imported, TokenEvent::Narrowed { lost }]);
}

/// However long a history is, what is exported can be imported.
#[tokio::test]
async fn the_longest_history_fits_into_a_line() {
    let fixture = Fixture::start().await;
    let id = fixture.first.record.id;
    let entry = HistoryEntry {
        at: fixture.first.record.created_at,
        by: "x".repeat(64),
        event: TokenEvent::Narrowed { lost: PermissionSet::all() },
        operator_reason: "é".repeat(Reason::LONGEST).parse().ok(),
    };
    for _ in 0..3 {
        let history = (0..50).map(|_| (id, entry.clone())).collect();
        fixture.registry.store().commit(Batch { history, ..Batch::default() }).await.expect("commits");
    }
    let mut export = fixture.registry.export(&operator(), true).await.expect("begins");
    let line = export.next_page().await.expect("reads").expect("a page").remove(0);
    let text = serde_json::to_string(&line).expect("serializes");
    assert!(text.len() < 1024 * 1024, "{}", text.len());
    let past: Past = *parse_line(&text, None).expect("reads").past.expect("full");
    assert_eq!(past.told().expect("is held").history, vec![entry; MAX_HISTORY]);
}

/// Else a token that was revoked while it was exported could be active elsewhere, with a history that says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_and_the_history_of_a_line_belong_together() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    fixture.import("max", 300).await;
    let ids: Vec<_> = fixture.tokens("max", None).await.iter().map(|token| token.id).collect();
    let elsewhere = fixture.elsewhere().await;
    let revoking = tokio::spawn(async move {
        for id in ids {
            elsewhere.revoke(&operator(), &[id], false).await.expect("revokes");
        }
    });
    let mut is_last = false;
    while !is_last {
        is_last = revoking.is_finished();
        for (number, line) in lines(&fixture.registry, true).await {
            let past = line.past.expect("full");
            let past = past.told().expect("is held");
            let is_told = past.history.iter().any(|entry| matches!(entry.event, TokenEvent::Revoked { .. }));
            assert_eq!(past.state != TokenState::Active, is_told, "line {number}");
        }
    }
    revoking.await.expect("ends");
}
