use proptest::prelude::*;
use serde_json::json;

use super::super::draft::samples::{at, authority_of, operator, user};
use super::*;
use crate::token::Role;

const SECRET: &str = "0123456789abcdefghjkmnpqrstvwxyz0123456789abcdefghj";

fn line(value: &serde_json::Value) -> Result<ImportLine, LineError> {
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
    let reason = |value: serde_json::Value| line(&value).expect_err("refused");
    let neither = reason(json!({ "user": "anna", "description": "x" }));
    assert!(matches!(neither, LineError::NoToken));
    let both = reason(json!({ "token": "tc-apiv1_x", "digest": digest, "user": "anna", "description": "x" }));
    assert!(matches!(both, LineError::TokenAndDigest));
    let token = reason(json!({ "token": "sesame", "user": "anna", "description": "x" }));
    assert!(matches!(token, LineError::Token(InvalidToken::Prefix)));
    let unknown = reason(json!({ "digest": digest, "user": "anna", "description": "x", "owner": "x" }));
    assert!(matches!(unknown, LineError::UnknownField(_, Some(name)) if name == "owner"));
    let permissions = json!({ "digest": digest, "user": "a", "description": "x", "permissions": ["config:read"] });
    let permission = reason(permissions);
    assert!(matches!(permission, LineError::Permission(InvalidPermission::Resource { nearest: "configs", .. })));
    let permissions =
        json!({ "digest": digest, "user": "a", "description": "x", "permissions": ["configs:read", "S"] });
    assert!(matches!(reason(permissions), LineError::PermissionForm(2)));
    let expiry = reason(json!({ "digest": digest, "user": "a", "description": "x", "expires_at": "soon" }));
    assert!(matches!(expiry, LineError::Expiry));
    let value = reason(json!({ "digest": digest, "user": 1, "description": "x" }));
    assert!(matches!(value, LineError::Value(_, expected) if expected == "a string"));
    assert!(matches!(reason(json!(["tc-apiv1_x", null, "anna", "x", null, null])), LineError::NotAnObject));
    assert!(matches!(parse_line(""), Err(LineError::NotAnObject)));
    assert!(matches!(parse_line("{"), Err(LineError::Syntax(1, message)) if !message.contains("line")));
}

/// What serde says of these repeats nothing of the line.
#[test]
fn fields_that_are_missing_or_no_digest_are_named() {
    let digest = "0".repeat(64);
    for (value, expected) in [
        (json!({ "digest": "00", "user": "anna", "description": "x" }), "a digest is 64 hexadecimal digits"),
        (json!({ "digest": digest, "description": "x" }), "missing field `user`"),
        (json!({ "digest": digest, "user": "anna" }), "missing field `description`"),
    ] {
        let error = line(&value).expect_err("refused");
        assert!(matches!(&error, LineError::Field(text) if text.starts_with(expected)), "{error:?}");
    }
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
                let shown = format!("{reason} {reason:?}");
                prop_assert!(!shown.contains("23456789"), "{} -> {}", text, shown);
            }
        }
    }
}

/// The numbers of the good lines, and the others.
fn decide(authority: &Authority, lines: &[(usize, ImportLine)], existing: &Existing) -> (Vec<usize>, Vec<RefusedLine>) {
    let (good, refused) = partition_lines(authority, lines, existing, at(10));
    (good.into_iter().map(|(line, _)| *line).collect(), refused)
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
    let (good, refused) = decide(&operator(), &lines, &existing);
    assert_eq!(good, [11, 17]);
    assert_eq!(refused.iter().map(|refused| refused.line).collect::<Vec<_>>(), [12, 13, 14, 15, 16]);
    let reasons: Vec<_> = refused.into_iter().map(|refused| refused.reason).collect();
    assert!(
        matches!(
            &reasons[..],
            [
                LineError::Refused(RegistryError::NoTokensForViewer(_)),
                LineError::Refused(RegistryError::NoSuchUser(_)),
                LineError::Refused(RegistryError::AlreadyExpired(_)),
                LineError::Repeated(11),
                LineError::Refused(RegistryError::DigestTaken(_)),
            ]
        ),
        "{reasons:?}"
    );
}

#[test]
fn a_manager_imports_for_themselves_only() {
    let max = user("anna", Role::Manager);
    let mut foreign = good("b");
    foreign.new.user = "otto".to_owned();
    let existing = existing(&[max.clone(), user("otto", Role::Manager)]);
    let (good, refused) = decide(&authority_of(&max), &[(1, good("a")), (2, foreign)], &existing);
    assert_eq!((good, refused[0].line), (vec![1], 2));
    let right = Right::CreateTokensForOthers;
    assert!(
        matches!(&refused[0].reason, LineError::Refused(RegistryError::Forbidden { right: it, .. }) if *it == right)
    );
}

#[test]
fn a_deleted_token_does_not_come_back() {
    let mut existing = existing(&[user("anna", Role::Manager)]);
    existing.retired.insert(good("a").digest);
    let (good, refused) = decide(&operator(), &[(1, good("a")), (2, good("b"))], &existing);
    assert_eq!((good, refused[0].line), (vec![2], 1));
    assert!(matches!(refused[0].reason, LineError::Refused(RegistryError::DigestRetired(_))));
}
