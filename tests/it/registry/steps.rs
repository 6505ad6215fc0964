//! Commands on more tokens than one commit takes: how far each got when it was broken off, and that it goes on from there.

use jiff::Timestamp;
use tollgate::registry::PartlyDone;
use tollgate::store::{Store, TokenFilter};

use super::*;
use crate::harness::FaultyStore;

/// Two commits of a thousand, and half a one.
const MANY: usize = 1250;

/// A registry whose commits can be made to fail.
struct Fragile {
    store: Arc<FaultyStore>,
    registry: Registry,
    fixture: Fixture,
}

impl Fragile {
    async fn start() -> Self {
        let fixture = Fixture::start().await;
        let store = Arc::new(FaultyStore::new(Arc::clone(fixture.registry.store())));
        let registry = Registry::new(Arc::clone(&store) as Arc<dyn Store>);
        Self { store, registry, fixture }
    }

    /// With a user who has many tokens of everything that the role permits.
    async fn with(name: &str, role: Role) -> Self {
        let fragile = Self::start().await;
        fragile.fixture.add(name, role).await;
        fragile.import(name, MANY).await;
        fragile
    }

    async fn import(&self, name: &str, count: usize) {
        let lines = (1..=count).map(|number| (number, full_line(name, number))).collect();
        self.fixture.registry.import(&operator(), lines, ALL_OR_NONE).await.expect("imports");
    }

    /// Makes everything after this many commits fail while `command` runs, and says how that ended.
    async fn broken_after<T: std::fmt::Debug>(
        &self,
        commits: usize,
        command: impl Future<Output = Result<T, RegistryError>>,
    ) -> PartlyDone {
        self.store.fail_after(commits);
        let error = command.await.expect_err("it breaks");
        self.store.fail_after(usize::MAX);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let RegistryError::Interrupted { done, .. } = error else { panic!("{error:?}") };
        done
    }

    /// All tokens of a user, the newest first.
    async fn tokens(&self, name: &str) -> Vec<TokenRecord> {
        self.fixture.tokens(name, None).await
    }

    /// How many of a user's active tokens permit more than this role does.
    async fn beyond(&self, name: &str, role: Role) -> usize {
        let tokens = self.tokens(name).await;
        let active = tokens.iter().filter(|token| token.is_active());
        active.filter(|token| !token.permissions.is_subset_of(role.permissions())).count()
    }

    async fn active(&self, name: &str) -> usize {
        self.tokens(name).await.iter().filter(|token| token.is_active()).count()
    }

    async fn user(&self, name: &str) -> UserRecord {
        self.registry.user(&operator(), name).await.expect("exists").record
    }
}

fn full_line(user: &str, number: usize) -> Box<ImportLine> {
    let text = format!(r#"{{"token": "tc-apiv1_{user}{number:030}", "user": "{user}", "description": "{number}"}}"#);
    parse_line(&text, Some(PermissionSet::all())).expect("valid")
}

#[tokio::test]
async fn a_revocation_that_was_broken_off_says_how_far_it_got_and_can_be_repeated() {
    let it = Fragile::with("max", Role::Manager).await;
    let ids: Vec<_> = it.tokens("max").await.iter().map(|token| token.id).collect();
    let done = it.broken_after(1, it.registry.revoke(&operator(), &ids, false)).await;
    assert_eq!(done, PartlyDone::Revoked(500, MANY));
    let tokens = it.tokens("max").await;
    assert!(tokens.iter().take(500).all(|token| !token.is_active()), "in the order of the ids");
    assert_eq!(it.active("max").await, 750);
    let revision = it.fixture.revision().await;
    let revoked = it.registry.revoke(&operator(), &ids, false).await.expect("finishes");
    assert_eq!(revoked.iter().map(|token| token.id).collect::<Vec<_>>(), ids);
    assert_eq!(it.registry.committed().await.expect("reads").1, it.fixture.position().await);
    let did = (it.fixture.revision().await, it.active("max").await);
    assert_eq!(did, (revision + 2, 0), "what was done is not done again");
}

#[tokio::test]
async fn a_deletion_that_was_broken_off_names_what_is_gone() {
    let it = Fragile::with("max", Role::Manager).await;
    let ids: Vec<_> = it.tokens("max").await.iter().map(|token| token.id).collect();
    let done = it.broken_after(2, it.registry.delete(&operator(), &ids, false)).await;
    assert_eq!(done, PartlyDone::Deleted(1000, MANY));
    assert_eq!(it.tokens("max").await.len(), 250);
    let error = it.registry.delete(&operator(), &ids, false).await.expect_err("some are gone");
    assert!(error.to_string().contains("and 980 more; `tollgate token list` shows"), "{error}");
    it.registry.delete(&operator(), &ids[1000..], false).await.expect("deletes the others");
    assert!(it.tokens("max").await.is_empty());
}

#[tokio::test]
async fn everything_is_checked_before_anything_is_done() {
    let it = Fragile::with("max", Role::Manager).await;
    let mut ids: Vec<_> = it.tokens("max").await.iter().map(|token| token.id).collect();
    let revision = it.fixture.revision().await;
    ids.push(TokenId::from_u64(1));
    let unknown = it.registry.delete(&operator(), &ids, false).await;
    assert!(matches!(unknown, Err(RegistryError::NoSuchTokens(ids)) if ids == [TokenId::from_u64(1)]));
    ids.pop();
    ids.push(it.fixture.first.record.id);
    let last = it.registry.revoke(&operator(), &ids, false).await;
    assert!(matches!(last, Err(RegistryError::LastOwnerToken { .. })));
    assert_eq!(it.fixture.revision().await, revision);
}

#[tokio::test]
async fn a_reassignment_that_was_broken_off_can_be_repeated() {
    let it = Fragile::with("max", Role::Manager).await;
    it.fixture.add("mia", Role::Manager).await;
    let ids: Vec<_> = it.tokens("max").await.iter().map(|token| token.id).collect();
    let done = it.broken_after(2, it.registry.reassign(&operator(), &ids, "mia", false)).await;
    assert_eq!(done, PartlyDone::Reassigned(1000, MANY));
    let reassigned = it.registry.reassign(&operator(), &ids, "mia", false).await.expect("finishes");
    assert_eq!((reassigned.len(), it.tokens("mia").await.len()), (MANY, MANY));
    assert_eq!(it.fixture.events(ids[0]).await.len(), 2, "given once");
}

/// The role changes first, so that it counts for all tokens at once.
#[tokio::test]
async fn a_weaker_role_takes_effect_with_the_first_commit() {
    let it = Fragile::with("adam", Role::Administrator).await;
    let done = it.broken_after(1, it.registry.set_role(&operator(), "adam", Role::Manager)).await;
    assert_eq!(done.to_string(), "interrupted: adam is manager now; run the command again to finish");
    assert_eq!(it.user("adam").await.role, Role::Manager);
    assert_eq!(it.beyond("adam", Role::Manager).await, MANY);
    let done = it.broken_after(1, it.registry.set_role(&operator(), "adam", Role::Manager)).await;
    assert!(done.to_string().contains("500 tokens were narrowed"), "{done}");
    let finished = it.registry.set_role(&operator(), "adam", Role::Manager).await.expect("finishes");
    assert_eq!((finished.before, finished.narrowed), (Role::Manager, 750));
    assert_eq!(it.beyond("adam", Role::Manager).await, 0);
    let again = it.registry.set_role(&operator(), "adam", Role::Manager).await.expect("nothing to do");
    assert_eq!((again.narrowed, again.revoked), (0, 0));
}

#[tokio::test]
async fn a_stronger_role_never_gives_back_what_an_interrupted_change_left() {
    for count in [MANY, 250] {
        let it = Fragile::start().await;
        it.fixture.add("adam", Role::Administrator).await;
        it.import("adam", MANY).await;
        it.broken_after(2, it.registry.set_role(&operator(), "adam", Role::Manager)).await;
        // The other case: few enough for one commit are left.
        let surplus: Vec<_> = it.tokens("adam").await.iter().take(MANY - count).map(|token| token.id).collect();
        it.registry.revoke(&operator(), &surplus, false).await.expect("revokes");
        let change = it.registry.set_role(&operator(), "adam", Role::Administrator).await.expect("raises");
        assert_eq!((change.before, change.user.role), (Role::Manager, Role::Administrator));
        let active: Vec<_> = it.tokens("adam").await.into_iter().filter(TokenRecord::is_active).collect();
        assert_eq!(active.len(), count);
        assert!(active.iter().all(|token| token.permissions.is_subset_of(Role::Manager.permissions())));
    }
}

#[tokio::test]
async fn a_stronger_role_comes_only_once_every_token_is_narrowed() {
    let it = Fragile::with("adam", Role::Administrator).await;
    it.broken_after(1, it.registry.set_role(&operator(), "adam", Role::Manager)).await;
    let done = it.broken_after(2, it.registry.set_role(&operator(), "adam", Role::Administrator)).await;
    assert!(done.to_string().contains("1000 tokens were narrowed") && !done.to_string().contains("adam is"), "{done}");
    assert_eq!(it.user("adam").await.role, Role::Manager);
    it.registry.set_role(&operator(), "adam", Role::Administrator).await.expect("raises");
    assert_eq!(it.beyond("adam", Role::Manager).await, 0);
}

/// A viewer may have usable tokens that were given to them, so what is revoked goes before the role.
#[tokio::test]
async fn who_becomes_a_viewer_keeps_the_role_until_the_last_token_is_revoked() {
    let it = Fragile::with("max", Role::Manager).await;
    let done = it.broken_after(2, it.registry.set_role(&operator(), "max", Role::Viewer)).await;
    assert!(done.to_string().contains("1000 tokens were revoked"), "{done}");
    assert_eq!((it.user("max").await.role, it.active("max").await), (Role::Manager, 250));
    let change = it.registry.set_role(&operator(), "max", Role::Viewer).await.expect("finishes");
    assert_eq!((change.before, change.revoked, it.active("max").await), (Role::Manager, 250, 0));
    assert_eq!(it.user("max").await.role, Role::Viewer);

    let given = it.registry.reassign(&operator(), &[it.fixture.create("olga").await.id], "max", false).await;
    let given = given.expect("reassigns").remove(0).id;
    it.registry.set_role(&operator(), "max", Role::Manager).await.expect("raises");
    let token = it.registry.token(&operator(), given).await.expect("exists").record;
    assert!(token.is_active() && token.permissions.is_subset_of(Role::Viewer.permissions()), "{token:?}");
}

#[tokio::test]
async fn who_becomes_a_viewer_at_once_has_all_tokens_counted() {
    let it = Fragile::with("max", Role::Manager).await;
    let change = it.registry.set_role(&operator(), "max", Role::Viewer).await.expect("changes");
    assert_eq!((change.narrowed, change.revoked), (0, MANY));
}

#[tokio::test]
async fn a_user_who_is_being_deleted_is_disabled_first() {
    let it = Fragile::with("max", Role::Manager).await;
    let done = it.broken_after(2, it.registry.delete_user(&operator(), "max")).await;
    assert!(
        done.to_string().contains("max is disabled") && done.to_string().contains("500 tokens were deleted"),
        "{done}"
    );
    assert_eq!(it.user("max").await.status, UserStatus::Disabled);
    assert_eq!(it.tokens("max").await.len(), 750);
    let refused = it.registry.create_token(&operator(), new_token("max")).await;
    assert!(matches!(refused, Err(RegistryError::UserDisabled(_))));
    assert_eq!(it.registry.delete_user(&operator(), "max").await.expect("finishes"), 750);
    assert_eq!(kind(it.registry.user(&operator(), "max").await), ErrorKind::NotFound);
    let left = it.registry.store().tokens(TokenFilter::default(), None, 10).await.expect("reads");
    assert_eq!(left.len(), 1, "the Owner's");
}

#[tokio::test]
async fn ownership_moves_with_the_first_commit() {
    let it = Fragile::start().await;
    it.fixture.add("adam", Role::Administrator).await;
    it.import("olga", MANY).await;
    let done = it.broken_after(2, it.registry.transfer_ownership(&it.fixture.olga(), "adam")).await;
    assert!(done.to_string().contains("adam is the owner now, and olga an administrator"), "{done}");
    assert!(done.to_string().contains("500 tokens were narrowed") && done.to_string().contains("set-role"), "{done}");
    assert_eq!((it.user("adam").await.role, it.user("olga").await.role), (Role::Owner, Role::Administrator));
    let left = it.beyond("olga", Role::Administrator).await;
    assert_eq!(left, MANY + 1 - 500);
    let finished = it.registry.set_role(&operator(), "olga", Role::Administrator).await.expect("finishes");
    assert_eq!((finished.before, finished.narrowed), (Role::Administrator, left));
    assert_eq!(it.beyond("olga", Role::Administrator).await, 0);
}

#[tokio::test]
async fn ownership_comes_back_without_what_was_lost() {
    let it = Fragile::start().await;
    it.fixture.add("adam", Role::Administrator).await;
    it.import("olga", MANY).await;
    it.broken_after(2, it.registry.transfer_ownership(&it.fixture.olga(), "adam")).await;
    it.broken_after(1, it.registry.transfer_ownership(&operator(), "olga")).await;
    assert_eq!(it.user("adam").await.role, Role::Owner, "not before every token is narrowed");
    it.registry.transfer_ownership(&operator(), "olga").await.expect("comes back");
    assert_eq!(it.user("olga").await.role, Role::Owner);
    assert_eq!(it.beyond("olga", Role::Administrator).await, 0);
}

#[tokio::test]
async fn an_import_that_was_broken_off_says_how_much_is_in_and_goes_on() {
    let it = Fragile::start().await;
    it.fixture.add("max", Role::Manager).await;
    let lines: Vec<_> = (1..=MANY).map(|number| (number, full_line("max", number))).collect();
    it.store.fail_after(2);
    let error = it.registry.import(&operator(), lines.clone(), ALL_OR_NONE).await.expect_err("it breaks");
    it.store.fail_after(usize::MAX);
    let ImportError::Interrupted { imported, error: RegistryError::Interrupted { done, .. } } = error else {
        panic!("{error:?}")
    };
    assert_eq!(done, PartlyDone::Imported(1000, MANY));
    assert_eq!(imported.tokens.iter().map(|new| new.line).collect::<Vec<_>>(), (1..=1000).collect::<Vec<_>>());
    assert_eq!(it.tokens("max").await.len(), 1000);
    let imported = it.registry.import(&operator(), lines, SKIP_EXISTING).await.expect("goes on");
    assert_eq!((imported.tokens.len(), imported.skipped, imported.differing), (250, 1000, 0));
    assert!(imported.refused.is_empty());
}

/// A thousand lines are not a thousand round trips, whosever they are.
#[tokio::test]
async fn an_import_reads_users_by_the_page() {
    let it = Fragile::start().await;
    for number in 0..40 {
        it.fixture.add(&format!("user{number}"), Role::Manager).await;
    }
    let lines: Vec<_> = (1..=MANY).map(|number| (number, full_line(&format!("user{}", number % 40), number))).collect();
    let imported = it.registry.import(&operator(), lines, ALL_OR_NONE).await.expect("imports");
    assert_eq!(imported.tokens.len(), MANY);
    assert_eq!(it.store.user_reads(), 1, "one page has all of them");
}

/// However many commits it takes, the rules hold for what comes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_escapes_a_change_in_steps() {
    for role in [Role::Viewer, Role::Manager] {
        let it = Fragile::with("adam", Role::Administrator).await;
        let there = it.fixture.elsewhere().await;
        let maker = tokio::spawn(async move {
            for _ in 0..30 {
                let all = NewToken { permissions: Requested::All, ..new_token("adam") };
                match there.create_token(&operator(), all).await {
                    Ok(_) | Err(RegistryError::NoTokensForViewer(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        it.registry.set_role(&operator(), "adam", role).await.expect("changes");
        maker.await.expect("no other errors");
        assert_eq!(it.beyond("adam", role).await, 0);
        assert!(role != Role::Viewer || it.active("adam").await == 0);
    }
}

#[tokio::test]
async fn revocations_that_the_store_lost_are_committed_again() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    let (lost, kept) = (fixture.create("max").await, fixture.create("max").await);
    let gone = tollgate::token::Digest::of(b"gone");
    fixture.registry.revoke(&operator(), &[kept.id], false).await.expect("revokes");
    assert_eq!(fixture.registry.settle_recalls().await.expect("reads"), 0);
    let store = fixture.registry.store();
    store.recall(&[lost.digest, kept.digest, gone]).await.expect("recalls");
    assert_eq!(store.probe().await.expect("answers").recalls, 3);
    assert_eq!(fixture.registry.settle_recalls().await.expect("settles"), 1);
    assert_eq!(store.recalled(None).await.expect("reads").total, 0);
    let token = fixture.registry.token(&operator(), lost.id).await.expect("exists");
    let revoked = token.history.last().expect("a line");
    assert_eq!(revoked.by, "sidecar recall");
    assert!(
        matches!(&revoked.event, TokenEvent::Revoked { reason: Some(reason) } if reason.contains("before the store lost it"))
    );
    assert!(revoked.at <= Timestamp::now());
    assert_eq!(
        fixture.events(kept.id).await,
        [TokenEvent::Created, TokenEvent::Revoked { reason: None }],
        "stays as it was"
    );
}
