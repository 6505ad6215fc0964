use proptest::prelude::*;
use serde_json::json;

use super::super::draft::samples::{at, authority_of, operator, user};
use super::super::tokens::decide_token;
use super::csv::CsvHeader;
use super::*;
use crate::token::permission::InvalidPermission;
use crate::token::raw::InvalidToken;
use crate::token::{PermissionSet, Role, TokenState};

const SECRET: &str = "0123456789abcdefghjkmnpqrstvwxyz0123456789abcdefghj";

fn line(value: &serde_json::Value) -> Result<Box<ImportLine>, LineError> {
    parse_line(&value.to_string(), Some(PermissionSet::TELEGRAF_AGENT))
}

fn good(token: &str) -> Box<ImportLine> {
    line(&json!({ "token": format!("tc-apiv1_{token}"), "user": "anna", "description": "edge" })).expect("valid")
}

/// A line of `token export --full`.
fn full() -> serde_json::Value {
    json!({
        "digest": "0".repeat(64), "user": "anna", "description": "edge", "permissions": ["configs:read"], "hint": "abc123",
        "id": "0000000000001", "state": "revoked", "created_at": "2024-01-01T00:00:00Z", "created_by": "cli:root",
        "revoked_at": "2025-01-01T00:00:00Z", "revoked_by": "otto",
        "history": [{ "at": "2025-01-01T00:00:00Z", "by": "otto", "event": "reassigned", "from": "a", "to": "b" }],
    })
}

#[test]
fn a_past_is_whole_or_none() {
    let read = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut value = full();
        change(value.as_object_mut().expect("an object"));
        line(&value)
    };
    let whole = read(&|_| {}).expect("valid");
    let past = whole.past.expect("it has one");
    let told = past.told().expect("is held");
    assert_eq!((past.id, told.created_by.as_str(), told.history.len()), (TokenId::from_u64(1), "cli:root", 1));
    assert!(matches!(told.state, TokenState::Revoked { ref by, .. } if by == "otto"));
    assert_eq!(&*whole.hint, "abc123");
    for field in ["id", "state", "created_at", "created_by", "revoked_at", "revoked_by"] {
        let error = read(&|value| drop(value.remove(field))).expect_err(field);
        assert!(matches!(error, LineError::Past), "{field}: {error:?}");
    }
    let active = read(&|value| drop(value.insert("state".to_owned(), json!("active"))));
    assert!(matches!(active, Err(LineError::Past)), "an active token was not revoked");
    for (field, value) in [("created_at", "once"), ("revoked_at", "once")] {
        let error = read(&|line| drop(line.insert(field.to_owned(), json!(value)))).expect_err(field);
        assert!(matches!(error, LineError::Time(it) if it == field), "{error:?}");
    }
    for (field, value) in [("created_by", "\u{1b}[2J"), ("revoked_by", "tc-apiv1_secret")] {
        let error = read(&|line| drop(line.insert(field.to_owned(), json!(value)))).expect_err(field);
        assert!(matches!(error, LineError::PastText), "{error:?}");
    }
    let id = read(&|line| drop(line.insert("id".to_owned(), json!("1")))).expect_err("refused");
    assert!(matches!(&id, LineError::Field(text) if text.starts_with("an id is 13 characters")), "{id:?}");
    let hint = read(&|line| drop(line.insert("hint".to_owned(), json!("abcdefg")))).expect_err("refused");
    assert!(matches!(hint, LineError::Hint));
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
    assert_eq!((with_token.digest, &*with_token.hint), (digest, "defghj"));
    assert_eq!((with_digest.digest, &*with_digest.hint), (digest, ""));
    assert_eq!(with_token.permissions, PermissionSet::TELEGRAF_AGENT);
    assert_eq!(with_digest.permissions, PermissionSet::TELEGRAF_AGENT);
    assert_eq!(with_digest.expires_at, Some("2099-01-01T00:00:00Z".parse().expect("valid")));
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
    assert!(matches!(expiry, LineError::Time("expires_at")));
    let value = reason(json!({ "digest": digest, "user": 1, "description": "x" }));
    assert!(matches!(value, LineError::Value(_, expected) if expected == "a string"));
    assert!(matches!(reason(json!(["tc-apiv1_x", null, "anna", "x", null, null])), LineError::NotAnObject));
    assert!(matches!(parse_line("", None), Err(LineError::NotAnObject)));
    assert!(matches!(parse_line("{", None), Err(LineError::Syntax(1, message)) if !message.contains("line")));
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
        field in "token|digest|user|description|permissions|expires_at|hint|id|state|created_at|created_by|revoked_at|\
                  revoked_by|history|at|by|event|from|lost|reason|tc-apiv1_0123456789abcdefghjkmnpqrstvwxyz|x",
        shape in 0..8,
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
            5 => {
                let mut line = full();
                line[field] = json!(token);
                line
            }
            6 => {
                let mut line = full();
                line["history"][0][field] = json!(token);
                line
            }
            _ => json!([token]),
        };
        let text = value.to_string();
        let cut: String = text.chars().take(cut).collect();
        for text in [text, cut] {
            if let Err(reason) = parse_line(&text, None) {
                let shown = format!("{reason} {reason:?}");
                prop_assert!(!shown.contains("23456789"), "{} -> {}", text, shown);
            }
        }
    }
}

/// The numbers of the good lines, and the others.
fn decide(authority: &Authority, lines: &[Numbered], users: &Users, held: &Held) -> (Vec<usize>, Vec<RefusedLine>) {
    let (wanted, others) = sort(authority, lines, users, held, ImportOptions::default());
    (wanted, others.refused)
}

fn sort(
    authority: &Authority,
    lines: &[Numbered],
    users: &Users,
    held: &Held,
    options: ImportOptions,
) -> (Vec<usize>, Imported) {
    let mut sorter = Sorter::of(lines);
    lines
        .iter()
        .cloned()
        .for_each(|line| sorter.add(line, &Existing { authority, users, held, lifetime: None, now: at(10) }, options));
    (sorter.wanted.into_iter().map(|(line, _)| line).collect(), sorter.others)
}

fn users(users: &[Versioned<UserRecord>]) -> Users {
    users.iter().map(|user| (user.record.name.clone(), user.clone())).collect()
}

/// The token that a line makes.
fn token_of(line: &ImportLine, owner: &Versioned<UserRecord>) -> TokenRecord {
    decide_token(&operator(), &owner.record, &line.new_token(), line.digest, line.hint.to_string(), at(1))
        .expect("made")
}

fn held(tokens: impl IntoIterator<Item = TokenRecord>) -> Held {
    Held { tokens: tokens.into_iter().map(|token| (token.digest, token)).collect(), ..Held::default() }
}

#[test]
fn every_bad_line_is_named_with_its_own_reason() {
    let mut vera = good("b");
    vera.user = "vera".into();
    let mut nobody = good("c");
    nobody.user = "nobody".into();
    let mut expired = good("d");
    expired.expires_at = Some(at(9));
    let lines = [good("a"), vera, nobody, expired, good("a"), good("e"), good("f")];
    let lines: Vec<_> = (11..).zip(lines).collect();
    let anna = user("anna", Role::Manager);
    let held = held([token_of(&good("e"), &anna)]);
    let (good, refused) = decide(&operator(), &lines, &users(&[anna, user("vera", Role::Viewer)]), &held);
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
    foreign.user = "otto".into();
    let users = users(&[max.clone(), user("otto", Role::Manager)]);
    let (good, refused) = decide(&authority_of(&max), &[(1, good("a")), (2, foreign)], &users, &Held::default());
    assert_eq!((good, refused[0].line), (vec![1], 2));
    let right = Right::CreateTokensForOthers;
    assert!(
        matches!(&refused[0].reason, LineError::Refused(RegistryError::Forbidden { right: it, .. }) if *it == right)
    );
}

#[test]
fn a_deleted_token_does_not_come_back() {
    let held = Held { retired: [good("a").digest].into(), ..Held::default() };
    let users = users(&[user("anna", Role::Manager)]);
    let (good, refused) = decide(&operator(), &[(1, good("a")), (2, good("b"))], &users, &held);
    assert_eq!((good, refused[0].line), (vec![2], 1));
    assert!(matches!(refused[0].reason, LineError::Refused(RegistryError::DigestRetired(_))));
}

#[test]
fn tokens_that_exist_are_skipped_unless_they_were_revoked() {
    let (anna, otto) = (user("anna", Role::Manager), user("otto", Role::Manager));
    let other = |change: fn(&mut ImportLine)| {
        let mut line = good("b");
        change(&mut line);
        token_of(&line, &anna)
    };
    let by = "cli:test".to_owned();
    let revoked = TokenRecord { state: TokenState::Revoked { at: at(2), by }, ..token_of(&good("c"), &anna) };
    let users = users(&[anna.clone(), otto.clone()]);
    let options = ImportOptions { skip_existing: true, ..ImportOptions::default() };
    let lines = [(1, good("a")), (2, good("b")), (3, good("c"))];
    for (existing, differing) in [
        (other(|_| {}), 0),
        (other(|line| line.description = "else".into()), 1),
        (other(|line| line.expires_at = Some(at(20))), 1),
        (other(|line| line.permissions = PermissionSet::all()), 1),
        (token_of(&good("b"), &otto), 1),
    ] {
        let held = held([existing, revoked.clone()]);
        let (wanted, others) = sort(&operator(), &lines, &users, &held, options);
        assert_eq!((wanted, others.skipped, others.differing), (vec![1], 1, differing));
        let reason = &others.refused[0].reason;
        assert!(matches!(reason, LineError::Refused(RegistryError::DigestRevoked { token }) if *token == revoked.id));
        assert_eq!((others.refused[0].line, others.refused.len()), (3, 1));
    }
}

#[test]
fn a_line_without_permissions_takes_those_given_for_all_or_is_refused() {
    let text = json!({ "token": "tc-apiv1_a", "user": "anna", "description": "edge" }).to_string();
    let lines = parse_line(&text, Some(PermissionSet::TELEGRAF_AGENT)).expect("valid");
    assert_eq!(lines.permissions, PermissionSet::TELEGRAF_AGENT);
    assert!(matches!(parse_line(&text, None), Err(LineError::NoPermissions)));
    let text = text.replace('}', r#","permissions":["users:read"]}"#);
    let own = ["users:read".parse().expect("valid")].into_iter().collect();
    let line = parse_line(&text, Some(PermissionSet::TELEGRAF_AGENT)).expect("valid");
    assert_eq!(line.permissions, own);
}

fn header(line: &str) -> CsvHeader {
    CsvHeader::read(line).expect("sound").expect("a header")
}

#[test]
fn csv_says_the_same_as_json() {
    let digest = "0".repeat(64);
    let expected = line(&json!({
        "digest": digest, "user": "anna", "description": "hall 2, \"left\"",
        "permissions": ["configs:read", "heartbeat:write"], "expires_at": "2099-01-01T00:00:00Z",
    }));
    let expected = expected.expect("valid");
    for (first, row) in [
        (
            "digest,user,description,permissions,expires_at",
            format!(r#"{digest},anna,"hall 2, ""left""",configs:read heartbeat:write,2099-01-01T00:00:00Z"#),
        ),
        (
            "User ; Permissions;DESCRIPTION;expires_at;digest;token",
            format!(r#"anna;"configs:read; heartbeat:write";"hall 2, ""left""";2099-01-01T00:00:00Z;{digest};"#),
        ),
        (
            "\"user\"\tdigest\tdescription\texpires_at\tpermissions",
            format!("anna\t{digest}\t\"hall 2, \"\"left\"\"\"\t2099-01-01T00:00:00Z\tconfigs:read,heartbeat:write"),
        ),
    ] {
        assert_eq!(header(first).parse_line(&row, None).expect(first), expected, "{first}");
    }
    let short = header("token,user,description,permissions");
    let row = format!("tc-apiv1_{SECRET},anna,edge,");
    assert_eq!(short.parse_line(&row, Some(PermissionSet::TELEGRAF_AGENT)).expect("valid"), good(SECRET));
    assert!(matches!(short.parse_line(&row, None), Err(LineError::NoPermissions)));
}

#[test]
fn bad_csv_is_refused_with_the_reason() {
    let is_header = |line: &str| CsvHeader::read(line);
    for line in ["", "nonsense", "{\"token\": \"tc-apiv1_x\", \"user\": 1}", "tc-apiv1_x,anna,edge", "\"user"] {
        assert!(matches!(is_header(line), Ok(None)), "{line}");
    }
    let owner = is_header("digest,owner,description");
    assert!(matches!(owner, Err(LineError::UnknownColumn(2, Some(name))) if name == "owner"));
    assert!(matches!(is_header("digest,user,description,tc-apiv1_x1"), Err(LineError::UnknownColumn(4, None))));
    for line in ["digest,user", "user,description", "token,user,user,description", "token,token,user,description"] {
        assert!(matches!(is_header(line), Err(LineError::Columns(_))), "{line}");
    }
    let header = header("token,digest,user,description");
    let reason = |row: &str| header.parse_line(row, Some(PermissionSet::TELEGRAF_AGENT)).expect_err(row);
    assert!(matches!(reason("tc-apiv1_a,,anna"), LineError::Cells(4, 3)));
    assert!(matches!(reason("tc-apiv1_a,,anna,\"x"), LineError::OpenQuote));
    assert!(matches!(reason(",,anna,x"), LineError::NoToken));
    assert!(matches!(reason("sesame,,anna,x"), LineError::Token(InvalidToken::Prefix)));
    assert!(matches!(reason(",00,anna,x"), LineError::Field(text) if text.starts_with("a digest is")));
    assert!(matches!(reason(&format!("tc-apiv1_a,{},anna,x", "0".repeat(64))), LineError::TokenAndDigest));
}

proptest! {
    /// Nor of CSV.
    #[test]
    fn no_reason_holds_a_token_of_csv(at in 0..7_usize, noise in "[ -~]{0,4}", first in any::<bool>()) {
        let token = format!("tc-apiv1_{noise}{SECRET}{noise}");
        let mut cells = ["tc-apiv1_a", "", "anna", "x", "configs:read", "2099-01-01T00:00:00Z"].map(str::to_owned).to_vec();
        match cells.get_mut(at) {
            Some(cell) => *cell = token,
            None => cells.push(token),
        }
        let names = "token,digest,user,description,permissions,expires_at";
        let error = match first {
            true => CsvHeader::read(&format!("user,{}", cells.join(","))).err(),
            false => header(names).parse_line(&cells.join(","), None).err(),
        };
        if let Some(reason) = error {
            let shown = format!("{reason} {reason:?}");
            prop_assert!(!shown.contains("23456789"), "{}", shown);
        }
    }
}
