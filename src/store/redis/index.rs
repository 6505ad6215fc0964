//! Lists and counts of tokens, from the indexes.
//!
//! `by_state` and `by_owner` know active from revoked and are in the order of ids. Which of the active tokens are past
//! their expiry changes by itself, so that is in `expiring`, by the second of it.

use redis::cmd;

use super::Access;
use super::fault::Fault;
use super::layout::{self, Key};
use super::read::scores;
use super::usage;
use crate::store::{StateFilter, TokenFilter, UseFilter};
use crate::token::{TokenId, UserId};

/// Ids read from an index at once, at least and at most.
const PAGE: (usize, usize) = (64, 1000);

/// The ids of a list, newest first, page by page.
pub(super) struct Listing {
    filter: TokenFilter,
    before: Option<TokenId>,
    is_at_end: bool,
    /// Where they had to be read all at once.
    rest: Option<Vec<TokenId>>,
}

impl Listing {
    pub(super) fn new(filter: TokenFilter, before: Option<TokenId>) -> Self {
        let made_before = match filter.unused {
            Some(UseFilter::UnusedSince(then)) => Some(TokenId::first_of(then)),
            Some(UseFilter::NeverUsedSince(_)) | None => None,
        };
        let before = before.into_iter().chain(made_before).min();
        Self { filter, before, is_at_end: false, rest: None }
    }

    /// The next ids, which may be none; `None` at the end. `wanted` is about how many are of use.
    pub(super) async fn next(&mut self, access: &Access, wanted: usize) -> Result<Option<Vec<TokenId>>, Fault> {
        if self.is_at_end {
            return Ok(None);
        }
        // Most tokens are used: of those that are not, a page of the index has few.
        let wanted = if self.filter.unused.is_some() { PAGE.1 } else { wanted.clamp(PAGE.0, PAGE.1) };
        let ids = self.next_in_state(access, wanted).await?;
        let Some(unused) = self.filter.unused else { return Ok(Some(ids)) };
        if let (UseFilter::NeverUsedSince(then), Some(last)) = (unused, self.before) {
            self.is_at_end |= last.made_before(then);
        }
        usage::retain(access, ids, |id, used| unused.has(id, used)).await.map(Some)
    }

    async fn next_in_state(&mut self, access: &Access, wanted: usize) -> Result<Vec<TokenId>, Fault> {
        if let TokenFilter { owner: None, state: Some(StateFilter::Expired { now }), .. } = self.filter {
            return self.next_expired(access, now, wanted).await;
        }
        let states: &[bool] = match self.filter.state {
            None => &[true, false],
            Some(StateFilter::Revoked) => &[false],
            Some(StateFilter::Active { .. } | StateFilter::Expired { .. }) => &[true],
        };
        let mut ids = Vec::new();
        for active in states {
            // Each is one run of the index, in the order of ids.
            ids.extend(page(access, self.filter.owner, *active, self.before, wanted).await?);
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        // Beyond what both pages cover, one of them may have more.
        ids.truncate(wanted);
        self.is_at_end = ids.len() < wanted;
        self.before = ids.last().copied();
        match self.filter.state {
            Some(StateFilter::Active { now }) => retain(access, ids, |expiry| expiry.is_none_or(|at| at > now)).await,
            Some(StateFilter::Expired { now }) => {
                retain(access, ids, |expiry| expiry.is_some_and(|at| at <= now)).await
            }
            None | Some(StateFilter::Revoked) => Ok(ids),
        }
    }

    /// They are in the order of their expiry, so all are read to be put in order.
    async fn next_expired(&mut self, access: &Access, now: i64, wanted: usize) -> Result<Vec<TokenId>, Fault> {
        let rest = match &mut self.rest {
            Some(rest) => rest,
            empty => {
                let mut range = cmd("ZRANGE");
                range.arg(access.layout.key(Key::Expiring)).arg("-inf").arg(now).arg("BYSCORE");
                let members: Vec<Vec<u8>> = access.ask(&range).await?;
                let mut ids: Vec<_> = members.iter().filter_map(|member| layout::indexed_id(member)).collect();
                ids.retain(|id| self.before.is_none_or(|before| *id < before));
                ids.sort_unstable();
                empty.insert(ids)
            }
        };
        let ids = rest.split_off(rest.len().saturating_sub(wanted));
        self.is_at_end = rest.is_empty();
        Ok(ids.into_iter().rev().collect())
    }
}

pub(super) async fn count(access: &Access, filter: TokenFilter) -> Result<u64, Fault> {
    let TokenFilter { owner, state, unused } = filter;
    if unused.is_some() {
        return listed(access, filter).await;
    }
    match state {
        None => Ok(indexed(access, owner, true).await? + indexed(access, owner, false).await?),
        Some(StateFilter::Revoked) => indexed(access, owner, false).await,
        Some(StateFilter::Expired { now }) => expired(access, owner, now).await,
        Some(StateFilter::Active { now }) => {
            let active = indexed(access, owner, true).await?;
            Ok(active.saturating_sub(expired(access, owner, now).await?))
        }
    }
}

/// How many an index has.
async fn indexed(access: &Access, owner: Option<UserId>, active: bool) -> Result<u64, Fault> {
    let (key, prefix) = part(owner, active);
    let (first, end) = (bound(b'[', &prefix, b""), bound(b'(', &prefix, END));
    access.ask(cmd("ZLEXCOUNT").arg(access.layout.key(key)).arg(first).arg(end)).await
}

/// How many active tokens are past their expiry.
async fn expired(access: &Access, owner: Option<UserId>, now: i64) -> Result<u64, Fault> {
    if owner.is_none() {
        return access.ask(cmd("ZCOUNT").arg(access.layout.key(Key::Expiring)).arg("-inf").arg(now)).await;
    }
    listed(access, TokenFilter { owner, state: Some(StateFilter::Expired { now }), unused: None }).await
}

/// How many ids a list has, by reading all of it.
async fn listed(access: &Access, filter: TokenFilter) -> Result<u64, Fault> {
    let mut listing = Listing::new(filter, None);
    let mut count = 0;
    while let Some(ids) = listing.next(access, PAGE.1).await? {
        count += ids.len() as u64;
    }
    Ok(count)
}

/// One page of an index, newest first.
async fn page(
    access: &Access,
    owner: Option<UserId>,
    active: bool,
    before: Option<TokenId>,
    count: usize,
) -> Result<Vec<TokenId>, Fault> {
    let (key, prefix) = part(owner, active);
    let newest = before.map_or_else(|| bound(b'(', &prefix, END), |before| bound(b'(', &prefix, &before.to_ascii()));
    let mut range = cmd("ZRANGE");
    range.arg(access.layout.key(key)).arg(newest).arg(bound(b'[', &prefix, b"")).arg("BYLEX").arg("REV");
    let members: Vec<Vec<u8>> = access.ask(range.arg("LIMIT").arg(0).arg(count)).await?;
    Ok(members.iter().filter_map(|member| layout::indexed_id(member)).collect())
}

/// After every id.
const END: &[u8] = b"\xff";

/// One end of a range: inclusive (`[`) or exclusive (`(`).
fn bound(kind: u8, prefix: &[u8], id: &[u8]) -> Vec<u8> {
    [&[kind], prefix, id].concat()
}

/// The part of an index with the active tokens, or the revoked ones.
fn part(owner: Option<UserId>, active: bool) -> (Key, Vec<u8>) {
    let key = if owner.is_some() { Key::ByOwner } else { Key::ByState };
    (key, layout::index_prefix(owner, active))
}

/// Those of the ids whose expiry, if they have one, is as it should be.
async fn retain(
    access: &Access,
    ids: Vec<TokenId>,
    wanted: impl Fn(Option<i64>) -> bool,
) -> Result<Vec<TokenId>, Fault> {
    let members: Vec<_> = ids.iter().map(|id| id.to_ascii()).collect();
    let expiries = scores(access, Key::Expiring, members.iter().map(<[u8; 13]>::as_slice)).await?;
    #[expect(clippy::cast_possible_truncation, reason = "seconds of a valid time, which a float holds exactly")]
    let seconds = expiries.into_iter().map(|expiry| expiry.map(|at| at as i64));
    Ok(ids.into_iter().zip(seconds).filter(|(_, expiry)| wanted(*expiry)).map(|(id, _)| id).collect())
}
