//! The use of tokens: no commits, and the latest wins.
//!
//! `usage` has a row for each token that was used, `agents` one for each agent of a token, see [`crate::store::usage`]. The
//! tables are made by whoever opens the file, where a program of before they were thought of made it; triggers take rows
//! away with their token, whichever program deletes it.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use super::fault::{BadRow, DatabaseFault};
use super::{from_key, key};
use crate::store::archive::{Item, UsageItem};
use crate::store::usage::{self, Levels, before, moment};
use crate::store::{Agent, AgentCount, AgentName, AgentUse, Retention, TokenUsage, Usages, Use, UseFilter};
use crate::token::TokenId;

/// Times are milliseconds since 1970. `levels` is that of [`Levels`].
pub(super) const TABLES: &str = "
    CREATE TABLE usage (token INTEGER PRIMARY KEY, last_used INTEGER NOT NULL, levels TEXT NOT NULL) STRICT;
    CREATE TABLE agents (
        token INTEGER NOT NULL,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        version TEXT,
        last_used INTEGER NOT NULL,
        PRIMARY KEY (token, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX agents_by_use ON agents (token, last_used);
    CREATE INDEX agents_by_address ON agents (token, address);
    CREATE TABLE usage_began (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL) STRICT;
    CREATE TRIGGER usage_of_deleted AFTER DELETE ON tokens BEGIN
        DELETE FROM usage WHERE token = OLD.id;
        DELETE FROM agents WHERE token = OLD.id;
    END;
";

/// Makes the tables, where they are not there yet.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), DatabaseFault> {
    if has_tables(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    if !has_tables(&transaction)? {
        transaction.execute_batch(TABLES)?; // or another process was faster
    }
    Ok(transaction.commit()?)
}

fn has_tables(connection: &Connection) -> Result<bool, DatabaseFault> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = 'usage_of_deleted'";
    Ok(connection.prepare(sql)?.exists([])?)
}

/// Uses of one transaction, which others have to wait for.
const PIECE: usize = 500;

pub(super) fn record(
    connection: &mut Connection,
    uses: &[Use],
    retention: &Retention,
    as_of: Timestamp,
) -> Result<(), DatabaseFault> {
    let (as_of, now) = (as_of.as_millisecond(), Timestamp::now().as_millisecond());
    let at = |age| before(as_of, age).min(now);
    connection
        .prepare_cached("INSERT INTO usage_began (id, at) SELECT 1, ? WHERE NOT EXISTS (SELECT 1 FROM usage_began)")?
        .execute([now])?;
    for of_token in uses {
        // A token without agents has one piece too.
        let pieces = of_token.agents.chunks(PIECE).map(<[_]>::to_vec);
        for agents in pieces.chain(of_token.agents.is_empty().then(Vec::new)) {
            let transaction = connection.transaction()?;
            let token = key(of_token.token.to_u64());
            if put_use(&transaction, token, at(of_token.age), now)? {
                put_agents(&transaction, token, &agents, at, now)?;
                thin(&transaction, token, retention.agents)?;
            }
            transaction.commit()?;
        }
    }
    Ok(())
}

/// Whether there is such a token.
fn put_use(transaction: &Transaction<'_>, token: i64, at: i64, now: i64) -> Result<bool, DatabaseFault> {
    // What lies ahead was written before the clock was set back.
    let sql = "INSERT INTO usage (token, last_used, levels) SELECT id, ?2, '' FROM tokens WHERE id = ?1
               ON CONFLICT (token) DO UPDATE SET last_used = iif(last_used > ?3, ?2, max(last_used, ?2))";
    Ok(transaction.prepare_cached(sql)?.execute((token, at, now))? > 0)
}

fn put_agents(
    transaction: &Transaction<'_>,
    token: i64,
    agents: &[AgentUse],
    at: impl Fn(Duration) -> i64,
    now: i64,
) -> Result<(), DatabaseFault> {
    if agents.is_empty() {
        return Ok(());
    }
    transaction
        .prepare_cached("UPDATE agents SET last_used = ?2 WHERE token = ?1 AND last_used > ?2")?
        .execute((token, now))?;
    let mut put = transaction.prepare_cached(
        "INSERT INTO agents (token, name, address, version, last_used) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (token, name) DO UPDATE SET address = ?3, version = ?4, last_used = ?5 WHERE last_used < ?5",
    )?;
    // Who is named there was there without a name, fetching its configuration say.
    let mut unnamed = transaction.prepare_cached("DELETE FROM agents WHERE token = ? AND name = ?")?;
    let mut named = transaction.prepare_cached(
        "SELECT 1 FROM agents WHERE token = ? AND address = ? AND name >= '='
        AND name < '>'",
    )?;
    for AgentUse { name, age, address, version } in agents {
        let at_address = address.to_string();
        match name {
            AgentName::Id(_) => drop(unnamed.execute((token, AgentName::Address(*address).key()))?),
            AgentName::Address(_) if named.exists((token, &at_address))? => continue,
            AgentName::Address(_) => {}
        }
        put.execute((token, name.key(), at_address, version, at(*age)))?;
    }
    transaction
        .prepare_cached("DELETE FROM agents WHERE token = ? AND last_used < ?")?
        .execute((token, before(now, usage::MONTH)))?;
    Ok(())
}

/// Drops every second one of those that are too many, see [`Levels`].
fn thin(transaction: &Transaction<'_>, token: i64, exact: u64) -> Result<(), DatabaseFault> {
    let mut levels = levels(transaction, token)?;
    let mut count = transaction
        .prepare_cached("SELECT count(*) FROM agents WHERE token = ? AND last_used > ? AND last_used <= ?")?;
    let mut bound = transaction.prepare_cached(
        "SELECT last_used FROM agents WHERE token = ? AND last_used > ? AND last_used <= ? ORDER BY last_used LIMIT 1 OFFSET ?",
    )?;
    let mut names =
        transaction.prepare_cached("SELECT name FROM agents WHERE token = ? AND last_used > ? AND last_used <= ?")?;
    let mut delete = transaction.prepare_cached("DELETE FROM agents WHERE token = ? AND name = ?")?;
    let mut moved = false;
    for level in 0..usage::LEVELS {
        let (lower, upper) = levels.of(level);
        let present = count.query_row((token, lower, upper), |row| row.get::<_, i64>(0))?;
        let excess = present - Levels::most(level, exact).cast_signed();
        if excess <= usage::SLACK.cast_signed() {
            break;
        }
        let until = bound.query_row((token, lower, upper, excess - 1), |row| row.get::<_, i64>(0))?;
        let rows = names.query_map((token, lower, until), |row| row.get::<_, String>(0))?;
        for name in rows.collect::<Result<Vec<_>, _>>()? {
            if Levels::drops(level, &name) {
                delete.execute((token, name))?;
            }
        }
        levels.lower(level, until);
        moved = true;
    }
    if moved {
        transaction
            .prepare_cached("UPDATE usage SET levels = ? WHERE token = ?")?
            .execute((levels.to_string(), token))?;
    }
    Ok(())
}

fn levels(connection: &Connection, token: i64) -> Result<Levels, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT levels FROM usage WHERE token = ?")?;
    let text = statement.query_row([token], |row| row.get::<_, String>(0)).optional()?;
    Ok(Levels::parse(&text.unwrap_or_default()))
}

pub(super) fn usage(connection: &Connection, tokens: &[TokenId], now: Timestamp) -> Result<Usages, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let since = since(&transaction)?;
    let mut last_used = transaction.prepare_cached("SELECT last_used FROM usage WHERE token = ?")?;
    let mut usages = Vec::with_capacity(tokens.len());
    for token in tokens {
        let token = key(token.to_u64());
        let at = last_used.query_row([token], |row| row.get::<_, i64>(0)).optional()?;
        usages.push(match at {
            Some(at) => TokenUsage {
                last_used: Some(moment(at).min(now)),
                day: count(&transaction, token, before(now.as_millisecond(), usage::DAY))?,
                month: count(&transaction, token, before(now.as_millisecond(), usage::MONTH))?,
            },
            None => TokenUsage::default(),
        });
    }
    Ok(Usages { now, since, tokens: usages })
}

/// Looked up one by one in an index, which for all of many tokens is as fast as going through it.
pub(super) fn last_used(
    connection: &Connection,
    tokens: &[TokenId],
    now: Timestamp,
) -> Result<Vec<Option<Timestamp>>, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached("SELECT last_used FROM usage WHERE token = ?")?;
    let mut find = |token: &TokenId| {
        let at = statement.query_row([key(token.to_u64())], |row| row.get::<_, i64>(0)).optional()?;
        Ok(at.map(|at| moment(at).min(now)))
    };
    tokens.iter().map(&mut find).collect()
}

/// How many agents used it since then.
fn count(connection: &Connection, token: i64, since: i64) -> Result<AgentCount, DatabaseFault> {
    let levels = levels(connection, token)?;
    let mut statement = connection.prepare_cached(
        "SELECT count(*) FROM agents WHERE token = ? AND last_used >= ? AND last_used > ? AND last_used <= ?",
    )?;
    levels.count(since, |lower, upper| {
        let found = statement.query_row((token, since, lower, upper), |row| row.get::<_, i64>(0))?;
        Ok(found.cast_unsigned())
    })
}

pub(super) fn agents(
    connection: &Connection,
    tokens: &[TokenId],
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Vec<Agent>>, DatabaseFault> {
    let sql =
        "SELECT name, address, version, last_used FROM agents WHERE token = ? ORDER BY last_used DESC, name LIMIT ?";
    let mut statement = connection.prepare_cached(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut of_token = |token: &TokenId| {
        let mut rows = statement.query((key(token.to_u64()), limit))?;
        let mut agents = Vec::new();
        while let Some(row) = rows.next()? {
            let agent = agent(row).map_err(|problem| DatabaseFault::record(format!("agents/{token}"), problem))?;
            agents.push(Agent { last_used: agent.last_used.min(now), ..agent });
        }
        Ok(agents)
    };
    tokens.iter().map(&mut of_token).collect()
}

fn agent(row: &Row<'_>) -> Result<Agent, BadRow> {
    let text = |column| row.get::<_, String>(column).map_err(|_| BadRow::Column);
    Ok(Agent {
        name: AgentName::from_key(&text(0)?).ok_or(BadRow::Column)?,
        address: text(1)?.parse::<IpAddr>().map_err(|_| BadRow::Column)?,
        version: row.get(2).map_err(|_| BadRow::Column)?,
        last_used: moment(row.get(3).map_err(|_| BadRow::Column)?),
    })
}

/// Hands over all of it, so many agents at once, until nobody listens.
pub(super) fn dump(
    connection: &Connection,
    piece: usize,
    mut hand_over: impl FnMut(Vec<Item>) -> bool,
) -> Result<(), DatabaseFault> {
    if let Some(since) = since(connection)?
        && !hand_over(vec![Item::UsageSince(since)])
    {
        return Ok(());
    }
    let mut used = connection.prepare("SELECT token, last_used, levels FROM usage")?;
    let mut rows = used.query([])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let token = TokenId::from_u64(from_key(row.get(0)?));
        let (last_used, levels) = (moment(row.get(1)?), row.get::<_, String>(2)?);
        let agents = agents(connection, &[token], usize::MAX, Timestamp::MAX)?.pop().unwrap_or_default();
        let item = |agents: &[Agent]| {
            Item::Usage(UsageItem { token, last_used, levels: levels.clone(), agents: agents.to_vec() })
        };
        items.extend(agents.chunks(piece).map(item));
        if agents.is_empty() {
            items.push(item(&[]));
        }
        if items.len() >= piece && !hand_over(std::mem::take(&mut items)) {
            return Ok(());
        }
    }
    hand_over(items);
    Ok(())
}

/// Takes a piece of what another store handed over.
pub(super) fn put(connection: &Connection, item: &UsageItem) -> Result<(), DatabaseFault> {
    let UsageItem { token, last_used, levels, agents } = item;
    let token = key(token.to_u64());
    let sql = "INSERT OR REPLACE INTO usage (token, last_used, levels) SELECT id, ?2, ?3 FROM tokens WHERE id = ?1";
    if connection.prepare_cached(sql)?.execute((token, last_used.as_millisecond(), levels))? == 0 {
        return Ok(());
    }
    let sql = "INSERT OR REPLACE INTO agents (token, name, address, version, last_used) VALUES (?, ?, ?, ?, ?)";
    let mut statement = connection.prepare_cached(sql)?;
    for Agent { name, address, version, last_used } in agents {
        statement.execute((token, name.key(), address.to_string(), version, last_used.as_millisecond()))?;
    }
    Ok(())
}

pub(super) fn put_since(connection: &Connection, since: Timestamp) -> Result<(), DatabaseFault> {
    let sql = "INSERT OR REPLACE INTO usage_began (id, at) VALUES (1, ?)";
    connection.prepare_cached(sql)?.execute([since.as_millisecond()])?;
    Ok(())
}

fn since(connection: &Connection) -> Result<Option<Timestamp>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT at FROM usage_began")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.map(moment))
}

/// The condition on `tokens` that a filter is, with its values.
pub(super) fn condition(filter: UseFilter) -> (&'static str, Vec<i64>) {
    let first = |then: Timestamp| key(TokenId::first_of(then).to_u64());
    match filter {
        UseFilter::UnusedSince(then) => (
            " AND id < ? AND NOT EXISTS (SELECT 1 FROM usage WHERE token = tokens.id AND last_used >= ?)",
            vec![first(then), then.as_millisecond()],
        ),
        UseFilter::NeverUsedSince(then) => {
            (" AND id >= ? AND NOT EXISTS (SELECT 1 FROM usage WHERE token = tokens.id)", vec![first(then)])
        }
    }
}
