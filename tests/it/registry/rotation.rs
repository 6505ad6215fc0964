//! Rotation against a real store: who may, what the two tokens are then, and that of two at once one is made.

use std::time::Duration;

use tollgate::registry::Rotation;
use tollgate::token::RawToken;

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn of(token: TokenId) -> Rotation {
    Rotation { token, overlap: DAY, expires_at: None }
}

#[tokio::test]
async fn a_successor_is_the_same_token_with_another_value_and_both_know_each_other() {
    let fixture = Fixture::start().await;
    let max = fixture.add("max", Role::Manager).await;
    let month = Timestamp::now() + Duration::from_hours(30 * 24);
    let new = NewToken { expires_at: Some(month), ..new_token("max") };
    let old = fixture.registry.create_token(&max, new).await.expect("creates").record;
    let rotated = fixture.registry.rotate(&max, of(old.id)).await.expect("rotates");
    let record = &rotated.successor.record;
    assert_eq!(record.digest, rotated.successor.token.digest());
    assert_ne!(record.digest, old.digest);
    assert_eq!((record.owner, record.permissions, &record.description), (old.owner, old.permissions, &old.description));
    let made_for = |token: &TokenRecord| token.expires_at.expect("one").as_second() - token.created_at.as_second();
    assert!((made_for(record) - made_for(&old)).abs() <= 1, "{record:?}");
    let ends_at = rotated.old.expires_at.expect("an end");
    let overlap = ends_at.as_second() - record.created_at.as_second();
    assert!((overlap - 86_400).abs() <= 1, "{overlap}");
    // As they are stored, too.
    let stored = fixture.registry.token(&max, old.id).await.expect("exists");
    assert_eq!((&stored.record, stored.record.successor), (&rotated.old, Some(record.id)));
    assert_eq!(fixture.registry.token(&max, record.id).await.expect("exists").record, *record);
    assert_eq!(record.predecessor, Some(old.id));
    assert_eq!(fixture.events(old.id).await, [TokenEvent::Created, TokenEvent::Rotated { to: record.id }]);
    assert_eq!(fixture.events(record.id).await, [TokenEvent::Created]);
}

#[tokio::test]
async fn rotation_is_allowed_only_where_creating_that_token_would_be() {
    let fixture = Fixture::start().await;
    let (max, anna) = (fixture.add("max", Role::Manager).await, fixture.add("anna", Role::Administrator).await);
    let (vera, mia) = (fixture.add("vera", Role::Viewer).await, fixture.add("mia", Role::Manager).await);
    let of_max = fixture.create("max").await.id;
    let rotate = async |actor: &Actor, id| fixture.registry.rotate(actor, of(id)).await.map(drop);
    // Whose it is, who cannot see it must not learn.
    assert_eq!(kind(rotate(&mia, of_max).await), ErrorKind::NotFound);
    assert_eq!(kind(rotate(&vera, of_max).await), ErrorKind::Forbidden);
    assert_eq!(kind(rotate(&anna, fixture.first.record.id).await), ErrorKind::Forbidden, "the Owner's");
    assert_eq!(kind(rotate(&max, TokenId::from_u64(7)).await), ErrorKind::NotFound);
    // One that came to a Viewer could not be created for them.
    let given = fixture.create("mia").await.id;
    fixture.registry.reassign(&operator(), &[given], "vera", false).await.expect("reassigns");
    assert_eq!(kind(rotate(&operator(), given).await), ErrorKind::Conflict);
    let of_mia = fixture.create("mia").await.id;
    fixture.registry.set_status(&operator(), "mia", UserStatus::Disabled).await.expect("disables");
    assert!(matches!(rotate(&operator(), of_mia).await, Err(RegistryError::UserDisabled(_))));
    let revision = fixture.revision().await;
    let past = Rotation { expires_at: Some(Timestamp::UNIX_EPOCH), ..of(of_max) };
    assert_eq!(kind(fixture.registry.rotate(&max, past).await), ErrorKind::Invalid);
    assert_eq!(fixture.revision().await, revision, "nothing was changed");
    rotate(&anna, of_max).await.expect("an Administrator may create it");
    rotate(&fixture.olga(), fixture.first.record.id).await.expect("so may the Owner the own one");
}

#[tokio::test]
async fn what_is_over_is_not_rotated_and_the_overlap_lengthens_nothing() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let revoked = fixture.create("max").await.id;
    fixture.registry.revoke(&operator(), &[revoked], false).await.expect("revokes");
    let refused = fixture.registry.rotate(&operator(), of(revoked)).await;
    assert!(matches!(refused, Err(RegistryError::RotatesRevoked(_))));
    let soon = Timestamp::from_second(Timestamp::now().as_second() + 3600).expect("in range");
    let new = NewToken { expires_at: Some(soon), ..new_token("max") };
    let ending = fixture.registry.create_token(&operator(), new).await.expect("creates").record;
    let rotated = fixture.registry.rotate(&operator(), of(ending.id)).await.expect("rotates");
    assert_eq!(rotated.old.expires_at, Some(soon), "it ends when it would have");
    // With no overlap it has ended, and its successor has not.
    let next = Rotation { overlap: Duration::ZERO, ..of(rotated.successor.record.id) };
    let ended = fixture.registry.rotate(&operator(), next).await.expect("rotates").old;
    assert!(ended.is_expired(Timestamp::now()));
    assert!(matches!(fixture.registry.rotate(&operator(), next).await, Err(RegistryError::RotatesExpired(_))));
}

#[tokio::test]
async fn of_many_rotations_at_once_one_makes_a_successor_and_the_others_are_told_which() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let old = fixture.create("max").await.id;
    let count = fixture.tokens("max", None).await.len();
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let registry = fixture.elsewhere().await;
        tasks.push(tokio::spawn(async move { registry.rotate(&operator(), of(old)).await }));
    }
    let (mut made, mut told) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.expect("ends") {
            Ok(rotated) => made.push(rotated.successor.record.id),
            Err(RegistryError::RotatedAlready { token, successor }) if token == old => told.push(successor),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!((made.len(), told.len()), (1, 7));
    assert!(told.iter().all(|successor| *successor == made[0]));
    assert_eq!(fixture.tokens("max", None).await.len(), count + 1, "one more, and no more");
    assert_eq!(kind(fixture.registry.rotate(&operator(), of(old)).await), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_value_that_is_brought_is_the_successors_and_one_that_exists_changes_nothing() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let (old, other) = (fixture.create("max").await, fixture.create("max").await.id);
    let value = RawToken::brought(&format!("tc-apiv1_{}", "ab".repeat(32))).expect("valid");
    let rotated = fixture.registry.rotate_to_value(&operator(), of(old.id), value.clone()).await.expect("rotates");
    assert_eq!(rotated.successor.record.digest, value.digest());
    let before = fixture.position().await;
    let refused = fixture.registry.rotate_to_value(&operator(), of(other), value).await;
    assert!(matches!(refused, Err(RegistryError::DigestTaken(_))));
    assert_eq!(fixture.position().await, before);
}
