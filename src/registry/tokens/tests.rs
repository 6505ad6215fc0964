use super::super::draft::samples::{at, authority_of, operator, user};
use super::*;
use crate::token::Permission;

fn new(permissions: Requested) -> NewToken {
    NewToken { user: "anna".to_owned(), description: "edge".to_owned(), permissions, expires_at: None }
}

fn only(names: &[&str]) -> PermissionSet {
    names.iter().map(|name| name.parse::<Permission>().expect("valid")).collect()
}

/// At second 10, for anna with that role, by the operator.
fn decide(role: Role, new: &NewToken) -> Result<TokenRecord, RegistryError> {
    let digest = Digest::of(b"x");
    decide_token(&operator(), &user("anna", role).record, new, digest, "abc123".to_owned(), at(10))
}

#[test]
fn a_token_without_a_request_has_all_that_the_role_has() {
    for role in [Role::Manager, Role::Administrator, Role::Owner] {
        let record = decide(role, &new(Requested::All)).expect("allowed");
        assert_eq!(record.permissions, role.permissions());
    }
    let record = decide(Role::Manager, &new(Requested::All)).expect("allowed");
    assert_eq!((record.hint.as_str(), record.created_by.as_str(), record.created_at), ("abc123", "cli:test", at(10)));
    assert!(record.is_active());
}

#[test]
fn a_request_is_cut_to_what_the_role_has() {
    let requested = Requested::Permissions(only(&["heartbeat:write", "users:write"]));
    let record = decide(Role::Manager, &new(requested)).expect("allowed");
    assert_eq!(record.permissions, only(&["heartbeat:write"]));
}

#[test]
fn a_request_of_which_nothing_remains_is_refused_with_what_the_role_has() {
    for requested in [only(&["users:write"]), PermissionSet::EMPTY] {
        let error = decide(Role::Manager, &new(Requested::Permissions(requested))).expect_err("refused");
        assert!(matches!(error, RegistryError::NothingPermitted { .. }));
        assert!(error.to_string().contains("heartbeat:write"), "{error}");
    }
}

#[test]
fn viewers_and_disabled_users_get_no_tokens() {
    assert!(matches!(decide(Role::Viewer, &new(Requested::All)), Err(RegistryError::NoTokensForViewer(_))));
    let mut anna = user("anna", Role::Manager).record;
    anna.status = UserStatus::Disabled;
    let decided = decide_token(&operator(), &anna, &new(Requested::All), Digest::of(b"x"), String::new(), at(10));
    assert!(matches!(decided, Err(RegistryError::UserDisabled(_))));
}

#[test]
fn an_administrator_makes_no_token_for_the_owner() {
    let owner = user("olga", Role::Owner);
    let by = |authority: &Authority, owner: &UserRecord| {
        decide_token(authority, owner, &new(Requested::All), Digest::of(b"x"), String::new(), at(10))
    };
    let administrator = authority_of(&user("adam", Role::Administrator));
    assert!(matches!(by(&administrator, &owner.record), Err(RegistryError::Forbidden { .. })));
    by(&administrator, &user("bert", Role::Administrator).record).expect("for an equal");
    by(&authority_of(&owner), &owner.record).expect("for oneself");
}

#[test]
fn an_expiry_is_in_whole_seconds_and_in_the_future() {
    let expiring = |time| NewToken { expires_at: Some(time), ..new(Requested::All) };
    let half = Timestamp::from_millisecond(10_500).expect("in range");
    for past in [at(0), at(10), half] {
        assert!(matches!(decide(Role::Manager, &expiring(past)), Err(RegistryError::AlreadyExpired(_))), "{past}");
    }
    let later = Timestamp::from_millisecond(11_999).expect("in range");
    assert_eq!(decide(Role::Manager, &expiring(later)).expect("allowed").expires_at, Some(at(11)));
}

#[test]
fn descriptions_are_short_plain_and_no_place_for_tokens() {
    let persian = "می\u{200c}خواهم";
    for good in [
        "x",
        "edge – Zürich",
        "Zu\u{308}rich 👩\u{200d}🔧",
        persian,
        &"é".repeat(200),
        "successor of tc-apiv1_...abc123",
    ] {
        check_description(good).expect(good);
    }
    for bad in ["", "  ", "a\nb", "a\u{7f}", "\u{9b}", &"x".repeat(201), "is tc-apiv1_0123456789abcdef", "TC-APIV1_01"]
    {
        assert!(matches!(check_description(bad), Err(RegistryError::InvalidDescription)), "{bad:?}");
    }
    // What came in earlier is kept, and rotated.
    let (secret, pile) = ("0123456789abcdef".repeat(4), format!("a{}", "\u{302}".repeat(9)));
    for bad in [secret.as_str(), &secret.to_uppercase(), "\u{3164}", "\u{200d}", "a\u{202e}b", "a\u{200b}", &pile] {
        assert!(matches!(check_description(bad), Err(RegistryError::InvalidDescription)), "{bad:?}");
        check_old_description(bad).expect(bad);
    }
}
