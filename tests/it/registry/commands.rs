//! Random commands by random actors: what holds after every one of them.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::*;
use tollgate::registry::Rotation;
use tollgate::token::Permission;

#[derive(Debug, Clone)]
pub(super) enum Command {
    Add(&'static str, Role),
    SetRole(&'static str, Role),
    SetStatus(&'static str, UserStatus),
    DeleteUser(&'static str),
    Transfer(&'static str),
    Create(&'static str, Requested),
    Revoke(Vec<Index>, bool),
    Delete(Vec<Index>, bool),
    Reassign(Vec<Index>, &'static str, bool),
    Rotate(Index, bool),
    Import(&'static str, usize),
}

const NAMES: [&str; 5] = ["olga", "adam", "bert", "max", "vera"];

fn name() -> impl Strategy<Value = &'static str> {
    select(&NAMES[..])
}

fn role() -> impl Strategy<Value = Role> {
    select(&Role::ALL[..])
}

fn requested() -> impl Strategy<Value = Requested> {
    let every: Vec<Permission> = PermissionSet::all().iter().collect();
    let some = subsequence(every, 0..12).prop_map(|some| Requested::Permissions(some.into_iter().collect()));
    prop_oneof![Just(Requested::All), some]
}

fn ids() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 1..4)
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let status = select(&[UserStatus::Active, UserStatus::Disabled][..]);
    let force = prop::bool::weighted(0.1);
    prop_oneof![
        2 => (name(), role()).prop_map(|(name, role)| Command::Add(name, role)),
        3 => (name(), role()).prop_map(|(name, role)| Command::SetRole(name, role)),
        2 => (name(), status).prop_map(|(name, status)| Command::SetStatus(name, status)),
        1 => name().prop_map(Command::DeleteUser),
        1 => name().prop_map(Command::Transfer),
        6 => (name(), requested()).prop_map(|(name, requested)| Command::Create(name, requested)),
        2 => (ids(), force).prop_map(|(ids, force)| Command::Revoke(ids, force)),
        2 => (ids(), force).prop_map(|(ids, force)| Command::Delete(ids, force)),
        3 => (ids(), name(), force).prop_map(|(ids, to, force)| Command::Reassign(ids, to, force)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(token, overlaps)| Command::Rotate(token, overlaps)),
        1 => (name(), 0..20_usize).prop_map(|(name, number)| Command::Import(name, number)),
    ]
}

/// A user of that name, or the operator.
fn actor() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![1 => Just(None), 3 => name().prop_map(Some)]
}

pub(super) struct State {
    users: HashMap<String, UserRecord>,
    tokens: HashMap<TokenId, TokenRecord>,
    revision: u64,
}

pub(super) async fn state(registry: &Registry) -> State {
    let (users, tokens) = everything(registry).await;
    let position = registry.store().position().await.expect("reads");
    let owners = users.iter().map(|user| user.owner().fingerprint(user.id));
    let grants = tokens.iter().filter_map(|token| Some(token.grant()?.fingerprint(&token.digest)));
    assert_eq!(position.checksum, owners.chain(grants).fold(0, |sum, part| sum ^ part), "the checksum is recomputed");
    State {
        users: users.into_iter().map(|user| (user.name.clone(), user)).collect(),
        tokens: tokens.into_iter().map(|token| (token.id, token)).collect(),
        revision: position.revision.0,
    }
}

pub(super) async fn run(
    registry: &Registry,
    actor: &Actor,
    command: &Command,
    state: &State,
) -> Result<(), RegistryError> {
    let mut every: Vec<TokenId> = state.tokens.keys().copied().collect();
    every.sort_unstable();
    let pick = |ids: &[Index]| -> Vec<TokenId> {
        if every.is_empty() { Vec::new() } else { ids.iter().map(|index| *index.get(&every)).collect() }
    };
    match command {
        Command::Add(name, role) => registry.add_user(actor, name, *role).await.map(drop),
        Command::SetRole(name, role) => registry.set_role(actor, *name, *role).await.map(drop),
        Command::SetStatus(name, status) => registry.set_status(actor, *name, *status).await.map(drop),
        Command::DeleteUser(name) => registry.delete_user(actor, *name).await.map(drop),
        Command::Transfer(name) => registry.transfer_ownership(actor, *name).await.map(drop),
        Command::Create(name, requested) => {
            let new = NewToken { permissions: *requested, ..new_token(name) };
            registry.create_token(actor, new).await.map(drop)
        }
        Command::Revoke(ids, force) => registry.revoke(actor, &pick(ids), *force).await.map(drop),
        Command::Delete(ids, force) => registry.delete(actor, &pick(ids), *force).await.map(drop),
        Command::Reassign(ids, to, force) => registry.reassign(actor, &pick(ids), to, *force).await.map(drop),
        Command::Rotate(token, overlaps) => {
            let Some(token) = pick(&[*token]).pop() else { return Ok(()) };
            let overlap = if *overlaps { Duration::from_hours(1) } else { Duration::ZERO };
            registry.rotate(actor, Rotation { token, overlap, expires_at: None }).await.map(drop)
        }
        Command::Import(name, number) => match registry.import(actor, vec![(1, line(name, *number))], KEEP_GOING).await
        {
            Ok(_) => Ok(()),
            Err(ImportError::Registry(error)) => Err(error),
            Err(error) => panic!("{error:?}"),
        },
    }
}

/// What holds of every state.
fn check_state(state: &State) {
    let by_id: HashMap<_, _> = state.users.values().map(|user| (user.id, user)).collect();
    let owners: Vec<_> = state.users.values().filter(|user| user.role == Role::Owner).collect();
    assert_eq!(owners.len(), 1, "exactly one Owner");
    assert_eq!(owners[0].status, UserStatus::Active);
    for token in state.tokens.values() {
        let owner = by_id.get(&token.owner).expect("every token has an owner");
        if token.is_active() {
            assert!(token.permissions.is_subset_of(owner.role.permissions()), "{token:?} of {owner:?}");
        }
    }
}

/// What no command does, whoever gives it.
fn check_step(before: &State, after: &State) {
    for (id, old) in &before.tokens {
        let Some(new) = after.tokens.get(id) else { continue };
        assert!(new.permissions.is_subset_of(old.permissions), "narrowing never widens again");
        let ends_at = |token: &TokenRecord| token.expires_at.unwrap_or(Timestamp::MAX);
        assert!(ends_at(new) <= ends_at(old), "no life is lengthened");
        if !old.is_active() {
            assert_eq!(new, old, "a revoked token stays as it is");
        }
        assert_eq!((new.digest, &new.created_by, new.created_at), (old.digest, &old.created_by, old.created_at));
    }
    for (name, user) in &after.users {
        let became = before.users.get(name).is_some_and(|old| old.id == user.id && old.role != Role::Viewer);
        if became && user.role == Role::Viewer {
            let left = after.tokens.values().find(|token| token.owner == user.id && token.is_active());
            assert!(left.is_none(), "{left:?} of {name}, who became a viewer");
        }
    }
}

/// What a role cannot do, whatever the command: judged by what changed.
fn check_actor(actor: &UserRecord, before: &State, after: &State) {
    let strong = |state: &State| {
        let strong = state.users.values().filter(|user| user.role >= Role::Administrator).cloned();
        let mut strong: Vec<_> = strong.collect();
        strong.sort_by_key(|user| user.id);
        strong
    };
    let foreign = |state: &State| -> HashMap<TokenId, TokenRecord> {
        state.tokens.clone().into_iter().filter(|(_, token)| token.owner != actor.id).collect()
    };
    let owners_tokens = |state: &State| -> HashSet<TokenId> {
        let owner = state.users.values().find(|user| user.role == Role::Owner).map(|user| user.id);
        state.tokens.values().filter(|token| Some(token.owner) == owner).map(|token| token.id).collect()
    };
    if actor.status == UserStatus::Disabled || actor.role == Role::Viewer {
        assert_eq!(before.revision, after.revision, "{actor:?}");
    } else if actor.role == Role::Manager {
        assert_eq!(before.users, after.users);
        assert_eq!(foreign(before), foreign(after));
    } else if actor.role == Role::Administrator {
        assert_eq!(strong(before), strong(after), "only the Owner manages Administrators");
        assert!(owners_tokens(after).is_subset(&owners_tokens(before)), "only the Owner gives the Owner tokens");
    }
    if let Some(after) = after.users.get(&actor.name) {
        assert_eq!(after.status, actor.status, "nobody disables themselves");
    }
}

fn usable_by_owner(state: &State) -> usize {
    let owner = state.users.values().find(|user| user.role == Role::Owner).map(|user| user.id);
    state.tokens.values().filter(|token| Some(token.owner) == owner && token.is_active()).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_the_rules(
        steps in prop::collection::vec((actor(), command()), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let fixture = Fixture::start().await;
            for (name, role) in [("adam", Role::Administrator), ("bert", Role::Administrator), ("max", Role::Manager)] {
                fixture.add(name, role).await;
                fixture.create(name).await;
            }
            let mut gone: HashSet<TokenId> = HashSet::new();
            let mut before = state(&fixture.registry).await;
            for (name, command) in &steps {
                let user = name.and_then(|name| before.users.get(name).cloned());
                let actor = user.clone().map_or_else(operator, Actor::User);
                let result = run(&fixture.registry, &actor, command, &before).await;
                let after = state(&fixture.registry).await;
                if let Err(error) = result {
                    assert_eq!(before.revision, after.revision, "{command:?} failed and yet changed something");
                    assert_ne!(error.kind(), ErrorKind::Unavailable, "{command:?}: {error:?}");
                }
                check_state(&after);
                check_step(&before, &after);
                if let Some(user) = user {
                    check_actor(&user, &before, &after);
                }
                let excused = match command {
                    Command::Revoke(_, force) | Command::Delete(_, force) | Command::Reassign(_, _, force) => *force,
                    Command::Transfer(_) => true,
                    _ => false,
                };
                assert!(excused || usable_by_owner(&before) == 0 || usable_by_owner(&after) > 0, "{command:?}");
                gone.extend(before.tokens.keys().filter(|id| !after.tokens.contains_key(id)));
                assert!(after.tokens.keys().all(|id| !gone.contains(id)), "a deleted token came back");
                before = after;
            }
        });
    }
}
