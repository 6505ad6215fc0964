//! Operators: each has users and tokens of its own, and does something to them all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tollgate::registry::RegistryError;
use tollgate::token::{PermissionSet, Role};

use tollgate_harness::oracle::{Life, Name, Oracle};
use tollgate_harness::random::Random;

/// Users of one operator.
const USERS: usize = 5;

/// Usable tokens of one operator, about.
const TOKENS: usize = 25;

/// Ended tokens that are still asked about.
const ENDED: usize = 15;

/// The pause between two commands, in milliseconds.
const PAUSE: (u64, u64) = (2, 60);

/// Between two tokens that both registries have, in milliseconds.
const SHARED: (u64, u64) = (300, 2500);

/// What is done.
#[derive(Debug, Clone, Copy)]
enum Act {
    AddUser,
    Create,
    Revoke,
    RevokeMany,
    Delete,
    Reassign,
    Disable,
    Enable,
    SetRole,
}

const ACTS: [(usize, Act); 9] = [
    (3, Act::AddUser),
    (60, Act::Create),
    (18, Act::Revoke),
    (2, Act::RevokeMany),
    (10, Act::Delete),
    (10, Act::Reassign),
    (5, Act::Disable),
    (9, Act::Enable),
    (5, Act::SetRole),
];

/// Works until it is dropped. While it is to be quiet it begins nothing new.
pub(crate) async fn work(oracle: Arc<Mutex<Oracle>>, quiet: Arc<AtomicBool>, mut random: Random) {
    loop {
        {
            let mut oracle = oracle.lock().await;
            // In doubt, it waits until somebody has looked.
            if !oracle.in_doubt && !quiet.load(Ordering::Relaxed) {
                // What fails is in the history.
                drop(act(&mut oracle, &mut random).await);
                tidy(&mut oracle);
            }
        }
        tokio::time::sleep(random.time(PAUSE.0, PAUSE.1)).await;
    }
}

/// Gives one registry copies of tokens that another has, which both go on with as they like, until it is dropped. With
/// `sabotage`, nobody is told.
pub(crate) async fn share(
    from: Arc<Mutex<Oracle>>,
    to: Arc<Mutex<Oracle>>,
    quiet: Arc<AtomicBool>,
    mut random: Random,
    sabotage: bool,
) {
    loop {
        tokio::time::sleep(random.time(SHARED.0, SHARED.1)).await;
        let (mut from, mut to) = (from.lock().await, to.lock().await);
        if quiet.load(Ordering::Relaxed) || to.in_doubt || active(&to).len() > TOKENS * 2 {
            continue;
        }
        let able = |user: &&tollgate_harness::oracle::User| user.enabled && user.role >= Role::Manager;
        let users = to.model.users.iter().filter(|(_, user)| able(user)).map(|(name, _)| name.clone());
        let user = random.one_of(&users.collect::<Vec<_>>());
        let token = random.one_of(&active(&from));
        if let (Some(user), Some(token)) = (user, token)
            && from.model.tokens[&token].elsewhere.is_some()
        {
            // Nobody asks any more whether the other one knows it.
            if !sabotage {
                from.is_shared(token);
            }
            let raw = from.model.tokens[&token].raw.clone();
            drop(from);
            // What fails was not made, or nobody asks about it.
            drop(to.adopt(&user, &raw).await);
        }
    }
}

async fn act(oracle: &mut Oracle, random: &mut Random) -> Result<(), RegistryError> {
    let Some(act) = random.weighed(&ACTS) else { return Ok(()) };
    let users: Vec<_> = oracle.model.users.keys().cloned().collect();
    let active = active(oracle);
    match (act, random.one_of(&users), random.one_of(&active)) {
        (Act::AddUser, ..) | (_, None, _) if users.len() < USERS => {
            let role = if users.len() < 3 { Role::Manager } else { Role::Administrator };
            oracle.add_user(role).await.map(drop)
        }
        (Act::Create, ..) | (_, _, None) => create(oracle, random).await,
        (Act::Revoke, _, Some(token)) => oracle.revoke(&[token]).await,
        (Act::RevokeMany, ..) => {
            let first = random.below(active.len());
            let many: Vec<_> = active.into_iter().skip(first).take(5).collect();
            oracle.revoke(&many).await
        }
        (Act::Delete, ..) => match random.one_of(&names(oracle, |life| matches!(life, Life::Active | Life::Revoked))) {
            Some(token) => oracle.delete(&[token]).await,
            None => Ok(()),
        },
        (Act::Reassign, Some(user), Some(token)) => oracle.reassign(token, &user).await,
        (Act::Disable, Some(user), _) => oracle.set_enabled(&user, false).await,
        (Act::Enable, ..) => {
            let disabled = oracle.model.users.iter().find(|(_, user)| !user.enabled).map(|(name, _)| name.clone());
            match disabled {
                Some(user) => oracle.set_enabled(&user, true).await,
                None => Ok(()),
            }
        }
        (Act::SetRole, Some(user), _) => {
            let roles = [Role::Viewer, Role::Manager, Role::Manager, Role::Administrator];
            oracle.set_role(&user, random.one_of(&roles).unwrap_or(Role::Manager)).await
        }
        (Act::AddUser, ..) => Ok(()),
        (Act::Reassign | Act::Disable | Act::SetRole, None, _) => Ok(()),
    }
}

/// Disables a user, or gives one a weaker role, that keeps its tokens.
pub(crate) async fn narrow(oracle: &mut Oracle, random: &mut Random) {
    let wide = oracle.model.users.iter().filter(|(_, user)| user.enabled && user.role >= Role::Manager);
    let wide: Vec<_> = wide.map(|(name, user)| (name.clone(), user.role)).collect();
    let Some((user, role)) = random.one_of(&wide).filter(|_| !oracle.in_doubt) else { return };
    // What fails is in the history.
    drop(match role {
        Role::Administrator if random.percent(60) => oracle.set_role(&user, Role::Manager).await,
        _ => oracle.set_enabled(&user, false).await,
    });
}

/// Disables a user who has tokens, and enables them again at once.
pub(crate) async fn blink(oracle: &mut Oracle, random: &mut Random) {
    let active = oracle.model.tokens.values().filter(|token| token.life == Life::Active);
    let owners: Vec<_> = active.map(|token| token.owner.clone()).collect();
    let owners = owners.into_iter().filter(|owner| oracle.model.users.get(owner).is_some_and(|user| user.enabled));
    let Some(user) = random.one_of(&owners.collect::<Vec<_>>()).filter(|_| !oracle.in_doubt) else { return };
    // What fails is in the history.
    if oracle.set_enabled(&user, false).await.is_ok() {
        tokio::time::sleep(random.time(0, 30)).await;
        drop(oracle.set_enabled(&user, true).await);
    }
}

async fn create(oracle: &mut Oracle, random: &mut Random) -> Result<(), RegistryError> {
    if active(oracle).len() >= TOKENS {
        return Ok(());
    }
    let able = |user: &&tollgate_harness::oracle::User| user.enabled && user.role >= Role::Manager;
    let users = oracle.model.users.iter().filter(|(_, user)| able(user)).map(|(name, _)| name.clone());
    let Some(user) = random.one_of(&users.collect::<Vec<_>>()) else { return Ok(()) };
    let is_administrator = oracle.model.users[&user].role >= Role::Administrator;
    let permissions = match random.below(6) {
        // What a Manager may not have.
        4 | 5 if is_administrator => {
            ["configs:read", "users:read"].map(|name| name.parse().expect("a permission")).into_iter().collect()
        }
        0 => ["configs:read"].iter().map(|name| name.parse().expect("a permission")).collect(),
        1 => ["heartbeat:write"].iter().map(|name| name.parse().expect("a permission")).collect(),
        _ => PermissionSet::TELEGRAF_AGENT,
    };
    oracle.create(&user, permissions).await.map(drop)
}

pub(crate) fn active(oracle: &Oracle) -> Vec<Name> {
    names(oracle, |life| life == Life::Active)
}

fn names(oracle: &Oracle, is: impl Fn(Life) -> bool) -> Vec<Name> {
    oracle.model.tokens.iter().filter(|(_, token)| is(token.life)).map(|(name, _)| *name).collect()
}

/// The oldest of the ended tokens are no longer asked about.
pub(crate) fn tidy(oracle: &mut Oracle) {
    let ended = names(oracle, |life| life != Life::Active);
    let many = ended.len().saturating_sub(ENDED);
    ended.into_iter().take(many).for_each(|name| oracle.forget(name));
}

/// What the canary is asked for: that a new token is known and an ended one refused, everywhere.
pub(crate) async fn hatch(oracle: &mut Oracle, patience: Duration) -> Result<Name, String> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let user = match oracle.model.users.keys().next().cloned() {
            Some(user) => Ok(user),
            None => oracle.add_user(Role::Manager).await,
        };
        let created = match user {
            Ok(user) => oracle.create(&user, PermissionSet::TELEGRAF_AGENT).await,
            Err(error) => Err(error),
        };
        match created {
            Ok(name) => return Ok(name),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
