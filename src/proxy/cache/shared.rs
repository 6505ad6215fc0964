//! A fetch that several wait for, made beside all of them.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response, StatusCode};

use super::super::Permit;
use super::super::body::{Collected, Relayed, Upload};
use super::super::exchange::Exchange;
use super::super::forward::forward;
use super::super::refusal::Refusal;
use super::breaker::Attempt;
use super::entry::{Entry, MAX_BODY};
use super::flight::{Landing, Outcome, State};
use super::key::Key;
use super::{Cache, PATIENCE, learn, says_away, unserved};
use crate::clock::Instant;

/// A fetch that several may wait for.
pub(super) struct SharedFetch {
    /// Where its answer is stored.
    pub(super) cache: Arc<Cache>,
    /// Its own: what interrupts a client does not interrupt it.
    pub(super) exchange: Rc<Exchange>,
    /// That of who asked first.
    pub(super) permit: Rc<Permit>,
    /// What is fetched.
    pub(super) key: Rc<Key>,
}

impl SharedFetch {
    /// Fetches it. What comes of it for all, and the reply that is for who asked first alone.
    pub(super) async fn run(
        &self,
        mut request: Request<Upload>,
        landing: &Landing,
        mut attempt: Attempt,
    ) -> (Outcome, Option<Response<Relayed>>) {
        let (asked, due) = ((Instant::now(), request.headers().clone()), tokio::time::Instant::now() + PATIENCE);
        let reply = {
            let mut asking = pin!(forward(&self.exchange, &self.permit, &mut request));
            match tokio::time::timeout_at(due, asking.as_mut()).await {
                Ok(reply) => reply,
                // It goes on: a Controller that is slow is heard all the same.
                Err(_) => {
                    attempt.failed();
                    landing.is(State::Silent);
                    asking.await
                }
            }
        };
        let reply = match reply {
            Ok(reply) if self.is_for_all(&reply, &asked) => {
                landing.is(State::Answered);
                return self.receive(reply, &asked, landing, (&mut attempt, due)).await;
            }
            reply => reply,
        };
        learn(&mut attempt, &reply);
        match reply {
            Ok(reply) if says_away(reply.status()) => (Outcome::SaysAway, Some(reply)),
            Ok(reply) => {
                self.cache.heard(self.key.place.path, reply.status());
                (self.apart(reply.status()), Some(reply))
            }
            Err(refusal) if unserved(&refusal).is_some() => (Outcome::Away(refusal), None),
            Err(refusal @ Refusal::UpstreamCredential) => (Outcome::Refused(refusal), None),
            Err(_) => (Outcome::Again, None),
        }
    }

    /// Receives a whole 200 that is for all. A Controller that stalls while it sends one is as one that says nothing; for one that is
    /// slow beyond `due` nobody waits who has an answer.
    async fn receive(
        &self,
        mut reply: Response<Relayed>,
        asked: &(Instant, HeaderMap),
        landing: &Landing,
        (attempt, due): (&mut Attempt, tokio::time::Instant),
    ) -> (Outcome, Option<Response<Relayed>>) {
        let (status, fields) = (reply.status(), reply.headers().clone());
        // A late one, whose Controller was silent for so long, is over it already.
        let mut due = (due > tokio::time::Instant::now()).then_some(due);
        loop {
            match reply.body_mut().collect(MAX_BODY, PATIENCE, due).await {
                Ok(Collected::Late) => {
                    due = None;
                    attempt.release();
                    landing.is(State::Silent);
                }
                Ok(Collected::Paused) => {
                    attempt.failed();
                    landing.is(State::Silent);
                }
                Ok(Collected::Whole(body)) => {
                    attempt.answered();
                    let Some(entry) = self.entry(asked, status, &fields, &body) else { return (Outcome::Again, None) };
                    self.cache.store(&self.key, &entry);
                    return (Outcome::Shared(entry), None);
                }
                Ok(Collected::TooLarge) => {
                    attempt.answered();
                    return (self.apart(status), Some(reply));
                }
                // Whose fetch it was may fetch no longer.
                Err(_) if !self.is_permitted() => return (Outcome::Again, None),
                Err(_) => {
                    attempt.failed();
                    return (Outcome::Away(Refusal::Upstream), None);
                }
            }
        }
    }

    /// Whether it is to be shared and stored, which does not depend on its body, but for the size.
    fn is_for_all(&self, reply: &Response<Relayed>, asked: &(Instant, HeaderMap)) -> bool {
        let length = reply.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        length.is_none_or(|length| length <= MAX_BODY)
            && self.entry(asked, reply.status(), reply.headers(), b"").is_some()
    }

    fn entry(
        &self,
        (asked_at, asked): &(Instant, HeaderMap),
        status: StatusCode,
        fields: &HeaderMap,
        body: &[u8],
    ) -> Option<Arc<Entry>> {
        Entry::new(&self.key, (*asked_at, asked), (status, fields), body).map(Arc::new)
    }

    /// It is for who asked first alone. An agent that has another configuration must not be given the one before.
    fn apart(&self, status: StatusCode) -> Outcome {
        if status == StatusCode::OK {
            self.cache.supersede(&self.key);
        }
        Outcome::Apart
    }

    fn is_permitted(&self) -> bool {
        let gate = &self.exchange.proxy.gate;
        self.permit
            .admission()
            .is_none_or(|admission| gate.authorizer.authorize(&admission.terms, Instant::now()).is_ok())
    }
}
