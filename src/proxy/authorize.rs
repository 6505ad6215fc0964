//! Who shows a token, and whether it permits what is asked: by the replica, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use super::late::LateUses;
use super::refusal::Refusal;
use crate::clock::{Instant, unix_seconds};
use crate::replica::{Holder, MaxStaleness, Replica};
use crate::worker::alarm::AdmissionTerms;

/// Decides by a replica.
#[derive(Clone)]
pub(crate) struct Authorizer {
    /// What is known of tokens.
    pub replica: Arc<Replica>,
    /// How stale it may be to say no.
    pub max_staleness: MaxStaleness,
    /// For how long an expired token is refused as such; then as one that nobody knows.
    pub expired_retention: Duration,
    /// What came with tokens after their end.
    pub late: Arc<LateUses>,
}

impl Authorizer {
    /// Authenticates by the replica and checks the permission: identity first.
    ///
    /// Yes is said by a replica as stale as the route allows. No is said only by one that is fresh by the general bound
    /// too: a replica that may be behind cannot know that a token does *not* exist. Neither is said where a commit is known
    /// that takes the yes away, and is not reached yet.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub(crate) fn authorize(&self, terms: &AdmissionTerms, now: Instant) -> Result<Holder, Refusal> {
        let AdmissionTerms { digest, needed, max_staleness } = *terms;
        let staleness = self.replica.staleness(now).ok_or(Refusal::Stale)?;
        if !max_staleness.allows(staleness) {
            return Err(Refusal::Stale);
        }
        let no = |refusal| if self.max_staleness.allows(staleness) { refusal } else { Refusal::Stale };
        let holder = self.replica.lookup(&digest).ok_or_else(|| no(Refusal::UnknownToken))?;
        if let Some(expired_for) = holder.expired_for(unix_seconds()) {
            // "Expired" is true however stale the replica is: a token never gets more time than it had. And the replica has
            // it still when that is no longer said: its checksum is that of what the store holds, and a clock that was wrong
            // may be set.
            self.late.add(holder.token);
            let is_remembered = expired_for < self.expired_retention;
            return Err(if is_remembered { Refusal::Expired } else { no(Refusal::UnknownToken) });
        }
        if let Some(lacking) = needed.filter(|permission| !holder.permissions.contains(*permission)) {
            return Err(no(Refusal::Permission(lacking)));
        }
        if self.replica.doubts(&digest, &holder, needed) {
            return Err(Refusal::Stale);
        }
        Ok(holder)
    }
}
