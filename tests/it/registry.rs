//! The rules against a real store: what is stored, what two writers at once cannot break, and what no sequence of
//! commands can.

mod acting;
mod commands;
mod listed;
mod moving;
mod purge;
mod rotation;
mod steps;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tempfile::TempDir;
use tollgate::registry::import::parse_line;
use tollgate::registry::{
    Actor, Created, ErrorKind, ImportError, ImportLine, ImportOptions, LineError, ListState, NewToken, Registry,
    RegistryError, Requested, TokenQuery,
};
use tollgate::store::{Batch, Edit, Position, Retention, SqliteStore};
use tollgate::token::{PermissionSet, Role, TokenEvent, TokenId, TokenRecord, TokenState, UserRecord, UserStatus};

use crate::harness::operator;

/// An initialised registry: olga is the Owner.
struct Fixture {
    registry: Registry,
    first: Created,
    directory: TempDir,
}

async fn open(directory: &Path) -> Registry {
    let store = SqliteStore::open(&directory.join("tollgate.db"), Retention::default()).await.expect("opens");
    Registry::new(Arc::new(store))
}

fn new_token(user: &str) -> NewToken {
    NewToken {
        user: user.to_owned(),
        description: "edge".to_owned(),
        permissions: Requested::Permissions(PermissionSet::TELEGRAF_AGENT),
        expires_at: None,
    }
}

/// Tokens of this user in this state.
fn of(user: &str, state: Option<ListState>) -> TokenQuery {
    TokenQuery { user: Some(user.to_owned()), state, ..TokenQuery::default() }
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registry = open(directory.path()).await;
        let first = registry.init(&operator(), "olga").await.expect("initialises");
        Self { registry, first, directory }
    }

    /// The same store, as another process sees it.
    async fn elsewhere(&self) -> Registry {
        open(self.directory.path()).await
    }

    async fn add(&self, name: &str, role: Role) -> Actor {
        Actor::User(self.registry.add_user(&operator(), name, role).await.expect("adds"))
    }

    fn olga(&self) -> Actor {
        Actor::User(self.first.owner.clone())
    }

    async fn create(&self, user: &str) -> TokenRecord {
        self.registry.create_token(&operator(), new_token(user)).await.expect("creates").record
    }

    async fn tokens(&self, user: &str, state: Option<ListState>) -> Vec<TokenRecord> {
        let page = self.registry.tokens(&operator(), &of(user, state), None, 10_000).await.expect("lists");
        page.into_iter().map(|(record, _)| record).collect()
    }

    async fn position(&self) -> Position {
        self.registry.store().position().await.expect("reads")
    }

    async fn revision(&self) -> u64 {
        self.position().await.revision.0
    }

    async fn events(&self, id: TokenId) -> Vec<TokenEvent> {
        let history = self.registry.token(&operator(), id).await.expect("exists").history;
        history.into_iter().map(|entry| entry.event).collect()
    }

    /// Imports `count` tokens for a user.
    async fn import(&self, user: &str, count: usize) {
        let lines = (1..=count).map(|number| (number, line(user, number))).collect();
        let imported = self.registry.import(&operator(), lines, ALL_OR_NONE).await.expect("imports");
        assert_eq!((imported.tokens.len(), imported.refused.len()), (count, 0));
    }
}

const ALL_OR_NONE: ImportOptions = ImportOptions { keep_going: false, skip_existing: false };
const KEEP_GOING: ImportOptions = ImportOptions { keep_going: true, ..ALL_OR_NONE };
const SKIP_EXISTING: ImportOptions = ImportOptions { skip_existing: true, ..ALL_OR_NONE };

fn line(user: &str, number: usize) -> Box<ImportLine> {
    let text = format!(
        r#"{{"token": "tc-apiv1_{user}{number:030}", "user": "{user}", "description": "number {number}",
            "permissions": ["configs:read", "heartbeat:write"]}}"#
    );
    parse_line(&text, None).expect("valid")
}

fn kind<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> ErrorKind {
    result.expect_err("refused").kind()
}

fn assert_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test]
async fn init_makes_the_owner_and_a_token_with_all_permissions() {
    let fixture = Fixture::start().await;
    let Created { record, owner, token } = &fixture.first;
    assert_eq!((owner.name.as_str(), owner.role, owner.status), ("olga", Role::Owner, UserStatus::Active));
    assert_eq!(record.permissions, PermissionSet::all());
    assert_eq!(record.description, "created by tollgate init");
    assert_eq!((record.digest, &record.hint), (token.digest(), &token.hint()));
    let details = fixture.registry.token(&fixture.olga(), record.id).await.expect("exists");
    assert_eq!((&details.record, &details.owner), (record, owner), "times come back as they were");
    assert_eq!(details.history.len(), 1);
    let again = fixture.registry.init(&operator(), "otto").await;
    assert!(matches!(again, Err(RegistryError::AlreadyInitialised)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_inits_at_once_one_succeeds() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().expect("a directory");
        open(directory.path()).await;
        let mut inits = Vec::new();
        for number in 0..4 {
            let registry = open(directory.path()).await;
            inits.push(tokio::spawn(async move { registry.init(&operator(), &format!("owner{number}")).await }));
        }
        let mut succeeded = 0;
        for init in inits {
            match init.await.expect("joins") {
                Ok(_) => succeeded += 1,
                Err(error) => assert!(matches!(error, RegistryError::AlreadyInitialised), "{error:?}"),
            }
        }
        assert_eq!(succeeded, 1);
        let registry = open(directory.path()).await;
        let users = registry.users(&operator(), None, 10).await.expect("lists");
        assert_eq!(users.iter().map(|user| user.role).collect::<Vec<_>>(), [Role::Owner]);
    }
}

#[tokio::test]
async fn before_init_every_command_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = open(directory.path()).await;
    let said = |result: Result<(), RegistryError>| {
        let error = result.expect_err("refused");
        assert!(error.to_string().contains("tollgate init"), "{error}");
    };
    said(registry.add_user(&operator(), "anna", Role::Manager).await.map(drop));
    said(registry.user(&operator(), "anna").await.map(drop));
    said(registry.create_token(&operator(), new_token("anna")).await.map(drop));
    said(registry.revoke(&operator(), &[TokenId::from_u64(1)], false).await.map(drop));
    assert!(registry.users(&operator(), None, 10).await.expect("lists").is_empty());
}

#[tokio::test]
async fn names_are_used_once() {
    let fixture = Fixture::start().await;
    let taken = fixture.registry.add_user(&operator(), "olga", Role::Manager).await;
    assert!(matches!(taken, Err(RegistryError::NameTaken(name)) if name == "olga"));
}

#[tokio::test]
async fn a_token_is_made_for_oneself_or_by_those_who_manage_all() {
    let fixture = Fixture::start().await;
    let (adam, max) = (fixture.add("adam", Role::Administrator).await, fixture.add("max", Role::Manager).await);
    let vera = fixture.add("vera", Role::Viewer).await;
    let make = |actor: Actor, user: &'static str| {
        let registry = fixture.registry.clone();
        async move { assert_send(registry.create_token(&actor, new_token(user))).await }
    };
    let record = make(max.clone(), "max").await.expect("one's own").record;
    assert_eq!(record.created_by, "max");
    make(adam.clone(), "max").await.expect("an administrator's");
    make(fixture.olga(), "adam").await.expect("the owner's");
    for (actor, user) in [(&max, "adam"), (&max, "nobody"), (&vera, "vera"), (&vera, "max"), (&adam, "olga")] {
        assert_eq!(kind(make(actor.clone(), user).await), ErrorKind::Forbidden, "{} for {user}", actor.name());
    }
    assert_eq!(kind(make(adam, "nobody").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_an_actor_may_not_see_is_not_found() {
    let fixture = Fixture::start().await;
    let (max, vera) = (fixture.add("max", Role::Manager).await, fixture.add("vera", Role::Viewer).await);
    let (own, other) = (fixture.create("max").await, fixture.first.record.id);
    let lent = fixture.create("max").await;
    fixture.registry.reassign(&operator(), &[lent.id], "vera", false).await.expect("reassigns");

    let seen = fixture.registry.tokens(&max, &TokenQuery::default(), None, 10).await.expect("lists");
    assert_eq!(seen.iter().map(|(token, _)| token.id).collect::<Vec<_>>(), [own.id]);
    assert!(fixture.registry.tokens(&vera, &TokenQuery::default(), None, 10).await.expect("lists").is_empty());
    assert_eq!(fixture.registry.count_tokens_of(&vera, "vera").await.expect("counts"), 0);
    assert_eq!(fixture.registry.tokens(&operator(), &TokenQuery::default(), None, 10).await.expect("lists").len(), 3);

    fixture.registry.token(&max, own.id).await.expect("one's own");
    for refused in [
        fixture.registry.token(&max, other).await.map(drop),
        fixture.registry.token(&vera, lent.id).await.map(drop),
        fixture.registry.revoke(&max, &[own.id, other], true).await.map(drop),
        fixture.registry.delete(&max, &[other], true).await.map(drop),
        fixture.registry.user(&max, "olga").await.map(drop),
        fixture.registry.tokens(&max, &of("olga", None), None, 10).await.map(drop),
        fixture.registry.count_tokens_of(&vera, "max").await.map(drop),
    ] {
        assert_eq!(kind(refused), ErrorKind::NotFound);
    }
    assert!(fixture.registry.token(&max, own.id).await.expect("exists").record.is_active(), "all or none");
    assert_eq!(fixture.registry.user(&vera, "vera").await.expect("their own user").record.name, "vera");
    assert_eq!(kind(fixture.registry.users(&max, None, 10).await), ErrorKind::Forbidden);
    assert_eq!(kind(fixture.registry.revoke(&vera, &[lent.id], false).await), ErrorKind::Forbidden);
    assert_eq!(kind(fixture.registry.reassign(&max, &[own.id], "vera", false).await), ErrorKind::Forbidden);
}

#[tokio::test]
async fn an_actor_is_judged_by_what_they_are_now() {
    let fixture = Fixture::start().await;
    let adam = fixture.add("adam", Role::Administrator).await; // this record says administrator for good
    fixture.registry.set_role(&operator(), "adam", Role::Manager).await.expect("demotes");
    assert_eq!(kind(fixture.registry.add_user(&adam, "anna", Role::Viewer).await), ErrorKind::Forbidden);
    fixture.registry.create_token(&adam, new_token("adam")).await.expect("as a manager");
    fixture.registry.set_status(&operator(), "adam", UserStatus::Disabled).await.expect("disables");
    assert_eq!(kind(fixture.registry.tokens(&adam, &TokenQuery::default(), None, 10).await), ErrorKind::Forbidden);
    fixture.registry.delete_user(&operator(), "adam").await.expect("deletes");
    assert_eq!(kind(fixture.registry.tokens(&adam, &TokenQuery::default(), None, 10).await), ErrorKind::Forbidden);
}

#[tokio::test]
async fn a_revoked_token_stays_revoked_as_it_was() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let (a, b) = (fixture.create("max").await, fixture.create("max").await);
    let revoked = fixture.registry.revoke(&operator(), &[a.id], false).await.expect("revokes");
    assert!(matches!(&revoked[0].state, TokenState::Revoked { by, .. } if by == "cli:test"));
    let both = fixture.registry.revoke(&fixture.olga(), &[a.id, b.id], false).await.expect("revokes the other one");
    assert_eq!(both[0], revoked[0]);
    assert!(matches!(&both[1].state, TokenState::Revoked { by, .. } if by == "olga"));
    let revision = fixture.revision().await;
    let idle = fixture.registry.revoke(&operator(), &[b.id, a.id], false).await.expect("nothing to do");
    assert_eq!(idle.len(), 2);
    let (earlier, last) = fixture.registry.committed().await.expect("reads");
    assert_eq!((earlier.len(), last), (1, fixture.position().await), "they were revoked by then");
    assert_eq!(fixture.revision().await, revision, "nothing was committed");
    assert_eq!(fixture.events(a.id).await, [TokenEvent::Created, TokenEvent::Revoked { reason: None }]);
    let reassigned = fixture.registry.reassign(&operator(), &[a.id], "olga", false).await;
    assert!(matches!(reassigned, Err(RegistryError::NotActive(ids)) if ids == [a.id]));
}

#[tokio::test]
async fn a_bulk_with_a_bad_id_does_nothing_and_names_every_bad_one() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let good = fixture.create("max").await.id;
    let (x, y) = (TokenId::from_u64(1), TokenId::from_u64(2));
    let unknown = fixture.registry.delete(&operator(), &[x, good, y], false).await;
    assert!(matches!(unknown, Err(RegistryError::NoSuchTokens(ids)) if ids == [x, y]));
    let repeated = fixture.registry.revoke(&operator(), &[good, good], false).await;
    assert!(matches!(repeated, Err(RegistryError::RepeatedTokens(ids)) if ids == [good]));
    assert!(fixture.registry.token(&operator(), good).await.expect("exists").record.is_active());
}

#[tokio::test]
async fn a_deleted_token_is_gone_with_its_history_and_does_not_come_back() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    fixture.import("max", 3).await;
    let ids: Vec<_> = fixture.tokens("max", None).await.iter().map(|token| token.id).collect();
    fixture.registry.revoke(&operator(), &ids[..1], false).await.expect("revokes");
    let deleted = fixture.registry.delete(&operator(), &ids[..2], false).await.expect("deletes");
    assert_eq!(deleted.iter().map(|token| token.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(kind(fixture.registry.token(&operator(), ids[0]).await), ErrorKind::NotFound);
    assert!(fixture.registry.store().history(ids[0]).await.expect("reads").is_empty());

    // Newest first, so lines 2 and 3 were deleted, and line 1 is there.
    let lines: Vec<_> = (1..=4).map(|number| (number, line("max", number))).collect();
    let revision = fixture.revision().await;
    let error = fixture.registry.import(&operator(), lines.clone(), ALL_OR_NONE).await.expect_err("all or none");
    let ImportError::Refused { refused, lines: 4 } = error else { panic!("{error:?}") };
    assert_eq!(refused[0].line, 1);
    assert!(matches!(refused[0].reason, LineError::Refused(RegistryError::DigestTaken(_))), "{}", refused[0].reason);
    assert_eq!(fixture.revision().await, revision);
    let imported = fixture.registry.import(&operator(), lines, KEEP_GOING).await.expect("keeps going");
    let refused: Vec<_> = imported.refused.iter().map(|refused| refused.line).collect();
    assert_eq!((imported.tokens.len(), refused), (1, vec![1, 2, 3]));
    let reason = &imported.refused[1].reason;
    assert!(matches!(reason, LineError::Refused(RegistryError::DigestRetired(_))), "{reason}");
}

#[tokio::test]
async fn a_viewer_gets_tokens_by_reassignment_only_and_they_become_read_only() {
    let fixture = Fixture::start().await;
    fixture.add("vera", Role::Viewer).await;
    let refused = fixture.registry.create_token(&operator(), new_token("vera")).await;
    assert!(matches!(refused, Err(RegistryError::NoTokensForViewer(_))));
    fixture.create("olga").await;
    let given =
        fixture.registry.reassign(&operator(), &[fixture.first.record.id], "vera", false).await.expect("reassigns");
    assert_eq!(given[0].permissions, Role::Viewer.permissions());
    assert_eq!(given[0].digest, fixture.first.record.digest, "the client goes on with the same token");
    let events = fixture.events(given[0].id).await;
    assert_eq!(events[1], TokenEvent::Reassigned { from: "olga".to_owned(), to: "vera".to_owned() });
    assert!(matches!(events[2], TokenEvent::Narrowed { .. }));
    // Back again: what was lost stays lost.
    let back = fixture.registry.reassign(&operator(), &[given[0].id], "olga", false).await.expect("reassigns");
    assert_eq!(back[0].permissions, Role::Viewer.permissions());
    fixture.registry.set_status(&operator(), "vera", UserStatus::Disabled).await.expect("disables");
    let disabled = fixture.registry.reassign(&operator(), &[given[0].id], "vera", false).await;
    assert!(matches!(disabled, Err(RegistryError::UserDisabled(_))));
}

#[tokio::test]
async fn nobody_but_the_owner_puts_tokens_into_the_owners_hands() {
    let fixture = Fixture::start().await;
    let adam = fixture.add("adam", Role::Administrator).await;
    let own = fixture.create("adam").await.id;
    assert_eq!(kind(fixture.registry.reassign(&adam, &[own], "olga", false).await), ErrorKind::Forbidden);
    fixture.registry.reassign(&fixture.olga(), &[own], "olga", false).await.expect("by the owner");
    fixture.registry.revoke(&adam, &[own], false).await.expect("administrators revoke any token");
}

#[tokio::test]
async fn the_owners_last_usable_token_goes_only_by_force() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let (first, second, others) =
        (fixture.first.record.id, fixture.create("olga").await.id, fixture.create("max").await.id);
    let last = |error: Result<(), RegistryError>| {
        assert!(matches!(error, Err(RegistryError::LastOwnerToken { .. })), "{error:?}");
    };
    // All ids of a bulk count together.
    last(fixture.registry.revoke(&operator(), &[first, others, second], false).await.map(drop));
    last(fixture.registry.delete(&fixture.olga(), &[first, second], false).await.map(drop));
    last(fixture.registry.reassign(&operator(), &[second, first], "max", false).await.map(drop));
    fixture.registry.revoke(&operator(), &[first], false).await.expect("one remains");
    last(fixture.registry.revoke(&operator(), &[second], false).await.map(drop));
    fixture.registry.delete(&operator(), &[first], false).await.expect("it was not usable any more");
    fixture.registry.reassign(&operator(), &[second], "olga", false).await.expect("it is the owner's already");
    fixture.registry.revoke(&operator(), &[second], true).await.expect("by force");
}

#[tokio::test]
async fn an_expired_token_is_none_to_rely_on() {
    let fixture = Fixture::start().await;
    let spare = fixture.create("olga").await;
    let store = fixture.registry.store();
    let before = store.tokens_by_id(&[spare.id]).await.expect("reads").remove(0).expect("exists");
    let after = TokenRecord { expires_at: Some(before.record.created_at), ..before.record.clone() };
    let batch = Batch { tokens: vec![Edit::Update { before, after }], ..Batch::default() };
    store.commit(batch).await.expect("commits");
    let refused = fixture.registry.revoke(&operator(), &[fixture.first.record.id], false).await;
    assert!(matches!(refused, Err(RegistryError::LastOwnerToken { .. })));
    assert_eq!(fixture.tokens("olga", Some(ListState::Expired)).await.len(), 1);
    fixture.registry.revoke(&operator(), &[spare.id], false).await.expect("it was not usable");
}

#[tokio::test]
async fn a_change_of_role_reaches_every_token_in_one_batch() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    fixture.import("max", 450).await;
    let revision = fixture.revision().await;
    let change = fixture.registry.set_role(&operator(), "max", Role::Viewer).await.expect("changes");
    assert_eq!((change.user.role, change.narrowed, change.revoked), (Role::Viewer, 0, 450));
    assert_eq!(fixture.revision().await, revision + 1);
    assert!(fixture.tokens("max", Some(ListState::Active)).await.is_empty());
    let revoked = fixture.tokens("max", Some(ListState::Revoked)).await;
    assert_eq!(revoked.len(), 450);
    let reason = Some("role of max changed to viewer".to_owned());
    assert_eq!(fixture.events(revoked[0].id).await[1], TokenEvent::Revoked { reason });
    let same = fixture.registry.set_role(&operator(), "max", Role::Viewer).await.expect("nothing to do");
    assert_eq!((same.narrowed, same.revoked, fixture.revision().await), (0, 0, revision + 1));
}

#[tokio::test]
async fn a_user_is_deleted_with_every_token_in_one_batch() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    fixture.import("max", 450).await;
    assert_eq!(fixture.registry.count_tokens_of(&operator(), "max").await.expect("counts"), 450);
    let revision = fixture.revision().await;
    assert_eq!(fixture.registry.delete_user(&operator(), "max").await.expect("deletes"), 450);
    assert_eq!(fixture.revision().await, revision + 1);
    assert_eq!(fixture.registry.tokens(&operator(), &TokenQuery::default(), None, 10).await.expect("lists").len(), 1);
    assert_eq!(kind(fixture.registry.user(&operator(), "max").await), ErrorKind::NotFound);
    fixture.add("max", Role::Viewer).await; // another person of that name
}

#[tokio::test]
async fn disabling_leaves_the_tokens_as_they_are() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let token = fixture.create("max").await;
    fixture.registry.set_status(&operator(), "max", UserStatus::Disabled).await.expect("disables");
    let refused = fixture.registry.create_token(&operator(), new_token("max")).await;
    assert!(matches!(refused, Err(RegistryError::UserDisabled(_))));
    let user = fixture.registry.set_status(&operator(), "max", UserStatus::Active).await.expect("enables");
    assert_eq!(user.status, UserStatus::Active);
    assert_eq!(fixture.tokens("max", Some(ListState::Active)).await, [token]);
}

#[tokio::test]
async fn ownership_moves_at_once() {
    let fixture = Fixture::start().await;
    let adam = fixture.add("adam", Role::Administrator).await;
    fixture.add("max", Role::Manager).await;
    assert_eq!(kind(fixture.registry.transfer_ownership(&adam, "adam").await), ErrorKind::Forbidden);
    assert_eq!(kind(fixture.registry.transfer_ownership(&operator(), "max").await), ErrorKind::Conflict);
    assert_eq!(kind(fixture.registry.transfer_ownership(&operator(), "olga").await), ErrorKind::Conflict);
    let revision = fixture.revision().await;
    let transfer = fixture.registry.transfer_ownership(&fixture.olga(), "adam").await.expect("transfers");
    assert_eq!(fixture.revision().await, revision + 1);
    assert_eq!((transfer.old.name.as_str(), transfer.old.role), ("olga", Role::Administrator));
    assert_eq!((transfer.new.name.as_str(), transfer.new.role, transfer.narrowed), ("adam", Role::Owner, 1));
    let narrowed = fixture.registry.token(&operator(), fixture.first.record.id).await.expect("exists").record;
    assert_eq!(narrowed.permissions, Role::Administrator.permissions());
    assert_eq!(kind(fixture.registry.transfer_ownership(&fixture.olga(), "adam").await), ErrorKind::Forbidden);
    fixture.registry.set_role(&adam, "olga", Role::Manager).await.expect("the new owner manages the old one");
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    fixture.import("max", 7).await;
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = fixture.registry.tokens(&operator(), &of("max", None), before, 3).await.expect("lists");
        let Some((last, owner)) = page.last() else { break };
        assert_eq!(owner.name, "max");
        before = Some(last.id);
        seen.extend(page.into_iter().map(|(token, _)| token.description));
    }
    assert_eq!(seen, (1..=7).rev().map(|number| format!("number {number}")).collect::<Vec<_>>());
    let users = fixture.registry.users(&operator(), None, 1).await.expect("lists");
    assert_eq!(users[0].name, "max");
    let users = fixture.registry.users(&operator(), Some(users[0].id), 5).await.expect("lists");
    assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["olga"]);
}

#[tokio::test]
async fn a_hundred_thousand_tokens_are_imported_in_commits_of_five_hundred() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let revision = fixture.revision().await;
    fixture.import("max", 100_000).await;
    assert_eq!(fixture.revision().await, revision + 200);
    assert_eq!(fixture.registry.count_tokens_of(&operator(), "max").await.expect("counts"), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_escapes_a_change_of_role_or_the_deletion_of_its_owner() {
    let fixture = Fixture::start().await;
    let (here, there) = (fixture.registry.clone(), fixture.elsewhere().await);
    for round in 0..12 {
        let name = format!("user{round}");
        fixture.add(&name, Role::Manager).await;
        let spare = fixture.create("olga").await.id;
        let makers = (0..3).map(|_| {
            let (registry, name) = (there.clone(), name.clone());
            tokio::spawn(async move {
                for _ in 0..3 {
                    match registry.create_token(&operator(), new_token(&name)).await {
                        Ok(_) | Err(RegistryError::NoTokensForViewer(_) | RegistryError::NoSuchUser(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let makers: Vec<_> = makers.collect();
        let giver = {
            let (registry, name) = (there.clone(), name.clone());
            tokio::spawn(async move { registry.reassign(&operator(), &[spare], &name, false).await.map(drop) })
        };
        if round % 2 == 0 {
            here.set_role(&operator(), &name, Role::Viewer).await.expect("changes");
        } else {
            here.delete_user(&operator(), &name).await.expect("deletes");
        }
        for maker in makers {
            maker.await.expect("no other errors");
        }
        let given = giver.await.expect("joins");
        if round % 2 == 0 {
            let active = fixture.tokens(&name, Some(ListState::Active)).await;
            // Reassigned after the change, it is the viewer's, and read-only.
            assert!(active.iter().all(|token| token.id == spare), "{active:?}");
            assert!(active.iter().all(|token| token.permissions.is_subset_of(Role::Viewer.permissions())));
        } else {
            assert!(matches!(given, Ok(()) | Err(RegistryError::NoSuchUser(_))), "{given:?}");
            let all =
                here.tokens(&operator(), &TokenQuery::default(), None, 10_000).await.expect("every token has an owner");
            assert!(all.iter().all(|(_, owner)| owner.name != name));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_revocations_at_once_leave_the_owner_a_token() {
    let fixture = Fixture::start().await;
    let (here, there) = (fixture.registry.clone(), fixture.elsewhere().await);
    for _ in 0..12 {
        fixture.create("olga").await;
        let usable: Vec<_> =
            fixture.tokens("olga", Some(ListState::Active)).await.iter().map(|token| token.id).collect();
        let [a, b] = usable[..] else { panic!("{usable:?}") };
        let revoke = |registry: &Registry, id| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.revoke(&operator(), &[id], false).await.map(drop) })
        };
        let (first, second) = tokio::join!(revoke(&here, a), revoke(&there, b));
        let results = [first.expect("joins"), second.expect("joins")];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert_eq!(fixture.tokens("olga", Some(ListState::Active)).await.len(), 1);
    }
}

/// Everything a store holds, without limits.
async fn everything(registry: &Registry) -> (Vec<UserRecord>, Vec<TokenRecord>) {
    let users = registry.store().users(None, 100_000).await.expect("reads");
    let tokens = registry.store().tokens(tollgate::store::TokenFilter::default(), None, 100_000).await.expect("reads");
    let names: HashSet<_> = users.iter().map(|user| user.record.name.clone()).collect();
    assert_eq!(names.len(), users.len());
    (users.into_iter().map(|user| user.record).collect(), tokens.into_iter().map(|token| token.record).collect())
}
