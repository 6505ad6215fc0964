//! What a token was in the registry that it comes from. Of a few lines it is held; of a million it would be most of what they take,
//! and is put aside.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::tokens::is_plain;
use crate::random;
use crate::store::{Agent, AgentName, AgentUse, Use};
use crate::token::{HistoryEntry, TokenId, TokenState};

/// What a token was in the registry that it comes from, as `token export --full` writes it: `{"id", "state",
/// "created_at", "created_by", "revoked_at", "revoked_by", "predecessor", "successor", "history", "usage"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// It retains its id.
    pub id: TokenId,
    told: Place,
}

/// What is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Active or revoked.
    pub state: TokenState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// The token that was rotated to it.
    pub predecessor: Option<TokenId>,
    /// The token that it was rotated to.
    pub successor: Option<TokenId>,
    /// What happened to it, oldest first.
    pub history: Vec<HistoryEntry>,
    /// How it was used.
    pub usage: Option<Box<PastUsage>>,
}

/// Most agents of a token in a line: the latest.
pub(in super::super) const MAX_AGENTS: usize = 1000;

/// How a token was used in the registry that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastUsage {
    /// When it was last.
    pub last_used_at: Timestamp,
    /// By whom.
    #[serde(default)]
    pub agents: Vec<Agent>,
}

impl PastUsage {
    /// As uses of the token with this id, as of now.
    pub(super) fn of(&self, token: TokenId, now: Timestamp) -> Use {
        let age = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
        let agent = |agent: &Agent| {
            let Agent { name, address, version, last_used } = agent.clone();
            AgentUse { name, age: age(last_used), address, version }
        };
        Use { token, age: age(self.last_used_at), agents: self.agents.iter().map(agent).collect() }
    }

    pub(super) fn is_plain(&self) -> bool {
        let name = |agent: &Agent| match &agent.name {
            AgentName::Id(id) => !id.is_empty() && is_plain(id),
            AgentName::Address(_) => true,
        };
        let version = |agent: &Agent| agent.version.as_ref().is_none_or(|version| is_plain(version));
        self.agents.len() <= MAX_AGENTS && self.agents.iter().all(|agent| name(agent) && version(agent))
    }
}

#[derive(Debug, Clone)]
enum Place {
    Held(Box<Told>),
    Aside { file: Arc<File>, at: u64, length: u32, is_revoked: bool },
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Held(told), Self::Held(other)) => told == other,
            (Self::Aside { file, at, .. }, Self::Aside { file: other, at: there, .. }) => {
                Arc::ptr_eq(file, other) && at == there
            }
            _ => false,
        }
    }
}

impl Eq for Place {}

impl Past {
    pub(super) fn new(id: TokenId, told: Told) -> Self {
        Self { id, told: Place::Held(Box::new(told)) }
    }

    pub(super) fn is_revoked(&self) -> bool {
        match &self.told {
            Place::Held(told) => told.state != TokenState::Active,
            Place::Aside { is_revoked, .. } => *is_revoked,
        }
    }

    /// What is told of it, read back if it was put aside.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub fn told(&self) -> io::Result<Cow<'_, Told>> {
        match &self.told {
            Place::Held(told) => Ok(Cow::Borrowed(told)),
            Place::Aside { file, at, length, .. } => {
                let mut bytes = vec![0; usize::try_from(*length).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, *at)?;
                Ok(Cow::Owned(serde_json::from_slice(&bytes)?))
            }
        }
    }
}

/// Where the pasts of many lines are put: a file without a name, which is gone when nobody has it any more.
#[derive(Debug)]
pub(super) struct Aside {
    /// How many more are held first.
    room: usize,
    file: Option<Arc<File>>,
    end: u64,
}

impl Aside {
    /// The first ones, so many, are held.
    #[must_use]
    pub(super) fn after(held: usize) -> Self {
        Self { room: held, file: None, end: 0 }
    }

    /// Puts aside what a past tells, unless it is one of the first.
    ///
    /// # Errors
    /// When there can be no such file, or no room is left in it.
    pub(super) fn put(&mut self, past: &mut Past) -> io::Result<()> {
        let Place::Held(told) = &past.told else { return Ok(()) };
        if self.room > 0 {
            self.room -= 1;
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(Arc::new(nameless()?)),
        };
        let (bytes, at) = (serde_json::to_vec(told)?, self.end);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        file.write_all_at(&bytes, at)?;
        self.end += u64::from(length);
        past.told = Place::Aside { file: Arc::clone(file), at, length, is_revoked: past.is_revoked() };
        Ok(())
    }
}

fn nameless() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("tollgate-import-{:016x}", random::number()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenEvent;

    #[test]
    fn what_is_put_aside_is_read_back() {
        let at = Timestamp::UNIX_EPOCH;
        let revoked = TokenState::Revoked { at, by: "otto".to_owned() };
        let entry = |number: usize| HistoryEntry {
            at,
            by: format!("by {number}"),
            event: TokenEvent::Created,
            operator_reason: None,
        };
        let told = [TokenState::Active, revoked.clone(), revoked].into_iter().zip(0..).map(|(state, number)| {
            let history = (0..10 * number).map(entry).collect();
            let created_by = format!("max {number}");
            Told { state, created_at: at, created_by, predecessor: None, successor: None, history, usage: None }
        });
        let mut aside = Aside::after(1);
        let ids = (0..).map(TokenId::from_u64);
        let made: Vec<_> = told.zip(ids).map(|(told, id)| (Past::new(id, told.clone()), told)).collect();
        let put: Vec<_> = made
            .iter()
            .map(|(past, _)| {
                let mut past = past.clone();
                aside.put(&mut past).expect("puts");
                past
            })
            .collect();
        assert_eq!(put.iter().filter(|past| matches!(past.told, Place::Held(_))).count(), 1, "the first one");
        for (past, (_, told)) in put.iter().zip(&made) {
            assert_eq!(past.told().expect("reads").into_owned(), *told);
            assert_eq!(past.is_revoked(), told.state != TokenState::Active);
        }
        assert!(size_of::<Past>() <= 32, "{}", size_of::<Past>());
    }
}
