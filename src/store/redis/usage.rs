//! The use of tokens: no commits, and the latest wins.
//!
//! A script remembers uses, so that those of a token that is being deleted come before that or not at all. A sidecar whose user
//! may not run it, or not all that it does, is told so when it connects, see `check`; a use that is half written is written
//! again.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, FromRedisValue, Pipeline, cmd};

use super::fault::Fault;
use super::layout::Key;
use super::link::{ANSWER_TIMEOUT, Use as On};
use super::read::scores;
use super::{Access, script};
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::store::archive::{Item, UsageItem};
use crate::store::usage::{self, Levels, before, moment};
use crate::store::{Agent, AgentCount, AgentName, AgentUse, Retention, TokenUsage, Usages, Use};
use crate::token::TokenId;

const USED: &str = include_str!("used.lua");

/// The member of `usage` that is no token: since when uses are recorded.
pub(super) const SINCE: &str = "since";

/// Agents and tokens told by one script: what other clients wait for, and what comes before a probe.
const PIECE: usize = 100;

/// How long a script may be under way.
const LATE: Duration = ANSWER_TIMEOUT;

/// How often a piece is sent that comes late: the first time, the server's clock may not be known.
const ATTEMPTS: usize = 3;

/// What the server's clock says: known from its last answer, and reckoned on by a clock that nobody sets. So a script that lies in
/// a socket for long does no harm: what it says was true at a time, and not so long before it runs.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<(i64, Instant)>>);

impl ServerClock {
    /// What it said, or will say, at a moment. Never later than that: the answer that it is known from took its time.
    fn at(&self, moment: Instant) -> Option<i64> {
        let (said, heard) = (*self.0.lock())?;
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Some(said.saturating_add(millis(moment - heard)).saturating_sub(millis(heard - moment)))
    }

    /// An answer said so that was asked for at that moment. One that took long says little.
    fn learn(&self, said: i64, asked: Instant) {
        const QUICK: Duration = Duration::from_secs(1);
        let (heard, mut known) = (Instant::now(), self.0.lock());
        if known.is_none() || heard - asked < QUICK {
            *known = Some((said, heard));
        }
    }

    /// It is another one's, or was set.
    fn forget(&self) {
        *self.0.lock() = None;
    }
}

pub(super) async fn record(access: &Access, uses: &[Use], retention: &Retention) -> Result<(), Fault> {
    let mut piece = Piece::as_of(Instant::now());
    for of_token in uses {
        let pieces = of_token.agents.chunks(PIECE);
        for agents in pieces.chain(of_token.agents.is_empty().then_some(&[][..])) {
            if piece.length + agents.len() >= PIECE && piece.length > 0 {
                let next = Piece::as_of(piece.as_of);
                std::mem::replace(&mut piece, next).send(access, retention).await?;
            }
            piece.add(of_token, agents);
        }
    }
    piece.send(access, retention).await
}

/// Uses for one script.
struct Piece {
    /// When their ages were true.
    as_of: Instant,
    arguments: Vec<Vec<u8>>,
    length: usize,
}

impl Piece {
    fn as_of(as_of: Instant) -> Self {
        Self { as_of, arguments: Vec::new(), length: 0 }
    }

    fn add(&mut self, Use { token, age, .. }: &Use, agents: &[AgentUse]) {
        let number = |number: u128| number.to_string().into_bytes();
        self.length += agents.len() + 1;
        self.arguments.extend([token.to_ascii().to_vec(), number(age.as_millis()), number(agents.len() as u128)]);
        for AgentUse { name, age, address, version } in agents {
            let version = version.clone().unwrap_or_default().into_bytes();
            let (name, address) = (name.key().into_bytes(), address.to_string().into_bytes());
            self.arguments.extend([name, number(age.as_millis()), address, version]);
        }
    }

    /// Done twice, it finds what it did the first time.
    async fn send(self, access: &Access, retention: &Retention) -> Result<(), Fault> {
        for _ in 0..ATTEMPTS {
            let sent = Instant::now();
            let answer = self.ask(access, retention, sent).await?;
            let said = |text: &str| text.parse().map_err(|_| Fault::UnexpectedAnswer(answer.join(" ")));
            match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["done", now] => {
                    access.server_clock.learn(said(now)?, sent);
                    return Ok(());
                }
                ["late", now] => {
                    access.server_clock.forget();
                    access.server_clock.learn(said(now)?, sent);
                }
                ["absent"] => return Err(access.layout.absent()),
                _ => return Err(Fault::UnexpectedAnswer(answer.join(" "))),
            }
        }
        Err(Fault::TimedOut(LATE))
    }

    async fn ask(&self, access: &Access, retention: &Retention, sent: Instant) -> Result<Vec<String>, Fault> {
        // By its hash: of a fleet that has little to tell, the text would be most of what it sends.
        match access.ask(&self.command(access, "EVALSHA", &SHA, retention, sent)).await {
            Err(fault) if fault.is_unknown_script() => {
                access.ask(&self.command(access, "EVAL", USED, retention, sent)).await
            }
            answer => answer,
        }
    }

    fn command(&self, access: &Access, eval: &str, text: &str, retention: &Retention, sent: Instant) -> Cmd {
        let mut command = script(eval, text, &[access.layout.key(Key::Usage)]);
        command.arg(access.layout.key(Key::Meta)).arg(access.layout.key(Key::Tokens));
        command.arg(retention.agents).arg(usage::SAMPLED).arg(usage::SLACK).arg(usage::LEVELS);
        command.arg(usage::MONTH.as_millis());
        for moment in [self.as_of, sent] {
            command.arg(access.server_clock.at(moment).map_or_else(String::new, |millis| millis.to_string()));
        }
        command.arg(LATE.as_millis()).arg(&self.arguments);
        command
    }
}

/// What Redis knows the script by.
static SHA: LazyLock<String> = LazyLock::new(|| {
    use sha1::Digest as _;
    crate::hex::Hex(&sha1::Sha1::digest(USED)).to_string()
});

/// By the server's clock, in milliseconds since 1970.
async fn now(access: &Access) -> Result<i64, Fault> {
    let (seconds, micros): (i64, i64) = access.ask(&cmd("TIME")).await?;
    Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

pub(super) async fn usage(access: &Access, tokens: &[TokenId]) -> Result<Usages, Fault> {
    let now = now(access).await?;
    let ids: Vec<_> = tokens.iter().map(|token| token.to_ascii()).collect();
    let members = ids.iter().map(<[u8; 13]>::as_slice).chain([SINCE.as_bytes()]);
    let mut used = scores(access, Key::Usage, members.collect::<Vec<_>>().into_iter()).await?;
    let since = used.pop().flatten().map(millis);
    let mut usages = vec![TokenUsage::default(); tokens.len()];
    let used = used.into_iter().enumerate().filter_map(|(place, used)| Some((place, millis(used?))));
    for piece in used.collect::<Vec<_>>().chunks(PIECE) {
        let of: Vec<_> = piece.iter().map(|(place, _)| tokens[*place]).collect();
        let counts = counts(access, &of, [usage::DAY, usage::MONTH].map(|age| before(now, age))).await?;
        for ((place, used), [day, month]) in piece.iter().zip(counts) {
            usages[*place] = TokenUsage { last_used: Some(moment((*used).min(now))), day, month };
        }
    }
    Ok(Usages { now: moment(now), since: since.map(moment), tokens: usages })
}

pub(super) async fn last_used(access: &Access, tokens: &[TokenId]) -> Result<Vec<Option<Timestamp>>, Fault> {
    let now = now(access).await?;
    let ids: Vec<_> = tokens.iter().map(|token| token.to_ascii()).collect();
    let used = scores(access, Key::Usage, ids.iter().map(<[u8; 13]>::as_slice)).await?;
    Ok(used.into_iter().map(|used| used.map(|used| moment(millis(used).min(now)))).collect())
}

/// How many agents used each since these moments.
async fn counts(access: &Access, tokens: &[TokenId], since: [i64; 2]) -> Result<Vec<[AgentCount; 2]>, Fault> {
    let mut commands = Pipeline::new();
    for token in tokens {
        let (seen, who) = access.layout.agents_of(*token);
        for since in since {
            commands.cmd("ZCOUNT").arg(&seen).arg(since).arg("+inf");
        }
        commands.cmd("HMGET").arg(who).arg("levels");
    }
    let answers: Vec<redis::Value> = access.link.read(On::Main, &commands).await?;
    let mut counts = Vec::with_capacity(tokens.len());
    for (token, answer) in tokens.iter().zip(answers.chunks_exact(3)) {
        let exact = |count: &redis::Value| parse::<u64>(count).map(|agents| AgentCount { agents, is_estimate: false });
        let (levels,): (Option<String>,) = parse(&answer[2])?;
        counts.push(match levels.map(|levels| Levels::parse(&levels)) {
            None => [exact(&answer[0])?, exact(&answer[1])?],
            Some(levels) => {
                let [day, month] = since.map(|since| estimate(access, *token, &levels, since));
                [day.await?, month.await?]
            }
        });
    }
    Ok(counts)
}

fn parse<T: FromRedisValue>(value: &redis::Value) -> Result<T, Fault> {
    redis::from_redis_value_ref(value).map_err(|problem| Fault::UnexpectedAnswer(problem.to_string()))
}

async fn estimate(access: &Access, token: TokenId, levels: &Levels, since: i64) -> Result<AgentCount, Fault> {
    let (seen, _) = access.layout.agents_of(token);
    let (mut commands, mut asked) = (Pipeline::new(), 0);
    levels.count(since, |lower, upper| {
        let lower = if lower >= since { format!("({lower}") } else { since.to_string() };
        commands.cmd("ZCOUNT").arg(&seen).arg(lower).arg(upper);
        asked += 1;
        Ok::<_, Fault>(0)
    })?;
    let mut stored: std::vec::IntoIter<u64> = match asked {
        0 => Vec::new(),
        _ => access.link.read(On::Main, &commands).await?,
    }
    .into_iter();
    levels.count(since, |_, _| Ok(stored.next().unwrap_or_default()))
}

/// Milliseconds of a valid time, which a float holds exactly.
#[expect(clippy::cast_possible_truncation, reason = "as above")]
fn millis(score: f64) -> i64 {
    score as i64
}

pub(super) async fn agents(access: &Access, tokens: &[TokenId], limit: usize) -> Result<Vec<Vec<Agent>>, Fault> {
    let now = moment(now(access).await?);
    let mut agents = Vec::with_capacity(tokens.len());
    for tokens in tokens.chunks(PIECE) {
        let mut commands = Pipeline::new();
        for token in tokens {
            let (seen, _) = access.layout.agents_of(*token);
            let mut range = cmd("ZRANGE");
            range.arg(seen).arg("+inf").arg("-inf").arg("BYSCORE").arg("REV");
            // Less than none is all.
            let limit = i64::try_from(limit).unwrap_or(-1);
            commands.add_command(range.arg("LIMIT").arg(0).arg(limit).arg("WITHSCORES").clone());
        }
        let found: Vec<Vec<(String, f64)>> = access.link.read(On::Main, &commands).await?;
        for (token, found) in tokens.iter().zip(found) {
            let mut found = details(access, *token, found, now).await?;
            found.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name)));
            agents.push(found);
        }
    }
    Ok(agents)
}

/// How these tokens were used, those that were, as pieces of so many agents.
pub(super) async fn items(access: &Access, tokens: &[TokenId], piece: usize) -> Result<Vec<Item>, Fault> {
    let members: Vec<_> = tokens.iter().map(|token| token.to_ascii()).collect();
    let used = scores(access, Key::Usage, members.iter().map(<[u8; 13]>::as_slice)).await?;
    let mut items = Vec::new();
    for (token, last_used) in tokens.iter().zip(used).filter_map(|(token, used)| Some((*token, moment(millis(used?)))))
    {
        let (_, who) = access.layout.agents_of(token);
        let (levels,): (Option<String>,) = access.ask(cmd("HMGET").arg(who).arg("levels")).await?;
        let levels = levels.unwrap_or_default();
        let agents = agents(access, &[token], usize::MAX).await?.pop().unwrap_or_default();
        let item = |agents: &[Agent]| {
            Item::Usage(UsageItem { token, last_used, levels: levels.clone(), agents: agents.to_vec() })
        };
        items.extend(agents.chunks(piece).map(item));
        if agents.is_empty() {
            items.push(item(&[]));
        }
    }
    Ok(items)
}

/// What is written of an agent, besides when it was there.
pub(super) fn fields(agent: &Agent) -> Vec<Vec<u8>> {
    let (name, address) = (agent.name.key(), agent.address.to_string());
    let detail = agent.version.as_ref().map_or_else(|| address.clone(), |version| format!("{address} {version}"));
    let mut fields = vec![name.clone(), detail];
    if matches!(agent.name, AgentName::Id(_)) {
        fields.extend([format!(">{address}"), name]);
    }
    fields.into_iter().map(String::into_bytes).collect()
}

/// Agents with what is known of them. One that is forgotten meanwhile is left out.
async fn details(
    access: &Access,
    token: TokenId,
    found: Vec<(String, f64)>,
    now: Timestamp,
) -> Result<Vec<Agent>, Fault> {
    let (_, who) = access.layout.agents_of(token);
    let mut agents = Vec::with_capacity(found.len());
    for found in found.chunks(1000) {
        let names: Vec<_> = found.iter().map(|(name, _)| name).collect();
        let known: Vec<Option<String>> = access.ask(cmd("HMGET").arg(&who).arg(names)).await?;
        for ((name, used), known) in found.iter().zip(known) {
            let Some(known) = known else { continue };
            let agent = parse_agent(name, &known, moment(millis(*used)).min(now));
            agents.push(agent.ok_or_else(|| Fault::record(format!("{who} {name}"), "it is no agent"))?);
        }
    }
    Ok(agents)
}

/// What was written as address, and perhaps a space and the version.
fn parse_agent(name: &str, known: &str, last_used: Timestamp) -> Option<Agent> {
    let (address, version) = known.split_once(' ').map_or((known, None), |(address, version)| (address, Some(version)));
    Some(Agent {
        name: AgentName::from_key(name)?,
        address: address.parse::<IpAddr>().ok()?,
        version: version.map(str::to_owned),
        last_used,
    })
}

/// Those of the ids that were used last as they should be.
pub(super) async fn retain(
    access: &Access,
    ids: Vec<TokenId>,
    wanted: impl Fn(TokenId, Option<Timestamp>) -> bool,
) -> Result<Vec<TokenId>, Fault> {
    let members: Vec<_> = ids.iter().map(|id| id.to_ascii()).collect();
    let used = scores(access, Key::Usage, members.iter().map(<[u8; 13]>::as_slice)).await?;
    let used = used.into_iter().map(|used| used.map(|used| moment(millis(used))));
    Ok(ids.into_iter().zip(used).filter(|(id, used)| wanted(*id, *used)).map(|(id, _)| id).collect())
}
