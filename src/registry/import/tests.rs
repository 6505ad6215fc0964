use proptest::prelude::*;
use serde_json::json;

use super::super::draft::samples::{at, authority_of, operator, user};
use super::*;
use crate::token::Role;

const SECRET: &str = "0123456789abcdefghjkmnpqrstvwxyz0123456789abcdefghj";

fn line(value: &serde_json::Value) -> Result<ImportLine, String> {
    parse_line(&value.to_string())
}

fn good(token: &str) -> ImportLine {
    line(&json!({ "token": format!("tc-apiv1_{token}"), "user": "anna", "description": "edge" })).expect("valid")
}

#[test]
fn a_line_has_a_token_or_a_digest() {
    let token = format!("tc-apiv1_{SECRET}");
    let digest = Digest::of(token.as_bytes());
    let with_token = line(&json!({ "token": token, "user": "anna", "description": "edge" })).expect("valid");
    let with_digest = json!({
        "digest": digest.to_string(), "user": "anna", "description": "edge",
        "permissions": ["configs:read", "heartbeat:write"], "expires_at": "2099-01-01T00:00:00Z",
    });
    let with_digest = line(&with_digest).expect("valid");
    assert_eq!((with_token.digest, with_token.hint.as_str()), (digest, "defghj"));
    assert_eq!((with_digest.digest, with_digest.hint.as_str()), (digest, ""));
    assert_eq!(with_token.new.permissions, Requested::All);
    assert_eq!(with_digest.new.permissions, Requested::Permissions(PermissionSet::TELEGRAF_AGENT));
    assert_eq!(with_digest.new.expires_at, Some("2099-01-01T00:00:00Z".parse().expect("valid")));
}

#[test]
fn bad_lines_are_refused_with_the_reason() {
    let digest = "0".repeat(64);
    let cases = [
        (json!({ "user": "anna", "description": "x" }), "give `token` or `digest`"),
        (json!({ "token": "tc-apiv1_x", "digest": digest, "user": "anna", "description": "x" }), "not both"),
        (json!({ "token": "sesame", "user": "anna", "description": "x" }), "starts with `tc-apiv1_`"),
        (json!({ "digest": "00", "user": "anna", "description": "x" }), "64 hexadecimal digits"),
        (json!({ "digest": digest, "description": "x" }), "missing field `user`"),
        (json!({ "digest": digest, "user": "anna" }), "missing field `description`"),
        (json!({ "digest": digest, "user": "anna", "description": "x", "owner": "x" }), "unknown field `owner`"),
        (json!({ "digest": digest, "user": "a", "description": "x", "permissions": ["config:read"] }), "`configs`"),
        (json!({ "digest": digest, "user": "a", "description": "x", "expires_at": "soon" }), "2030-"),
        (json!(["tc-apiv1_x", null, "anna", "x", null, null]), "JSON object"),
    ];
    for (value, expected) in cases {
        let reason = line(&value).expect_err("refused");
        assert!(reason.contains(expected), "{value}: {reason}");
        assert!(!reason.contains("at line"), "{reason}");
    }
    parse_line("").expect_err("empty");
    parse_line("{").expect_err("cut off");
}

proptest! {
    /// A token in whatever field, in a line mended or broken in whatever way, is never repeated.
    #[test]
    fn no_reason_holds_a_token(
        field in "token|digest|user|description|permissions|expires_at|tc-apiv1_0123456789abcdefghjkmnpqrstvwxyz|x",
        shape in 0..6,
        cut in 0..400_usize,
        noise in "[ -~]{0,4}",
    ) {
        let token = format!("tc-apiv1_{noise}{SECRET}{noise}");
        let value = match shape {
            0 => json!({ field: token }),
            1 => json!({ field: [token] }),
            2 => json!({ field: { token: 1 } }),
            3 => json!(token),
            4 => json!({ "token": token, field: token, "user": "anna", "description": "x" }),
            _ => json!([token]),
        };
        let text = value.to_string();
        let cut: String = text.chars().take(cut).collect();
        for text in [text, cut] {
            if let Err(reason) = parse_line(&text) {
                prop_assert!(!reason.contains("23456789"), "{} -> {}", text, reason);
            }
        }
    }
}

/// What becomes of each line: its number and, if refused, the reason.
fn decide(authority: &Authority, lines: &[(usize, ImportLine)], existing: &Existing) -> Vec<(usize, Option<String>)> {
    let (good, refused) = partition_lines(authority, lines, existing, at(10));
    let good = good.into_iter().map(|(line, _)| (*line, None));
    let mut all: Vec<_> = good.chain(refused.into_iter().map(|refused| (refused.line, Some(refused.reason)))).collect();
    all.sort();
    all
}

fn existing(users: &[Versioned<UserRecord>]) -> Existing {
    let users = users.iter().map(|user| (user.record.name.clone(), Some(user.clone()))).collect();
    Existing { users, ..Existing::default() }
}

#[test]
fn every_bad_line_is_named_with_its_own_reason() {
    let mut vera = good("b");
    vera.new.user = "vera".to_owned();
    let mut nobody = good("c");
    nobody.new.user = "nobody".to_owned();
    let mut expired = good("d");
    expired.new.expires_at = Some(at(9));
    let lines = [good("a"), vera, nobody, expired, good("a"), good("e"), good("f")];
    let lines: Vec<_> = (11..).zip(lines).collect();
    let mut existing = existing(&[user("anna", Role::Manager), user("vera", Role::Viewer)]);
    existing.taken.insert(good("e").digest);
    let decisions = decide(&operator(), &lines, &existing);
    let expected = [
        (11, None),
        (12, Some("viewer")),
        (13, Some("no user `nobody`")),
        (14, Some("in the past")),
        (15, Some("the same token as in line 11")),
        (16, Some("registered already")),
        (17, None),
    ];
    for ((line, reason), (number, part)) in decisions.iter().zip(expected) {
        assert_eq!(*line, number);
        assert_eq!(reason.is_some(), part.is_some(), "{line}: {reason:?}");
        assert!(reason.as_deref().unwrap_or_default().contains(part.unwrap_or_default()), "{line}: {reason:?}");
    }
}

#[test]
fn a_manager_imports_for_themselves_only() {
    let max = user("anna", Role::Manager);
    let mut foreign = good("b");
    foreign.new.user = "otto".to_owned();
    let existing = existing(&[max.clone(), user("otto", Role::Manager)]);
    let decisions = decide(&authority_of(&max), &[(1, good("a")), (2, foreign)], &existing);
    assert_eq!(decisions[0], (1, None));
    assert!(decisions[1].1.as_deref().is_some_and(|reason| reason.contains("create tokens for others")));
}

#[test]
fn a_deleted_token_does_not_come_back() {
    let mut existing = existing(&[user("anna", Role::Manager)]);
    existing.retired.insert(good("a").digest);
    let decisions = decide(&operator(), &[(1, good("a")), (2, good("b"))], &existing);
    assert!(decisions[0].1.as_deref().is_some_and(|reason| reason.contains("was deleted")), "{decisions:?}");
    assert_eq!(decisions[1], (2, None));
}
