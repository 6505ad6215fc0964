use serde_json::{Value, json};

use super::*;
use crate::store::{CommitId, Versioned};
use crate::token::{Digest, HistoryEntry, PermissionSet, TokenState};

fn user(id: u64, name: &str, role: Role) -> UserRecord {
    let created_at = Timestamp::UNIX_EPOCH;
    UserRecord { id: UserId::from_u64(id), name: name.to_owned(), role, status: UserStatus::Active, created_at }
}

fn token(id: u64, owner: u64) -> TokenRecord {
    TokenRecord {
        id: TokenId::from_u64(id),
        digest: Digest::of(b"secret"),
        owner: UserId::from_u64(owner),
        description: "a description".to_owned(),
        permissions: PermissionSet::TELEGRAF_AGENT,
        state: TokenState::Active,
        hint: "abc123".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
        created_by: "cli:test".to_owned(),
        expires_at: None,
        predecessor: None,
        successor: None,
    }
}

fn read<R>(record: R) -> Versioned<R> {
    Versioned { record, version: CommitId(1) }
}

fn update<R>(before: R, after: R) -> Edit<R> {
    Edit::Update { before: read(before), after }
}

fn entries(batch: &Batch) -> Vec<Value> {
    let events = events(batch, &Who::system("cli:test", Origin::default()), Timestamp::UNIX_EPOCH);
    events.iter().map(|event| serde_json::from_slice(&event.to_bytes()).expect("JSON")).collect()
}

fn told(batch: &Batch) -> Vec<(String, Value)> {
    let subject = |entry: &Value| {
        let own = ["tokens", "userId", "userName", "role", "successor"];
        own.into_iter().filter_map(|name| Some((name.to_owned(), entry.get(name)?.clone()))).collect::<Value>()
    };
    entries(batch).iter().map(|entry| (entry["action"].as_str().expect("one").to_owned(), subject(entry))).collect()
}

#[test]
fn an_entry_has_the_controllers_members() {
    let origin = Origin::new(Some(TokenId::from_u64(9)), "10.0.0.7".parse().ok(), Some(b"curl/8"));
    let who = Who::user(UserId::from_u64(1), "anna", origin);
    let subject = Subject { tokens: vec![TokenId::from_u64(2)], ..Subject::default() };
    let event = Event::new(&who, Action::TokenRevoke, Outcome::Denied, subject, Timestamp::UNIX_EPOCH);
    let text = String::from_utf8(event.to_bytes()).expect("text");
    let expected = concat!(
        r#"{"timestamp":"1970-01-01T00:00:00Z","action":"token.revoke","actorId":"0000000000009","actorType":"Token","#,
        r#""actorName":"anna","ipAddress":"10.0.0.7","userAgent":"curl/8","outcome":"Denied","tokens":["0000000000002"]}"#
    );
    assert_eq!(text, expected);
    let session = Who::user(UserId::from_u64(1), "anna", Origin::default());
    assert_eq!((session.id.as_str(), session.kind), ("0000000000001", ActorType::User));
}

#[test]
fn every_change_is_told_and_what_is_done_alike_is_one_entry() {
    let (anna, max) = (user(1, "anna", Role::Owner), user(2, "max", Role::Manager));
    let revoked = |id| {
        let at = Timestamp::UNIX_EPOCH;
        TokenRecord { state: TokenState::Revoked { at, by: "x".to_owned() }, ..token(id, 2) }
    };
    let batch = Batch {
        users: vec![
            Edit::Require(read(anna)),
            update(max.clone(), UserRecord { role: Role::Viewer, status: UserStatus::Disabled, ..max }),
        ],
        tokens: vec![
            update(token(3, 2), revoked(3)),
            update(token(4, 2), revoked(4)),
            Edit::Delete(read(token(5, 2))),
            Edit::Create(token(6, 2)),
            update(token(7, 2), TokenRecord { permissions: PermissionSet::EMPTY, ..token(7, 1) }),
        ],
        ..Batch::default()
    };
    let id = |id: u64| TokenId::from_u64(id).to_string();
    let expected = [
        ("user.set-role", json!({ "userId": id(2), "userName": "max", "role": "viewer" })),
        ("user.disable", json!({ "userId": id(2), "userName": "max" })),
        ("token.create", json!({ "tokens": [id(6)], "userId": id(2), "userName": "max" })),
        ("token.reassign", json!({ "tokens": [id(7)], "userId": id(1), "userName": "anna" })),
        ("token.narrow", json!({ "tokens": [id(7)] })),
        ("token.revoke", json!({ "tokens": [id(3), id(4)] })),
        ("token.delete", json!({ "tokens": [id(5)] })),
    ];
    assert_eq!(told(&batch), expected.map(|(action, subject)| (action.to_owned(), subject)));
    assert_eq!(told(&Batch::default()), []);
}

#[test]
fn imports_rotations_and_transfers_have_names_of_their_own() {
    let imported = HistoryEntry {
        at: Timestamp::UNIX_EPOCH,
        by: "x".to_owned(),
        event: TokenEvent::Imported,
        operator_reason: None,
    };
    let successor = TokenRecord { predecessor: Some(TokenId::from_u64(3)), ..token(4, 2) };
    let (olga, anna) = (user(1, "olga", Role::Owner), user(2, "anna", Role::Administrator));
    let batch = Batch {
        users: vec![
            update(olga.clone(), UserRecord { role: Role::Administrator, ..olga }),
            update(anna.clone(), UserRecord { role: Role::Owner, ..anna }),
        ],
        tokens: vec![
            Edit::Create(token(6, 2)),
            update(token(3, 2), TokenRecord { successor: Some(successor.id), ..token(3, 2) }),
            Edit::Create(successor),
        ],
        history: vec![(TokenId::from_u64(6), imported)],
        ..Batch::default()
    };
    let actions: Vec<_> = told(&batch).into_iter().map(|(action, _)| action).collect();
    assert_eq!(actions, ["user.set-role", "user.transfer-ownership", "token.import", "token.rotate"]);
    assert_eq!(told(&batch)[3].1["successor"], json!(TokenId::from_u64(4)));
}

#[test]
fn of_a_token_an_entry_has_nothing_but_the_id() {
    let batch = Batch { tokens: vec![Edit::Create(token(6, 2)), Edit::Delete(read(token(7, 2)))], ..Batch::default() };
    let text = serde_json::to_string(&entries(&batch)).expect("text");
    for secret in ["description", "abc123", &Digest::of(b"secret").to_string()] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn what_a_client_calls_itself_is_cut_and_cleaned() {
    let agent = |bytes: &[u8]| Origin::new(None, None, Some(bytes)).user_agent().map(str::to_owned);
    assert_eq!(agent(b"curl/8.5"), Some("curl/8.5".to_owned()));
    assert_eq!(agent(b"a\x1b[2J\nb\xffc"), Some("a[2Jbc".to_owned()));
    assert_eq!(agent("a\u{202e}b\u{200b}".as_bytes()), Some("ab".to_owned()));
    assert_eq!(agent(b"x tc-apiv1_0123456789"), Some("x ".to_owned()));
    assert_eq!(agent(&[b'x'; 10_000]).map(|text| text.len()), Some(MAX_USER_AGENT));
    assert_eq!(agent(b"\x00"), None);
}
