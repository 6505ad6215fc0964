//! Lists in any order, which rest on what is kept of all tokens: they show what is there, whoever changed it.

use tollgate::registry::{Part, Sort, SortKey};
use tollgate::store::{AgentUse, Use};

use super::*;

/// The descriptions of a list, and how many it has in all.
async fn listed(registry: &Registry, query: &TokenQuery, by: SortKey, is_descending: bool) -> (Vec<String>, usize) {
    let sort = Sort { by, is_descending };
    let found = registry.listed(&operator(), query, sort, &Part::First, 100).await.expect("lists");
    (found.tokens.into_iter().map(|(token, _)| token.description).collect(), found.total)
}

/// A list in the order of making is that of the store.
async fn shows_what_is_there(registry: &Registry) {
    for state in [None, Some(ListState::Active), Some(ListState::Revoked), Some(ListState::Expired)] {
        let query = TokenQuery { state, ..TokenQuery::default() };
        let found = registry.tokens(&operator(), &query, None, 1000).await.expect("lists");
        let listed = registry.listed(&operator(), &query, Sort::default(), &Part::First, 1000).await.expect("lists");
        assert_eq!((listed.total, listed.tokens), (found.len(), found), "{state:?}");
    }
}

#[tokio::test]
async fn a_list_shows_what_another_process_has_changed() {
    let fixture = Fixture::start().await;
    let (here, there) = (&fixture.registry, fixture.elsewhere().await);
    fixture.add("max", Role::Manager).await;
    shows_what_is_there(here).await;
    let mut tokens = Vec::new();
    for user in ["olga", "max", "olga", "max", "max"] {
        tokens.push(there.create_token(&operator(), new_token(user)).await.expect("creates").record.id);
        shows_what_is_there(here).await;
    }
    there.revoke(&operator(), &tokens[..2], false).await.expect("revokes");
    shows_what_is_there(here).await;
    there.reassign(&operator(), &tokens[2..3], "max", false).await.expect("reassigns");
    let of_max = TokenQuery { user: Some("max".to_owned()), ..TokenQuery::default() };
    assert_eq!(listed(here, &of_max, SortKey::Created, true).await.1, 4);
    // Of a revoked token that goes the log says nothing, and of one that comes neither.
    there.delete(&operator(), &tokens[..1], false).await.expect("deletes");
    shows_what_is_there(here).await;
    there.delete(&operator(), &tokens[1..4], false).await.expect("deletes");
    shows_what_is_there(here).await;
    there.delete_user(&operator(), "max").await.expect("deletes");
    shows_what_is_there(here).await;
}

#[tokio::test]
async fn a_list_is_in_the_order_that_was_asked_for() {
    let fixture = Fixture::start().await;
    let registry = &fixture.registry;
    registry.store().record(&[]).await.expect("records");
    fixture.add("Max", Role::Manager).await;
    let now = Timestamp::now();
    let mut ids = Vec::new();
    for (user, description, days) in [("olga", "beta", Some(9)), ("Max", "Alpha", None), ("olga", "gamma", Some(3))] {
        let expires_at = days.map(|days| now + std::time::Duration::from_secs(days * 86_400));
        let new = NewToken { description: description.to_owned(), expires_at, ..new_token(user) };
        ids.push(registry.create_token(&operator(), new).await.expect("creates").record.id);
    }
    let agents = Vec::<AgentUse>::new();
    let used =
        |token: TokenId, seconds| Use { token, age: std::time::Duration::from_secs(seconds), agents: agents.clone() };
    registry.store().record(&[used(ids[0], 100), used(ids[1], 10)]).await.expect("records");
    // Not the one that olga began with.
    let query = TokenQuery { permission: Some("heartbeat:write".parse().expect("one")), ..TokenQuery::default() };
    let query = TokenQuery { text: Some("a".to_owned()), ..query };
    let first = registry.tokens(&operator(), &TokenQuery::default(), None, 10).await.expect("lists").pop();
    let first = first.expect("one").0.description;
    for (by, is_descending, expected) in [
        (SortKey::Created, true, ["gamma", "Alpha", "beta"]),
        (SortKey::Created, false, ["beta", "Alpha", "gamma"]),
        (SortKey::Description, false, ["Alpha", "beta", "gamma"]),
        (SortKey::Description, true, ["gamma", "beta", "Alpha"]),
        (SortKey::Owner, false, ["Alpha", "gamma", "beta"]),
        (SortKey::LastUsed, true, ["Alpha", "beta", "gamma"]),
        (SortKey::LastUsed, false, ["gamma", "beta", "Alpha"]),
        (SortKey::Expires, false, ["gamma", "beta", "Alpha"]),
    ] {
        let (mut found, _) = listed(registry, &query, by, is_descending).await;
        found.retain(|description| *description != first);
        assert_eq!(found, expected, "{by} {is_descending}");
    }
}

/// Pages there and back: each token is on one of them, in every order, whatever is made and deleted meanwhile.
#[tokio::test]
async fn a_list_is_paged_both_ways_while_others_change_it() {
    let fixture = Fixture::start().await;
    let registry = &fixture.registry;
    registry.store().record(&[]).await.expect("records");
    let (all, called) = (TokenQuery::default(), |description: &str| NewToken {
        description: description.to_owned(),
        ..new_token("olga")
    });
    for (by, is_descending) in SortKey::ALL.into_iter().flat_map(|by| [(by, false), (by, true)]) {
        let (sort, mut stay) = (Sort { by, is_descending }, Vec::new());
        for number in 0..9 {
            let description = ["same", "other", "third"][number % 3];
            stay.push(registry.create_token(&operator(), called(description)).await.expect("creates").record.id);
        }
        let whole = registry.listed(&operator(), &all, sort, &Part::First, 100).await.expect("lists");
        let in_order: Vec<_> = whole.tokens.iter().map(|(token, _)| token.id).collect();
        let (mut part, mut seen, mut made, mut gone) = (Part::First, Vec::new(), Vec::new(), None);
        loop {
            let page = registry.listed(&operator(), &all, sort, &part, 2).await.expect("lists");
            assert!(page.tokens.len() <= 2);
            seen.extend(page.tokens.iter().map(|(token, _)| token.id));
            // One that was just seen goes, and others come on both sides.
            let here = seen.last().copied().filter(|id| gone.is_none() && stay.contains(id));
            if let Some(id) = here {
                registry.delete(&operator(), &[id], true).await.expect("deletes");
                gone = Some(id);
                for description in ["aaa", "zzz"] {
                    made.push(
                        registry.create_token(&operator(), called(description)).await.expect("creates").record.id,
                    );
                }
            }
            match page.ends.filter(|_| page.skipped + 2 < page.total) {
                Some([_, last]) => part = Part::After(last),
                None => break,
            }
        }
        let old: Vec<_> = seen.iter().copied().filter(|id| !made.contains(id)).collect();
        assert_eq!(old, in_order, "{by} {is_descending}");
        // And back.
        let mut back = Vec::new();
        let mut page = registry.listed(&operator(), &all, sort, &part, 2).await.expect("lists");
        loop {
            back.splice(0..0, page.tokens.iter().map(|(token, _)| token.id));
            let Some([first, _]) = page.ends.filter(|_| page.skipped > 0) else { break };
            page = registry.listed(&operator(), &all, sort, &Part::Before(first), 2).await.expect("lists");
        }
        back.retain(|id| !made.contains(id));
        back.dedup();
        let left: Vec<_> = in_order.into_iter().filter(|id| Some(*id) != gone).collect();
        assert_eq!(back, left, "{by} {is_descending}, back");
    }
}

#[tokio::test]
async fn the_first_list_does_not_wait_until_all_tokens_are_read() {
    let fixture = Fixture::start().await;
    for _ in 0..5 {
        fixture.registry.create_token(&operator(), new_token("olga")).await.expect("creates");
    }
    let found = fixture.registry.tokens(&operator(), &TokenQuery::default(), None, 100).await.expect("lists");
    for limit in 1..=found.len() + 1 {
        // Each process has read nothing yet.
        let registry = fixture.elsewhere().await;
        let shown = async |part: &Part, limit: usize| {
            let all = TokenQuery::default();
            registry.listed(&operator(), &all, Sort::default(), part, limit).await.expect("lists")
        };
        for _ in 0..2 {
            let part = shown(&Part::First, limit).await;
            assert_eq!((part.total, part.skipped), (found.len(), 0));
            assert_eq!(part.tokens, found[..limit.min(found.len())]);
            let [_, last] = part.ends.expect("some are in it");
            let next = shown(&Part::After(last), 1).await.tokens;
            assert_eq!(next[0], found[limit.min(found.len() - 1)], "at the end that once more");
        }
    }
    assert_eq!(listed(&fixture.elsewhere().await, &TokenQuery::default(), SortKey::Created, true).await.1, found.len());
}
