//! Why what is there is not a store of this version, or is not to be used, and what to do.

use super::earlier::EARLIER;
use super::layout::SCHEMA;
use crate::store::schema::OtherSchema;
use crate::store::url::Server;

/// Each completes the name of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("is not in Redis")]
    NotRedis,
    #[error(
        "names {0} as a Sentinel, and it is a Redis: redis-sentinel:// names the Sentinels (often at port 26379), \
         redis:// one Redis"
    )]
    NotSentinel(Server),
    #[error(
        "names {0}, which is a Sentinel: write redis-sentinel://{0}/NAME, with the name by which it knows the primary"
    )]
    Sentinel(Server),
    #[error("names {0}, which is a node of a cluster: write redis-cluster://{0}")]
    ClusterNode(Server),
    #[error("names {0}, which does not run as a cluster: write redis://{0}")]
    NotCluster(Server),
    #[error("names a primary `{name}` that the Sentinel at {sentinel} does not know")]
    UnknownPrimary { name: String, sentinel: Server },
    #[error("is Redis {version} (at {server}); Tollgate needs 7.0 or later")]
    Version { version: String, server: Server },
    #[error("asks for a password: name a user and a password file")]
    NoPassword,
    #[error("asks for a user and a password (at {0})")]
    NoPasswordAt(Server),
    #[error("refuses the user or its password (at {0})")]
    WrongPassword(Server),
    #[error(
        "does not let its user have the database that the URL names (at {0}): give the user +select besides the rules in \
         deploy/redis/users.acl, or name no database"
    )]
    NoDatabase(Server),
    #[error(
        "comes back empty from its next start: it replays its append-only file as the user `default`, and {refusal}. Before \
         it stops, write `user default off ~* &* +@all` in its ACL file, which lets nobody in either (deploy/redis/README.md)"
    )]
    NotReplayed { refusal: String },
    #[error("holds a registry, and nothing is written over: name another place or namespace, or remove its keys")]
    NotEmpty,
    #[error("has {key} but not {meta}, and nothing is written over: name another namespace, or remove its keys first")]
    Leftover { key: String, meta: String },
    #[error("is being filled by another command, which began later")]
    Filled,
    #[error(
        "is being filled by `tollgate store copy` or `restore`, or was when that was interrupted (see {0}): it is no registry \
         before that is complete. Wait for it or run it again, which begins anew; or delete all keys of the namespace"
    )]
    Unfinished(String),
    #[error("has {key} but not {meta}: restore the registry from a backup, or name another namespace")]
    NoMeta { key: String, meta: String },
    #[error("has a damaged {0}: restore it from a backup")]
    Damaged(String),
    #[error("has a {kind} at {key} that is not ours: name another namespace")]
    ForeignKey { key: String, kind: String },
    #[error(transparent)]
    Schema(#[from] OtherSchema),
    #[error(
        "has schema {EARLIER}, this program writes schema {SCHEMA}, which sidecars that run cannot read: {}; upgrade them \
         first (`tollgate status` lists their versions)", listed(.0)
    )]
    LeavesBehind(Vec<String>),
}

/// The first of them, and how many more there are.
fn listed(sidecars: &[String]) -> String {
    const NAMED: usize = 10;
    match sidecars.split_at_checked(NAMED) {
        Some((named, more)) if !more.is_empty() => format!("{} and {} more", named.join(", "), more.len()),
        _ => sidecars.join(", "),
    }
}
