//! What must hold of a server before it is used: its version, its kind, its keys, and what its user may do.
//!
//! Nothing is written to find out. Permissions are tried within a transaction that is discarded: the server judges each
//! command when it is queued, and executes none.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value, cmd, from_redis_value};

use super::Access;
use super::dial::{CONNECT_TIMEOUT, Peer};
use super::fault::Fault;
use super::layout::{self, Key, Layout};
use super::link::Use;
use super::tenure;
use super::unusable::Unusable;
use crate::store::SidecarId;
use crate::store::url::{Server, Topology};
use crate::token::TokenId;

/// The oldest version that can be used, and its name. Scripts rely on what it can do.
const OLDEST: (u32, u32) = (7, 0);

/// What a server says of itself.
#[derive(Debug, Default)]
struct Greeting {
    version: String,
    mode: String,
    role: String,
}

/// Asks a server who it is. Needs no permission.
///
/// # Errors
/// [`Fault::Unusable`] for one of another kind, or too old; [`Fault::NotPrimary`] for a replica, unless any server will do.
pub(super) async fn greet(
    connection: &mut MultiplexedConnection,
    server: &Server,
    peer: Peer,
    topology: &Topology,
) -> Result<(), Fault> {
    let answer: Vec<(String, Value)> = ask(connection, &cmd("HELLO")).await?;
    let mut greeting = Greeting::default();
    for (name, value) in answer {
        let part = match name.as_str() {
            "version" => &mut greeting.version,
            "mode" => &mut greeting.mode,
            "role" => &mut greeting.role,
            _ => continue,
        };
        *part = from_redis_value(value).unwrap_or_default();
    }
    let mode = match (peer, topology) {
        (Peer::Sentinel, _) => "sentinel",
        (Peer::Primary | Peer::Any, Topology::Cluster(_)) => "cluster",
        (Peer::Primary | Peer::Any, Topology::Single(_) | Topology::Sentinel { .. }) => "standalone",
    };
    match judge(&greeting, server, mode) {
        Err(Fault::NotPrimary) if peer == Peer::Any => Ok(()),
        judged => judged,
    }
}

/// It should run in a mode, and be the primary.
fn judge(greeting: &Greeting, server: &Server, expected: &str) -> Result<(), Fault> {
    let Greeting { version, mode, role } = greeting;
    let (server, version) = (server.clone(), version.clone());
    match (expected, mode.as_str()) {
        (expected, mode) if expected == mode => {}
        ("sentinel", _) => return Err(Unusable::NotSentinel(server).into()),
        (_, "sentinel") => return Err(Unusable::Sentinel(server).into()),
        ("standalone", _) => return Err(Unusable::ClusterNode(server).into()),
        _ => return Err(Unusable::NotCluster(server).into()),
    }
    if parse_version(&version).is_none_or(|version| version < OLDEST) {
        return Err(Unusable::Version { version, server }.into());
    }
    match role.as_str() {
        "replica" | "slave" => Err(Fault::NotPrimary),
        _ => Ok(()),
    }
}

/// `7.0.15` is (7, 0).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<T, Fault> {
    command.query_async(connection).await.map_err(|error| Fault::of_command(error, CONNECT_TIMEOUT))
}

/// Checks that the namespace's keys are ours, as far as this user may see them. Hands back what the server says of itself.
///
/// # Errors
/// [`Fault::Unusable`] names a key that is not ours.
pub(super) async fn types(connection: &mut MultiplexedConnection, layout: &Layout) -> Result<String, Fault> {
    let mut questions = Pipeline::new();
    questions.cmd("INFO").arg("memory").arg(tenure::SECTIONS);
    for key in Key::ALL {
        questions.cmd("TYPE").arg(layout.key(key));
    }
    let mut answers = answers(connection, &mut questions).await?.into_iter();
    let info = answers.next().and_then(Result::ok).and_then(|info| from_redis_value::<String>(info).ok());
    let info = info.unwrap_or_default();
    warn_of_eviction(&info);
    for (answer, key) in answers.zip(Key::ALL) {
        match answer.map_err(|error| Fault::of_command(error, CONNECT_TIMEOUT)) {
            Ok(Value::SimpleString(found)) if found != "none" && found != key.kind() => {
                return Err(layout::wrong_type(layout.key(key), &found));
            }
            // What this user may not see it will not use either.
            Ok(_) | Err(Fault::NotPermitted(_)) => {}
            // The key is on the node that the slot moves to, if it is anywhere.
            Err(fault) if fault.is_passing() => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(info)
}

/// Once: it does not change by being said again.
fn warn_of_eviction(memory: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let policy = memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).unwrap_or_default().trim();
    if !policy.is_empty() && policy != "noeviction" && !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            policy,
            "Redis may evict the registry, or what sidecars report, when its memory is full: set maxmemory-policy noeviction"
        );
    }
}

/// Checks that the user may do everything that a sidecar does. What one of the version before could do without leads to a warning.
///
/// # Errors
/// [`Fault::NotPermitted`] names what the user may not do.
pub(super) async fn permissions(
    connection: &mut MultiplexedConnection,
    layout: &Layout,
    needs_quorum: bool,
) -> Result<(), Fault> {
    // First, and on its own: without it, what follows would not be queued but done.
    match ask::<()>(connection, &cmd("MULTI")).await {
        Ok(()) => {}
        // Then what is missing is found when it is used.
        Err(Fault::NotPermitted(_)) => return Ok(()),
        Err(fault) => return Err(fault),
    }
    let (wishes, mut needs) = (wishes(layout), needs(layout, needs_quorum));
    needs.push(Need { command: "DISCARD", on: None, rest: &[] });
    let mut attempt = Pipeline::new();
    for need in wishes.iter().flat_map(|wish| &wish.needs).chain(&needs) {
        attempt.add_command(need.command());
    }
    let answers = answers(connection, &mut attempt).await?;
    // Permissions are judged first: whatever else a command is refused for (no memory, no disk, a key that is elsewhere) is
    // reported when it is used, and is no reason not to use the others.
    let is_refused = |answer: Result<Value, RedisError>| {
        matches!(answer.map_err(|error| Fault::of_command(error, CONNECT_TIMEOUT)), Err(Fault::NotPermitted(_)))
    };
    let mut refused = answers.into_iter().map(is_refused);
    let mut named = |needs: &[Need]| {
        let named = needs.iter().zip(refused.by_ref().take(needs.len()));
        named.filter(|(_, is_refused)| *is_refused).map(|(need, _)| need.to_string()).collect::<Vec<_>>().join(", ")
    };
    let wished: Vec<_> = wishes.iter().map(|wish| (wish, named(&wish.needs))).collect();
    let missing = named(&needs);
    if !missing.is_empty() {
        return Err(Fault::NotPermitted(missing));
    }
    for (wish, refused) in wished.iter().filter(|(_, refused)| !refused.is_empty()) {
        wish.warn(refused);
    }
    Ok(())
}

/// What a sidecar of the version before could do without, and this one can too.
struct Wish {
    needs: Vec<Need>,
    /// What is missing without them.
    without: &'static str,
    /// The rule that permits it, as in `deploy/redis/users.acl`.
    rule: String,
    is_said: &'static AtomicBool,
}

impl Wish {
    /// Once: somebody has to change the user.
    fn warn(&self, refused: &str) {
        if !self.is_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(refused, "{}. Add {} to its line in users.acl", self.without, self.rule);
        }
    }
}

/// A command that a sidecar uses, with what it uses it on.
struct Need {
    command: &'static str,
    on: Option<String>,
    rest: &'static [&'static str],
}

impl Need {
    fn command(&self) -> Cmd {
        let mut command = cmd(self.command);
        command.arg(&self.on).arg(self.rest);
        command
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command)?;
        self.on.iter().try_for_each(|on| write!(f, " {on}"))
    }
}

fn needs(layout: &Layout, needs_quorum: bool) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut on = |command, on: &str, rest| needs.push(Need { command, on: Some(on.to_owned()), rest });
    on("HMGET", layout.key(Key::Meta), &["epoch"]);
    on("SCARD", layout.key(Key::Recalled), &[]);
    on("SSCAN", layout.key(Key::Recalled), &["0"]);
    on("SMISMEMBER", layout.key(Key::Recalled), &["digest"]);
    on("SADD", layout.key(Key::Recalled), &["digest"]);
    on("LLEN", layout.key(Key::RecallLog), &[]);
    on("LRANGE", layout.key(Key::RecallLog), &["0", "0"]);
    on("RPUSH", layout.key(Key::RecallLog), &["digest"]);
    on("HSCAN", layout.key(Key::Owners), &["0"]);
    on("HSCAN", layout.key(Key::Grants), &["0"]);
    on("HLEN", layout.key(Key::Grants), &[]);
    on("XRANGE", layout.key(Key::Log), &["-", "+", "COUNT", "1"]);
    on("SUBSCRIBE", layout.channel(), &[]);
    on("SADD", layout.key(Key::Sidecars), &["id"]);
    on("SREM", layout.key(Key::Sidecars), &["id"]);
    let report = layout.sidecar(SidecarId(0));
    on("SET", &report, &["report", "PX", "1"]);
    on("PTTL", &report, &[]);
    on("PEXPIRE", &report, &["1"]);
    on("DEL", &report, &[]);
    on("DEL", layout.key(Key::Tenure), &[]);
    on("PEXPIRE", layout.key(Key::Tenure), &["1"]);
    if needs_quorum {
        on("SET", layout.key(Key::Probe), &["0"]);
        on("PEXPIRE", layout.key(Key::Probe), &["1"]);
        needs.push(Need { command: "WAIT", on: None, rest: &["0", "0"] });
    }
    needs.push(Need { command: "EVAL_RO", on: None, rest: &["return 0", "0"] });
    needs.push(Need { command: "ROLE", on: None, rest: &[] });
    needs.push(Need { command: "INFO", on: None, rest: &["server"] });
    needs
}

fn wishes(layout: &Layout) -> [Wish; 2] {
    static SAID: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    let on = |command, key, rest| Need { command, on: Some(layout.key(key).to_owned()), rest };
    let [revoked, retired, tokens, usage] =
        [Key::Revoked, Key::Retired, Key::Tokens, Key::Usage].map(|key| layout.key(key));
    let (seen, who) = layout.agents_of(TokenId::from_u64(0));
    let of_agents = |command, on: &str, rest| Need { command, on: Some(on.to_owned()), rest };
    let of_usage = vec![
        on("HEXISTS", Key::Tokens, &["id"]),
        on("ZADD", Key::Usage, &["0", "id"]),
        on("ZMSCORE", Key::Usage, &["id"]),
        of_agents("ZADD", &seen, &["0", "agent"]),
        of_agents("ZCARD", &seen, &[]),
        of_agents("ZCOUNT", &seen, &["0", "0"]),
        of_agents("ZRANGE", &seen, &["0", "0"]),
        of_agents("ZREM", &seen, &["agent"]),
        of_agents("HMGET", &who, &["agent"]),
        of_agents("HSET", &who, &["agent", "address"]),
        of_agents("HDEL", &who, &["agent"]),
        Need { command: "EVAL", on: None, rest: &["return 0", "0"] },
        Need { command: "EVALSHA", on: None, rest: &["0", "0"] },
        Need { command: "TIME", on: None, rest: &[] },
    ];
    [
        Wish {
            needs: vec![on("HMGET", Key::Revoked, &["digest"]), on("ZMSCORE", Key::Retired, &["digest"])],
            without: "Redis does not tell this user which tokens were revoked while the sidecar was cut off for long: if Redis \
                      loses such a revocation later, the sidecar lets the token in",
            rule: format!("(%R~{revoked} %R~{retired} +type +hmget +zmscore)"),
            is_said: &SAID[0],
        },
        Wish {
            needs: of_usage,
            without: "Redis does not let this user record when tokens are used, and by which agents: what passes this sidecar \
                      is missing from `tollgate token list`, and from what is asked before tokens are revoked",
            rule: format!(
                "(%R~{tokens} +hexists) (~{usage} ~{usage}:* +eval +evalsha +time +type +zadd +zmscore +zcard +zcount +zrange +zrem +hmget \
                 +hset +hdel)"
            ),
            is_said: &SAID[1],
        },
    ]
}

/// Why the server refuses writes, if it does: it says so of a write that is queued, and never done.
pub(super) async fn refuses_writes(access: &Access) -> Result<Option<String>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("MULTI").cmd("SET").arg(access.layout.key(Key::Probe)).arg("1").cmd("DISCARD");
    let answers: [Result<Value, RedisError>; 3] = access.link.read(Use::Main, commands.ignore_errors()).await?;
    let [_, queued, _] = answers;
    let fault = queued.err().map(|error| Fault::of_command(error, CONNECT_TIMEOUT)).filter(Fault::refuses_writes);
    Ok(fault.map(|fault| match fault.is_out_of_memory() {
        true => format!("{fault}. What only takes away goes through all the same, and sidecars serve on"),
        false => {
            format!("{fault}. Nothing can be changed, and sidecars, which cannot report, are stale after their bound")
        }
    }))
}

/// Each command's own answer. Fails only when there are none.
async fn answers(
    connection: &mut MultiplexedConnection,
    commands: &mut Pipeline,
) -> Result<Vec<Result<Value, RedisError>>, Fault> {
    let answers = commands.ignore_errors().query_async(connection).await;
    answers.map_err(|error| Fault::of_command(error, CONNECT_TIMEOUT))
}

#[cfg(test)]
mod commands;
#[cfg(test)]
mod tests {
    use super::*;

    fn judged(version: &str, mode: &str, role: &str, expected: &str) -> Result<(), Fault> {
        let greeting = Greeting { version: version.to_owned(), mode: mode.to_owned(), role: role.to_owned() };
        judge(&greeting, &Server { host: "h".to_owned(), port: 1 }, expected)
    }

    #[test]
    fn servers_of_another_kind_are_named_with_what_to_write() {
        let server = || Server { host: "h".to_owned(), port: 1 };
        for (mode, expected, problem, part) in [
            ("cluster", "standalone", Unusable::ClusterNode(server()), "write redis-cluster://h:1"),
            ("standalone", "cluster", Unusable::NotCluster(server()), "write redis://h:1"),
            ("sentinel", "standalone", Unusable::Sentinel(server()), "write redis-sentinel://h:1/NAME"),
            ("sentinel", "cluster", Unusable::Sentinel(server()), "write redis-sentinel://h:1/NAME"),
            ("standalone", "sentinel", Unusable::NotSentinel(server()), "redis:// one Redis"),
        ] {
            assert!(problem.to_string().contains(part), "{problem}");
            match judged("7.0.15", mode, "master", expected) {
                Err(Fault::Unusable(found)) => assert_eq!(found, problem),
                other => panic!("{mode} as {expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn old_versions_and_replicas_are_refused() {
        for version in ["6.2.14", "5.0", "", "x"] {
            let judged = judged(version, "standalone", "master", "standalone");
            assert!(matches!(&judged, Err(Fault::Unusable(Unusable::Version { .. }))), "{judged:?}");
        }
        for version in ["7.0.0", "7.2.4", "8.0.1", "10.1"] {
            assert!(judged(version, "standalone", "master", "standalone").is_ok(), "{version}");
        }
        assert!(matches!(judged("7.0.0", "cluster", "replica", "cluster"), Err(Fault::NotPrimary)));
    }
}
