//! Everything of the registry that only reads.
//!
//! A list or a search takes several commands, between which others may commit. So whatever an index led to is judged
//! again by the record itself; a page is filled up where records turned out to be gone.

use redis::{Pipeline, cmd};
use serde::de::DeserializeOwned;

use super::Access;
use super::fault::Fault;
use super::heard::Carried;
use super::layout::{self, Key, POSITION, PositionFields};
use super::link::Use;
use crate::store::{CommitId, Position, Probe, StateFilter, TokenFilter, Versioned};
use crate::token::{Digest, Grant, HistoryEntry, MAX_HISTORY, TokenId, TokenRecord, UserId, UserRecord};

/// Fields or members asked for by one command.
const PIECE: usize = 1000;

/// About how many bytes are carried for each digest of which it is asked whether it was removed.
const COST: usize = 120;

/// How long a probe waits for replicas to confirm it. Below what a probe may take.
const CONFIRM_MILLIS: u32 = 900;

/// How long the key of probes stays once its end has to be put off.
const PROBE_KEPT_MILLIS: u32 = 24 * 60 * 60 * 1000;

/// Values by field, in the order asked for.
type Values = Vec<Option<Vec<u8>>>;

pub(super) async fn position(access: &Access) -> Result<Position, Fault> {
    access.layout.position(&access.ask(cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION)).await?)
}

pub(super) async fn schema(access: &Access) -> Result<u32, Fault> {
    let schema: Option<Vec<u8>> = access.ask(cmd("HGET").arg(access.layout.key(Key::Meta)).arg("schema")).await?;
    layout::parse_schema(&schema.ok_or_else(|| access.layout.absent())?)
}

/// The position, from a server that says that it is the primary, and that enough replicas still follow.
///
/// With a quorum, all of the proof is on one connection, where waiting for replicas holds up nothing else. The main one is
/// asked beside it: its answer proves the subscription.
pub(super) async fn probe(access: &Access) -> Result<Probe, Fault> {
    if access.pace.is_over() {
        access.link.release(Use::Bulk);
        access.link.release(Use::Replica);
    }
    let mut commands = Pipeline::new();
    // First: of what is settled in between, the position says that it was revoked.
    commands.cmd("SCARD").arg(access.layout.key(Key::Recalled));
    commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
    commands.cmd("ROLE");
    let answer: ProbeAnswer = if access.quorum == 0 {
        access.link.read(Use::Main, &commands).await?
    } else {
        let (main, answer) =
            tokio::join!(access.link.read::<ProbeAnswer>(Use::Main, &commands), confirmed(access, &commands));
        of_primary(access, main?)?;
        answer?
    };
    let (fields, recalled) = of_primary(access, answer)?;
    let recalls = recalled + layout::settled(&fields);
    Ok(Probe { position: access.layout.position(&fields)?, recalls, recalled })
}

/// What a server says of the registry, and of itself.
type ProbeAnswer = (u64, PositionFields, Vec<redis::Value>);

/// It without what it says of itself: the position, and how many recalls there are.
type Held = (PositionFields, u64);

/// The answer to the commands, and a write after it that enough replicas have.
///
/// While Redis is out of memory it takes no `SET`, and proofs go on all the same: the key's end is put off then.
async fn confirmed(access: &Access, commands: &Pipeline) -> Result<ProbeAnswer, Fault> {
    let key = access.layout.key(Key::Probe);
    let refused = match written(access, commands, redis::cmd("SET").arg(key).arg("1")).await {
        Err(fault) if fault.is_out_of_memory() => fault,
        outcome => return outcome.map(|(answer, _)| answer),
    };
    match written(access, commands, redis::cmd("PEXPIRE").arg(key).arg(PROBE_KEPT_MILLIS)).await {
        // Without the key nothing was written that replicas could have confirmed.
        Ok((_, redis::Value::Int(0))) | Err(Fault::NotPermitted(_)) => Err(refused),
        outcome => outcome.map(|(answer, _)| answer),
    }
}

/// The answer to the commands, and to this write after it, which enough replicas have.
async fn written(
    access: &Access,
    commands: &Pipeline,
    write: &redis::Cmd,
) -> Result<(ProbeAnswer, redis::Value), Fault> {
    let mut commands = commands.clone();
    commands.add_command(write.clone()).cmd("WAIT").arg(access.quorum).arg(CONFIRM_MILLIS);
    let answer = access.link.read::<(_, _, _, _, u64)>(Use::Confirming, &commands).await?;
    let (present, fields, role, written, confirmed) = answer;
    match confirmed < u64::from(access.quorum) {
        true => Err(Fault::Unconfirmed { confirmed, wanted: access.quorum }),
        false => Ok(((present, fields, role), written)),
    }
}

/// What a server says, if it is the primary.
fn of_primary(access: &Access, (present, fields, role): ProbeAnswer) -> Result<Held, Fault> {
    match role.first() {
        Some(redis::Value::BulkString(name)) if name == b"master" => Ok((fields, present)),
        _ => {
            access.link.discard();
            Err(Fault::NotPrimary)
        }
    }
}

pub(super) async fn user(access: &Access, id: UserId) -> Result<Option<Versioned<UserRecord>>, Fault> {
    Ok(records(access, Key::Users, &[id.to_ascii()]).await?.pop().flatten())
}

pub(super) async fn user_by_name(access: &Access, name: &str) -> Result<Option<Versioned<UserRecord>>, Fault> {
    let key = access.layout.key(Key::Names);
    let id: Option<String> = access.ask(cmd("HGET").arg(key).arg(name)).await?;
    let Some(id) = id else { return Ok(None) };
    let id = id.parse::<UserId>().map_err(|problem| Fault::record(format!("{key} {name}"), problem))?;
    Ok(user(access, id).await?.filter(|user| user.record.name == name))
}

pub(super) async fn token_set(access: &Access, user: UserId) -> Result<Option<CommitId>, Fault> {
    let key = access.layout.key(Key::TokenSets);
    let id: Option<Vec<u8>> = access.ask(cmd("HGET").arg(key).arg(user.to_ascii().as_slice())).await?;
    let damaged = || Fault::record(format!("{key} {user}"), "it is not a commit id");
    id.map(|id| layout::parse_word(&id).ok_or_else(damaged)).transpose()
}

pub(super) async fn users_by_id(access: &Access, ids: &[UserId]) -> Result<Vec<Option<Versioned<UserRecord>>>, Fault> {
    let mut users = Vec::with_capacity(ids.len());
    for ids in ids.chunks(PIECE) {
        let ids: Vec<_> = ids.iter().map(|id| id.to_ascii()).collect();
        users.extend(records(access, Key::Users, &ids).await?);
    }
    Ok(users)
}

/// Users are few: their ids are read whole and put in order here.
pub(super) async fn users(
    access: &Access,
    before: Option<UserId>,
    limit: usize,
) -> Result<Vec<Versioned<UserRecord>>, Fault> {
    let ids: Vec<String> = access.ask(cmd("HKEYS").arg(access.layout.key(Key::Users))).await?;
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
        let (grants, revoked): (Values, Values) = access.link.read(Use::Main, &commands).await?;
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
                    Some(id.ok_or_else(|| damaged(Key::Revoked, "it is not a token id"))?)
                }
                (None, None) => None,
            });
        }
        let wanted: Vec<TokenId> = ids.iter().copied().flatten().collect();
        let mut found = tokens_by_id(access, &wanted).await?.into_iter();
        // One for each digest that has an id, in that order. Since the id was read the record may have become another's.
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
    Ok(histories(access, Use::Main, &[id.to_ascii()]).await?.pop().unwrap_or_default())
}

/// The histories of tokens, in the order asked for.
pub(super) async fn histories(access: &Access, on: Use, tokens: &[[u8; 13]]) -> Result<Vec<Vec<HistoryEntry>>, Fault> {
    let key = access.layout.key(Key::History);
    let damaged = |field: &[u8], problem| Fault::record(format!("{key} {}", String::from_utf8_lossy(field)), problem);
    let begun = tokens.iter().flat_map(|token| [token.to_vec(), layout::history_count(token)]).collect::<Vec<_>>();
    let begun = fields(access, on, key, &begun).await?;
    let (mut histories, mut added, mut owners) = (Vec::with_capacity(tokens.len()), Vec::new(), Vec::new());
    for (at, (token, begun)) in tokens.iter().zip(begun.chunks_exact(2)).enumerate() {
        let lines = begun[0].iter().flat_map(|lines| lines.split(|byte| *byte == b'\n'));
        let entries: Result<Vec<_>, _> = lines.map(serde_json::from_slice).collect();
        histories.push(entries.map_err(|problem| damaged(token, problem.to_string()))?);
        let count = begun[1].as_deref().map_or(Some(0), layout::parse_decimal);
        let count = count.ok_or_else(|| damaged(token, "the number of its entries is none".to_owned()))?;
        added.extend(layout::history_entries(token, count));
        owners.resize(added.len(), at);
    }
    let mut entries = Vec::with_capacity(added.len());
    for ((owner, field), entry) in owners.into_iter().zip(&added).zip(fields(access, on, key, &added).await?) {
        // One that is not there went with its token meanwhile.
        let Some(entry) = entry else { continue };
        let (number, entry) = layout::parse_history_entry(&entry).map_err(|problem| damaged(field, problem))?;
        entries.push((owner, number, entry));
    }
    entries.sort_by_key(|(owner, number, _)| (*owner, *number));
    for (owner, _, entry) in entries {
        histories[owner].push(entry);
    }
    for history in &mut histories {
        history.drain(..history.len().saturating_sub(MAX_HISTORY));
    }
    Ok(histories)
}

/// The values of some fields, in the order asked for.
async fn fields(access: &Access, on: Use, key: &str, fields: &[Vec<u8>]) -> Result<Values, Fault> {
    let mut values = Values::with_capacity(fields.len());
    for fields in fields.chunks(PIECE) {
        let mut commands = Pipeline::new();
        commands.cmd("HMGET").arg(key).arg(fields);
        let (answer,): (Values,) = access.link.read(on, &commands).await?;
        values.extend(answer);
    }
    Ok(values)
}

/// Which of the digests are those of deleted tokens.
pub(super) async fn retired(access: &Access, digests: &[Digest]) -> Result<Vec<bool>, Fault> {
    let digests = digests.iter().map(|digest| digest.as_bytes().as_slice());
    let scores = scores(access, Key::Retired, digests).await?;
    Ok(scores.into_iter().map(|score| score.is_some()).collect())
}

/// Which of the digests are those of revoked or deleted tokens: of as many of them as this line carries without holding up
/// probes.
pub(super) async fn removed(access: &Access, digests: &[Digest]) -> Result<Vec<bool>, Fault> {
    match digests {
        [] => Ok(Vec::new()), // Redis takes no command without a field
        digests => access.questions.carry(|bytes| removed_of(access, digests, bytes / COST)).await,
    }
}

/// Of so many.
async fn removed_of(access: &Access, digests: &[Digest], count: usize) -> Result<(Vec<bool>, Carried), Fault> {
    let members: Vec<_> = digests.iter().take(count).map(|digest| digest.as_bytes().as_slice()).collect();
    let mut commands = Pipeline::new();
    // In this order: one that is deleted in between goes from the first to the second.
    commands.cmd("HMGET").arg(access.layout.key(Key::Revoked)).arg(&members);
    commands.cmd("ZMSCORE").arg(access.layout.key(Key::Retired)).arg(&members);
    let (answer, exchange) = access.link.fetch(Use::Main, &commands).await?;
    let (revoked, retired): (Values, Vec<Option<f64>>) = answer;
    let removed = revoked.iter().zip(&retired).map(|(revoked, retired)| revoked.is_some() || retired.is_some());
    Ok((removed.collect(), exchange.whole))
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
        let answer: Vec<Option<f64>> = access.ask(cmd("ZMSCORE").arg(access.layout.key(key)).arg(members)).await?;
        scores.extend(answer);
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
    let key = access.layout.key(key);
    let fields: Vec<&[u8]> = ids.iter().map(<[u8; 13]>::as_slice).collect();
    let values: Values = access.ask(cmd("HMGET").arg(key).arg(fields)).await?;
    let parse = |(id, value): (&[u8; 13], Option<Vec<u8>>)| {
        let damaged = |problem| Fault::record(format!("{key} {}", String::from_utf8_lossy(id)), problem);
        value.map(|value| layout::parse_record(&value).map_err(damaged)).transpose()
    };
    ids.iter().zip(values).map(parse).collect()
}
