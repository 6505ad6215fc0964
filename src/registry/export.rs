//! Tokens on their way elsewhere, as the lines that [`import`](super::import) reads.
//!
//! Pages are read one after the other, the newest tokens first, while others go on committing. Each line tells of its token
//! as it was at one moment: its record and its history belong together. What is made meanwhile is not among them, and what
//! is revoked or deleted after its page was read is told as it was before; whoever needs to know compares the store's
//! positions before and after.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

use super::actor::Right;
use super::import::{MAX_AGENTS, PastUsage};
use super::{Actor, Attempts, PAGE, Registry, RegistryError, now};
use crate::audit::{Action, Subject};
use crate::store::{StoreError, TokenFilter, Versioned};
use crate::token::{
    Action as TokenAction, Digest, HistoryEntry, Permission, PermissionSet, Resource, TokenId, TokenRecord, TokenState,
    UserId, UserRecord, UserStatus,
};

/// Histories that are read at once. More of them would cost a thread each where the store is a file: of a million tokens
/// 730 MiB with all of a page, 185 MiB with these.
const TOGETHER: usize = 4;

/// A token as a line. Its fields are those of [`ImportLine`](super::ImportLine).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportLine {
    digest: Digest,
    user: String,
    description: String,
    permissions: PermissionSet,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    past: Option<PastView>,
}

/// What a line has of a token's past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PastView {
    id: TokenId,
    state: &'static str,
    created_at: Timestamp,
    created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predecessor: Option<TokenId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<TokenId>,
    history: Vec<HistoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<PastUsage>,
}

/// What is not in the lines that were read so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Tokens that do not work: revoked, expired, of a disabled user, or without a permission.
    pub tokens: u64,
    /// Tokens with permissions that this version does not know.
    pub permissions: u64,
}

/// An export under way.
pub struct Export {
    registry: Registry,
    users: HashMap<UserId, UserRecord>,
    full: bool,
    before: Option<TokenId>,
    now: Timestamp,
    /// What is not in the lines.
    pub left_out: LeftOut,
}

impl Registry {
    /// Begins to export tokens: those that work now, or with `full` every one, with its state and its history.
    ///
    /// # Errors
    /// When the actor may not, and when the store fails.
    pub async fn export(&self, actor: &Actor, full: bool) -> Result<Export, RegistryError> {
        self.may_export(actor).await?;
        let (mut users, mut before) = (HashMap::new(), None);
        loop {
            let page = self.store.users(before, PAGE).await?;
            before = page.last().map(|user| user.record.id);
            if before.is_none() {
                break;
            }
            users.extend(page.into_iter().map(|user| (user.record.id, user.record)));
        }
        Ok(Export { users, ..Export::new(self.clone(), full, None) })
    }

    /// One page of such an export: the lines of at most `limit` tokens made before the token `before`, and where the next
    /// page begins, if there is one.
    ///
    /// # Errors
    /// When the actor may not, and when the store fails.
    pub async fn export_page(
        &self,
        actor: &Actor,
        full: bool,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<ExportPage, RegistryError> {
        self.may_export(actor).await?;
        self.note_done(actor, Action::TokenExport).await;
        let mut export = Export::new(self.clone(), full, before);
        let page = self.store.tokens(TokenFilter::default(), before, limit).await?;
        let next = page.last().map(|token| token.record.id).filter(|_| page.len() == limit);
        let lines = export.lines(page).await?;
        Ok(ExportPage { lines, next, left_out: export.left_out })
    }

    /// Whoever has the digests can have the tokens let in elsewhere, so they are for those who may do anything to tokens.
    async fn may_export(&self, actor: &Actor) -> Result<(), RegistryError> {
        let permissions = [TokenAction::Read, TokenAction::Write, TokenAction::Delete];
        let all = permissions.into_iter().filter_map(|action| Permission::new(Resource::Tokens, action)).collect();
        let allowed = self.authority(actor).await.and_then(|authority| {
            authority.check(Right::MoveTokens)?;
            authority.check_permits(all)
        });
        self.observed(actor, Action::TokenExport, Subject::default(), allowed).await
    }
}

/// A page of an export.
pub struct ExportPage {
    /// Its lines, the newest token first.
    pub lines: Vec<ExportLine>,
    /// The token before which the next page begins; `None`: it is the last one.
    pub next: Option<TokenId>,
    /// What is not in the lines.
    pub left_out: LeftOut,
}

impl Export {
    fn new(registry: Registry, full: bool, before: Option<TokenId>) -> Self {
        Self { registry, users: HashMap::new(), full, before, now: now(), left_out: LeftOut::default() }
    }

    /// The next lines, perhaps none of a page; `None`: there are no more.
    ///
    /// # Errors
    /// When the store fails. The same page is read again by the next call.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ExportLine>>, RegistryError> {
        let page = self.registry.store.tokens(TokenFilter::default(), self.before, PAGE).await?;
        let Some(last) = page.last().map(|token| token.record.id) else { return Ok(None) };
        let lines = self.lines(page).await?;
        self.before = Some(last);
        Ok(Some(lines))
    }

    async fn lines(&mut self, page: Vec<Versioned<TokenRecord>>) -> Result<Vec<ExportLine>, RegistryError> {
        let tokens = match self.full {
            true => self.with_histories(page).await?,
            false => page.into_iter().map(|token| (token.record, Vec::new())).collect(),
        };
        let mut usage = match self.full {
            true => self.usage(tokens.iter().map(|(record, _)| record.id).collect()).await?,
            false => HashMap::new(),
        };
        let mut lines = Vec::with_capacity(tokens.len());
        for (record, history) in tokens {
            // A user who is not there was deleted, and the token with them.
            if let Some(user) = self.user(record.owner).await? {
                let usage = usage.remove(&record.id);
                lines.extend(self.line(record, user, history, usage));
            }
        }
        Ok(lines)
    }

    /// Each record with the history that belongs to it. One that changes in between is read again.
    async fn with_histories(
        &self,
        mut page: Vec<Versioned<TokenRecord>>,
    ) -> Result<Vec<(TokenRecord, Vec<HistoryEntry>)>, RegistryError> {
        let (mut done, mut attempts) = (Vec::with_capacity(page.len()), Attempts::default());
        while !page.is_empty() {
            attempts.begin().await?;
            let ids: Vec<TokenId> = page.iter().map(|token| token.record.id).collect();
            let histories = self.histories(&ids).await?;
            let again = self.registry.store.tokens_by_id(&ids).await?;
            let mut changed = Vec::new();
            for ((token, history), again) in page.into_iter().zip(histories).zip(again) {
                match again {
                    Some(again) if again.version == token.version => done.push((token.record, history)),
                    Some(again) => changed.push(again),
                    None => {}
                }
            }
            page = changed;
        }
        done.sort_by_key(|(record, _)| std::cmp::Reverse(record.id));
        Ok(done)
    }

    /// How some tokens were used, those that were.
    async fn usage(&self, ids: Vec<TokenId>) -> Result<HashMap<TokenId, PastUsage>, StoreError> {
        let store = &self.registry.store;
        let usages = store.usage(&ids).await?.tokens;
        let used = ids.into_iter().zip(usages).filter_map(|(id, usage)| Some((id, usage.last_used?)));
        let (ids, times): (Vec<_>, Vec<_>) = used.unzip();
        let agents = store.agents(&ids, MAX_AGENTS).await?;
        let usage = times.into_iter().zip(agents);
        Ok(ids.into_iter().zip(usage.map(|(last_used_at, agents)| PastUsage { last_used_at, agents })).collect())
    }

    /// The histories of some tokens, in their order. A few requests go out together, since each for itself is a round trip.
    async fn histories(&self, ids: &[TokenId]) -> Result<Vec<Vec<HistoryEntry>>, StoreError> {
        let mut histories = Vec::with_capacity(ids.len());
        for ids in ids.chunks(TOGETHER) {
            let read = |id| {
                let store = self.registry.store.clone();
                tokio::spawn(async move { store.history(id).await })
            };
            let reads: Vec<_> = ids.iter().copied().map(read).collect();
            for read in reads {
                histories.push(read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?);
            }
        }
        Ok(histories)
    }

    /// A token's owner, also one who is newer than the export.
    async fn user(&mut self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        if !self.users.contains_key(&id)
            && let Some(user) = self.registry.store.user(id).await?
        {
            self.users.insert(id, user.record);
        }
        Ok(self.users.get(&id).cloned())
    }

    /// `None`: it is left out.
    fn line(
        &mut self,
        record: TokenRecord,
        owner: UserRecord,
        history: Vec<HistoryEntry>,
        usage: Option<PastUsage>,
    ) -> Option<ExportLine> {
        let is_expired = record.is_expired(self.now);
        let TokenRecord { id, digest, description, permissions, state, hint, created_at, created_by, .. } = record;
        let TokenRecord { expires_at, predecessor, successor, .. } = record;
        let is_known = permissions.without(PermissionSet::all()).is_empty();
        let works = state == TokenState::Active
            && !is_expired
            && owner.status == UserStatus::Active
            && permissions.iter().next().is_some();
        if !self.full && !works {
            self.left_out.tokens += 1;
            return None;
        }
        self.left_out.permissions += u64::from(!is_known);
        let past = self.full.then(|| {
            let (state, revoked_at, revoked_by) = match state {
                TokenState::Active => ("active", None, None),
                TokenState::Revoked { at, by } => ("revoked", Some(at), Some(by)),
            };
            PastView {
                id,
                state,
                created_at,
                created_by,
                revoked_at,
                revoked_by,
                predecessor,
                successor,
                history,
                usage,
            }
        });
        Some(ExportLine { digest, user: owner.name, description, permissions, expires_at, hint, past })
    }
}
