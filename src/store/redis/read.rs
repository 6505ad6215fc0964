//! Everything of the registry and of the log that only reads.
//!
//! A list or a search takes several commands, between which others may commit. So whatever an index led to is judged
//! again by the record itself; a page is filled up where records turned out to be gone.

use redis::{FromRedisValue, Pipeline};
use serde::de::DeserializeOwned;

use super::Access;
use super::fault::Fault;
use super::layout::{self, Key, POSITION, PositionFields};
use super::link::Use;
use crate::store::{
    Changes, CommitId, Head, LogEntry, Position, Probe, Revision, StateFilter, TokenFilter, Versioned, change,
};
use crate::token::{Digest, Grant, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

/// Fields or members asked for by one command.
const PIECE: usize = 1000;

/// Log entries read at once: of large commits, some megabytes, and some milliseconds of the server's time.
const LOG_PAGE: usize = 64;

/// How long a probe waits for replicas to confirm it. Below what a probe may take.
const CONFIRM_MILLIS: u32 = 900;

/// Values by field, in the order asked for.
type Values = Vec<Option<Vec<u8>>>;

pub(super) async fn position(access: &Access) -> Result<Position, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
    let (fields,): (PositionFields,) = access.link.read(&commands).await?;
    access.layout.position(&fields)
}

/// The position, from a server that says that it is in charge, and that enough replicas still follow.
pub(super) async fn probe(access: &Access) -> Result<Probe, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
    commands.cmd("SCARD").arg(access.layout.key(Key::Recalled));
    commands.cmd("SMEMBERS").arg(access.layout.key(Key::Recalled));
    commands.cmd("ROLE");
    let (fields, present, recalled, role): (PositionFields, u64, Vec<Vec<u8>>, Vec<redis::Value>) =
        if access.quorum == 0 {
            access.link.read(&commands).await?
        } else {
            commands.cmd("SET").arg(access.layout.key(Key::Probe)).arg("1").ignore();
            commands.cmd("WAIT").arg(access.quorum).arg(CONFIRM_MILLIS);
            let first = access.link.send(Use::Confirming, &commands).await;
            let (fields, present, recalled, role, confirmed): (_, _, _, _, u64) = match first {
                Err(fault) if fault.ends_connection() => access.link.send(Use::Confirming, &commands).await?,
                outcome => outcome?,
            };
            if confirmed < u64::from(access.quorum) {
                return Err(Fault::Unconfirmed { confirmed, wanted: access.quorum });
            }
            (fields, present, recalled, role)
        };
    match role.first() {
        Some(redis::Value::BulkString(role)) if role == b"master" => {}
        _ => {
            access.link.discard();
            return Err(Fault::NotPrimary);
        }
    }
    let recalled = recalled.iter().filter_map(|bytes| digest_of(access, Key::Recalled, bytes)).collect();
    let recalls = present + layout::settled(&fields);
    Ok(Probe { position: access.layout.position(&fields)?, recalls, recalled })
}

/// A member that should be a digest. One that is not is logged, and passed over.
pub(super) fn digest_of(access: &Access, key: Key, bytes: &[u8]) -> Option<Digest> {
    let digest = layout::digest(bytes);
    if digest.is_none() {
        let (store, key) = (&access.name, access.layout.key(key));
        tracing::error!(store, key, "a member is no digest");
    }
    digest
}

/// The entries after a revision, as far as they follow each other up to the position.
pub(super) async fn changes(access: &Access, after: Revision) -> Result<Changes, Fault> {
    let (mut entries, mut last) = (Vec::new(), after);
    let mut epoch = None;
    loop {
        let mut commands = Pipeline::new();
        commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
        commands.cmd("XRANGE").arg(access.layout.key(Key::Log));
        commands.arg(format!("({last}")).arg("+").arg("COUNT").arg(LOG_PAGE);
        let (fields, page): (PositionFields, Vec<LoggedFields>) = access.link.read(&commands).await?;
        let newest = access.layout.position(&fields)?;
        if after > newest.revision || epoch.is_some_and(|epoch| epoch != newest.epoch) {
            return Ok(Changes::Truncated);
        }
        epoch = Some(newest.epoch);
        let is_last = page.len() < LOG_PAGE;
        for (id, fields) in page {
            match log_entry(&id, &fields) {
                Ok(entry) if entry.revision == last.next() => {
                    last = entry.revision;
                    entries.push(entry);
                }
                Ok(_) => return Ok(Changes::Truncated),
                Err(problem) => {
                    let (store, log) = (&access.name, access.layout.key(Key::Log));
                    tracing::error!(store, key = %format_args!("{log} {id}"), problem, "damaged entry in the change log");
                    return Ok(Changes::Truncated);
                }
            }
        }
        if is_last {
            return Ok(if last >= newest.revision { Changes::Entries(entries) } else { Changes::Truncated });
        }
    }
}

/// An entry's id, and its fields and values by turns.
type LoggedFields = (String, Vec<Vec<u8>>);

fn log_entry(id: &str, fields: &[Vec<u8>]) -> Result<LogEntry, &'static str> {
    let revision = id.strip_suffix("-0").and_then(|revision| revision.parse().ok()).ok_or("its id is no revision")?;
    let field = |name: &[u8]| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find(|pair| pair[0] == name).map(|pair| pair[1].as_slice())
    };
    let revision = Revision(revision);
    let checksum = field(b"c").and_then(layout::parse_hex).ok_or("it has no checksum")?;
    let (id, head) = match field(b"h") {
        Some(head) => {
            let id = field(b"i").and_then(layout::parse_word).ok_or("it has no commit id")?;
            (id, layout::parse_word(head).ok_or("it has no head")?)
        }
        None => (CommitId::default(), Head::unchained(revision, checksum)),
    };
    let changes = field(b"d").and_then(|bytes| change::decode(bytes).ok()).ok_or("its changes cannot be read")?;
    Ok(LogEntry { id, revision, head, checksum, changes })
}

pub(super) async fn user(access: &Access, id: UserId) -> Result<Option<Versioned<UserRecord>>, Fault> {
    Ok(records(access, Key::Users, &[id.to_ascii()]).await?.pop().flatten())
}

pub(super) async fn user_by_name(access: &Access, name: &str) -> Result<Option<Versioned<UserRecord>>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HGET").arg(access.layout.key(Key::Names)).arg(name);
    let (id,): (Option<String>,) = access.link.read(&commands).await?;
    let Some(id) = id else { return Ok(None) };
    let id = id
        .parse::<UserId>()
        .map_err(|problem| Fault::record(format!("{} {name}", access.layout.key(Key::Names)), problem))?;
    Ok(user(access, id).await?.filter(|user| user.record.name == name))
}

pub(super) async fn token_set(access: &Access, user: UserId) -> Result<Option<CommitId>, Fault> {
    let (key, field) = (access.layout.key(Key::TokenSets), user.to_ascii());
    let mut commands = Pipeline::new();
    commands.cmd("HGET").arg(key).arg(field.as_slice());
    let (id,): (Option<Vec<u8>>,) = access.link.read(&commands).await?;
    let parse =
        |id: Vec<u8>| layout::parse_word(&id).ok_or_else(|| Fault::record(format!("{key} {user}"), "no commit id"));
    id.map(parse).transpose()
}

/// Users are few: their ids are read whole and put in order here.
pub(super) async fn users(
    access: &Access,
    before: Option<UserId>,
    limit: usize,
) -> Result<Vec<Versioned<UserRecord>>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HKEYS").arg(access.layout.key(Key::Users));
    let (ids,): (Vec<String>,) = access.link.read(&commands).await?;
    let mut ids: Vec<UserId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
    ids.retain(|id| before.is_none_or(|before| *id < before));
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let mut users = Vec::new();
    for ids in ids.chunks(PIECE.min(limit.max(1))) {
        if users.len() >= limit {
            break;
        }
        let ids: Vec<_> = ids.iter().map(|id| id.to_ascii()).collect();
        users.extend(records(access, Key::Users, &ids).await?.into_iter().flatten());
    }
    users.truncate(limit);
    Ok(users)
}

pub(super) async fn tokens_by_id(
    access: &Access,
    ids: &[TokenId],
) -> Result<Vec<Option<Versioned<TokenRecord>>>, Fault> {
    let mut tokens = Vec::with_capacity(ids.len());
    for ids in ids.chunks(PIECE) {
        let ids: Vec<_> = ids.iter().map(|id| id.to_ascii()).collect();
        tokens.extend(records(access, Key::Tokens, &ids).await?);
    }
    Ok(tokens)
}

/// Active tokens are found by their grant, which begins with the id.
pub(super) async fn tokens_by_digest(
    access: &Access,
    digests: &[Digest],
) -> Result<Vec<Option<Versioned<TokenRecord>>>, Fault> {
    let mut tokens = Vec::with_capacity(digests.len());
    for digests in digests.chunks(PIECE) {
        let fields: Vec<_> = digests.iter().map(|digest| digest.as_bytes().as_slice()).collect();
        let mut commands = Pipeline::new();
        for key in [Key::Grants, Key::Revoked] {
            commands.cmd("HMGET").arg(access.layout.key(key)).arg(&fields);
        }
        let (grants, revoked): (Values, Values) = access.link.read(&commands).await?;
        let mut ids = Vec::with_capacity(digests.len());
        for (digest, (grant, revoked)) in digests.iter().zip(grants.iter().zip(&revoked)) {
            let damaged = |key, problem: &str| Fault::record(format!("{} {digest}", access.layout.key(key)), problem);
            ids.push(match (grant, revoked) {
                (Some(grant), _) => {
                    let grant = Grant::decode(grant).map_err(|problem| damaged(Key::Grants, &problem.to_string()))?;
                    Some(grant.token)
                }
                (None, Some(id)) => {
                    let id = layout::indexed_id(id);
                    Some(id.ok_or_else(|| damaged(Key::Revoked, "it is no token id"))?)
                }
                (None, None) => None,
            });
        }
        let wanted: Vec<TokenId> = ids.iter().copied().flatten().collect();
        let mut found = tokens_by_id(access, &wanted).await?.into_iter();
        tokens.extend(ids.iter().zip(digests).map(|(id, digest)| {
            id.and_then(|_| found.next().flatten()).filter(|token| token.record.digest == *digest)
        }));
    }
    Ok(tokens)
}

pub(super) async fn tokens(
    access: &Access,
    filter: TokenFilter,
    before: Option<TokenId>,
    limit: usize,
) -> Result<Vec<Versioned<TokenRecord>>, Fault> {
    let mut ids = super::index::Listing::new(filter, before);
    let mut tokens = Vec::new();
    while tokens.len() < limit {
        let Some(ids) = ids.next(access, limit - tokens.len()).await? else { break };
        let records = tokens_by_id(access, &ids).await?.into_iter().flatten();
        tokens.extend(records.filter(|token| is_shown(filter, &token.record)));
    }
    tokens.truncate(limit);
    Ok(tokens)
}

/// Whether a list with this filter shows the token.
fn is_shown(filter: TokenFilter, token: &TokenRecord) -> bool {
    let is_expired = |now: i64| token.expires_at.is_some_and(|expires_at| expires_at.as_second() <= now);
    let state = match filter.state {
        None => true,
        Some(StateFilter::Revoked) => !token.is_active(),
        Some(StateFilter::Active { now }) => token.is_active() && !is_expired(now),
        Some(StateFilter::Expired { now }) => token.is_active() && is_expired(now),
    };
    state && filter.owner.is_none_or(|owner| owner == token.owner)
}

pub(super) async fn history(access: &Access, id: TokenId) -> Result<Vec<HistoryEntry>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HGET").arg(access.layout.key(Key::History)).arg(id.to_ascii().as_slice());
    let (lines,): (Option<Vec<u8>>,) = access.link.read(&commands).await?;
    let Some(lines) = lines else { return Ok(Vec::new()) };
    let entries = lines.split(|byte| *byte == b'\n').map(serde_json::from_slice);
    let entries = entries.collect::<Result<_, _>>();
    entries.map_err(|problem| Fault::record(format!("{} {id}", access.layout.key(Key::History)), problem))
}

/// Which of the digests are those of deleted tokens.
pub(super) async fn retired(access: &Access, digests: &[Digest]) -> Result<Vec<bool>, Fault> {
    let digests = digests.iter().map(|digest| digest.as_bytes().as_slice());
    let scores = scores(access, Key::Retired, digests).await?;
    Ok(scores.into_iter().map(|score| score.is_some()).collect())
}

/// The scores of members, in the order asked for.
pub(super) async fn scores<'a>(
    access: &Access,
    key: Key,
    members: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<Vec<Option<f64>>, Fault> {
    let members: Vec<_> = members.collect();
    let mut scores = Vec::with_capacity(members.len());
    for members in members.chunks(PIECE) {
        scores.extend(ask::<Vec<Option<f64>>>(access, "ZMSCORE", key, members).await?);
    }
    Ok(scores)
}

/// Records by id, in the order asked for.
async fn records<R: DeserializeOwned>(
    access: &Access,
    key: Key,
    ids: &[[u8; 13]],
) -> Result<Vec<Option<Versioned<R>>>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new()); // Redis takes no command without a field
    }
    let fields: Vec<&[u8]> = ids.iter().map(<[u8; 13]>::as_slice).collect();
    let values: Values = ask(access, "HMGET", key, &fields).await?;
    let parse = |(id, value): (&[u8; 13], Option<Vec<u8>>)| {
        let Some(value) = value else { return Ok(None) };
        layout::parse_record(&value).map(Some).map_err(|problem| {
            Fault::record(format!("{} {}", access.layout.key(key), String::from_utf8_lossy(id)), problem)
        })
    };
    ids.iter().zip(values).map(parse).collect()
}

/// One command about fields or members of one key.
async fn ask<T: FromRedisValue>(access: &Access, command: &str, key: Key, members: &[&[u8]]) -> Result<T, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd(command).arg(access.layout.key(key)).arg(members);
    let (answer,) = access.link.read(&commands).await?;
    Ok(answer)
}
