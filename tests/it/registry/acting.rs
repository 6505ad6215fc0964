//! Commands that are given by a token: its own permissions count, then its owner's role, as of the commit.

use jiff::{SignedDuration, Timestamp};
use tollgate::registry::{ActingToken, Seen};

use super::*;

/// A token of this user with these permissions, as an actor who needs the first of them.
async fn acting(
    fixture: &Fixture,
    user: &str,
    permissions: &[&str],
    expires_at: Option<Timestamp>,
) -> (Actor, TokenId) {
    let permissions: Vec<_> = permissions.iter().map(|name| name.parse().expect("a permission")).collect();
    let needed = Some(permissions[0]);
    let permissions = Requested::Permissions(permissions.into_iter().collect());
    let new = NewToken { permissions, expires_at, ..new_token(user) };
    let id = fixture.registry.create_token(&operator(), new).await.expect("creates").record.id;
    (Actor::Token(ActingToken { id, user: user.to_owned(), needed }), id)
}

#[tokio::test]
async fn no_token_makes_one_that_can_do_more_or_lives_longer() {
    let fixture = Fixture::start().await;
    let end = Timestamp::now() + SignedDuration::from_hours(1);
    let permissions = ["tokens:write", "configs:read", "heartbeat:write"];
    let (actor, _) = acting(&fixture, "olga", &permissions, Some(end)).await;
    let create = async |permissions: &str, expires_at| {
        let permissions = permissions.split_whitespace().map(|name| name.parse().expect("a permission"));
        let new =
            NewToken { permissions: Requested::Permissions(permissions.collect()), expires_at, ..new_token("olga") };
        fixture.registry.create_token(&actor, new).await
    };
    let made = create("configs:read", Some(end)).await.expect("as long, and less").record;
    assert_eq!(made.created_by, "olga");
    let error = create("configs:write configs:read", Some(end)).await.expect_err("more");
    assert_eq!(error.to_string(), "Insufficient permissions: configs:write required");
    let outlives = |error: RegistryError| matches!(error, RegistryError::OutlivesMaker(_));
    assert!(outlives(create("configs:read", None).await.expect_err("for ever")));
    let later = end + SignedDuration::from_secs(2);
    assert!(outlives(create("configs:read", Some(later)).await.expect_err("longer")));
    let all = NewToken { permissions: Requested::All, expires_at: Some(end), ..new_token("olga") };
    let error = fixture.registry.create_token(&actor, all).await.expect_err("everything is more");
    assert!(matches!(error, RegistryError::ActingTokenLacks(_)), "{error}");
}

#[tokio::test]
async fn what_the_token_permits_counts_before_its_owners_role() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let (agent, _) = acting(&fixture, "olga", &["configs:read", "heartbeat:write"], None).await;
    let Actor::Token(agent) = agent else { unreachable!("made above") };
    let needs = |name: &str| Actor::Token(ActingToken { needed: name.parse().ok(), ..agent.clone() });
    let kind = |error: RegistryError| error.kind();
    let query = TokenQuery::default();
    let listed = fixture.registry.tokens(&needs("tokens:read"), &query, None, 10).await;
    assert_eq!(listed.map(drop).map_err(kind), Err(ErrorKind::Forbidden), "an agent's token of the Owner");
    // The role: what a Manager may not see is not there.
    let (max, own) = acting(&fixture, "max", &["tokens:write", "tokens:read"], None).await;
    let seen = fixture.registry.tokens(&max, &query, None, 10).await.expect("lists");
    assert_eq!(seen.iter().map(|(token, _)| token.id).collect::<Vec<_>>(), [own]);
    let hidden = fixture.registry.revoke(&max, &[fixture.first.record.id], true).await;
    assert_eq!(hidden.map(drop).map_err(kind), Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_token_that_is_no_longer_valid_gives_no_command() {
    let fixture = Fixture::start().await;
    let (actor, id) = acting(&fixture, "olga", &["tokens:write", "configs:read"], None).await;
    let create = async || {
        let permissions = Requested::Permissions(["configs:read".parse().expect("valid")].into_iter().collect());
        fixture.registry.create_token(&actor, NewToken { permissions, ..new_token("olga") }).await
    };
    create().await.expect("creates");
    fixture.registry.revoke(&operator(), &[id], true).await.expect("revokes");
    let error = create().await.expect_err("refused");
    assert!(matches!(error, RegistryError::ActingTokenUnusable(token) if token == id), "{error}");
    fixture.registry.delete(&operator(), &[id], true).await.expect("deletes");
    assert!(matches!(create().await.expect_err("refused"), RegistryError::ActingTokenUnusable(_)));
}

#[tokio::test]
async fn the_acting_token_is_revoked_alone_or_not_at_all() {
    let fixture = Fixture::start().await;
    let (actor, id) = acting(&fixture, "olga", &["tokens:write"], None).await;
    let other = fixture.create("olga").await.id;
    let error = fixture.registry.revoke(&actor, &[other, id], true).await.expect_err("shuts itself out");
    assert!(matches!(error, RegistryError::ActingTokenAmong(token) if token == id), "{error}");
    assert_eq!(fixture.tokens("olga", Some(ListState::Revoked)).await, []);
    fixture.registry.revoke(&actor, &[id], false).await.expect("alone");
}

#[tokio::test]
async fn what_has_changed_since_it_was_seen_stays_as_it_is() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let (registry, id) = (&fixture.registry, fixture.create("olga").await.id);
    let seen = registry.token(&operator(), id).await.expect("exists").version;
    registry.reassign(&operator(), &[id], "max", false).await.expect("reassigns");
    let ids = [id];
    let error = registry.revoke(&operator(), Seen::at(ids.as_slice(), Some(seen)), false).await.expect_err("changed");
    assert!(matches!(error, RegistryError::Changed), "{error}");
    let now = registry.token(&operator(), id).await.expect("exists").version;
    registry.revoke(&operator(), Seen::at(ids.as_slice(), Some(now)), false).await.expect("as it is");

    let seen = registry.user(&operator(), "max").await.expect("exists").version;
    registry.set_role(&operator(), Seen::at("max", Some(seen)), Role::Administrator).await.expect("as it is");
    let old = Seen::at("max", Some(seen));
    for error in [
        registry.set_role(&operator(), old, Role::Viewer).await.map(drop),
        registry.set_status(&operator(), old, UserStatus::Disabled).await.map(drop),
        registry.delete_user(&operator(), old).await.map(drop),
    ] {
        assert!(matches!(error, Err(RegistryError::Changed)), "{error:?}");
    }
}

#[tokio::test]
async fn tokens_are_found_by_what_they_are() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let soon = Timestamp::now() + SignedDuration::from_hours(1);
    let plant = NewToken { description: "Plant 7".to_owned(), expires_at: Some(soon), ..new_token("max") };
    let plant = fixture.registry.create_token(&operator(), plant).await.expect("creates").record.id;
    let edge = fixture.create("max").await.id;
    let find = async |query: TokenQuery| {
        let found = fixture.registry.tokens(&operator(), &query, None, 10).await.expect("finds");
        let ids: Vec<_> = found.into_iter().map(|(token, _)| token.id).collect();
        assert_eq!(fixture.registry.select(&operator(), &query).await.expect("selects"), ids);
        ids
    };
    let all = TokenQuery::default;
    assert_eq!(find(all()).await, [edge, plant, fixture.first.record.id]);
    assert_eq!(find(TokenQuery { text: Some("plant".to_owned()), ..all() }).await, [plant]);
    assert_eq!(find(TokenQuery { text: Some("MAX".to_owned()), ..all() }).await, [edge, plant]);
    let heartbeat = "heartbeat:write".parse().ok();
    assert_eq!(find(TokenQuery { permission: heartbeat, ..of("max", None) }).await, [edge, plant]);
    let later = Timestamp::now() + SignedDuration::from_hours(2);
    assert_eq!(find(TokenQuery { expires_before: Some(later), ..all() }).await, [plant]);
    let page = TokenQuery { text: Some("max".to_owned()), ..all() };
    let next = fixture.registry.tokens(&operator(), &page, Some(edge), 1).await.expect("finds");
    assert_eq!(next[0].0.id, plant, "the page after");
}
