//! The audit trail of a real registry, in both kinds of store: every change is in it, nobody can take one out unseen, and of
//! a token that was deleted nothing is left but its id.

mod places;
mod tampering;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tollgate::audit::{Origin, Outcome, Settings, Verdict};
use tollgate::registry::{Actor, AuditFilter, AuditView, ErrorKind, NewToken, Registry, Requested, Rotation};
use tollgate::store::{Absent, StoreUrl};
use tollgate::token::{PermissionSet, Role, TokenId, UserStatus};

use crate::harness::{RedisServer, eventually, operator};

/// A store of one kind.
enum Place {
    Sqlite(TempDir),
    Redis(RedisServer),
}

impl Place {
    fn both() -> [Self; 2] {
        [Self::Sqlite(TempDir::new().expect("a directory")), Self::Redis(RedisServer::start())]
    }

    fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite:{}", directory.path().join("tollgate.db").display()),
            Self::Redis(server) => server.url(),
        }
    }

    /// The registry, as another process has it.
    async fn open(&self) -> Registry {
        let settings = self.url().parse::<StoreUrl>().expect("a URL").into();
        Registry::new(tollgate::store::open(&settings, Absent::Create).await.expect("opens"))
    }

    /// A registry of olga's, with a manager and a viewer.
    async fn made(&self) -> Registry {
        let registry = self.open().await;
        registry.init(&operator(), "olga").await.expect("initialises");
        registry.add_user(&operator(), "max", Role::Manager).await.expect("adds");
        registry.add_user(&operator(), "vera", Role::Viewer).await.expect("adds");
        registry
    }
}

fn new_token(user: &str, description: &str) -> NewToken {
    let permissions = Requested::Permissions(PermissionSet::TELEGRAF_AGENT);
    NewToken { user: user.to_owned(), description: description.to_owned(), permissions, expires_at: None }
}

async fn create(registry: &Registry, user: &str) -> TokenId {
    registry.create_token(&operator(), new_token(user, "edge")).await.expect("creates").record.id
}

async fn trail(registry: &Registry) -> Vec<AuditView> {
    let mut trail = registry.audit(&operator(), &AuditFilter::default(), None, 10_000).await.expect("reads");
    trail.reverse();
    trail
}

async fn verify(registry: &Registry) -> Verdict {
    registry.verify_audit(&operator(), Vec::new()).await.expect("reads").verdict
}

fn actions(trail: &[AuditView]) -> Vec<&str> {
    trail.iter().map(|entry| entry.text("action").expect("an action")).collect()
}

/// The trail read by pages of three; between two of them, something may happen.
async fn by_pages(registry: &Registry, mut between: impl AsyncFnMut(usize)) -> Vec<AuditView> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = registry.audit(&operator(), &AuditFilter::default(), before, 3).await.expect("reads");
        let Some(last) = page.last() else { break };
        before = Some(last.place);
        found.extend(page);
        between(found.len()).await;
    }
    found.reverse();
    found
}

#[tokio::test]
async fn pages_miss_nothing_that_is_not_chained_yet_or_is_chained_meanwhile() {
    for place in Place::both() {
        let registry = place.made().await;
        for number in 0..8 {
            registry.add_user(&operator(), &format!("user-{number}"), Role::Viewer).await.expect("adds");
        }
        let expected = actions_and_users(&trail(&registry).await);
        assert_eq!(expected.len(), 12);
        let loose = by_pages(&registry, async |_| ()).await;
        assert!(loose.iter().all(|entry| entry.seq.is_none()), "{loose:?}");
        assert_eq!(actions_and_users(&loose), expected);
        let meanwhile = by_pages(&registry, async |count| {
            if count == 6 {
                registry.tend_audit().await.expect("chains");
                registry.add_user(&operator(), "later", Role::Viewer).await.expect("adds");
            }
        });
        assert_eq!(actions_and_users(&meanwhile.await), expected);
        let numbers: Vec<_> = trail(&registry).await.iter().map(|entry| entry.place).collect();
        assert_eq!(numbers, (1..=13).collect::<Vec<_>>(), "what is loose has the number that it will have");
    }
}

fn actions_and_users(trail: &[AuditView]) -> Vec<(String, Option<String>)> {
    let of = |entry: &AuditView| {
        (entry.text("action").expect("an action").to_owned(), entry.text("userName").map(str::to_owned))
    };
    trail.iter().map(of).collect()
}

#[tokio::test]
async fn every_change_is_an_entry_that_is_chained_afterwards() {
    for place in Place::both() {
        let registry = place.made().await;
        let [a, b, c] =
            [create(&registry, "max").await, create(&registry, "max").await, create(&registry, "max").await];
        registry.reassign(&operator(), &[a], "vera", false).await.expect("reassigns");
        registry.revoke(&operator(), &[b], false).await.expect("revokes");
        let rotation = Rotation { token: c, overlap: Duration::from_hours(1), expires_at: None };
        registry.rotate(&operator(), rotation).await.expect("rotates");
        registry.set_status(&operator(), "vera", UserStatus::Disabled).await.expect("disables");
        registry.set_status(&operator(), "vera", UserStatus::Active).await.expect("enables");
        registry.set_role(&operator(), "max", Role::Administrator).await.expect("changes");
        registry.transfer_ownership(&operator(), "max").await.expect("transfers");
        registry.delete(&operator(), &[b], false).await.expect("deletes");
        registry.delete_user(&operator(), "vera").await.expect("deletes");
        let expected = [
            "user.create",
            "token.create",
            "user.create",
            "user.create",
            "token.create",
            "token.create",
            "token.create",
            "token.reassign",
            "token.narrow",
            "token.revoke",
            "token.rotate",
            "user.disable",
            "user.enable",
            "user.set-role",
            "user.set-role",
            "user.transfer-ownership",
            "token.narrow",
            "token.delete",
            "user.delete",
            "token.delete",
        ];
        let loose = trail(&registry).await;
        assert_eq!(actions(&loose), expected);
        assert!(loose.iter().all(|entry| entry.seq.is_none()), "no commit waits for the chain");
        assert_eq!(
            registry.verify_audit(&operator(), Vec::new()).await.expect("reads").not_chained,
            20,
            "it is said how many are not"
        );
        let tended = registry.tend_audit().await.expect("chains");
        assert_eq!(tended.linked.added, 20);
        let chained = trail(&registry).await;
        assert_eq!(actions(&chained), expected);
        assert_eq!(chained.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (1..=20).map(Some).collect::<Vec<_>>());
        let verdict = verify(&registry).await;
        assert_eq!((verdict.entries, verdict.findings.as_slice()), (20, &[][..]));
        for member in [
            "seq",
            "timestamp",
            "action",
            "actorId",
            "actorType",
            "ipAddress",
            "userAgent",
            "outcome",
            "hash",
            "prevHash",
        ] {
            assert!(chained.iter().all(|entry| entry.members.contains_key(member)), "{member}");
        }
        assert_eq!(registry.tend_audit().await.expect("finds nothing to do").linked.added, 0);
    }
}

#[tokio::test]
async fn entries_say_who_and_from_where() {
    for place in Place::both() {
        let registry = place.made().await;
        let olga = registry.user(&operator(), "olga").await.expect("exists").record;
        let token = create(&registry, "olga").await;
        let origin =
            Origin::new(Some(token), "10.0.0.7".parse().ok(), Some(b"curl/8\x1b[2J tc-apiv1_0123456789abcdef"));
        let remote = registry.coming_from(origin);
        remote.add_user(&Actor::User(olga.clone()), "anna", Role::Manager).await.expect("adds");
        registry
            .coming_from(Origin::default())
            .add_user(&Actor::User(olga.clone()), "berta", Role::Manager)
            .await
            .expect("adds");
        let trail = trail(&registry).await;
        let said = |name: &str, entry: &AuditView| entry.text(name).unwrap_or_default().to_owned();
        let by_token = trail.iter().find(|entry| entry.text("userName") == Some("anna")).expect("an entry");
        for (member, value) in [
            ("actorType", "Token"),
            ("actorName", "olga"),
            ("ipAddress", "10.0.0.7"),
            ("userAgent", "curl/8[2J "),
            ("outcome", "Success"),
            ("role", "manager"),
        ] {
            assert_eq!(said(member, by_token), value, "{member}");
        }
        assert_eq!(said("actorId", by_token), token.to_string());
        let by_user = trail.iter().find(|entry| entry.text("userName") == Some("berta")).expect("an entry");
        assert_eq!((said("actorType", by_user), said("actorId", by_user)), ("User".to_owned(), olga.id.to_string()));
        assert_eq!(
            (said("actorType", &trail[0]), said("actorId", &trail[0])),
            ("System".to_owned(), operator().name().to_owned())
        );
        assert_eq!(by_user.members["ipAddress"], Value::Null);
    }
}

#[tokio::test]
async fn what_is_refused_is_an_entry_and_changes_nothing_else() {
    for place in Place::both() {
        let registry = place.made().await;
        let max = Actor::User(registry.user(&operator(), "max").await.expect("exists").record);
        let vera = Actor::User(registry.user(&operator(), "vera").await.expect("exists").record);
        let of_olga = create(&registry, "olga").await;
        let position = registry.store().position().await.expect("reads");
        let before = trail(&registry).await.len();
        for kind in [
            registry.add_user(&max, "eve", Role::Owner).await.map(drop).expect_err("refused").kind(),
            registry.create_token(&vera, new_token("vera", "mine")).await.map(drop).expect_err("refused").kind(),
            registry.audit(&max, &AuditFilter::default(), None, 10).await.map(drop).expect_err("refused").kind(),
            registry.export(&max, true).await.map(drop).expect_err("refused").kind(),
        ] {
            assert_eq!(kind, ErrorKind::Forbidden);
        }
        assert_eq!(registry.revoke(&max, &[of_olga], false).await.expect_err("hidden").kind(), ErrorKind::NotFound);
        assert_eq!(registry.delete_user(&operator(), "olga").await.expect_err("refused").kind(), ErrorKind::Conflict);
        // What is no name may be a token in the wrong place.
        let pasted = registry.delete_user(&operator(), "tc-apiv1_0123456789abcdef").await.expect_err("no such user");
        assert_eq!(pasted.kind(), ErrorKind::NotFound);
        let trail = trail(&registry).await;
        let told: Vec<_> = trail[before..]
            .iter()
            .map(|entry| {
                ["action", "outcome", "actorName", "userName", "reason"].map(|name| entry.text(name).unwrap_or(""))
            })
            .collect();
        assert_eq!(
            told,
            [
                ["user.create", "Denied", "max", "eve", "may not manage users"],
                ["token.create", "Denied", "vera", "vera", "may not manage tokens"],
                ["audit.read", "Denied", "max", "", "may not read the audit trail"],
                ["token.export", "Denied", "max", "", "may not export tokens, or import them with their past"],
                ["token.revoke", "Failure", "max", "", "not found"],
                ["user.delete", "Failure", "", "olga", "conflict"],
                ["user.delete", "Failure", "", "", "not found"],
            ]
        );
        assert_eq!(trail[before + 4].tokens().collect::<Vec<_>>(), [of_olga.to_string()]);
        assert_eq!(registry.store().position().await.expect("reads"), position, "a refusal is no commit");
        let denied = AuditFilter { outcome: Some(Outcome::Denied), ..AuditFilter::default() };
        assert_eq!(registry.audit(&operator(), &denied, None, 100).await.expect("reads").len(), 4);
    }
}

#[tokio::test]
async fn whoever_is_refused_again_and_again_does_not_fill_the_trail() {
    for place in Place::both() {
        let registry = place.made().await;
        let max = Actor::User(registry.user(&operator(), "max").await.expect("exists").record);
        let before = trail(&registry).await.len();
        for number in 0..200 {
            drop(registry.clone().add_user(&max, &format!("user{number}"), Role::Manager).await.expect_err("refused"));
            registry.coming_from(Origin::default()).note_stranger(tollgate::audit::Action::SignIn).await;
        }
        let trail = trail(&registry).await;
        let count = |action: &str| trail[before..].iter().filter(|entry| entry.text("action") == Some(action)).count();
        assert_eq!((count("user.create"), count("sign-in")), (20, 1), "a minute's worth");
    }
}

#[tokio::test]
async fn what_is_done_to_many_tokens_at_once_is_an_entry_for_each_commit() {
    for place in Place::both() {
        let registry = place.made().await;
        let line = |number: usize| {
            let text = format!(
                r#"{{"token": "tc-apiv1_{number:032}", "user": "max", "description": "x", "permissions": ["configs:read"]}}"#
            );
            (number, tollgate::registry::import::parse_line(&text, None).expect("valid"))
        };
        let imported =
            registry.import(&operator(), (1..=1200).map(line).collect(), Default::default()).await.expect("imports");
        let ids: Vec<TokenId> = imported.tokens.iter().map(|token| token.id).collect();
        registry.delete(&operator(), &ids, false).await.expect("deletes");
        registry.tend_audit().await.expect("chains");
        let trail = trail(&registry).await;
        for action in ["token.import", "token.delete"] {
            let entries: Vec<_> = trail.iter().filter(|entry| entry.text("action") == Some(action)).collect();
            assert_eq!(entries.len(), 3, "{action}");
            let named: BTreeSet<&str> = entries.iter().flat_map(|entry| entry.tokens()).collect();
            assert_eq!(named.len(), ids.len(), "every token is named");
        }
        let one = AuditFilter { subject: Some(ids[700].to_string()), ..AuditFilter::default() };
        assert_eq!(registry.audit(&operator(), &one, None, 100).await.expect("reads").len(), 2, "and found by its id");
        assert_eq!(verify(&registry).await.findings, []);
    }
}

#[tokio::test]
async fn of_a_token_that_was_deleted_nothing_is_left_but_its_id() {
    for place in Place::both() {
        let registry = place.made().await;
        let raw = format!("tc-apiv1_{}5ec4e7", "7".repeat(58));
        let value = tollgate::token::RawToken::brought(&raw).expect("valid");
        let new = new_token("max", "the pump of plant seventeen");
        let made = registry.create_token_of(&operator(), new, value).await.expect("creates").record;
        let rotation = Rotation { token: made.id, overlap: Duration::ZERO, expires_at: None };
        let successor = registry.rotate(&operator(), rotation).await.expect("rotates").successor.record.id;
        registry.tend_audit().await.expect("chains");
        let holds = async |needle: &[u8]| place.holds(needle).await;
        assert!(
            holds(b"the pump of plant seventeen").await && holds(b"5ec4e7").await,
            "the search finds what is there"
        );
        registry.delete(&operator(), &[made.id, successor], false).await.expect("deletes");
        // A refused attempt on it afterwards is an entry too.
        drop(registry.revoke(&operator(), &[made.id], false).await.expect_err("it is gone"));
        registry.tend_audit().await.expect("chains");
        // The store is open still, as that of a sidecar is.
        let digest = made.digest.to_string();
        for needle in ["the pump of plant seventeen", "5ec4e7", digest.as_str(), raw.as_str()] {
            assert!(!holds(needle.as_bytes()).await, "{needle}");
        }
        assert!(holds(made.id.to_string().as_bytes()).await, "who deleted it and when is known");
        // So that it never comes back, the digest itself is among those that were deleted, for a week.
        let entries = place.audit_bytes().await;
        let has = |needle: &[u8]| entries.windows(needle.len()).any(|part| part == needle);
        assert!(has(made.id.to_string().as_bytes()) && !has(made.digest.as_bytes()));
    }
}

/// What is deleted leaves pages that are used for something else, or for nothing.
#[tokio::test]
async fn of_many_tokens_in_a_file_those_that_are_deleted_are_nowhere() {
    let place = Place::Sqlite(TempDir::new().expect("a directory"));
    let registry = place.made().await;
    let description = |number: usize| format!("pump-{number:04}-of-the-plant");
    let line = |number: usize| {
        let text = format!(
            r#"{{"token": "tc-apiv1_{number:032}", "user": "max", "description": "{}", "permissions": ["configs:read"]}}"#,
            description(number)
        );
        (number, tollgate::registry::import::parse_line(&text, None).expect("valid"))
    };
    let lines = (1..=900).map(line).collect();
    let imported = registry.import(&operator(), lines, Default::default()).await.expect("imports").tokens;
    let mut left: BTreeSet<usize> = (1..=900).collect();
    for goes in [|number: usize| number.is_multiple_of(3), |number: usize| number > 100 && number < 700] {
        let gone: Vec<usize> = left.extract_if(.., |number| goes(*number)).collect();
        let ids: Vec<_> = gone.iter().map(|number| imported[number - 1].id).collect();
        registry.delete(&operator(), &ids, false).await.expect("deletes");
        let Place::Sqlite(directory) = &place else { unreachable!("it is this one") };
        let found: BTreeSet<usize> = files(directory).iter().flat_map(|bytes| numbers_after(bytes, b"pump-")).collect();
        assert_eq!(found, left);
    }
}

/// What is in a directory.
fn files(directory: &TempDir) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(directory.path()).expect("lists");
    files.map(|file| std::fs::read(file.expect("a file").path()).expect("reads")).collect()
}

/// The numbers of four digits that come after this.
fn numbers_after<'a>(bytes: &'a [u8], begin: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let at = memchr::memmem::find_iter(bytes, begin).map(|at| at + begin.len());
    at.filter_map(|at| std::str::from_utf8(bytes.get(at..at + 4)?).ok()?.parse().ok())
}

/// A command of another process deletes it while somebody reads: whoever watches the file sees to the rest.
#[tokio::test]
async fn what_is_deleted_while_somebody_reads_is_soon_nowhere_too() {
    let place = Place::Sqlite(TempDir::new().expect("a directory"));
    let sidecar = place.made().await;
    let _watch = sidecar.store().watch();
    let made =
        sidecar.create_token(&operator(), new_token("max", "the pump of plant seventeen")).await.expect("creates");
    let Place::Sqlite(directory) = &place else { unreachable!("it is this one") };
    let reader = rusqlite::Connection::open(directory.path().join("tollgate.db")).expect("opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM tokens").expect("reads");
    let command = place.open().await;
    command.delete(&operator(), &[made.record.id], false).await.expect("deletes");
    drop(command);
    assert!(place.holds(b"the pump of plant seventeen").await, "it is read still");
    reader.execute_batch("COMMIT").expect("ends");
    eventually("it is nowhere", async || !place.holds(b"the pump of plant seventeen").await).await;
}

impl Place {
    /// Whether these bytes are anywhere in the store.
    async fn holds(&self, needle: &[u8]) -> bool {
        match self {
            Self::Sqlite(directory) => {
                // The database, its log, and whatever else there may be.
                files(directory).iter().any(|bytes| memchr::memmem::find(bytes, needle).is_some())
            }
            Self::Redis(server) => {
                // What the server holds. Its log of commands has what they were, until it is rewritten.
                server.cli(&["config", "set", "rdbcompression", "no"]);
                assert_eq!(server.cli(&["save"]), "OK");
                let bytes = std::fs::read(server.directory().join("dump.rdb")).expect("reads");
                bytes.windows(needle.len()).any(|part| part == needle)
            }
        }
    }

    /// All of the trail.
    async fn audit_bytes(&self) -> Vec<u8> {
        let registry = self.open().await;
        let store: &Arc<dyn tollgate::store::Store> = registry.store();
        let lines = store.trail_after(0, 10_000).await.expect("reads");
        let loose = store.trail_ends(10_000).await.expect("reads").loose;
        lines.into_iter().map(|line| line.text).chain(loose).flatten().collect()
    }
}

#[tokio::test]
async fn a_process_that_commits_goes_on_chaining() {
    for place in Place::both() {
        let registry = place.made().await;
        let keeper = registry.clone();
        let keeping = tokio::spawn(async move { keeper.keep_audit().await });
        for count in [4, 5] {
            eventually("all entries are chained", || async {
                let trail = trail(&registry).await;
                trail.len() == count && trail.iter().all(|entry| entry.seq.is_some())
            })
            .await;
            create(&registry, "max").await;
        }
        keeping.abort();
    }
}

/// Settings with a retention.
fn retaining(retention: Duration) -> Settings {
    Settings { retention, ..Settings::default() }
}

/// An entry that is so many days old.
fn old(days: u32, number: usize) -> Vec<u8> {
    let at = Timestamp::now() - Duration::from_hours(24) * days;
    format!(r#"{{"timestamp":"{at}","action":"token.create","number":{number}}}"#).into_bytes()
}

#[tokio::test]
async fn retention_removes_what_is_old_and_leaves_an_entry_that_vouches_for_it() {
    for place in Place::both() {
        let registry = place.made().await.with_audit(retaining(Duration::from_hours(10 * 24)));
        place.forget_loose();
        let store = registry.store();
        for (days, count) in [(12, 800), (11, 700), (9, 7)] {
            store.note(&(0..count).map(|number| old(days, number)).collect::<Vec<_>>()).await.expect("leaves them");
        }
        let tended = registry.tend_audit().await.expect("chains, and removes");
        assert_eq!((tended.linked.added, tended.linked.removed), (1508, 1500));
        let verdict = verify(&registry).await;
        assert_eq!((verdict.first, verdict.entries, verdict.findings.as_slice()), (Some(1501), 8, &[][..]));
        let last = trail(&registry).await.pop().expect("an entry");
        assert_eq!((last.text("action"), &last.members["through"]), (Some("audit.trim"), &1500.into()));
        assert_eq!(registry.tend_audit().await.expect("does nothing").linked, Default::default());
    }
}

#[tokio::test]
async fn retention_leaves_what_is_hardly_old_enough_so_that_its_own_entries_are_few() {
    for place in Place::both() {
        let registry = place.made().await.with_audit(retaining(Duration::from_hours(100 * 24)));
        place.forget_loose();
        registry.store().note(&[old(109, 1), old(101, 2)]).await.expect("leaves them");
        for _ in 0..2 {
            assert_eq!(registry.tend_audit().await.expect("chains").linked.removed, 0);
        }
        assert_eq!(verify(&registry).await.entries, 2);
    }
}

impl Place {
    /// Removes loose entries, as nothing but a test does.
    fn forget_loose(&self) {
        match self {
            Self::Sqlite(directory) => {
                let database = rusqlite::Connection::open(directory.path().join("tollgate.db")).expect("opens");
                database.execute("DELETE FROM audit_loose", []).expect("removes them");
            }
            Self::Redis(server) => drop(server.cli(&["del", "{tollgate}:audit_loose"])),
        }
    }
}

#[tokio::test]
async fn the_same_entries_become_the_same_bytes_in_both_stores() {
    let places = Place::both();
    let mut texts = Vec::new();
    for place in &places {
        let registry = place.made().await;
        place.forget_loose();
        let entries: Vec<_> =
            (0..250).map(|number| format!(r#"{{"timestamp":"2026-11-26T12:00:00Z","é":{number}}}"#)).collect();
        let entries: Vec<_> = entries.into_iter().map(String::into_bytes).chain([b"no JSON \xff".to_vec()]).collect();
        registry.store().note(&entries).await.expect("leaves them");
        registry.tend_audit().await.expect("chains");
        texts.push(registry.store().trail_after(0, 1000).await.expect("reads"));
        assert_eq!(verify(&registry).await.findings, []);
    }
    assert_eq!(texts[0].len(), 251);
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_chains_at_once_chains_each_entry_once() {
    for place in Place::both() {
        let registry = place.made().await;
        let mut tasks = Vec::new();
        for writer in 0..4 {
            let registry = place.open().await;
            tasks.push(tokio::spawn(async move {
                for number in 0..10 {
                    let name = format!("user-{writer}-{number}");
                    registry.add_user(&operator(), &name, Role::Viewer).await.expect("adds");
                    registry.tend_audit().await.expect("chains");
                }
            }));
        }
        for task in tasks {
            task.await.expect("ends");
        }
        registry.tend_audit().await.expect("chains the rest");
        let trail = trail(&registry).await;
        let named: BTreeSet<&str> = trail.iter().filter_map(|entry| entry.text("userName")).collect();
        assert_eq!((trail.len(), named.len()), (4 + 40, 3 + 40));
        assert_eq!(verify(&registry).await.findings, []);
    }
}
