use super::super::draft::samples::{at, authority_of, operator, token, user};
use super::super::{ErrorKind, actor::Authority};
use super::*;
use crate::store::{Change, Edit};
use crate::token::{PermissionSet, TokenId, TokenState};

fn kind<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> ErrorKind {
    result.expect_err("refused").kind()
}

fn permissions(names: &[&str]) -> PermissionSet {
    names.iter().map(|name| name.parse::<crate::token::Permission>().expect("valid")).collect()
}

/// The tokens that a batch changes, as they are afterwards.
fn changed(batch: &Batch) -> Vec<&TokenRecord> {
    batch.tokens.iter().filter_map(Edit::after).collect()
}

#[test]
fn names_are_1_to_64_of_a_few_characters() {
    for name in ["a", "anna@example.org", "A-Z_0.9+x", "...", ".a", "a..", &"x.".repeat(32)] {
        check_name(name).expect(name);
    }
    for name in ["", " ", "a b", "anna/", "cli:root", "ä", "a\n", &"x.".repeat(33), "tc-apiv1_0123456789"] {
        assert!(matches!(check_name(name), Err(RegistryError::InvalidName(_))), "{name}");
        assert!(!is_name(name), "{name}");
    }
}

/// A name is in records, entries and logs for good.
#[test]
fn what_may_be_a_token_or_stands_for_something_else_in_a_path_is_no_new_name() {
    let secret = "0123456789abcdef".repeat(4);
    for name in [".", "..", "x-tc-apiv1_0", "a.TC-APIV1_00", &secret, &secret[..32], &format!("x.{}", &secret[..40])] {
        assert!(matches!(check_name(name), Err(RegistryError::InvalidName(_))), "{name}");
        assert_eq!(super::super::audit::of_user(name).user_name, None, "{name}");
        // One that was made by an earlier version can still be named.
        assert!(is_name(name), "{name}");
    }
}

#[test]
fn nobody_is_added_as_owner() {
    let refused = decide_user(&operator(), "anna", Role::Owner, at(0));
    assert!(matches!(refused, Err(RegistryError::OneOwnerOnly)));
}

#[test]
fn only_the_owner_and_the_operator_add_administrators() {
    let administrator = authority_of(&user("adam", Role::Administrator));
    let owner = authority_of(&user("olga", Role::Owner));
    assert_eq!(kind(decide_user(&administrator, "anna", Role::Administrator, at(0))), ErrorKind::Forbidden);
    decide_user(&administrator, "anna", Role::Manager, at(0)).expect("a manager");
    decide_user(&owner, "anna", Role::Administrator, at(0)).expect("by the owner");
    decide_user(&operator(), "anna", Role::Administrator, at(0)).expect("by the operator");
    let manager = authority_of(&user("max", Role::Manager));
    assert_eq!(kind(decide_user(&manager, "anna", Role::Viewer, at(0))), ErrorKind::Forbidden);
}

#[test]
fn a_user_comes_with_the_actors_record_required() {
    let olga = user("olga", Role::Owner);
    let (batch, anna) = decide_user(&authority_of(&olga), "anna", Role::Manager, at(7)).expect("allowed");
    assert_eq!(batch.users, [Edit::Create(anna.clone()), Edit::Require(olga)]);
    assert_eq!((anna.status, anna.created_at), (UserStatus::Active, at(7)));
}

/// Who may change a user of which role to which role, by what comes back.
#[test]
fn role_changes_and_who_may_make_them() {
    use Role::{Administrator, Manager, Owner, Viewer};
    let check = |authority: &Authority, from, to| {
        check_role_change(authority, &user("anna", from).record, to).map_err(|error| error.kind())
    };
    let administrator = authority_of(&user("adam", Administrator));
    let owner = authority_of(&user("olga", Owner));
    for authority in [&operator(), &owner] {
        for (from, to) in [(Viewer, Manager), (Manager, Administrator), (Administrator, Viewer)] {
            assert_eq!(check(authority, from, to), Ok(()), "{from} to {to}");
        }
    }
    assert_eq!(check(&administrator, Viewer, Manager), Ok(()));
    for (from, to) in [(Manager, Administrator), (Administrator, Manager), (Administrator, Administrator)] {
        assert_eq!(check(&administrator, from, to), Err(ErrorKind::Forbidden), "{from} to {to}");
    }
    for authority in [&operator(), &owner, &administrator] {
        assert_eq!(check(authority, Owner, Manager), Err(ErrorKind::Conflict), "the Owner keeps the role");
        assert_eq!(check(authority, Administrator, Owner), Err(ErrorKind::Invalid), "nobody becomes Owner this way");
    }
    let manager = authority_of(&user("max", Manager));
    assert_eq!(check(&manager, Viewer, Viewer), Err(ErrorKind::Forbidden));
}

#[test]
fn a_weaker_role_narrows_active_tokens_and_says_what_they_lost() {
    let anna = user("anna", Role::Administrator);
    let full = token(1, &anna, Role::Administrator.permissions());
    let agent = token(2, &anna, PermissionSet::TELEGRAF_AGENT);
    let mut revoked = token(3, &anna, Role::Administrator.permissions());
    revoked.record.state = TokenState::Revoked { at: at(1), by: "otto".to_owned() };
    let authority = operator();
    let mut draft = Draft::new(&authority, at(9));
    let counts = decide_role(&mut draft, &anna, vec![full, agent, revoked], Role::Manager, Some(Pin::NoUsers));
    assert_eq!((counts.narrowed, counts.revoked), (1, 0));
    let batch = draft.into_batch();
    assert_eq!(batch.users.iter().filter_map(Edit::after).map(|user| user.role).collect::<Vec<_>>(), [Role::Manager]);
    let after = changed(&batch);
    assert_eq!(after.len(), 1, "tokens that lose nothing are left alone");
    assert_eq!((after[0].id, after[0].permissions), (TokenId::from_u64(1), Role::Manager.permissions()));
    let (id, entry) = &batch.history[0];
    assert_eq!((*id, entry.at, entry.by.as_str()), (TokenId::from_u64(1), at(9), "cli:test"));
    let TokenEvent::Narrowed { lost } = &entry.event else { panic!("{entry:?}") };
    assert!(lost.contains("users:read".parse().expect("valid")));
    assert!(lost.intersect(Role::Manager.permissions()).is_empty());
}

#[test]
fn a_stronger_role_gives_nothing_back() {
    let anna = user("anna", Role::Manager);
    let narrow = token(1, &anna, permissions(&["configs:read"]));
    let authority = operator();
    let mut draft = Draft::new(&authority, at(9));
    let counts = decide_role(&mut draft, &anna, vec![narrow], Role::Administrator, Some(Pin::NoUsers));
    assert_eq!(counts, Counts::default());
    assert!(draft.into_batch().tokens.is_empty());
}

#[test]
fn becoming_a_viewer_revokes_every_active_token_even_an_expired_one() {
    let anna = user("anna", Role::Manager);
    let mut expired = token(2, &anna, PermissionSet::TELEGRAF_AGENT);
    expired.record.expires_at = Some(at(1));
    let tokens = vec![token(1, &anna, PermissionSet::TELEGRAF_AGENT), expired];
    let authority = operator();
    let mut draft = Draft::new(&authority, at(9));
    let counts = decide_role(&mut draft, &anna, tokens, Role::Viewer, Some(Pin::NoUsers));
    assert_eq!((counts.narrowed, counts.revoked), (0, 2));
    let batch = draft.into_batch();
    let state = TokenState::Revoked { at: at(9), by: "cli:test".to_owned() };
    assert!(changed(&batch).iter().all(|token| token.state == state));
    let reason = Some("role of anna changed to viewer".to_owned());
    assert!(batch.history.iter().all(|(_, entry)| entry.event == TokenEvent::Revoked { reason: reason.clone() }));
}

#[test]
fn disabling_changes_the_user_and_nothing_else() {
    let anna = user("anna", Role::Manager);
    let (batch, after) = decide_status(&operator(), anna.clone(), UserStatus::Disabled, at(0)).expect("allowed");
    assert_eq!(after.status, UserStatus::Disabled);
    assert_eq!(batch.users, [Edit::Update { before: anna.clone(), after }]);
    assert!(batch.tokens.is_empty() && batch.history.is_empty());
    let (batch, _) = decide_status(&operator(), anna, UserStatus::Active, at(0)).expect("allowed");
    assert!(batch.users.is_empty(), "active already");
}

#[test]
fn the_owner_is_neither_disabled_nor_deleted() {
    let olga = user("olga", Role::Owner);
    for authority in [operator(), authority_of(&olga), authority_of(&user("adam", Role::Administrator))] {
        let disabled = decide_status(&authority, olga.clone(), UserStatus::Disabled, at(0));
        assert!(matches!(disabled, Err(RegistryError::OwnerNotDisabled(_))));
        assert!(matches!(check_deletable(&authority, &olga.record), Err(RegistryError::OwnerNotDeleted(_))));
    }
}

#[test]
fn nobody_disables_or_deletes_themselves() {
    let adam = user("adam", Role::Administrator);
    let authority = authority_of(&adam);
    let disabled = decide_status(&authority, adam.clone(), UserStatus::Disabled, at(0));
    assert!(matches!(disabled, Err(RegistryError::OwnUserNotDisabled(_))));
    assert!(matches!(check_deletable(&authority, &adam.record), Err(RegistryError::OwnUserNotDeleted(_))));
}

#[test]
fn administrators_are_disabled_and_deleted_by_the_owner_only() {
    let bert = user("bert", Role::Administrator);
    let administrator = authority_of(&user("adam", Role::Administrator));
    assert_eq!(kind(decide_status(&administrator, bert.clone(), UserStatus::Disabled, at(0))), ErrorKind::Forbidden);
    assert_eq!(kind(check_deletable(&administrator, &bert.record)), ErrorKind::Forbidden);
    check_deletable(&administrator, &user("max", Role::Manager).record).expect("a manager");
    let owner = authority_of(&user("olga", Role::Owner));
    decide_status(&owner, bert.clone(), UserStatus::Disabled, at(0)).expect("by the owner");
    check_deletable(&owner, &bert.record).expect("by the owner");
}

#[test]
fn ownership_goes_to_an_active_administrator_only() {
    for role in [Role::Viewer, Role::Manager, Role::Owner] {
        let refused = check_new_owner(&user("anna", role).record);
        assert!(matches!(refused, Err(RegistryError::NotAnAdministrator { .. })), "{role}");
    }
    let mut adam = user("adam", Role::Administrator).record;
    check_new_owner(&adam).expect("active");
    adam.status = UserStatus::Disabled;
    assert!(matches!(check_new_owner(&adam), Err(RegistryError::UserDisabled(_))));
}

#[test]
fn a_transfer_is_one_batch_and_narrows_the_old_owners_tokens() {
    let (olga, adam) = (user("olga", Role::Owner), user("adam", Role::Administrator));
    let authority = authority_of(&olga);
    let mut draft = Draft::new(&authority, at(0));
    let full = token(1, &olga, Role::Owner.permissions());
    decide_transfer(&mut draft, &olga, &adam, Some((vec![full], Pin::NoUsers)));
    let batch = draft.into_batch();
    let after: Vec<_> =
        batch.users.iter().filter_map(Edit::after).map(|user| (user.name.as_str(), user.role)).collect();
    assert_eq!(after, [("olga", Role::Administrator), ("adam", Role::Owner)]);
    assert_eq!(batch.users.len(), 2, "the actor's own record does not occur twice");
    assert_eq!(changed(&batch)[0].permissions, Role::Administrator.permissions());
}

#[test]
fn replicas_learn_of_tokens_before_they_learn_of_their_owner() {
    let (anna, authority) = (user("anna", Role::Manager), operator());
    for (role, is_expected) in [
        (Role::Viewer, (|change| matches!(change, Change::RemoveGrant(_))) as fn(&Change) -> bool),
        (Role::Administrator, |change| matches!(change, Change::PutGrant(..))),
    ] {
        let mut draft = Draft::new(&authority, at(1));
        let beyond = token(1, &anna, Role::Owner.permissions());
        match role {
            Role::Viewer => drop(draft.revoke(beyond, None)),
            _ => assert!(draft.narrow(beyond, Role::Manager), "an interrupted command left it with more"),
        }
        draft.update_user(anna.clone(), UserRecord { role, ..anna.record.clone() });
        let changes = draft.into_batch().changes();
        assert!(matches!(&changes[..], [first, Change::PutOwner(..)] if is_expected(first)), "{changes:?}");
    }
}
