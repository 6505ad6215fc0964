//! What a target is given, and what it has to be before it becomes a registry.

use std::fs;

use sha2::{Digest as _, Sha256};
use tollgate::store::archive::{Item, Tally, TokenItem, Unfinished, UserItem};
use tollgate::store::{CommitId, Edit, Revision, StoreError};
use tollgate::token::{TokenRecord, UserRecord};

use super::*;
use crate::conformance::{revoked, user, users};
use crate::harness::RedisServer;

/// A place of each kind.
struct Places {
    server: RedisServer,
    folder: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        Self { server: RedisServer::start(), folder: tempfile::tempdir().expect("a folder") }
    }

    fn urls(&self) -> [String; 2] {
        [self.server.url(), sqlite(&self.folder.path().join("target.db"))]
    }
}

fn user_item(record: &UserRecord, version: u128) -> Item {
    Item::User(UserItem { record: record.clone(), version: CommitId(version), revision: Revision(1), token_set: None })
}

fn token_item(record: &TokenRecord, version: u128) -> Item {
    Item::Token(TokenItem { record: record.clone(), version: CommitId(version), history: Vec::new() })
}

/// Reads back what is there.
async fn read(target: &mut dyn Unfinished) -> Result<archive::Summary, StoreError> {
    let (send, mut items) = tokio::sync::mpsc::channel(1);
    let count = async {
        let mut tally = Tally::default();
        while let Some(items) = items.recv().await {
            tally.take(items);
        }
        tally.summary()
    };
    let (read, summary) = tokio::join!(target.read(send), count);
    read.map(|()| summary)
}

/// Whatever comes in one piece, the last of each user and token is what is there: a token that was active when the reading
/// began, and was revoked or deleted meanwhile, is no grant; one that a user had who is no more, is the next one's name.
#[tokio::test]
async fn of_what_is_given_in_one_piece_the_last_counts() {
    let places = Places::new();
    for url in places.urls() {
        let [anna, bob, new_bob] = ["anna", "bob", "bob"].map(user);
        let [kept, taken, gone] = ["kept", "taken", "gone"].map(|name| token(anna.id, name));
        let items = [
            user_item(&anna, 1),
            user_item(&bob, 1),
            token_item(&kept, 1),
            token_item(&taken, 1),
            token_item(&gone, 1),
            user_item(&new_bob, 2),
            Item::NoUser(bob.id),
            Item::NoToken(gone.id),
            token_item(&revoked(taken.clone()), 2),
        ];
        for sizes in [items.len(), 1] {
            let mut target = archive::begin(&settings(&url)).await.expect("is empty");
            let mut tally = Tally::default();
            for items in items.chunks(sizes) {
                target.write(tally.take(items.to_vec())).await.expect("writes");
            }
            assert_eq!(read(&mut *target).await.expect("is whole"), tally.summary(), "{url}");
            if sizes > 1 {
                continue; // the next one begins anew
            }
            target.finish(open_position(tally.summary().checksum)).await.expect("makes it");
        }
        let store = open(&url, Absent::Refuse).await;
        let (_, held) = crate::conformance::Held::snapshot(&*store).await;
        assert_eq!(held.checksum(), store.position().await.expect("reads").checksum, "{url}");
        let found = store.user_by_name("bob").await.expect("reads").expect("has the name");
        assert_eq!(found.record.id, new_bob.id, "{url}");
        let shown = store.tokens_by_digest(&[kept.digest, taken.digest, gone.digest]).await.expect("reads");
        let states: Vec<_> = shown.iter().map(|token| token.as_ref().map(|token| token.record.is_active())).collect();
        assert_eq!(states, [Some(true), Some(false), None], "{url}");
    }
}

fn open_position(checksum: u64) -> Position {
    let (epoch, revision) = (tollgate::store::Epoch(1), Revision(7));
    Position { epoch, revision, head: tollgate::store::Head::START, checksum }
}

/// Programs before this one wrote a user's successor of the same name before they wrote that the user is gone.
#[tokio::test]
async fn a_backup_with_two_users_of_one_name_is_restored() {
    let places = Places::new();
    let source = open(&sqlite(&places.folder.path().join("source.db")), Absent::Create).await;
    let [old, new] = ["bob", "bob"].map(user);
    let mut whole = Vec::new();
    for (number, now) in [&old, &new].into_iter().enumerate() {
        if number > 0 {
            let before = source.user(old.id).await.expect("reads").expect("is there");
            commit(&*source, users([Edit::Delete(before)])).await;
        }
        commit(&*source, users([Edit::Create(now.clone())])).await;
        let file = places.folder.path().join(format!("{number}.backup"));
        archive::write_backup(&*source, &file).await.expect("writes");
        whole.push(fs::read_to_string(&file).expect("reads"));
    }
    let [before, after] = &whole[..] else { panic!("two backups") };
    let lines: Vec<_> = after.lines().collect();
    let [first, user, end, _] = lines[..] else { panic!("{after}") };
    let gone = format!("{{\"no_user\":\"{}\"}}", old.id);
    let text = [first, before.lines().nth(1).expect("the user before"), user, &gone, end, ""].join("\n");
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = places.folder.path().join("earlier.backup");
    fs::write(&file, format!("{text}{{\"sha256\":\"{hash}\"}}\n")).expect("writes");
    for url in places.urls() {
        done(&tollgate(&url, &["store", "restore", text_of(&file)]));
        assert_eq!(contents(&*open(&url, Absent::Refuse).await).await, contents(&*source).await, "{url}");
    }
}

fn text_of(path: &Path) -> &str {
    super::text(path)
}

/// What sidecars hold, and what lists and searches go by, follows from the records, and is compared too.
#[tokio::test]
async fn a_namespace_in_which_anything_is_amiss_becomes_no_registry() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let source = filled(&sqlite(&folder.path().join("source.db"))).await;
    let user = source.user_by_name("max").await.expect("reads").expect("is there").record.id.to_string();
    let token = source.tokens(Default::default(), None, 1).await.expect("reads").remove(0).record.id.to_string();
    let key = |name: &str| format!("{{tollgate}}:{name}");
    for (name, command) in [
        ("names", ["hset", "names", "max", "0000000000001"].to_vec()),
        ("names", ["hset", "names", "nobody", &user].to_vec()),
        ("owners", ["hset", "owners", "12345678", "anybody"].to_vec()),
        ("token_sets", ["hset", "token_sets", "0000000000001", "00000000000000000000000000000001"].to_vec()),
        ("grants", ["hset", "grants", "01234567890123456789012345678901", "grant"].to_vec()),
        ("revoked", ["hset", "revoked", "01234567890123456789012345678901", &token].to_vec()),
        ("grants", ["del", "grants"].to_vec()),
        ("revoked", ["del", "revoked"].to_vec()),
        ("by_state", ["zadd", "by_state", "0", "a0000000000001"].to_vec()),
        ("by_state", ["zadd", "by_state", "0", &format!("x{token}")].to_vec()),
        ("by_owner", ["zremrangebyrank", "by_owner", "0", "0"].to_vec()),
        ("expiring", ["zadd", "expiring", "7", &token].to_vec()),
        ("history", ["hset", "history", "0000000000001", "{}"].to_vec()),
        ("recall_log", ["rpush", "recall_log", "01234567890123456789012345678901"].to_vec()),
        ("recall_log", ["del", "recall_log"].to_vec()),
        ("log", ["xadd", "log", "1-0", "h", "x"].to_vec()),
        ("cancelled", ["zadd", "cancelled", "1", "x"].to_vec()),
    ] {
        let mut target = archive::begin(&settings(&server.url())).await.expect("is empty");
        let (send, mut items) = tokio::sync::mpsc::channel(100);
        source.dump(send).await.expect("reads");
        while let Some(items) = items.recv().await {
            target.write(items).await.expect("writes");
        }
        read(&mut *target).await.expect("is whole");
        let mut command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        command[1] = key(&command[1]);
        server.cli(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let found = read(&mut *target).await;
        let Err(StoreError::DamagedRecord { key: at, .. }) = found else { panic!("{command:?}: {found:?}") };
        assert!(at.starts_with(&key(name)), "{command:?}: {at}");
    }
}
