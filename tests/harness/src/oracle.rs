//! Users and tokens as they should be, the commands that change them, and what every request must be answered after
//! each: the operators' side of a history.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tollgate::registry::{Actor, ImportLine, ImportOptions, NewToken, Registry, RegistryError, Requested};
use tollgate::store::Store;
use tollgate::token::{Digest, Permission, PermissionSet, RawToken, Role, TokenId, TokenState, UserStatus};

use crate::history::{Outcome, Subject, Verdicts};
use crate::prober::{History, Probe, Probes};

/// The kinds of requests: each needs a permission of its own, and the last one's an Administrator.
const REQUESTS: [(&str, &str, &str); 3] = [
    ("configs:read", "GET /api/configs/1/toml", ""),
    ("heartbeat:write", "POST /agents/heartbeat", "Content-Length: 0\r\n"),
    ("users:read", "GET /api/users", ""),
];

/// A request of the first kind whose reply goes on and on.
const FLOW: &str = "GET /api/configs/flow/toml";

/// A user as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub role: Role,
    pub enabled: bool,
}

/// A token as it should be.
#[derive(Debug, Clone)]
pub struct Token {
    /// `None` until the store has said it.
    pub id: Option<TokenId>,
    pub owner: String,
    pub permissions: PermissionSet,
    pub life: Life,
    /// In the order of [`REQUESTS`].
    subjects: [Subject; REQUESTS.len()],
    /// The first kind, at sidecars of another registry that must not know it.
    pub elsewhere: Option<Subject>,
    /// The value.
    pub raw: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Not created, or its creation was lost.
    Absent,
    Active,
    Revoked,
    Deleted,
}

/// A token of a [`Oracle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(usize);

/// What should be so.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub users: BTreeMap<String, User>,
    pub tokens: BTreeMap<Name, Token>,
}

impl Model {
    fn verdict(&self, token: &Token, kind: usize) -> Verdicts {
        let permission: Permission = REQUESTS[kind].0.parse().expect("a permission");
        let owner = self.users.get(&token.owner);
        match (token.life, owner) {
            (Life::Revoked | Life::Deleted, _) => Verdicts::GONE,
            (Life::Active, Some(owner)) if owner.enabled => {
                match token.permissions.intersect(owner.role.permissions()).contains(permission) {
                    true => Verdicts::SERVED,
                    false => Verdicts::FORBIDDEN,
                }
            }
            (Life::Absent | Life::Active, _) => Verdicts::REFUSED,
        }
    }

    fn verdicts(&self) -> impl Iterator<Item = (Subject, Verdicts)> {
        self.tokens.values().flat_map(|token| {
            token.subjects.iter().enumerate().map(|(kind, subject)| (*subject, self.verdict(token, kind)))
        })
    }

    fn token(&mut self, name: Name) -> &mut Token {
        self.tokens.get_mut(&name).expect("a token of this oracle")
    }

    /// A weaker role takes permissions away for good; one without tokens revokes them.
    fn narrow(&mut self, user: &str, role: Role) {
        for token in self.tokens.values_mut().filter(|token| token.owner == user && token.life == Life::Active) {
            token.permissions = token.permissions.intersect(role.permissions());
            if !role.manages_tokens() {
                token.life = Life::Revoked;
            }
        }
    }
}

/// What one operator knows: users and tokens that nobody else touches. Commands follow each other.
pub struct Oracle {
    pub registry: Registry,
    pub model: Model,
    history: History,
    probes: Probes,
    /// Begins the names of its users.
    prefix: String,
    numbers: usize,
    /// A command's outcome is not known: see [`Oracle::read_back`].
    pub in_doubt: bool,
    /// When a command on a user ended last.
    stirred: BTreeMap<String, Instant>,
    /// Users whose last command narrowed them, and when that was acknowledged.
    narrowed: BTreeMap<String, Instant>,
    /// Asked at sidecars of another registry.
    pub elsewhere: Option<Probes>,
}

/// How a command ended that waits for all sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// All have applied it, it says.
    Vouched,
    /// It is committed.
    Committed,
    Unknown,
}

impl Oracle {
    pub fn new(registry: Registry, prefix: &str, history: History, probes: Probes) -> Self {
        let prefix = prefix.to_owned();
        Self {
            registry,
            model: Model::default(),
            history,
            probes,
            prefix,
            numbers: 0,
            in_doubt: false,
            stirred: BTreeMap::new(),
            narrowed: BTreeMap::new(),
            elsewhere: None,
        }
    }

    /// Runs a command that changes the model so, and records it in the history.
    async fn run<T>(
        &mut self,
        name: &'static str,
        change: impl FnOnce(&mut Model),
        command: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let outcome = |result: &Result<T, RegistryError>| match result {
            Ok(_) => Outcome::Done,
            Err(RegistryError::OutcomeUnknown(_)) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        let why =
            |result: &Result<T, RegistryError>| result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        self.carry_out(name, change, command, outcome, why).await
    }

    async fn carry_out<T>(
        &mut self,
        name: &'static str,
        change: impl FnOnce(&mut Model),
        command: impl Future<Output = T>,
        outcome_of: impl FnOnce(&T) -> Outcome,
        why: impl FnOnce(&T) -> String,
    ) -> T {
        let mut after = self.model.clone();
        change(&mut after);
        let before: BTreeMap<_, _> = self.model.verdicts().collect();
        let moved = after
            .tokens
            .iter()
            .filter(|(name, token)| self.model.tokens.get(*name).is_some_and(|before| before.owner != token.owner));
        let moved: Vec<_> = moved.flat_map(|(_, token)| token.subjects).collect();
        // What a new owner may do, a sidecar perhaps learns later.
        let in_doubt = |(subject, right)| match moved.contains(&subject) {
            true => (subject, right | Verdicts::IN_DOUBT),
            false => (subject, right),
        };
        let effects = after.verdicts().map(in_doubt).filter(|(subject, right)| before.get(subject) != Some(right));
        let effects: Vec<_> = effects.collect();
        let operation = self.history.with(|judge| judge.begins(name, &effects, Instant::now()));
        let result = command.await;
        let outcome = outcome_of(&result);
        let subjects: Vec<_> = effects.iter().map(|(subject, right)| format!("{subject:?} {right}")).collect();
        self.history.with(|judge| {
            judge.ends(operation, outcome, Instant::now());
            let (by, why) = (&self.prefix, why(&result));
            judge.note(format!("{name} by {by}: {outcome:?} {why} {}", subjects.join(", ")), Instant::now());
        });
        match outcome {
            Outcome::Done => self.model = after,
            Outcome::Failed => {}
            Outcome::Unknown => self.in_doubt = true,
        }
        result
    }

    /// A new user.
    pub async fn add_user(&mut self, role: Role) -> Result<String, RegistryError> {
        self.numbers += 1;
        let name = format!("{}{}", self.prefix, self.numbers);
        let registry = self.registry.clone();
        let add = |model: &mut Model| _ = model.users.insert(name.clone(), User { role, enabled: true });
        self.run("add user", add, registry.add_user(&operator(), &name, role)).await?;
        Ok(name)
    }

    /// A new token with these permissions, which is asked about from now on.
    pub async fn create(&mut self, owner: &str, permissions: PermissionSet) -> Result<Name, RegistryError> {
        let new = NewToken {
            user: owner.to_owned(),
            description: "edge".to_owned(),
            permissions: Requested::Permissions(permissions),
            expires_at: None,
        };
        // Nobody knows the token before it is made, so nobody asks about it: an operation without effects.
        let registry = self.registry.clone();
        let created = self.run("create", |_| {}, registry.create_token(&operator(), new)).await?;
        let raw = created.token.reveal().to_owned();
        Ok(self.appears(owner, created.record.id, created.record.permissions, raw))
    }

    /// A copy of a token that another registry has.
    pub async fn adopt(&mut self, owner: &str, raw: &str) -> anyhow::Result<Name> {
        let digest = raw.parse::<RawToken>()?.digest();
        let line = agent_line(digest, owner);
        // The compiler cannot see that it may be carried on by another thread.
        let import =
            || Handle::current().block_on(self.registry.import(&operator(), vec![(1, line)], ImportOptions::default()));
        tokio::task::block_in_place(import)?;
        let found = self.registry.store().tokens_by_digest(&[digest]).await?.pop().flatten();
        let record = found.context("it was imported")?.record;
        let name = self.appears(owner, record.id, record.permissions, raw.to_owned());
        self.is_shared(name);
        Ok(name)
    }

    /// A token that was made is asked about.
    fn appears(&mut self, owner: &str, id: TokenId, permissions: PermissionSet, raw: String) -> Name {
        self.numbers += 1;
        let (name, now) = (Name(self.numbers), Instant::now());
        let subjects = self.history.with(|judge| {
            REQUESTS.map(|(_, request, _)| judge.subject(format!("{id} {request}"), Verdicts::REFUSED, now))
        });
        let elsewhere = self.elsewhere.as_ref();
        let elsewhere = elsewhere.map(|_| self.history.with(|judge| judge.foreign(format!("{id} elsewhere"), now)));
        let request = |request: &str, fields: &str| {
            let head = format!("{request} HTTP/1.1\r\nHost: tollgate\r\nAuthorization: Bearer {raw}\r\n{fields}\r\n");
            Arc::<[u8]>::from(head.into_bytes())
        };
        let asked = REQUESTS.map(|(_, line, fields)| request(line, fields));
        let flow = request(FLOW, "");
        let owner = owner.to_owned();
        let token = Token { id: Some(id), owner, permissions, life: Life::Active, subjects, elsewhere, raw };
        self.model.tokens.insert(name, token);
        let effects: Vec<_> = self.model.verdicts().filter(|(subject, _)| subjects.contains(subject)).collect();
        self.history.with(|judge| {
            let operation = judge.begins("appear", &effects, now);
            judge.ends(operation, Outcome::Done, now);
        });
        if let (Some(probes), Some(subject)) = (&self.elsewhere, elsewhere) {
            probes.add(Probe { subject, request: Arc::clone(&asked[0]), flow: None });
        }
        let mut flow = Some(flow);
        for (subject, request) in subjects.into_iter().zip(asked) {
            self.probes.add(Probe { subject, request, flow: flow.take() });
        }
        name
    }

    /// Another registry is about to have this token too.
    pub fn is_shared(&mut self, name: Name) {
        let subject = self.model.token(name).elsewhere.take();
        self.forget_subject(self.elsewhere.as_ref(), subject);
    }

    fn forget_subject(&self, probes: Option<&Probes>, subject: Option<Subject>) {
        let (Some(probes), Some(subject)) = (probes, subject) else { return };
        probes.remove(subject);
        self.history.with(|judge| judge.forget(subject));
    }

    /// Ends a token by a command that waits for all sidecars.
    pub async fn end_and_wait(&mut self, name: Name, end: Life, command: impl Future<Output = Waited>) -> Waited {
        let change = |model: &mut Model| model.token(name).life = end;
        let outcome = |waited: &Waited| if *waited == Waited::Unknown { Outcome::Unknown } else { Outcome::Done };
        let what = if end == Life::Deleted { "delete --wait" } else { "revoke --wait" };
        let waited = self.carry_out(what, change, command, outcome, |waited| format!("{waited:?}")).await;
        if waited == Waited::Vouched {
            let subjects = self.model.token(name).subjects;
            self.history.with(|judge| subjects.iter().for_each(|subject| judge.vouched(*subject, Instant::now())));
        }
        waited
    }

    pub async fn revoke(&mut self, names: &[Name]) -> Result<(), RegistryError> {
        let (registry, ids) = (self.registry.clone(), self.ids(names));
        let revoke = |model: &mut Model| {
            for name in names {
                let token = model.token(*name);
                token.life = if token.life == Life::Active { Life::Revoked } else { token.life };
            }
        };
        self.run("revoke", revoke, registry.revoke(&operator(), &ids, true)).await.map(drop)
    }

    pub async fn delete(&mut self, names: &[Name]) -> Result<(), RegistryError> {
        let (registry, ids) = (self.registry.clone(), self.ids(names));
        let delete = |model: &mut Model| names.iter().for_each(|name| model.token(*name).life = Life::Deleted);
        self.run("delete", delete, registry.delete(&operator(), &ids, true)).await.map(drop)
    }

    pub async fn reassign(&mut self, name: Name, to: &str) -> Result<(), RegistryError> {
        let (registry, ids) = (self.registry.clone(), self.ids(&[name]));
        let role = self.model.users[to].role;
        let reassign = |model: &mut Model| {
            let token = model.token(name);
            if token.owner != to {
                token.owner = to.to_owned();
                token.permissions = token.permissions.intersect(role.permissions());
            }
        };
        self.run("reassign", reassign, registry.reassign(&operator(), &ids, to, true)).await.map(drop)
    }

    pub async fn set_enabled(&mut self, user: &str, enabled: bool) -> Result<(), RegistryError> {
        let registry = self.registry.clone();
        let status = if enabled { UserStatus::Active } else { UserStatus::Disabled };
        let name = if enabled { "enable user" } else { "disable user" };
        let set = |model: &mut Model| model.users.get_mut(user).expect("a user of this oracle").enabled = enabled;
        self.touches(user);
        let done = self.run(name, set, registry.set_status(&operator(), user, status)).await.map(drop);
        self.touched(user, !enabled && done.is_ok());
        done
    }

    /// A command on this user begins.
    fn touches(&self, user: &str) {
        let tokens = self.model.tokens.values().filter(|token| token.owner == user);
        let subjects = tokens.flat_map(|token| token.subjects);
        self.history.with(|judge| subjects.for_each(|subject| judge.touched(subject, Instant::now())));
    }

    /// It has ended.
    fn touched(&mut self, user: &str, is_narrower: bool) {
        self.stirred.insert(user.to_owned(), Instant::now());
        match is_narrower {
            true => drop(self.narrowed.insert(user.to_owned(), Instant::now())),
            false => drop(self.narrowed.remove(user)),
        }
    }

    pub async fn set_role(&mut self, user: &str, role: Role) -> Result<(), RegistryError> {
        let registry = self.registry.clone();
        let set = |model: &mut Model| {
            let known = model.users.get_mut(user).expect("a user of this oracle");
            // Tokens that were given to a Viewer stay when a Viewer is made one again.
            if std::mem::replace(&mut known.role, role) != role {
                model.narrow(user, role);
            }
        };
        let before = self.model.users[user].role;
        self.touches(user);
        let done = self.run("set role", set, registry.set_role(&operator(), user, role)).await.map(drop);
        self.touched(user, role < before && done.is_ok());
        done
    }

    /// Commits to every user that had commands since then, and leaves each as it is: what sidecars saw of those users before,
    /// and the store may have lost, counts no more.
    pub async fn stir(&mut self, since: Instant) -> Result<(), RegistryError> {
        let stirred = self.stirred.iter().filter(|(_, at)| **at >= since).map(|(user, _)| user.clone());
        for user in stirred.collect::<Vec<_>>() {
            let Some(enabled) = self.model.users.get(&user).map(|user| user.enabled) else { continue };
            self.set_enabled(&user, !enabled).await?;
            self.set_enabled(&user, enabled).await?;
        }
        Ok(())
    }

    /// No longer asks about a token.
    pub fn forget(&mut self, name: Name) {
        let Some(token) = self.model.tokens.remove(&name) else { return };
        token.subjects.into_iter().for_each(|subject| self.forget_subject(Some(&self.probes), Some(subject)));
        self.forget_subject(self.elsewhere.as_ref(), token.elsewhere);
    }

    /// The request that asks for a configuration with this token.
    pub fn probe(&self, name: Name) -> Probe {
        let subject = self.model.tokens[&name].subjects[0];
        self.probes.all().into_iter().find(|probe| probe.subject == subject).expect("it is asked about")
    }

    /// The ids of these tokens.
    pub fn ids(&self, names: &[Name]) -> Vec<TokenId> {
        names.iter().filter_map(|name| self.model.tokens[name].id).collect()
    }

    /// Takes the store's word for what is so, and records in the history what it has lost since `since`. Commands whose
    /// outcome was not known are settled by it too.
    ///
    /// A revocation that was lost may yet be recalled by a sidecar that has seen it. With `settled`, that is over. Users who had
    /// commands since then may be seen so by some sidecars and otherwise by others, until [`Oracle::stir`].
    pub async fn read_back(&mut self, since: Instant, settled: bool) -> anyhow::Result<Lost> {
        let store = Arc::clone(self.registry.store());
        let asked = Instant::now();
        let found = self.stored(&*store).await?;
        self.history.with(|judge| judge.note(format!("read back by {}, settled: {settled}", self.prefix), asked));
        let mut lost = Lost::default();
        let before: BTreeMap<_, _> = self.model.verdicts().collect();
        let after: BTreeMap<_, _> = found.verdicts().collect();
        for (name, token) in &self.model.tokens {
            match (token.life, found.tokens[name].life) {
                (Life::Revoked | Life::Deleted, Life::Active) => lost.revocations.push(*name),
                (Life::Active, Life::Absent) => lost.creations.push(*name),
                _ => {}
            }
        }
        let unsure = self.unsure(&found, since);
        if !settled {
            lost.narrowings = self.lost_narrowings(&found, since);
        }
        self.history.with(|judge| {
            for (subject, mut now) in after {
                let right = judge.right(subject).unwrap_or(now);
                let ended = before.get(&subject) == Some(&Verdicts::GONE) || right.intersects(Verdicts::GONE);
                if ended && !settled {
                    now = now | Verdicts::GONE;
                }
                if unsure.contains(&subject) && now.intersects(Verdicts::SERVED | Verdicts::FORBIDDEN) {
                    now = now | Verdicts::REFUSED | Verdicts::FORBIDDEN;
                }
                // Back and forth: equal now does not mean that it was always so.
                if right != now || judge.changed_since(subject, since) {
                    judge.note(format!("read back: {subject:?} was {right}, is {now}"), asked);
                    judge.lost(subject, since, right | now, now, asked);
                }
            }
        });
        // What may yet be recalled stays revoked in the model until it is settled.
        for (name, token) in &mut self.model.tokens {
            let ended = matches!(token.life, Life::Revoked | Life::Deleted);
            let keep = token.life;
            token.clone_from(&found.tokens[name]);
            if ended && !settled {
                token.life = keep;
            }
        }
        self.model.users = found.users;
        self.in_doubt = false;
        Ok(lost)
    }

    /// What depends on a user who had commands since then.
    fn unsure(&self, found: &Model, since: Instant) -> Vec<Subject> {
        let is_stirred = |user: &String| self.stirred.get(user).is_some_and(|at| *at >= since);
        let tokens = self.model.tokens.iter();
        let tokens = tokens.filter(|(name, token)| is_stirred(&token.owner) || is_stirred(&found.tokens[name].owner));
        tokens.flat_map(|(_, token)| token.subjects).collect()
    }

    /// Records in the history what was narrowed with a user, and is no more. Returns how many users that were.
    fn lost_narrowings(&self, found: &Model, since: Instant) -> usize {
        let is_narrower = |user: &String| {
            let (Some(before), Some(after)) = (self.model.users.get(user), found.users.get(user)) else { return false };
            (before.enabled, before.role) != (after.enabled, after.role)
        };
        let lost = self.narrowed.iter().filter(|(user, at)| **at >= since && is_narrower(user));
        let lost: BTreeMap<_, _> = lost.map(|(user, at)| (user, *at)).collect();
        for (name, before) in &self.model.tokens {
            let after = &found.tokens[name];
            let Some(from) = lost.get(&before.owner).filter(|_| before.owner == after.owner) else { continue };
            for (kind, subject) in before.subjects.iter().enumerate() {
                let (before, after) = (self.model.verdict(before, kind), found.verdict(after, kind));
                if after == Verdicts::SERVED && (before == Verdicts::REFUSED || before == Verdicts::FORBIDDEN) {
                    self.history.with(|judge| judge.narrowed(*subject, *from));
                }
            }
        }
        lost.len()
    }

    /// What the store holds of this oracle.
    async fn stored(&self, store: &dyn Store) -> anyhow::Result<Model> {
        let mut found = self.model.clone();
        let mut owners = BTreeMap::new();
        for (name, user) in &mut found.users {
            let Some(stored) = store.user_by_name(name).await? else { continue };
            *user = User { role: stored.record.role, enabled: stored.record.status == UserStatus::Active };
            owners.insert(stored.record.id, name.clone());
        }
        found.users.retain(|name, _| owners.values().any(|known| known == name));
        let ids: Vec<_> = found.tokens.values().filter_map(|token| token.id).collect();
        let records = store.tokens_by_id(&ids).await?;
        for (token, record) in found.tokens.values_mut().filter(|token| token.id.is_some()).zip(records) {
            match record {
                Some(stored) => {
                    let record = stored.record;
                    token.owner = owners.get(&record.owner).cloned().unwrap_or_default();
                    token.permissions = record.permissions;
                    token.life = match record.state {
                        TokenState::Active => Life::Active,
                        TokenState::Revoked { .. } => Life::Revoked,
                    };
                }
                // Perhaps by a command whose outcome was not known.
                None if self.may_have_ended(token) => token.life = Life::Deleted,
                None => token.life = Life::Absent,
            }
        }
        Ok(found)
    }

    /// Whether a command on this token may have revoked or deleted it.
    fn may_have_ended(&self, token: &Token) -> bool {
        let right = self.history.with(|judge| judge.right(token.subjects[0]));
        right.is_some_and(|right| right.intersects(Verdicts::GONE))
    }
}

/// What a store had acknowledged and holds no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    pub revocations: Vec<Name>,
    pub creations: Vec<Name>,
    /// How many users were narrowed last of all.
    pub narrowings: usize,
}

/// Who acts: the operator at the command line.
pub fn operator() -> Actor {
    Actor::Operator("cli:test".to_owned())
}

/// A token to import that permits what an agent needs, and of which nothing but the digest is known.
pub fn agent_line(digest: Digest, user: &str) -> Box<ImportLine> {
    let (user, permissions) = (user.into(), PermissionSet::TELEGRAF_AGENT);
    let (hint, description) = ("".into(), "agent".into());
    Box::new(ImportLine { digest, hint, user, description, permissions, expires_at: None, past: None })
}
