//! All tokens as lists sort and search them, in memory while somebody looks at lists.
//!
//! Stores find tokens by owner and state, in the order of their ids. For any other order, and for any text, all records would be
//! read for each page. So they are read once, and kept up by the change log; meanwhile the store gives the list that it has. What a list shows are the records as they are when
//! it is shown: this says only which. Where it is behind, a row is missing; none is wrong.
//!
//! The log is about what replicas hold. Of revoked tokens that are deleted or imported it says nothing: then there are more or
//! fewer than here, and all are read again.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::mark::{Key, Mark, Part, Sort, SortKey};
use super::{Actor, PAGE, Registry, RegistryError, TokenQuery};
use crate::clock::Instant;
use crate::store::{Changes, LogEntry, Position, StateFilter, Store, StoreError, Subject, TokenFilter, Versioned};
use crate::token::{Digest, PermissionSet, TokenId, TokenRecord, UserId, UserRecord};

/// It is dropped when nobody has asked for so long.
const KEPT: Duration = Duration::from_mins(10);

/// What is known of the last uses is as old as this at most. Sidecars tell them less often.
const USES_KEPT: Duration = Duration::from_secs(5);

/// A part of a list.
#[derive(Debug, Default)]
pub struct Listed {
    /// Each with its owner.
    pub tokens: Vec<(TokenRecord, UserRecord)>,
    /// How many the whole list has.
    pub total: usize,
    /// How many of them come before.
    pub skipped: usize,
    /// Where the part begins and ends; `None`: there is nothing in it.
    pub ends: Option<[Mark; 2]>,
}

impl Registry {
    /// Tokens that the actor may see in this order: a part of at most `limit`. None is looked for by its digest.
    ///
    /// # Errors
    /// As for [`Registry::tokens`].
    pub async fn listed(
        &self,
        actor: &Actor,
        query: &TokenQuery,
        sort: Sort,
        part: &Part,
        limit: usize,
    ) -> Result<Listed, RegistryError> {
        let authority = self.authority(actor).await?;
        let Some(filter) = self.visible(&authority, query).await? else { return Ok(Listed::default()) };
        let is_stores = sort == Sort::default() && *query == TokenQuery::default() && *part == Part::First;
        let (found, Found { total, skipped, ends, .. }) = if is_stores && !self.catalogue.is_here(&self.store) {
            let tokens = self.store.tokens(filter, None, limit).await?;
            let total = self.store.count_tokens(filter).await?.try_into().unwrap_or(usize::MAX);
            let mark = |token: &Versioned<TokenRecord>| Mark::new(token.record.id, Key::Id);
            let ends = tokens.first().zip(tokens.last()).map(|(first, last)| [mark(first), mark(last)]);
            (tokens, Found { total, skipped: 0, ends, ids: Vec::new() })
        } else {
            self.in_catalogue(filter, query, sort, part, limit).await?
        };
        let owners = self.users_by_id(found.iter().map(|token| token.record.owner)).await?;
        let with_owner = |token: Versioned<TokenRecord>| {
            let owner = owners.get(&token.record.owner)?.record.clone();
            let is_seen = authority.sees_tokens_of(owner.id) && query.fits(&token.record, &owner);
            is_seen.then_some((token.record, owner))
        };
        Ok(Listed { tokens: found.into_iter().filter_map(with_owner).collect(), total, skipped, ends })
    }

    async fn in_catalogue(
        &self,
        filter: TokenFilter,
        query: &TokenQuery,
        sort: Sort,
        part: &Part,
        limit: usize,
    ) -> Result<(Vec<Versioned<TokenRecord>>, Found), RegistryError> {
        let with_uses = filter.unused.is_some() || sort.by == SortKey::LastUsed;
        let catalogue = self.catalogue.current(&self.store, with_uses).await?;
        let (asked, part) = (query.clone(), part.clone());
        // A hundred thousand are gone through in milliseconds, for which no request to the proxy is to wait.
        let found = spawn_blocking(move || catalogue.find(filter, &asked, sort, &part, limit)).await;
        let found = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        Ok((self.store.tokens_by_id(&found.ids).await?.into_iter().flatten().collect(), found))
    }
}

/// A part of a list, by ids.
struct Found {
    ids: Vec<TokenId>,
    total: usize,
    skipped: usize,
    ends: Option<[Mark; 2]>,
}

/// Where a catalogue is while it is wanted; clones of a registry share it.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Mutex<Option<Kept>>>);

struct Kept {
    catalogue: Arc<Catalogue>,
    asked: Instant,
}

impl Shelf {
    /// Whether it is there. If not, it is read for who asks next, and nobody waits for that.
    fn is_here(&self, store: &Arc<dyn Store>) -> bool {
        let Ok(place) = self.0.try_lock() else { return false };
        if place.is_none() {
            let (shelf, store) = (self.clone(), Arc::clone(store));
            tokio::spawn(async move {
                if let Err(error) = shelf.current(&store, false).await {
                    tracing::debug!(%error, "the catalogue of lists was not read: the next list reads it");
                }
            });
        }
        place.is_some()
    }

    /// The catalogue as of now. One at a time reads it, and the others wait for that.
    async fn current(&self, store: &Arc<dyn Store>, with_uses: bool) -> Result<Arc<Catalogue>, StoreError> {
        let mut place = self.0.lock().await;
        let found = match place.take() {
            Some(kept) => Catalogue::follow(kept.catalogue, store).await?,
            None => {
                self.drop_when_idle();
                None
            }
        };
        let mut catalogue = match found {
            Some(catalogue) => catalogue,
            None => Arc::new(Catalogue::read(store).await?),
        };
        let is_known = || catalogue.uses.as_ref().is_some_and(|(_, at)| at.elapsed() < USES_KEPT);
        if with_uses && !is_known() {
            let ids: Vec<_> = catalogue.entries.iter().map(|entry| entry.id).collect();
            let used = store.last_used(&ids).await?;
            let used = ids.into_iter().zip(used).filter_map(|(id, at)| Some((id, at?))).collect();
            Arc::make_mut(&mut catalogue).uses = Some((Arc::new(used), Instant::now()));
        }
        *place = Some(Kept { catalogue: Arc::clone(&catalogue), asked: Instant::now() });
        Ok(catalogue)
    }

    /// Ends with the catalogue, or with the registry that it is of.
    fn drop_when_idle(&self) {
        let shelf = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEPT).await;
                let Some(shelf) = shelf.upgrade() else { return };
                let mut place = shelf.lock().await;
                if place.as_ref().is_none_or(|kept| kept.asked.elapsed() >= KEPT) {
                    *place = None;
                    return;
                }
            }
        });
    }
}

/// What lists sort and search by, of every token.
#[derive(Debug, Clone)]
struct Catalogue {
    /// The store's, which it shows.
    position: Position,
    /// In the order of ids.
    entries: Vec<Entry>,
    /// Names of owners, in lower case.
    names: HashMap<UserId, Box<str>>,
    /// When tokens were last used, those that were, and as of when.
    uses: Option<(Arc<HashMap<TokenId, Timestamp>>, Instant)>,
}

/// A token.
#[derive(Debug, Clone)]
struct Entry {
    id: TokenId,
    owner: UserId,
    /// The first bytes of its digest, by which the log names it.
    digest: [u8; 8],
    permissions: PermissionSet,
    is_active: bool,
    expires_at: Option<Timestamp>,
    /// Description and hint, in lower case.
    text: Box<str>,
}

impl Entry {
    fn of(token: &TokenRecord) -> Self {
        Self {
            id: token.id,
            owner: token.owner,
            digest: short(&token.digest),
            permissions: token.permissions,
            is_active: token.is_active(),
            expires_at: token.expires_at,
            text: format!("{}\n{}", token.description, token.hint).to_lowercase().into(),
        }
    }

    fn is_in_state(&self, state: StateFilter) -> bool {
        let is_expired = |now: i64| self.expires_at.is_some_and(|at| at.as_second() <= now);
        match state {
            StateFilter::Revoked => !self.is_active,
            StateFilter::Active { now } => self.is_active && !is_expired(now),
            StateFilter::Expired { now } => self.is_active && is_expired(now),
        }
    }
}

fn short(digest: &Digest) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest.as_bytes()[..8]);
    short
}

impl Catalogue {
    /// Reads all of it.
    async fn read(store: &Arc<dyn Store>) -> Result<Self, StoreError> {
        let position = store.position().await?;
        let mut catalogue = Self { position, entries: Vec::new(), names: HashMap::new(), uses: None };
        let mut before = None;
        loop {
            let page = store.tokens(TokenFilter::default(), before, PAGE).await?;
            before = page.last().map(|token| token.record.id);
            catalogue.entries.extend(page.iter().map(|token| Entry::of(&token.record)));
            if page.len() < PAGE {
                break;
            }
        }
        catalogue.entries.reverse();
        catalogue.learn_names(store).await?;
        Ok(catalogue)
    }

    /// The same as of now; `None`: it has to be read.
    async fn follow(mut held: Arc<Self>, store: &Arc<dyn Store>) -> Result<Option<Arc<Self>>, StoreError> {
        let position = store.position().await?;
        while held.position != position {
            let entries = match store.changes(held.position.revision).await? {
                Changes::Entries(entries) | Changes::Page(entries) if position.epoch == held.position.epoch => entries,
                _ => return Ok(None),
            };
            // Whoever lost writes may have made others in their place; and nothing new is what comes of another past.
            let follows = |first: &LogEntry| first.follows(held.position.head, held.position.revision);
            if !entries.first().is_some_and(follows) {
                return Ok(None);
            }
            Arc::make_mut(&mut held).apply(store, &entries).await?;
            if held.position.revision >= position.revision {
                break;
            }
        }
        let count = store.count_tokens(TokenFilter::default()).await?;
        Ok((count == held.entries.len() as u64).then_some(held))
    }

    async fn apply(&mut self, store: &Arc<dyn Store>, entries: &[LogEntry]) -> Result<(), StoreError> {
        let changed: HashSet<Digest> = entries
            .iter()
            .flat_map(|entry| &entry.changes)
            .filter_map(|change| match change.subject() {
                Subject::Token(digest) => Some(digest),
                Subject::User(_) => None,
            })
            .collect();
        let digests: Vec<_> = changed.into_iter().collect();
        let found: Vec<_> = store.tokens_by_digest(&digests).await?.into_iter().flatten().collect();
        let gone: HashSet<[u8; 8]> = digests.iter().map(short).collect();
        self.entries.retain(|entry| !gone.contains(&entry.digest));
        self.entries.extend(found.iter().map(|token| Entry::of(&token.record)));
        self.entries.sort_unstable_by_key(|entry| entry.id);
        if let Some(last) = entries.last() {
            self.position = last.committed(self.position.epoch).position;
        }
        self.learn_names(store).await
    }

    /// Names never change.
    async fn learn_names(&mut self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let owners: HashSet<UserId> = self.entries.iter().map(|entry| entry.owner).collect();
        for owner in owners {
            if !self.names.contains_key(&owner)
                && let Some(user) = store.user(owner).await?
            {
                self.names.insert(owner, user.record.name.to_lowercase().into());
            }
        }
        Ok(())
    }

    /// A part of a list.
    fn find(&self, filter: TokenFilter, query: &TokenQuery, sort: Sort, part: &Part, limit: usize) -> Found {
        let text = query.text.as_ref().map(|text| text.to_lowercase());
        let is_meant = |entry: &&Entry| {
            filter.owner.is_none_or(|owner| owner == entry.owner)
                && filter.state.is_none_or(|state| entry.is_in_state(state))
                && filter.unused.is_none_or(|unused| unused.has(entry.id, self.last_used(entry)))
                && query.permission.is_none_or(|permission| entry.permissions.contains(permission))
                && query.expires_before.is_none_or(|then| entry.expires_at.is_some_and(|at| at < then))
                && text.as_ref().is_none_or(|text| self.has_text(entry, text))
        };
        let mut found: Vec<&Entry> = self.entries.iter().filter(is_meant).collect();
        let total = found.len();
        let is = |entry: &Entry, order, mark: &Mark| sort.compare(self.place(entry, sort.by), mark.place()) == order;
        let skipped = match part {
            Part::First => 0,
            Part::After(mark) => found.iter().filter(|entry| !is(entry, Ordering::Greater, mark)).count(),
            Part::Before(mark) => {
                found.iter().filter(|entry| is(entry, Ordering::Less, mark)).count().saturating_sub(limit)
            }
        };
        // Where nothing follows any more, the end.
        let skipped = if skipped < total { skipped } else { total.saturating_sub(limit) };
        let end = skipped.saturating_add(limit).min(total);
        let order = |a: &&Entry, b: &&Entry| sort.compare(self.place(a, sort.by), self.place(b, sort.by));
        // Only what is shown has to be in order, and the rest on its side of it.
        if end < total {
            found.select_nth_unstable_by(end, order);
        }
        found.truncate(end);
        if skipped > 0 && skipped < end {
            found.select_nth_unstable_by(skipped, order);
        }
        let shown = found.get_mut(skipped..).unwrap_or_default();
        shown.sort_unstable_by(order);
        let mark = |entry: &&Entry| Mark::new(entry.id, self.key(entry, sort.by));
        let ends = shown.first().zip(shown.last()).map(|(first, last)| [mark(first), mark(last)]);
        Found { ids: shown.iter().map(|entry| entry.id).collect(), total, skipped, ends }
    }

    fn place<'a>(&'a self, entry: &'a Entry, by: SortKey) -> (Key<'a>, TokenId) {
        (self.key(entry, by), entry.id)
    }

    /// What it is sorted by.
    fn key<'a>(&'a self, entry: &'a Entry, by: SortKey) -> Key<'a> {
        match by {
            SortKey::Created => Key::Id,
            SortKey::Description => Key::Text(&entry.text),
            SortKey::Owner => Key::Text(self.name(entry)),
            SortKey::LastUsed => Key::Moment(self.last_used(entry)),
            SortKey::Expires => {
                Key::Moment(Some(entry.expires_at.filter(|_| entry.is_active).unwrap_or(Timestamp::MAX)))
            }
        }
    }

    fn last_used(&self, entry: &Entry) -> Option<Timestamp> {
        self.uses.as_ref().and_then(|(of, _)| of.get(&entry.id).copied())
    }

    fn name(&self, entry: &Entry) -> &str {
        self.names.get(&entry.owner).map_or("", |name| name)
    }

    fn has_text(&self, entry: &Entry, text: &str) -> bool {
        entry.text.contains(text) || self.name(entry).contains(text) || entry.id.to_string().contains(text)
    }
}
