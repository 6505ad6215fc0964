//! Every command that is sent to Redis, by this program or by its scripts, is one that its user may run: it is tried when a
//! sidecar connects, and is in the rules that are shipped.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{needs, wishes};
use crate::store::redis::layout::Layout;
use crate::store::settings::Namespace;

type Commands = BTreeSet<String>;

/// Which commands each file has, and whether sidecars run them or registry commands only.
const USED: [(&str, &str, &str); 43] = [
    ("archive/fill.rs", "", "EVAL EXISTS TIME UNLINK ZRANGE ZREM"),
    ("archive/piece.rs", "", "HDEL HSET LTRIM RPUSH SADD UNLINK XADD ZADD ZREM"),
    ("archive/read.rs", "", "HLEN HMGET HSCAN INFO LRANGE ROLE SCARD SSCAN TIME XRANGE ZCARD ZRANGE"),
    ("archive/verify.rs", "", "HLEN HMGET LLEN LRANGE XLEN ZCARD ZMSCORE"),
    ("ancestor.lua", "XRANGE", ""),
    ("ancestor.rs", "EVAL_RO", ""),
    ("begin.lua", "", "EXISTS HSET UNLINK"),
    // What is tried is what the other files have.
    ("check.rs", "DISCARD HELLO INFO MULTI TYPE", ""),
    (
        "commit.lua",
        "",
        "DEL HDEL HGET HLEN HMGET HSET PUBLISH RPUSH TIME TYPE UNLINK XADD XLEN XRANGE XTRIM ZADD ZCARD ZCOUNT ZMSCORE \
         ZREM ZREMRANGEBYRANK ZREMRANGEBYSCORE ZSCORE",
    ),
    ("commit.rs", "", "EVAL ROLE WAIT"),
    ("commit/plan.rs", "", "EVAL HDEL HSET RPUSH ZADD ZREM"),
    ("create.lua", "", "EXISTS HSET"),
    ("discovery.rs", "CLUSTER SENTINEL", ""),
    ("earlier.rs", "HMGET SUBSCRIBE", "EVAL"),
    ("fill.lua", "", "EXISTS HMGET HSET"),
    ("finish.lua", "", "DEL HMGET HSET XADD"),
    ("followers.rs", "EVAL_RO", ""),
    ("forget.lua", "", "EXISTS SREM"),
    ("freeze.lua", "", "EXISTS HDEL HMGET HSET"),
    ("freeze.rs", "", "EVAL HMGET"),
    ("history.lua", "HMGET XRANGE", ""),
    ("index.rs", "", "ZCOUNT ZLEXCOUNT ZRANGE"),
    ("link.rs", "READONLY ROLE SUBSCRIBE", ""),
    ("log.lua", "HLEN HMGET XRANGE", ""),
    ("log.rs", "EVAL_RO HMGET XRANGE", ""),
    ("migrate.lua", "", "HMGET HSET"),
    ("note.lua", "", "HMGET RPUSH"),
    ("read.rs", "HMGET PEXPIRE ROLE SCARD SET WAIT ZMSCORE", "HGET HKEYS"),
    ("recalled.lua", "HMGET LLEN LRANGE SCARD SMISMEMBER SSCAN", ""),
    ("recalls.rs", "EVAL_RO INFO RPUSH SADD SCARD", "EVAL"),
    ("replay.rs", "", "ACL HSET INFO XADD"),
    ("replicas.rs", "", "EVAL HMGET ROLE SET WAIT XRANGE"),
    ("reports.lua", "", "GET PTTL SMEMBERS"),
    ("reports.rs", "DEL PEXPIRE PTTL SADD SET SREM", "EVAL EVAL_RO"),
    ("resolve.lua", "", "HMGET TIME XRANGE ZADD ZREMRANGEBYSCORE"),
    ("settle.lua", "", "DEL EXISTS HINCRBY SCARD SREM"),
    ("snapshot.rs", "HLEN HMGET HSCAN INFO", ""),
    // Of a Sentinel.
    ("switches.rs", "SUBSCRIBE", ""),
    ("tenure.rs", "DEL PEXPIRE", "GET INFO PTTL SET"),
    ("trail.lua", "", "HMGET LRANGE LTRIM XADD XREVRANGE XSETID XTRIM"),
    ("trail.rs", "", "EVAL HGET HSET LLEN LRANGE XRANGE XREVRANGE"),
    ("usage.rs", "EVAL EVALSHA", "HMGET TIME ZCOUNT ZRANGE"),
    ("used.lua", "HDEL HEXISTS HMGET HSET TIME ZADD ZCARD ZCOUNT ZMSCORE ZRANGE ZREM", ""),
];

/// Words that look like commands: arguments, errors, and what a plan calls its steps.
const WORDS: &str = "APPEND BYLEX BYSCORE CLUSTERDOWN COUNT DISUSE DRYRUN EXEC FORGET GT LIMIT MARK MINID MOVED NX OK PX REPLICAS RETIRE REV \
                     SLOTS STAMPED VERSIONED WITHSCORES";

/// Files with words of errors only.
const WITHOUT: [&str; 1] = ["fault.rs"];

/// What sidecars run and do not try at the start.
const UNTRIED: &str = "CLUSTER HELLO INFO MULTI READONLY SENTINEL TYPE";

/// Needs no right; or is for Sentinels, which have users of their own.
const FREE: &str = "HELLO SENTINEL";

/// What the shipped rules have besides: of the client library, of sidecars and commands of the version before, and of people.
const BESIDES: &str = "PERSIST PING SMEMBERS UNSUBSCRIBE";

fn words(text: &str) -> Commands {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/redis"))
}

/// Every source file, without its tests, by its path in the folder.
fn sources() -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![folder().to_owned()], Vec::new());
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder()).expect("within").display().to_string();
            if path.is_dir() && name != "check" {
                folders.push(path);
            } else if name.ends_with(".rs") || name.ends_with(".lua") {
                let text = fs::read_to_string(&path).expect("reads");
                found.push((name, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()));
            }
        }
    }
    found
}

/// The words in quotes that look like commands, scripts within Rust included.
fn quoted(text: &str) -> Commands {
    let is_command = |word: &&str| {
        word.len() > 1
            && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            && !words(WORDS).contains(*word)
    };
    let quotes = text.split(['"', '\'']).filter(is_command).map(str::to_owned);
    let subscribes = text.contains(".subscribe(").then(|| "SUBSCRIBE".to_owned());
    quotes.chain(subscribes).collect()
}

/// What one of the shipped users may do.
fn shipped(user: &str) -> Commands {
    let rules = include_str!("../../../../deploy/redis/users.acl");
    let line = rules.lines().find(|line| line.starts_with(&format!("user {user} "))).expect("a user");
    let rules = line.split([' ', '(', ')']).filter_map(|rule| rule.strip_prefix('+'));
    rules.map(|command| command.split('|').next().unwrap_or_default().to_ascii_uppercase()).collect()
}

#[test]
fn every_command_of_every_file_is_listed_here() {
    for (name, text) in sources().into_iter().filter(|(name, _)| !WITHOUT.contains(&name.as_str())) {
        let listed = USED.iter().find(|(file, ..)| *file == name);
        let mut listed = listed.map_or_else(Commands::new, |(_, sidecars, registry)| {
            words(sidecars).union(&words(registry)).cloned().collect()
        });
        if name == "check.rs" {
            listed.extend(tried());
        }
        let found = quoted(&text);
        assert_eq!(found, listed, "{name}");
    }
}

fn tried() -> Commands {
    let layout = Layout::new(&Namespace::default(), 0);
    let needs = needs(&layout, true).into_iter().chain(wishes(&layout).into_iter().flat_map(|wish| wish.needs));
    needs.map(|need| need.command.to_owned()).chain(["DISCARD".to_owned()]).collect()
}

fn used(pick: fn(&(&str, &str, &str)) -> Commands) -> Commands {
    USED.iter().flat_map(pick).filter(|command| !words(FREE).contains(command)).collect()
}

/// What is missing shows at the start, and not when it is needed: PEXPIRE is while Redis is out of memory only.
#[test]
fn whatever_a_sidecar_runs_is_tried_when_it_connects() {
    let tried: Commands = tried().union(&words(UNTRIED)).cloned().collect();
    let used = used(|(_, sidecars, _)| words(sidecars));
    assert_eq!(used.difference(&tried).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_shipped_users_may_run_what_they_need_and_nothing_else() {
    for (user, used) in [
        ("tollgate-sidecar", used(|(_, sidecars, _)| words(sidecars))),
        (
            "tollgate-registry",
            used(|(_, sidecars, registry)| words(sidecars).union(&words(registry)).cloned().collect()),
        ),
    ] {
        let mut granted = shipped(user);
        granted.retain(|command| used.contains(command) || !words(BESIDES).contains(command));
        assert_eq!(granted, used, "{user}");
    }
}

#[test]
fn the_rules_that_warnings_tell_to_add_are_in_those_that_are_shipped() {
    let rules = include_str!("../../../../deploy/redis/users.acl");
    let line = rules.lines().find(|line| line.starts_with("user tollgate-sidecar ")).expect("a user");
    for wish in wishes(&Layout::new(&Namespace::default(), 0)) {
        assert!(line.contains(&wish.rule), "{}", wish.rule);
    }
}

/// Redis takes nothing back of a script that breaks off: one that writes more than once first checks that it may.
#[test]
fn scripts_that_write_more_than_once_check_their_rights_first() {
    let writes = words(
        "DEL HDEL HINCRBY HSET LTRIM PUBLISH RPUSH SADD SET SREM UNLINK XADD XSETID XTRIM ZADD ZREM ZREMRANGEBYRANK \
         ZREMRANGEBYSCORE",
    );
    let scripts: Vec<_> = sources().into_iter().filter(|(name, _)| name.ends_with(".lua")).collect();
    let split = |text: &str| -> (Commands, Commands) {
        let called = text.split("redis.call('").skip(1).filter_map(|call| call.split('\'').next()).map(str::to_owned);
        (called.collect(), quoted(&text.replace("redis.call('", "")))
    };
    let checked_by_commit = scripts.iter().find(|(name, _)| name == "commit.lua").map(|(_, text)| split(text).1);
    let mut several = 0;
    for (name, text) in &scripts {
        let (called, mut checked) = split(text);
        if called.intersection(&writes).count() < 2 {
            continue;
        }
        several += 1;
        if name == "used.lua" {
            continue; // what it has half written is written again
        }
        if name == "resolve.lua" {
            // It settles what a commit, which checks for it, has begun.
            checked.extend(checked_by_commit.clone().unwrap_or_default());
        }
        assert_eq!(called.difference(&checked).collect::<Vec<_>>(), Vec::<&String>::new(), "{name}");
    }
    assert_eq!(
        several, 8,
        "begin.lua, commit.lua, finish.lua, freeze.lua, resolve.lua, settle.lua, trail.lua and used.lua"
    );
}
