//! The audit trail of this registry: entries of what was refused, the trail for those who may read it, and what is done with
//! it after each commit.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::actor::Right;
use super::{Actor, ErrorKind, Registry, RegistryError, now};
use crate::audit::{
    self, Action, Event, Forwarded, Head, Linked, Origin, Outcome, Settings, Subject, Verification, Who, Witnesses,
};
use crate::chain::chain;
use crate::lock::Mutex;
use crate::store::{AuditLine, StoreError, TrailEnds};
use crate::token::TokenId;

/// Lines read at once.
const PAGE: usize = 500;

/// Between two looks at what is loose.
const PAUSE: Duration = Duration::from_secs(2);

/// Loose entries shown: what is left loose is chained by the next command.
const LOOSE: usize = 10_000;

/// How often the ends of the trail are read again while somebody chains.
const ATTEMPTS: usize = 8;

/// Most ids that an entry about something refused names.
const MOST_NAMED: usize = 20;

/// Who is recorded where nobody knows who it was.
const STRANGER: &str = "stranger";

/// What a registry has for its audit trail.
#[derive(Debug, Default)]
pub(super) struct Audit {
    settings: Settings,
    quotas: Mutex<Quotas>,
}

/// Which entries of the trail are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// By whom: an id or a name.
    pub actor: Option<String>,
    /// Of these actions: one, or all that begin so, as `token` or `user.`.
    pub action: Option<String>,
    /// About this token or user: an id, or a user's name.
    pub subject: Option<String>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Until then, and not at that moment.
    pub until: Option<Timestamp>,
}

/// An entry for those who read the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditView {
    /// Its number; `None`: it is not chained yet.
    pub seq: Option<u64>,
    /// The number that it has, or will have: what is not chained yet is chained in its order, and a list goes on after it.
    pub place: u64,
    /// All that it says, the hashes too.
    pub members: Map<String, Value>,
}

/// What was done with the trail after a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tended {
    /// What became of loose entries.
    pub linked: Linked,
    /// What was written to a file or to syslog.
    pub forwarded: Forwarded,
}

impl Serialize for AuditView {
    /// All that it says, and whether it is chained.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len() + 1))?;
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("chained", &self.seq.is_some())?;
        map.end()
    }
}

impl AuditView {
    fn of_line(line: &AuditLine) -> Self {
        Self { seq: Some(line.seq), ..Self::of_entry(line.seq, &line.text) }
    }

    fn of_entry(place: u64, entry: &[u8]) -> Self {
        let damaged = || Map::from_iter([("damaged".to_owned(), String::from_utf8_lossy(entry).into())]);
        Self { seq: None, place, members: serde_json::from_slice(entry).unwrap_or_else(|_| damaged()) }
    }

    /// A member that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name)?.as_str()
    }

    /// When it was.
    #[must_use]
    pub fn at(&self) -> Option<Timestamp> {
        self.text("timestamp")?.parse().ok()
    }

    /// Ids of the tokens that it is about.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.members.get("tokens").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}

impl AuditFilter {
    fn has(&self, entry: &AuditView) -> bool {
        let is = |name: &str, wanted: &str| entry.text(name) == Some(wanted);
        let by = |actor: &String| is("actorId", actor) || is("actorName", actor);
        let about = |subject: &String| {
            is("userId", subject)
                || is("userName", subject)
                || is("successor", subject)
                || entry.tokens().any(|token| token == subject)
        };
        let does = |action: &String| entry.text("action").is_some_and(|is| is.starts_with(action.as_str()));
        self.actor.as_ref().is_none_or(by)
            && self.action.as_ref().is_none_or(does)
            && self.subject.as_ref().is_none_or(about)
            && self.outcome.is_none_or(|outcome| is("outcome", outcome.name()))
            && self.since.is_none_or(|since| entry.at().is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| entry.at().is_some_and(|at| at < until))
    }
}

impl Registry {
    /// The same registry with an audit trail that is treated so.
    #[must_use]
    pub fn with_audit(self, settings: Settings) -> Self {
        Self { audit: Audit { settings, ..Audit::default() }.into(), ..self }
    }

    /// The same registry for one command that comes from there: what it commits is known by it.
    #[must_use]
    pub fn coming_from(&self, origin: Origin) -> Self {
        Self { origin, commits: std::sync::Arc::default(), ..self.clone() }
    }

    /// Chains what commits have left loose, and writes what is chained to where the settings say. Every command does this
    /// after its commits; whatever else commits does it again and again.
    ///
    /// # Errors
    /// When the store fails. What was not done is done the next time.
    pub async fn tend_audit(&self) -> Result<Tended, StoreError> {
        let settings = &self.audit.settings;
        let linked = audit::link(&*self.store, settings.retention).await?;
        Ok(Tended { linked, forwarded: audit::forward(&*self.store, settings).await? })
    }

    /// Tends the trail for as long as a process runs that commits: what is left loose is chained within seconds. Cancel-safe.
    pub async fn keep_audit(&self) {
        let mut is_failing = false;
        loop {
            let problem = match self.tend_audit().await {
                Ok(Tended { forwarded, .. }) if forwarded.problems.is_empty() => None,
                Ok(Tended { forwarded, .. }) => Some((forwarded.waiting, forwarded.problems.join("; "))),
                Err(error) => Some((0, chain(&error))),
            };
            match (&problem, is_failing) {
                (Some((waiting, reason)), false) => {
                    tracing::error!(
                        waiting,
                        reason,
                        "audit entries are not chained or not written; they stay in the store"
                    );
                }
                (None, true) => tracing::info!("audit entries are chained and written again"),
                (Some(_), true) | (None, false) => {}
            }
            is_failing = problem.is_some();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Where that is required: that the trail can be written to where it is to be.
    pub(super) async fn check_audit(&self) -> Result<(), RegistryError> {
        if !self.audit.settings.required {
            return Ok(());
        }
        let problems = self.tend_audit().await?.forwarded.problems;
        if problems.is_empty() { Ok(()) } else { Err(RegistryError::AuditNotWritten(problems.join("; "))) }
    }

    /// Entries of the trail, newest first: at most `limit` of those before this place. What is not chained yet comes first.
    ///
    /// # Errors
    /// When the actor may not read it.
    pub async fn audit(
        &self,
        actor: &Actor,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditView>, RegistryError> {
        self.may_read_audit(actor).await?;
        let ends = self.trail_ends().await?;
        let next = ends.last.map_or(1, |line| line.seq + 1);
        let loose: Vec<_> = (next..).zip(&ends.loose).collect();
        let loose = loose.into_iter().rev().filter(|(place, _)| before.is_none_or(|before| *place < before));
        let mut found: Vec<_> = loose
            .map(|(place, entry)| AuditView::of_entry(place, entry))
            .filter(|entry| filter.has(entry))
            .take(limit)
            .collect();
        // What is chained meanwhile was found loose.
        let mut before = before.map_or(next, |before| before.min(next));
        while found.len() < limit {
            let page = self.store.trail_before(Some(before), PAGE).await?;
            let Some(last) = page.last() else { break };
            before = last.seq;
            found.extend(page.iter().map(AuditView::of_line).filter(|entry| filter.has(entry)));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Both ends of the trail as they were at one moment, so that each loose entry's number is known. A store that reads one
    /// after the other is asked again while somebody chains.
    async fn trail_ends(&self) -> Result<TrailEnds, StoreError> {
        let mut ends = self.store.trail_ends(LOOSE).await?;
        for _ in 0..ATTEMPTS {
            if ends.loose.is_empty() {
                break;
            }
            let again = self.store.trail_ends(LOOSE).await?;
            if again.last == ends.last {
                break;
            }
            ends = again;
        }
        Ok(ends)
    }

    /// Whether the trail is what was written, by its chain, by the file that it is written to, and by these heads.
    ///
    /// # Errors
    /// When the actor may not read it.
    pub async fn verify_audit(&self, actor: &Actor, heads: Vec<Head>) -> Result<Verification, RegistryError> {
        // It may not have been written yet, or was moved away.
        let file = self.audit.settings.file.clone().filter(|file| file.exists());
        self.verify_audit_with(actor, Witnesses { file, heads }).await
    }

    /// The same, by a file of the caller's choice.
    ///
    /// # Errors
    /// When the actor may not read it.
    pub async fn verify_audit_with(&self, actor: &Actor, witnesses: Witnesses) -> Result<Verification, RegistryError> {
        self.may_read_audit(actor).await?;
        Ok(audit::verify(&*self.store, witnesses).await?)
    }

    async fn may_read_audit(&self, actor: &Actor) -> Result<(), RegistryError> {
        let allowed = self.authority(actor).await.and_then(|authority| authority.check(Right::ReadAudit));
        self.observed(actor, Action::AuditRead, Subject::default(), allowed).await
    }

    /// Hands on what became of a command, and leaves an entry if it was refused.
    pub(super) async fn observed<T>(
        &self,
        actor: &Actor,
        action: Action,
        subject: Subject,
        outcome: Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        if let Err(error) = &outcome {
            self.note_refusal(actor, action, subject, error).await;
        }
        outcome
    }

    /// Leaves an entry about a command that was refused. Nothing of its arguments but ids, and names that are names of users.
    pub(super) async fn note_refusal(&self, actor: &Actor, action: Action, subject: Subject, error: &RegistryError) {
        let (outcome, reason) = match (error.kind(), error) {
            (ErrorKind::Forbidden, RegistryError::Forbidden { right, .. }) => {
                (Outcome::Denied, format!("may not {right}"))
            }
            (ErrorKind::Forbidden, RegistryError::ActingTokenLacks(_) | RegistryError::OutlivesMaker(_)) => {
                (Outcome::Denied, "the token does not permit it".to_owned())
            }
            (ErrorKind::Forbidden, RegistryError::ActingTokenUnusable(_)) => {
                (Outcome::Denied, "the token is no longer valid".to_owned())
            }
            (ErrorKind::Forbidden, _) => (Outcome::Denied, "is no active user".to_owned()),
            (ErrorKind::NotFound, _) => (Outcome::Failure, "not found".to_owned()),
            (ErrorKind::Conflict, _) => (Outcome::Failure, "conflict".to_owned()),
            (ErrorKind::Invalid, _) => (Outcome::Failure, "invalid".to_owned()),
            (ErrorKind::Unavailable | ErrorKind::Unknown, _) => return,
        };
        let who = self.who(actor);
        self.leave(&who, Source::refused(actor), action, outcome, Subject { reason: Some(reason), ..subject }).await;
    }

    /// Leaves an entry about something that was done and changed nothing, such as signing in. Bounded as refusals are, apart
    /// from them.
    pub async fn note_done(&self, actor: &Actor, action: Action) {
        let source = Source::Done(actor.name().to_owned(), action);
        self.leave(&self.who(actor), source, action, Outcome::Success, Subject::default()).await;
    }

    /// Leaves an entry about something that was refused before the registry was asked, such as to a token without the
    /// permission. Bounded: those of one actor beyond some are only counted.
    pub async fn note_denied(&self, actor: &Actor, action: Action, subject: Subject) {
        self.leave(&self.who(actor), Source::refused(actor), action, Outcome::Denied, subject).await;
    }

    /// Leaves an entry about somebody unknown who tried to sign in. All strangers together have one a minute, which says how
    /// many there were since the one before.
    pub async fn note_stranger(&self, action: Action) {
        let who = Who::system(STRANGER, self.origin.without_token());
        self.leave(&who, Source::Strangers, action, Outcome::Denied, Subject::default()).await;
    }

    fn who(&self, actor: &Actor) -> Who {
        match actor {
            Actor::Operator(name) => Who::system(name, self.origin.clone()),
            Actor::User(user) => Who::user(user.id, &user.name, self.origin.clone()),
            Actor::Token(acting) => Who::token(acting.id, &acting.user, self.origin.clone()),
        }
    }

    /// Leaves an entry, if its source has not left too many.
    async fn leave(&self, who: &Who, source: Source, action: Action, outcome: Outcome, subject: Subject) {
        let Some(more) = self.audit.quotas.lock().admit(source, Instant::now()) else { return };
        let event = Event::new(who, action, outcome, Subject { more, ..subject }, now());
        if let Err(error) = self.store.note(&[event.to_bytes()]).await {
            tracing::warn!(error = chain(&error), "cannot leave an audit entry about what changed nothing");
        }
    }
}

/// What an entry names of tokens that something was to be done to.
pub(crate) fn of_tokens(ids: &[TokenId]) -> Subject {
    Subject { tokens: ids.iter().copied().take(MOST_NAMED).collect(), ..Subject::default() }
}

/// What an entry names of a user: what is no name may be anything, a token too.
pub(crate) fn of_user(name: &str) -> Subject {
    let name = super::users::check_name(name).is_ok().then(|| name.to_owned());
    Subject { user_name: name, ..Subject::default() }
}

/// Where entries about what changed nothing come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    /// What somebody was refused.
    Refused(String),
    /// What somebody did.
    Done(String, Action),
    /// All who are unknown together, whatever users are called.
    Strangers,
}

impl Source {
    fn refused(actor: &Actor) -> Self {
        Self::Refused(actor.name().to_owned())
    }
}

/// How many of them there were.
#[derive(Debug, Default)]
struct Quotas(HashMap<Source, Quota>);

#[derive(Debug)]
struct Quota {
    since: Instant,
    left: u32,
    /// How many more there were.
    more: u64,
}

impl Quotas {
    /// Entries of one source within a [`Self::PERIOD`], and of strangers.
    const MOST: u32 = 20;
    const OF_STRANGERS: u32 = 1;

    const PERIOD: Duration = Duration::from_mins(1);

    /// Sources that are remembered.
    const SOURCES: usize = 1000;

    /// `Some`: there is to be an entry, and how many before it there was none of.
    fn admit(&mut self, source: Source, now: Instant) -> Option<u64> {
        let most = if source == Source::Strangers { Self::OF_STRANGERS } else { Self::MOST };
        if self.0.len() >= Self::SOURCES && !self.0.contains_key(&source) {
            self.0.retain(|_, quota| now.saturating_duration_since(quota.since) < Self::PERIOD);
            // As many users as that within a minute are many tokens in one hand.
            if self.0.len() >= Self::SOURCES {
                return None;
            }
        }
        let quota = self.0.entry(source).or_insert(Quota { since: now, left: most, more: 0 });
        if now.saturating_duration_since(quota.since) >= Self::PERIOD {
            (quota.since, quota.left) = (now, most);
        }
        if quota.left == 0 {
            quota.more += 1;
            return None;
        }
        quota.left -= 1;
        Some(std::mem::take(&mut quota.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded_and_what_is_left_out_is_counted() {
        let (mut quotas, start) = (Quotas::default(), Instant::now());
        let refused = |name: &str| Source::Refused(name.to_owned());
        let admitted = (0..100).filter_map(|_| quotas.admit(refused("max"), start)).count();
        assert_eq!(admitted, Quotas::MOST as usize);
        assert_eq!(quotas.admit(refused("vera"), start), Some(0), "another one's are not left out for that");
        let signed_in = Source::Done("max".to_owned(), Action::SignIn);
        assert_eq!(quotas.admit(signed_in, start), Some(0), "nor is what one may do");
        assert_eq!(quotas.admit(refused("max"), start + Quotas::PERIOD), Some(80));
        assert_eq!((0..9).filter_map(|_| quotas.admit(Source::Strangers, start)).count(), 1);
        assert_eq!(quotas.admit(Source::Strangers, start + Quotas::PERIOD), Some(8));
        let of_one_called_so = (0..9).filter_map(|_| quotas.admit(refused(STRANGER), start)).count();
        assert_eq!(of_one_called_so, 9, "a user may be called so, and is none");
        for actor in 0..2 * Quotas::SOURCES {
            quotas.admit(refused(&actor.to_string()), start + Quotas::PERIOD);
        }
        assert!(quotas.0.len() <= Quotas::SOURCES);
    }

    #[test]
    fn filters_look_at_what_an_entry_says() {
        let entry = AuditView::of_entry(
            1,
            br#"{"timestamp":"2026-11-26T12:00:00Z","action":"token.revoke","actorId":"7","actorName":"anna",
                "outcome":"Success","tokens":["1","2"]}"#,
        );
        let at = |text: &str| text.parse().ok();
        let filter = |actor: &str, action: &str, subject: &str| AuditFilter {
            actor: Some(actor.to_owned()),
            action: Some(action.to_owned()),
            subject: Some(subject.to_owned()),
            ..AuditFilter::default()
        };
        assert!(filter("anna", "token", "2").has(&entry) && filter("7", "token.revoke", "1").has(&entry));
        assert!(!filter("max", "token", "2").has(&entry));
        assert!(!filter("anna", "user", "2").has(&entry));
        assert!(!filter("anna", "token", "3").has(&entry));
        let noon = at("2026-11-26T12:00:00Z");
        assert!(AuditFilter { since: noon, ..AuditFilter::default() }.has(&entry));
        assert!(!AuditFilter { until: noon, ..AuditFilter::default() }.has(&entry));
        assert!(!AuditFilter { outcome: Some(Outcome::Denied), ..AuditFilter::default() }.has(&entry));
        assert!(AuditFilter::default().has(&AuditView::of_entry(1, b"\xff")), "what cannot be read is shown");
    }
}
