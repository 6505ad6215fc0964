//! What can go wrong with Redis: in words for whoever has to mend it, and in kinds for whoever decides what to do next.

use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use super::followers::ReplicaUnusable;
use super::unusable::Unusable;
use crate::random::NoEntropy;
use crate::store::url::Server;
use crate::store::{Contradiction, NoRegistry, StoreError};

/// Errors that a server gives before it begins with a command (`processCommand` and `scriptPrepareForRun` in its source).
const BEFOREHAND: [&str; 12] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
];

/// What is in an error of a command that a script ran: the server had begun with the script.
const OF_SCRIPT: &str = "script: ";

/// The cause of a [`StoreError`]. Never shows a password.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    /// What is there is not a store of this version, or this user may not use it.
    #[error("cannot be used: {0}")]
    Unusable(#[from] Unusable),
    /// There is no registry yet.
    #[error("{0}")]
    Absent(NoRegistry),
    /// The server refuses this user these commands or keys.
    #[error("refuses its Redis user something ({0}): give it the rules in deploy/redis/users.acl")]
    NotPermitted(String),
    #[error("damaged record at {key}: {problem}")]
    Record { key: String, problem: String },
    /// No connection could be made: nothing was sent.
    #[error("cannot connect to {server}")]
    Unreachable {
        server: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody is there, and does not come to greeting us: nothing was sent.
    #[error("cannot connect to {server}")]
    Crowded {
        server: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The connection ended before the answer. What was sent may have been executed, or may still be.
    #[error("the connection broke before the answer")]
    Broken(#[source] RedisError),
    /// No answer in time. What was sent may have been executed, or may still be.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server answered with an error: its code and its words.
    #[error("{}", refusal(.0, .1))]
    Refused(String, String),
    /// A later one of several commands failed so. Those before it were executed.
    #[error(transparent)]
    Later(Box<Fault>),
    /// Nothing can be said any more of a commit that was in doubt.
    #[error("the change log no longer goes back to the commit, or the registry is gone")]
    Forgotten(#[source] Box<Fault>),
    /// The answer came from a server that is not the primary, and proves nothing.
    #[error("the server that answered is a replica")]
    NotPrimary,
    /// A replica that is to be read from is not where it has to be.
    #[error(transparent)]
    ReplicaUnusable(#[from] ReplicaUnusable),
    #[error("{confirmed} of {wanted} replicas confirmed it")]
    Unconfirmed { confirmed: u64, wanted: u32 },
    /// No more digests are taken.
    #[error("{0} tokens are recalled already, until a command that changes something revokes them again")]
    TooManyRecalls(u64),
    /// The registry takes no commits, for this reason.
    #[error("{0}")]
    Frozen(String),
    #[error("it was changed without a pause while it was read: try again, or freeze it first")]
    TooBusy,
    #[error("it was changed faster than it could be read, or restored meanwhile: try again, or freeze it first")]
    OtherHistory,
    #[error("one server after the other has answered while it was read: try again once no failover comes in between")]
    OtherServers,
    /// Who asked for it has failed, and says why.
    #[error("nobody listens any more")]
    NobodyListens,
    #[error("the server has lost what was written to it, by a failover or a restart: begin again")]
    PieceLost,
    /// An answer that makes no sense.
    #[error("the server's answer cannot be understood: {0}")]
    UnexpectedAnswer(String),
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error("no randomness from the operating system")]
    Entropy(#[source] NoEntropy),
}

impl Fault {
    /// A record that cannot be read.
    pub(super) fn record(key: String, problem: impl std::fmt::Display) -> Self {
        Self::Record { key, problem: problem.to_string() }
    }

    /// The error of a command, which had this long.
    pub(super) fn of_command(error: RedisError, limit: Duration) -> Self {
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => Self::TimedOut(limit),
            ErrorKind::Io | ErrorKind::Parse => Self::Broken(error),
            ErrorKind::UnexpectedReturnType => Self::UnexpectedAnswer(error.to_string()),
            _ => match error.clone().into_server_errors().as_deref() {
                Some([(place, first), ..]) => {
                    let (code, detail) = (first.code().to_owned(), first.details().unwrap_or_default().to_owned());
                    match place {
                        1.. => Self::Later(Box::new(Self::of_server(code, detail))),
                        0 => Self::of_server(code, detail),
                    }
                }
                _ => Self::UnexpectedAnswer(error.to_string()),
            },
        }
    }

    /// The server's own words.
    fn of_server(code: String, detail: String) -> Self {
        match code.as_str() {
            "NOPERM" => Self::NotPermitted(detail),
            "NOAUTH" => Unusable::NoPassword.into(),
            _ => Self::Refused(code, detail),
        }
    }

    /// The error of an attempt to connect.
    pub(super) fn of_connecting(server: &Server, error: RedisError) -> Self {
        match (error.kind(), error.code()) {
            (ErrorKind::RESP3NotSupported, _) => {
                Unusable::Version { version: "5 or older".to_owned(), server: server.clone() }.into()
            }
            (_, Some("WRONGPASS")) => Unusable::WrongPassword(server.clone()).into(),
            (_, Some("NOAUTH")) => Unusable::NoPasswordAt(server.clone()).into(),
            _ if error.to_string().contains("max number of clients") => {
                Self::crowded(server, "Redis has as many connections as its maxclients allows: raise it")
            }
            _ if error.to_string().contains("switch database") => Unusable::NoDatabase(server.clone()).into(),
            (ErrorKind::Io, _) => Self::unreachable(server, error),
            // In its own words it may repeat what it was sent: the password.
            (_, Some(code)) if is_code(code) => Self::unreachable(server, format!("it answers {code} when greeted")),
            _ => Self::unreachable(server, "it does not answer as a Redis does"),
        }
    }

    /// There is no connection.
    pub(super) fn unreachable(server: &Server, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreachable { server: server.to_string(), source: source.into().into() }
    }

    /// There is none, and somebody is there.
    pub(super) fn crowded(server: &Server, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Crowded { server: server.to_string(), source: source.into().into() }
    }

    /// Whether another connection is needed, and perhaps another server.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            Self::Broken(_)
            | Self::TimedOut(_)
            | Self::NotPrimary
            | Self::ReplicaUnusable(_)
            | Self::UnexpectedAnswer(_) => true,
            Self::Refused(code, _) => matches!(code.as_str(), "READONLY" | "MOVED" | "MASTERDOWN" | "UNBLOCKED"),
            Self::Later(fault) => fault.ends_connection(),
            _ => false,
        }
    }

    /// Whether somebody has to mend something: trying again does not help.
    pub(super) fn is_unusable(&self) -> bool {
        matches!(self.inner(), Self::Unusable(_) | Self::NotPermitted(_))
    }

    /// Wherever among several commands it came.
    fn inner(&self) -> &Self {
        match self {
            Self::Later(fault) => fault,
            fault => fault,
        }
    }

    /// Whether the cluster is busy with something that is soon over.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.inner(), Self::Refused(code, _) if matches!(code.as_str(), "ASK" | "TRYAGAIN" | "CLUSTERDOWN"))
    }

    /// Whether what was sent may have been executed all the same, whole or in part, or may be later. An error leaves that
    /// open too, unless it is one that the server gives before it begins with a command.
    pub(super) fn leaves_open(&self) -> bool {
        match self {
            Self::Broken(_) | Self::TimedOut(_) | Self::UnexpectedAnswer(_) | Self::Later(_) | Self::Forgotten(_) => {
                true
            }
            Self::Refused(code, detail) => !BEFOREHAND.contains(&code.as_str()) || detail.contains(OF_SCRIPT),
            Self::Unusable(_)
            | Self::Absent(_)
            | Self::NotPermitted(_)
            | Self::Record { .. }
            | Self::Unreachable { .. }
            | Self::Crowded { .. }
            | Self::NotPrimary
            | Self::ReplicaUnusable(_)
            | Self::Unconfirmed { .. }
            | Self::TooManyRecalls(_)
            | Self::Frozen(_)
            | Self::TooBusy
            | Self::OtherHistory
            | Self::OtherServers
            | Self::NobodyListens
            | Self::PieceLost
            | Self::Contradiction(_)
            | Self::Entropy(_) => false,
        }
    }

    /// Whether it is the server's last word on what was sent before, too.
    pub(super) fn is_final(&self) -> bool {
        self.is_unusable() || matches!(self.inner(), Self::PieceLost)
    }

    /// Whether the first of several commands was executed.
    pub(super) fn was_executed(&self) -> bool {
        matches!(self, Self::Later(_))
    }

    /// Whether the server refuses all writes, for now.
    pub(super) fn refuses_writes(&self) -> bool {
        let is_of_all = |code: &str| matches!(code, "MISCONF" | "NOREPLICAS" | "OOM");
        matches!(self.inner(), Self::Refused(code, _) if is_of_all(code))
    }

    /// Whether the server has no memory left.
    pub(super) fn is_out_of_memory(&self) -> bool {
        matches!(self.inner(), Self::Refused(code, _) if code == "OOM")
    }

    /// Whether the server does not know the script that was named by its hash.
    pub(super) fn is_unknown_script(&self) -> bool {
        matches!(self.inner(), Self::Refused(code, _) if code == "NOSCRIPT")
    }

    /// Whether the server found a key of another type than ours.
    pub(super) fn is_wrong_type(&self) -> bool {
        matches!(self.inner(), Self::Refused(code, _) if code == "WRONGTYPE")
    }

    /// The error that the caller sees.
    pub(super) fn during(self, operation: &'static str, store: &str) -> StoreError {
        let store = store.to_owned();
        match self {
            Self::Later(fault) => fault.during(operation, &store),
            Self::Record { key, problem } => StoreError::DamagedRecord { store, key, problem },
            Self::Unusable(problem) => StoreError::Unusable { store, problem: problem.into() },
            Self::Frozen(reason) => StoreError::Frozen { store, reason },
            Self::Absent(found) => StoreError::NoRegistry { store, found },
            Self::NotPermitted(_) => StoreError::Unusable { store, problem: self.into() },
            cause => StoreError::Unavailable { operation, store, source: Box::new(cause) },
        }
    }
}

/// What the server's error means, and what to do about it.
fn refusal(code: &str, detail: &str) -> String {
    let meaning = match code {
        "READONLY" => "the server is a replica and takes no writes",
        "LOADING" => "Redis is still loading its data: try again",
        "BUSY" => "Redis is busy with a script: try again",
        "OOM" => "Redis has reached its maxmemory: give it more memory",
        "MISCONF" => "Redis cannot save its data to disk and refuses writes: give it disk and memory, as its log says",
        "NOREPLICAS" => {
            "too few replicas are connected to Redis, which refuses writes: bring one back, or lower min-replicas-to-write"
        }
        "MASTERDOWN" => "the server is a replica that has lost its primary",
        "CLUSTERDOWN" => "the cluster is down: see CLUSTER INFO",
        "MOVED" => "the server has given the slot of this namespace to another node",
        "ASK" | "TRYAGAIN" => "the slot of this namespace is being moved to another node: try again",
        "WRONGTYPE" => "a key has another type than ours: the namespace is used by something else",
        _ => return format!("Redis answered {code} {detail}"),
    };
    format!("{meaning} ({code} {detail})")
}

/// Whether it looks like a code of Redis's errors, such as `LOADING`.
fn is_code(text: &str) -> bool {
    text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str) -> Fault {
        let error = redis::make_extension_error(code.to_owned(), Some("details".to_owned()));
        Fault::of_command(error, Duration::from_secs(1))
    }

    #[test]
    fn what_the_server_refuses_was_not_executed() {
        for code in ["READONLY", "LOADING", "OOM", "MISCONF", "MOVED", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"] {
            let fault = answered(code);
            assert!(!fault.leaves_open(), "{code}");
            assert!(fault.to_string().contains(code), "{fault}");
        }
        assert!(matches!(answered("NOPERM"), Fault::NotPermitted(_)));
        assert!(!answered("NOPERM").leaves_open());
    }

    #[test]
    fn any_other_error_may_come_half_way() {
        for code in ["ERR", "UNBLOCKED", "WRONGTYPE", "NEW"] {
            assert!(answered(code).leaves_open(), "{code}");
        }
        let within = "not enough good replicas script: eb0cfdcf473d88dbc2fc918aca5bf670de624bd2, on @user_script:1.";
        assert!(Fault::of_server("NOREPLICAS".to_owned(), within.to_owned()).leaves_open());
        let later = Fault::Later(Box::new(answered("READONLY")));
        assert!(later.leaves_open() && later.ends_connection());
    }

    #[test]
    fn what_was_not_answered_is_open() {
        let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(Fault::of_command(cut.into(), Duration::ZERO).leaves_open());
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert!(Fault::of_command(late.into(), Duration::ZERO).leaves_open());
    }

    #[test]
    fn a_server_that_is_no_longer_in_charge_is_left() {
        for (code, leaves) in [("READONLY", true), ("MOVED", true), ("LOADING", false), ("OOM", false)] {
            assert_eq!(answered(code).ends_connection(), leaves, "{code}");
        }
    }
}
