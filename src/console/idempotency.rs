//! `Idempotency-Key`: a call that makes something and is sent again, since its reply was lost, makes nothing twice.
//!
//! What was made is remembered in this process, for a day. The value of a token is in the first reply only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use utoipa::IntoParams;

use super::api::input::BodyHash;
use super::api::problem::Problem;
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::registry::RegistryError;
use crate::token::TokenId;

/// How long a call is remembered.
const RETENTION: Duration = Duration::from_hours(24);

/// Calls that are remembered at once. Above it, the oldest that has ended is forgotten.
const MOST: usize = 10_000;

/// Longest key, in bytes.
const MAX_KEY: usize = 255;

/// What makes a call the same as one before.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is described by this, and read by `key`")]
pub(super) struct IdempotencyKey {
    /// Any text that is of this call alone, such as a UUID.
    #[param(rename = "Idempotency-Key", nullable = false, pattern = "^[!-~]{1,255}$")]
    idempotency_key: Option<String>,
}

/// Whose key it is, and the key.
type Key = (TokenId, String);

/// What was made, or is being made.
#[derive(Debug, Default)]
pub(super) struct Creations(Arc<Mutex<HashMap<Key, Creation>>>);

#[derive(Debug)]
struct Creation {
    body: BodyHash,
    at: Instant,
    outcome: Option<Outcome>,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This token.
    Made(TokenId),
    /// Perhaps this one.
    Unknown(TokenId),
}

/// A call, as its key has it.
#[derive(Debug)]
pub(super) enum Call {
    /// Nothing is known of it.
    New(Pending),
    /// This came of it before.
    Again(Outcome),
}

/// A call that is under way. Dropped, it was none.
#[derive(Debug)]
pub(super) struct Pending {
    creations: Arc<Mutex<HashMap<Key, Creation>>>,
    /// `None`: a call without a key, or one that has ended.
    key: Option<Key>,
}

impl Creations {
    /// Begins a call, or finds what came of it.
    ///
    /// # Errors
    /// For what is no key, for a key of another body, and while the call is still under way.
    pub(super) fn begin(&self, caller: TokenId, fields: &HeaderMap, body: BodyHash) -> Result<Call, Problem> {
        let Some(key) = key(fields)? else {
            return Ok(Call::New(Pending { creations: Arc::clone(&self.0), key: None }));
        };
        let (key, now) = ((caller, key), Instant::now());
        let mut known = self.0.lock();
        match known.get(&key).filter(|creation| now.duration_since(creation.at) < RETENTION) {
            Some(creation) if creation.body != body => return Err(Problem::key_reused()),
            Some(Creation { outcome: Some(outcome), .. }) => return Ok(Call::Again(*outcome)),
            Some(_) => return Err(Problem::under_way()),
            None => {}
        }
        if known.len() >= MOST {
            let oldest = known.iter().filter(|(_, creation)| creation.outcome.is_some());
            let oldest = oldest.min_by_key(|(_, creation)| creation.at).map(|(key, _)| key.clone());
            oldest.map(|oldest| known.remove(&oldest));
        }
        known.insert(key.clone(), Creation { body, at: now, outcome: None });
        Ok(Call::New(Pending { creations: Arc::clone(&self.0), key: Some(key) }))
    }

    /// Begins a call anew that may have made something, and has not.
    pub(super) fn forget(&self, caller: TokenId, fields: &HeaderMap) {
        if let Ok(Some(key)) = key(fields) {
            self.0.lock().remove(&(caller, key));
        }
    }
}

impl Pending {
    /// The call has ended, with this token or not.
    pub(super) fn end(mut self, outcome: Result<TokenId, &RegistryError>) {
        let outcome = match outcome {
            Ok(id) => Outcome::Made(id),
            Err(RegistryError::CreationUnknown { id, .. }) => Outcome::Unknown(*id),
            Err(_) => return,
        };
        if let Some(key) = self.key.take()
            && let Some(creation) = self.creations.lock().get_mut(&key)
        {
            creation.outcome = Some(outcome);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.creations.lock().remove(&key);
        }
    }
}

/// The key of a call, if it has one.
fn key(fields: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = fields.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let is_key = |key: &&str| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match key.to_str().ok().filter(is_key).filter(|_| keys.next().is_none()) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Problem::invalid("Idempotency-Key: give one key of 1 to 255 visible characters, such as a UUID")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(key: &str) -> HeaderMap {
        [("idempotency-key".parse().expect("a name"), key.parse().expect("a value"))].into_iter().collect()
    }

    const CALLER: TokenId = TokenId::from_u64(1);

    fn unknown(id: u64) -> RegistryError {
        let source = crate::store::StoreError::Frozen { store: String::new(), reason: String::new() };
        RegistryError::CreationUnknown { id: TokenId::from_u64(id), source }
    }

    #[test]
    fn a_key_is_of_one_call() {
        let creations = Creations::default();
        let begin = |key: &str, body: u8| creations.begin(CALLER, &fields(key), [body; 32]);
        let Ok(Call::New(first)) = begin("a", 1) else { panic!("nothing is known") };
        assert!(begin("a", 1).is_err(), "it is under way");
        first.end(Err(&unknown(7)));
        let outcome = |call| matches!(call, Ok(Call::Again(Outcome::Unknown(id))) if id.to_u64() == 7);
        assert!(outcome(begin("a", 1)) && outcome(begin("a", 1)), "as often as it is asked");
        assert!(begin("a", 2).is_err(), "another body");
        assert!(matches!(begin("b", 1), Ok(Call::New(_))), "another key");
        let other = creations.begin(TokenId::from_u64(2), &fields("a"), [1; 32]);
        assert!(matches!(other, Ok(Call::New(_))), "another caller's");
    }

    #[test]
    fn a_call_that_failed_was_none() {
        let creations = Creations::default();
        let begin = || creations.begin(CALLER, &fields("a"), [1; 32]);
        let Ok(Call::New(call)) = begin() else { panic!("nothing is known") };
        call.end(Err(&RegistryError::InvalidDescription));
        let Ok(Call::New(call)) = begin() else { panic!("it was none") };
        drop(call);
        assert!(matches!(begin(), Ok(Call::New(_))));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let creations = Creations::default();
        for number in 0..MOST + 10 {
            let call = creations.begin(CALLER, &fields(&number.to_string()), [1; 32]);
            let Ok(Call::New(call)) = call else { panic!("nothing is known") };
            call.end(Err(&unknown(7)));
        }
        assert_eq!(creations.0.lock().len(), MOST);
    }
}
