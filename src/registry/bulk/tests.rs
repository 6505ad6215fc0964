use super::super::draft::samples::{at, token, user};
use super::*;
use crate::token::{PermissionSet, TokenState};

#[test]
fn usable_is_active_and_not_expired() {
    let (olga, anna) = (user("olga", Role::Owner), user("anna", Role::Manager));
    let mut tokens: Vec<_> = (1..=4).map(|id| token(id, &olga, PermissionSet::TELEGRAF_AGENT)).collect();
    tokens[1].record.state = TokenState::Revoked { at: at(1), by: "olga".to_owned() };
    tokens[2].record.expires_at = Some(at(10));
    tokens[3].record.expires_at = Some(at(11));
    tokens.push(token(5, &anna, PermissionSet::TELEGRAF_AGENT));
    let usable = usable_of(olga.record.id, &tokens, at(10));
    assert_eq!(usable, [TokenId::from_u64(1), TokenId::from_u64(4)]);
}

#[test]
fn only_active_tokens_are_reassigned_and_only_to_active_users() {
    let (anna, mut vera) = (user("anna", Role::Manager), user("vera", Role::Viewer));
    let mut tokens: Vec<_> = (1..=3).map(|id| token(id, &anna, PermissionSet::TELEGRAF_AGENT)).collect();
    check_reassignable(&tokens, &vera.record).expect("to a viewer");
    for token in &mut tokens[1..] {
        token.record.state = TokenState::Revoked { at: at(1), by: "anna".to_owned() };
    }
    let error = check_reassignable(&tokens, &vera.record).expect_err("two are revoked");
    assert!(matches!(error, RegistryError::NotActive(ids) if ids == [TokenId::from_u64(2), TokenId::from_u64(3)]));
    vera.record.status = UserStatus::Disabled;
    assert!(matches!(check_reassignable(&tokens[..1], &vera.record), Err(RegistryError::UserDisabled(_))));
}
