//! What sidecars say of themselves, for `tollgate status` and for whoever waits until a revocation is everywhere.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Epoch, Head, Revision};
use crate::token::TokenId;

/// One sidecar: a random number drawn at its start, or of one with a snapshot file at an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SidecarId(pub u64);

impl fmt::Display for SidecarId {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How a sidecar is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub id: SidecarId,
    /// What people call it: the host's name, unless configured.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Its first listener.
    pub address: String,
    /// The machine that it runs on, by the name that this has for itself. Missing in reports of earlier versions.
    #[serde(default)]
    pub host: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// What its requests are decided by: everything up to this revision of this epoch; `None` while it is being rebuilt.
    pub applied: Option<(Epoch, Revision)>,
    /// The head there: which commits those are. Missing in reports of versions that know no heads.
    #[serde(default)]
    pub head: Option<Head>,
    /// The newest schema of the store that it can read.
    #[serde(default = "before_schemas")]
    pub schema: u32,
    /// How long ago it was last proven fresh, in milliseconds, at the moment of the report; `None` before the first time.
    pub staleness_ms: Option<u64>,
    /// How long ago all use of tokens until then was recorded, in milliseconds; `None`: it never was, or by a version that records
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritten_ms: Option<u64>,
    /// Users whom it holds to a status or role that the store has lost; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_users: Vec<String>,
    /// Why it wants no requests, however fresh it is: it stops, or was drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
    /// Open client connections.
    pub connections: u64,
    /// Tokens that it refused because they had expired, the latest first; at most twenty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<LateRequests>,
    /// Of one that stores configurations: how that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_cache: Option<ConfigCacheReport>,
}

/// Configurations that a sidecar stores for when the Controller is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigCacheReport {
    /// How many.
    pub entries: u64,
    /// How many were given to agents since it started.
    pub served: u64,
    /// For how long the Controller has been away, in milliseconds; `None`: it answers.
    pub away_ms: Option<u64>,
}

/// Requests with a token that had expired, since a sidecar started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateRequests {
    /// With which token.
    pub token: TokenId,
    /// How many.
    pub count: u64,
    /// When the last one came, by the sidecar's clock.
    pub last_at: Timestamp,
}

/// A report that the store still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// As it was written.
    pub report: Report,
    /// How long ago, by the store's clock.
    pub age: Duration,
    /// Its TTL: longer than its sidecar may serve without the store.
    pub ttl: Duration,
}

/// What the versions of this program that did not say so could read: see [`super::SCHEMA`].
const fn before_schemas() -> u32 {
    super::SCHEMA - 1
}

/// The name that this machine has for itself.
#[must_use]
pub(crate) fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Reports for people, in the order of their names: those of one name, as sidecars of one host have, get their ports
/// behind it, and those that share the port too, as one that takes over from another does, the beginning of their ids.
#[must_use]
pub(crate) fn with_distinct_names(mut reports: Vec<Reported>) -> Vec<Reported> {
    let port = |report: &Report| report.address.rsplit_once(':').map(|(_, port)| format!("{}:{port}", report.name));
    let id = |report: &Report| Some(format!("{} ({:.4})", report.name, report.id.to_string()));
    tell_apart(&mut reports, port);
    tell_apart(&mut reports, id);
    reports.sort_by(|a, b| (&a.report.name, a.report.id).cmp(&(&b.report.name, b.report.id)));
    reports
}

/// Gives another name to those whose name others have too.
fn tell_apart(reports: &mut [Reported], name: impl Fn(&Report) -> Option<String>) {
    let mut bearers: HashMap<String, usize> = HashMap::new();
    for Reported { report, .. } in &*reports {
        *bearers.entry(report.name.clone()).or_default() += 1;
    }
    for Reported { report, .. } in reports {
        if bearers.get(&report.name).is_some_and(|bearers| *bearers > 1) {
            report.name = name(report).unwrap_or_else(|| report.name.clone());
        }
    }
}
