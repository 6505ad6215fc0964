//! Bringing tokens from elsewhere. All lines are decided before any is imported; up to [`CHUNK`] of them are one batch,
//! more are committed chunk by chunk.

mod csv;
mod decide;
mod line;
mod past;
mod read;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::actor::{Authority, Right};
use super::draft::Draft;
use super::steps::CHUNK;
use super::{Actor, Attempts, ErrorKind, PAGE, PartlyDone, Registry, RegistryError, now};
use crate::audit::{Action, Subject};
use crate::store::Versioned;
use crate::token::{Digest, TokenEvent, TokenId, TokenRecord, UserRecord};

use decide::{Decision, Existing};

pub use line::{ImportLine, LineError, LineKind, parse_line};
pub use past::{Past, PastUsage, Told};
pub use read::{Lines, ReadError, read_lines};

pub(super) use past::MAX_AGENTS;

/// How an import goes about lines that are not simply new tokens. The default: each is a reason to import nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Lines that cannot be imported are left out.
    pub keep_going: bool,
    /// Tokens that exist are left as they are, unless they were revoked: so the same import can be repeated.
    pub skip_existing: bool,
}

/// What an import did.
#[derive(Debug, Default)]
pub struct Imported {
    /// The new tokens, each with its line.
    pub tokens: Vec<NewId>,
    /// Lines of tokens that existed.
    pub skipped: usize,
    /// How many of these have another user, description, expiry or other permissions than their line.
    pub differing: usize,
    /// The lines that were left out, in order.
    pub refused: Vec<RefusedLine>,
}

impl Imported {
    fn add(&mut self, mut more: Self) {
        self.tokens.append(&mut more.tokens);
        self.skipped += more.skipped;
        self.differing += more.differing;
        self.refused.append(&mut more.refused);
    }
}

/// A token that was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewId {
    /// The number of its line, from 1.
    pub line: usize,
    /// Its id.
    pub id: TokenId,
}

/// A line that was left out.
#[derive(Debug)]
pub struct RefusedLine {
    /// Its number, from 1.
    pub line: usize,
    /// Why.
    pub reason: LineError,
}

/// Why not all was imported; nothing was, except after [`ImportError::Interrupted`].
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Some lines cannot be imported, and all or none was asked for.
    #[error("{} of {lines} lines cannot be imported, so none was; fix them, or use --keep-going", refused.len())]
    Refused {
        /// Which ones, in order.
        refused: Vec<RefusedLine>,
        /// How many lines there were.
        lines: usize,
    },
    /// It failed after some chunks of lines.
    #[error("{error}")]
    Interrupted {
        /// What was imported and refused before.
        imported: Box<Imported>,
        /// [`RegistryError::Interrupted`], with the cause.
        error: RegistryError,
    },
    /// The import as a whole was refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl ImportError {
    /// What a caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } => ErrorKind::Invalid,
            Self::Interrupted { error, .. } | Self::Registry(error) => error.kind(),
        }
    }
}

/// Why the lines of one batch were not imported.
struct ChunkError {
    /// The one that is wrong, if it is one of them.
    line: Option<usize>,
    error: RegistryError,
}

impl From<RegistryError> for ChunkError {
    fn from(error: RegistryError) -> Self {
        Self { line: None, error }
    }
}

/// A line and its number. Boxed, so that a million of them need no second place while their list grows.
pub type Numbered = (usize, Box<ImportLine>);

impl Registry {
    /// Imports tokens, by the rules for making them. With `keep_going`, lines that cannot be imported are left out;
    /// otherwise one of them is enough for nothing to be imported.
    ///
    /// # Errors
    /// [`ImportError::Refused`] names every line that cannot be imported. [`ImportError::Interrupted`] says which of
    /// more than a chunk of lines are imported: with `skip_existing`, the same import brings the others.
    pub async fn import(
        &self,
        actor: &Actor,
        lines: Vec<Numbered>,
        options: ImportOptions,
    ) -> Result<Imported, ImportError> {
        let imported = self.try_import(actor, lines, options).await;
        // Lines that are wrong are a file that is wrong, and no attempt at anything; one that the actor may not import is.
        let refused = match &imported {
            Err(ImportError::Registry(error)) => Some(error),
            Err(ImportError::Refused { refused, .. }) => forbidden(refused),
            Err(ImportError::Interrupted { imported, .. }) => forbidden(&imported.refused),
            Ok(imported) => forbidden(&imported.refused),
        };
        if let Some(error) = refused {
            self.note_refusal(actor, Action::TokenImport, Subject::default(), error).await;
        }
        imported
    }

    async fn try_import(
        &self,
        actor: &Actor,
        lines: Vec<Numbered>,
        options: ImportOptions,
    ) -> Result<Imported, ImportError> {
        let authority = self.authority(actor).await?;
        authority.check(Right::ManageTokens)?;
        let count = lines.len();
        let mut users = self.read_users(&authority, lines.iter()).await?;
        let (wanted, mut imported) = self.sort_lines(&authority, lines, &users, options).await?;
        if !imported.refused.is_empty() && !options.keep_going {
            return Err(ImportError::Refused { refused: imported.refused, lines: count });
        }
        let (all, mut wanted) = (wanted.len(), wanted.into_iter());
        while let Some(chunk) = next_lines(&mut wanted, CHUNK) {
            match self.import_chunk(actor, &chunk, &mut users, options).await {
                Ok(more) => imported.add(more),
                Err(ChunkError { line: Some(line), error }) if imported.tokens.is_empty() => {
                    let refused = vec![RefusedLine { line, reason: error.into() }];
                    return Err(ImportError::Refused { refused, lines: count });
                }
                Err(ChunkError { error, .. }) if imported.tokens.is_empty() => return Err(error.into()),
                Err(ChunkError { error, .. }) => {
                    let done = PartlyDone::Imported(imported.tokens.len(), all);
                    imported.refused.sort_by_key(|refused| refused.line);
                    let (imported, error) = (Box::new(imported), RegistryError::interrupted(done, error));
                    return Err(ImportError::Interrupted { imported, error });
                }
            }
        }
        imported.refused.sort_by_key(|refused| refused.line);
        Ok(imported)
    }

    /// Separates the lines to import from those that are skipped or refused. The records are made later, chunk by chunk:
    /// those of a million lines would be half a gigabyte.
    async fn sort_lines(
        &self,
        authority: &Authority,
        lines: Vec<Numbered>,
        users: &Users,
        options: ImportOptions,
    ) -> Result<(Vec<Numbered>, Imported), RegistryError> {
        let now = now();
        let mut sorter = Sorter::of(&lines);
        let mut lines = lines.into_iter();
        while let Some(page) = next_lines(&mut lines, PAGE) {
            let held = self.read_held(&page).await?;
            let existing = Existing { authority, users, held: &held, lifetime: self.lifetime_for(authority), now };
            page.into_iter().for_each(|line| sorter.add(line, &existing, options));
        }
        Ok((sorter.wanted, sorter.others))
    }

    /// Imports some lines in one batch. What changed since they were found good is noticed here.
    async fn import_chunk(
        &self,
        actor: &Actor,
        lines: &[Numbered],
        users: &mut Users,
        options: ImportOptions,
    ) -> Result<Imported, ChunkError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::ManageTokens)?;
            let held = self.read_held(lines).await?;
            let lifetime = self.lifetime_for(&authority);
            let existing = Existing { authority: &authority, users, held: &held, lifetime, now: now() };
            let mut draft = Draft::new(&authority, existing.now);
            let mut imported = Imported::default();
            for (number, line) in lines {
                match existing.decide(line, options) {
                    Ok(Decision::Import(owner, record)) => {
                        draft.require_user(owner);
                        imported.tokens.push(NewId { line: *number, id: record.id });
                        match &line.past {
                            None => draft.create_token(*record, TokenEvent::Imported),
                            Some(past) => {
                                let lost = line.permissions.without(record.permissions);
                                let told = past.told().map_err(RegistryError::PastUnread)?;
                                draft.restore_token(*record, &told.history, lost);
                            }
                        }
                    }
                    Ok(Decision::Skip { differs }) => imported.skip(differs),
                    Err(error) if options.keep_going => {
                        imported.refused.push(RefusedLine { line: *number, reason: error.into() });
                    }
                    Err(error) => return Err(ChunkError { line: Some(*number), error }),
                }
            }
            match self.commit(draft.into_batch()).await {
                Ok(true) => {
                    self.restore_usage(lines, &imported).await;
                    return Ok(imported);
                }
                // The latter: somebody else's token by now, or no more. Reading again shows which.
                Ok(false) | Err(RegistryError::DigestTaken(_) | RegistryError::DigestRetired(_)) => {}
                Err(error) => return Err(error.into()),
            }
            lines.iter().for_each(|(_, line)| _ = users.remove(&*line.user));
            users.extend(self.read_users(&authority, lines.iter()).await?);
        }
    }

    /// What is known of the use of the tokens that were imported. They are there, whether that is or not.
    async fn restore_usage(&self, lines: &[Numbered], imported: &Imported) {
        let ids: HashSet<TokenId> = imported.tokens.iter().map(|token| token.id).collect();
        let pasts = lines.iter().filter_map(|(_, line)| line.past.as_deref()).filter(|past| ids.contains(&past.id));
        // It was read for the record a moment ago.
        let usage = |past: &Past| Some((past.id, past.told().ok()?.usage.clone()?));
        let used: Vec<_> = pasts.filter_map(usage).collect();
        if used.is_empty() {
            return;
        }
        let recorded = async {
            let now = self.store.usage(&[]).await?.now;
            let uses = used.iter().map(|(id, usage)| usage.of(*id, now));
            self.store.record(&uses.collect::<Vec<_>>()).await
        };
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "the tokens are imported, and when they were used is not");
        }
    }

    /// How long imported tokens may live: whoever is at the store itself brings tokens as they are, and nobody else gets around
    /// the policy for new ones by importing them.
    fn lifetime_for(&self, authority: &Authority) -> Option<Duration> {
        self.max_token_lifetime.filter(|_| authority.token().is_some())
    }

    /// Reads the users that lines name, each once: a few by name, more of them by the page.
    async fn read_users<'a>(
        &self,
        authority: &Authority,
        lines: impl Iterator<Item = &'a Numbered> + Send,
    ) -> Result<Users, RegistryError> {
        // Whether others exist is not for everybody to know.
        let may_be_named = |name: &&str| authority.check_makes_tokens_for(name).is_ok();
        let mut names: BTreeSet<&str> = lines.map(|(_, line)| &*line.user).filter(may_be_named).collect();
        let mut users = Users::new();
        if names.len() <= FEW_USERS {
            for name in names {
                match self.find_user(authority, name).await {
                    Ok(user) => _ = users.insert(name.to_owned(), user),
                    Err(RegistryError::NoSuchUser(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(users);
        }
        let mut before = None;
        while !names.is_empty() {
            let page = self.store.users(before, PAGE).await?;
            before = page.last().map(|user| user.record.id);
            if before.is_none() {
                break;
            }
            let named = page.into_iter().filter(|user| names.remove(user.record.name.as_str()));
            users.extend(named.map(|user| (user.record.name.clone(), user)));
        }
        Ok(users)
    }

    /// Reads what the store holds under the digests of some lines.
    async fn read_held(&self, lines: &[Numbered]) -> Result<Held, RegistryError> {
        let id = |line: &ImportLine| Some(line.past.as_ref()?.id);
        let (digests, ids): (Vec<_>, Vec<_>) = lines.iter().map(|(_, line)| (line.digest, id(line))).unzip();
        let ids: Vec<TokenId> = ids.into_iter().flatten().collect();
        let tokens = self.store.tokens_by_digest(&digests).await?;
        let retired = self.store.retired(&digests).await?;
        let ids = if ids.is_empty() { Vec::new() } else { self.store.tokens_by_id(&ids).await? };
        let tokens = tokens.into_iter().flatten().map(|token| (token.record.digest, token.record)).collect();
        let retired = digests.into_iter().zip(retired).filter_map(|(digest, is)| is.then_some(digest)).collect();
        let ids = ids.into_iter().flatten().map(|token| token.record.id).collect();
        Ok(Held { tokens, retired, ids })
    }
}

/// The first reason that is what the actor may not do.
fn forbidden(refused: &[RefusedLine]) -> Option<&RegistryError> {
    refused.iter().find_map(|refused| match &refused.reason {
        LineError::Refused(error) if error.kind() == ErrorKind::Forbidden => Some(error),
        _ => None,
    })
}

/// The next lines, at most so many.
fn next_lines(lines: &mut impl Iterator<Item = Numbered>, count: usize) -> Option<Vec<Numbered>> {
    let next: Vec<_> = lines.take(count).collect();
    (!next.is_empty()).then_some(next)
}

/// Users looked up by their names; more are read page by page.
const FEW_USERS: usize = 10;

/// Users by name.
type Users = HashMap<String, Versioned<UserRecord>>;

/// What is under the digests of some lines.
#[derive(Debug, Default)]
struct Held {
    tokens: HashMap<Digest, TokenRecord>,
    /// Those of deleted tokens.
    retired: HashSet<Digest>,
    /// Ids of pasts that tokens here have.
    ids: HashSet<TokenId>,
}

impl Imported {
    fn skip(&mut self, differs: bool) {
        self.skipped += 1;
        self.differing += usize::from(differs);
    }
}

/// The lines with a key that a line before has, and the first one that has it. Where lines are many, a map of all keys
/// would be most of what they take.
fn repeated<K: Ord>(lines: &[Numbered], key: impl Fn(&ImportLine) -> Option<K>) -> HashMap<usize, usize> {
    let of = |at: &usize| key(&lines[*at].1);
    let mut order: Vec<usize> = (0..lines.len()).filter(|at| of(at).is_some()).collect();
    order.sort_unstable_by(|a, b| of(a).cmp(&of(b)).then(a.cmp(b)));
    let groups = order.chunk_by(|a, b| of(a) == of(b)).filter(|group| group.len() > 1);
    groups.flat_map(|group| group[1..].iter().map(|at| (lines[*at].0, lines[group[0]].0))).collect()
}

/// Lines by what comes of them.
struct Sorter {
    /// Lines whose digest, or id, another one before them has, and that one.
    digests: HashMap<usize, usize>,
    ids: HashMap<usize, usize>,
    wanted: Vec<Numbered>,
    /// Those that are skipped or refused.
    others: Imported,
}

impl Sorter {
    fn of(lines: &[Numbered]) -> Self {
        let digests = repeated(lines, |line| Some(*line.digest.as_bytes()));
        let ids = repeated(lines, |line| line.past.as_ref().map(|past| past.id));
        Self { digests, ids, wanted: Vec::with_capacity(lines.len()), others: Imported::default() }
    }

    fn add(&mut self, (number, line): Numbered, existing: &Existing<'_>, options: ImportOptions) {
        let decision = match (self.digests.get(&number), self.ids.get(&number)) {
            (Some(first), _) => Err(LineError::Repeated(*first)),
            (None, Some(first)) => Err(LineError::RepeatedId(*first)),
            (None, None) => existing.decide(&line, options).map_err(LineError::Refused),
        };
        match decision {
            Ok(Decision::Import(..)) => self.wanted.push((number, line)),
            Ok(Decision::Skip { differs }) => self.others.skip(differs),
            Err(reason) => self.others.refused.push(RefusedLine { line: number, reason }),
        }
    }
}

#[cfg(test)]
mod tests;
