//! Who is signed in: sessions at this process, each of one token.
//!
//! The browser has 256 random bits in a cookie, and nothing else; here are kept the SHA-256 of them and of the token. A
//! session can do what its token can, by the replica at each request: so it ends with the token, at once.

use std::collections::HashMap;
use std::time::Duration;

use super::once::Place;
use crate::clock::Instant;
use crate::hex::Hex;
use crate::lock::Mutex;
use crate::random::{self, NoEntropy};
use crate::token::{Digest, TokenId};

/// A session ends after so long without a request that somebody made: what a page asks for by itself is none.
pub(super) const IDLE: Duration = Duration::from_mins(30);

/// And after so long in any case.
pub(super) const LONGEST: Duration = Duration::from_hours(12);

/// Sessions at once. Above it, the one that was idle the longest ends.
const MOST: usize = 1000;

/// Notices that wait to be read.
const MOST_NOTICES: usize = 8;

/// Forms of a session whose sending is remembered.
const MOST_FORMS: usize = 100;

/// All sessions.
#[derive(Debug, Default)]
pub(in crate::console) struct Sessions(Mutex<HashMap<Digest, Session>>);

#[derive(Debug)]
struct Session {
    token: Digest,
    /// What forms of this session have in them, and nobody else can know.
    csrf: String,
    began: Instant,
    active: Instant,
    notices: Vec<Notice>,
    /// Nobody is signed in by it any more: it is kept for whoever comes with its cookie, to be told what became of it.
    has_ended: bool,
    /// Forms that were sent, and what came of them.
    sent: Vec<(Digest, Place)>,
    /// What a bulk that broke off last has left.
    rest: Vec<TokenId>,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        self.has_ended || now.duration_since(self.active) >= IDLE || now.duration_since(self.began) >= LONGEST
    }

    fn tell(&mut self, notice: Notice) {
        // A form that is sent again tells the same.
        self.notices.retain(|other| *other != notice);
        self.notices.push(notice);
        let excess = self.notices.len().saturating_sub(MOST_NOTICES);
        self.notices.drain(..excess);
    }

    fn ends(&mut self, why: &str) {
        if !std::mem::replace(&mut self.has_ended, true) {
            let (text, detail) = ("Your session has ended.".to_owned(), Some(why.to_owned()));
            self.tell(Notice { is_good: false, text, detail });
        }
    }
}

/// What a session's cookie holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SessionKey(String);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey")
    }
}

/// So many random bits as hexadecimal digits.
fn secret<const BYTES: usize>() -> Result<String, NoEntropy> {
    let mut bytes = [0; BYTES];
    random::fill(&mut bytes)?;
    Ok(Hex(&bytes).to_string())
}

/// What marks a form, so that nobody else's is taken for it.
pub(super) fn nonce() -> Result<String, NoEntropy> {
    secret::<16>()
}

impl SessionKey {
    /// As a cookie has it.
    pub(super) fn of_cookie(value: &str) -> Option<Self> {
        let is_key = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_key.then(|| Self(value.to_owned()))
    }

    /// For the cookie.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// Something to tell at the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// Whether it went well.
    pub(super) is_good: bool,
    /// What was done.
    pub(super) text: String,
    /// What else is known, such as which sidecars have applied it.
    pub(super) detail: Option<String>,
}

/// What a request finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The token that was shown.
    pub(super) token: Digest,
    /// For its forms.
    pub(super) csrf: String,
}

impl Sessions {
    /// Begins one.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub(super) fn begin(&self, token: Digest, now: Instant) -> Result<SessionKey, NoEntropy> {
        let key = SessionKey(secret::<32>()?);
        let csrf = nonce()?;
        let mut sessions = self.0.lock();
        if sessions.len() >= MOST {
            sessions.retain(|_, session| !session.is_over(now));
        }
        if sessions.len() >= MOST {
            let idlest = sessions.iter().min_by_key(|(_, session)| session.active).map(|(hash, _)| *hash);
            idlest.map(|hash| sessions.remove(&hash));
        }
        let (notices, sent, rest) = (Vec::new(), Vec::new(), Vec::new());
        let session = Session { token, csrf, began: now, active: now, notices, has_ended: false, sent, rest };
        sessions.insert(key.hash(), session);
        Ok(key)
    }

    /// Finds one that is not over. Where somebody asked, it goes on from now.
    pub(super) fn find(&self, key: &SessionKey, now: Instant, is_activity: bool) -> Option<Found> {
        let mut sessions = self.0.lock();
        let session = sessions.get_mut(&key.hash())?;
        if session.is_over(now) {
            session.ends("One ends after 30 minutes in which nobody does anything, and after 12 hours.");
            return None;
        }
        if is_activity {
            session.active = now;
        }
        Some(Found { token: session.token, csrf: session.csrf.clone() })
    }

    /// Ends one whose token works no longer.
    pub(super) fn end_with_token(&self, key: &SessionKey) {
        if let Some(session) = self.0.lock().get_mut(&key.hash()) {
            session.ends("The token that you were signed in with works no longer.");
        }
    }

    /// What is told, once, to whoever comes with the cookie of a session that has ended.
    pub(super) fn parting(&self, key: &SessionKey) -> Vec<Notice> {
        let (mut sessions, hash) = (self.0.lock(), key.hash());
        match sessions.get(&hash).is_some_and(|session| session.has_ended) {
            true => sessions.remove(&hash).map(|session| session.notices).unwrap_or_default(),
            false => Vec::new(),
        }
    }

    /// Ends one, at its own wish.
    pub(super) fn end(&self, key: &SessionKey) {
        self.0.lock().remove(&key.hash());
    }

    /// Has something told at the next page.
    pub(super) fn tell(&self, key: &SessionKey, notice: Notice) {
        if let Some(session) = self.0.lock().get_mut(&key.hash()) {
            session.tell(notice);
        }
    }

    /// What is to be told, once.
    pub(super) fn told(&self, key: &SessionKey) -> Vec<Notice> {
        self.0.lock().get_mut(&key.hash()).map(|session| std::mem::take(&mut session.notices)).unwrap_or_default()
    }

    /// Keeps what a bulk has left, until another one breaks off.
    pub(super) fn keep(&self, key: &SessionKey, rest: Vec<TokenId>) {
        if let Some(session) = self.0.lock().get_mut(&key.hash()) {
            session.rest = rest;
        }
    }

    /// That.
    pub(super) fn kept(&self, key: &SessionKey) -> Vec<TokenId> {
        self.0.lock().get(&key.hash()).map(|session| session.rest.clone()).unwrap_or_default()
    }

    /// What came of this form; nothing yet, where it is sent for the first time.
    pub(super) fn sent(&self, key: &SessionKey, form: Digest) -> Option<Place> {
        let mut sessions = self.0.lock();
        let sent = &mut sessions.get_mut(&key.hash())?.sent;
        if let Some((_, place)) = sent.iter().find(|(other, _)| *other == form) {
            return Some(Place::clone(place));
        }
        let excess = (sent.len() + 1).saturating_sub(MOST_FORMS);
        sent.drain(..excess);
        let place = Place::default();
        sent.push((form, Place::clone(&place)));
        Some(place)
    }

    /// Somebody goes on to a token, and so has its value.
    pub(super) fn acknowledge(&self, key: &SessionKey, token: TokenId) {
        let sessions = self.0.lock();
        for (_, place) in sessions.get(&key.hash()).iter().flat_map(|session| &session.sent) {
            // One that is held is being done.
            if let Ok(mut done) = place.try_lock()
                && let Some(done) = &mut *done
            {
                done.forget_value(Some(token));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::once::Done;
    use super::*;

    fn at(minutes: u64) -> Instant {
        Instant::since_boot(Duration::from_mins(100_000 + minutes))
    }

    fn begun(sessions: &Sessions) -> SessionKey {
        sessions.begin(Digest::of(b"token"), at(0)).expect("entropy")
    }

    #[test]
    fn a_session_ends_when_nobody_asks_and_when_it_is_old() {
        let sessions = Sessions::default();
        let key = begun(&sessions);
        assert!(sessions.find(&key, at(29), true).is_some());
        assert!(sessions.find(&key, at(58), false).is_some(), "29 min after the last request");
        assert!(sessions.find(&key, at(59), false).is_none(), "what a page asks for by itself is none");
        let key = begun(&sessions);
        assert!((1..=71).all(|tens| sessions.find(&key, at(tens * 10), true).is_some()));
        assert!(sessions.find(&key, at(720), true).is_none(), "after twelve hours in any case");
        assert!(sessions.find(&key, at(1), true).is_none(), "it is gone");
    }

    #[test]
    fn who_comes_with_the_cookie_of_a_session_that_ended_is_told_once() {
        let sessions = Sessions::default();
        let (idle, revoked, out) = (begun(&sessions), begun(&sessions), begun(&sessions));
        assert_eq!(sessions.parting(&idle), [], "it goes on");
        assert!(sessions.find(&idle, at(30), true).is_none() && sessions.find(&idle, at(1), true).is_none());
        let told = |key| sessions.parting(key).into_iter().map(|notice| notice.detail.unwrap_or_default());
        assert!(told(&idle).all(|why| why.contains("30 minutes")) && told(&idle).count() == 0);
        sessions.tell(&revoked, Notice { is_good: true, text: "Revoked".to_owned(), detail: None });
        sessions.end_with_token(&revoked);
        sessions.end_with_token(&revoked);
        assert!(sessions.find(&revoked, at(1), true).is_none());
        let told: Vec<_> = sessions.parting(&revoked).into_iter().map(|notice| notice.text).collect();
        assert_eq!(told, ["Revoked", "Your session has ended."]);
        sessions.end(&out);
        assert_eq!(sessions.parting(&out), [], "it was somebody's wish");
    }

    #[test]
    fn keys_are_long_and_never_the_same_and_not_kept() {
        let sessions = Sessions::default();
        let (one, other) = (begun(&sessions), begun(&sessions));
        assert!(one != other && one.reveal().len() == 64);
        assert!(!format!("{sessions:?} {one:?}").contains(one.reveal()));
        assert_eq!(SessionKey::of_cookie(one.reveal()), Some(one));
        assert_eq!(SessionKey::of_cookie("abc"), None);
        let unknown = SessionKey("0".repeat(64));
        assert_eq!(sessions.find(&unknown, at(0), true), None, "none that somebody chose");
    }

    #[test]
    fn so_many_sessions_and_then_the_idlest_ends() {
        let sessions = Sessions::default();
        let first = begun(&sessions);
        let second = begun(&sessions);
        assert!(sessions.find(&first, at(1), true).is_some());
        for _ in 0..MOST - 1 {
            sessions.begin(Digest::of(b"token"), at(2)).expect("entropy");
        }
        assert!(sessions.find(&first, at(2), true).is_some());
        assert!(sessions.find(&second, at(2), true).is_none());
    }

    #[test]
    fn what_is_to_be_told_is_told_once() {
        let sessions = Sessions::default();
        let key = begun(&sessions);
        let notice = Notice { is_good: true, text: "done".to_owned(), detail: None };
        sessions.tell(&key, notice.clone());
        sessions.tell(&key, notice.clone());
        assert_eq!(sessions.told(&key), [notice]);
        assert_eq!(sessions.told(&key), []);
    }

    #[test]
    fn a_form_has_one_outcome_until_it_is_acknowledged() {
        let sessions = Sessions::default();
        let key = begun(&sessions);
        let of = |mark: &str| sessions.sent(&key, Digest::of(mark.as_bytes())).expect("a session");
        let set = |mark: &str, id| {
            let page = "a value".to_owned().into();
            *of(mark).try_lock().expect("free") = Some(Done::Made { id: TokenId::from_u64(id), page });
        };
        let is_shown = |mark: &str| matches!(*of(mark).try_lock().expect("free"), Some(Done::Made { .. }));
        assert!(of("a").try_lock().expect("free").is_none());
        set("a", 7);
        set("b", 8);
        sessions.acknowledge(&key, TokenId::from_u64(7));
        assert!(!is_shown("a") && is_shown("b"));
        assert!(
            matches!(&*of("a").try_lock().expect("free"), Some(Done::Led { path, .. }) if path.ends_with("/manage"))
        );
        (0..MOST_FORMS).for_each(|number| drop(of(&number.to_string())));
        assert!(of("b").try_lock().expect("free").is_none(), "what is remembered is bounded");
        assert!(sessions.sent(&SessionKey("0".repeat(64)), Digest::of(b"a")).is_none());
    }
}
