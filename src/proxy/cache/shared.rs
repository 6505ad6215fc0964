//! A fetch that several wait for, made beside all of them.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response};

use super::super::Permit;
use super::super::body::{Relayed, Upload};
use super::super::exchange::Exchange;
use super::super::forward::forward;
use super::super::refusal::Refusal;
use super::breaker::Attempt;
use super::entry::{Entry, MAX_BODY};
use super::flight::{Landing, Outcome, State};
use super::key::Key;
use super::{Cache, PATIENCE, is_outage, learn, says_away};
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
        let asked = (Instant::now(), request.headers().clone());
        let reply = {
            let mut asking = pin!(forward(&self.exchange, &self.permit, &mut request));
            match tokio::time::timeout(PATIENCE, asking.as_mut()).await {
                Ok(reply) => reply,
                // It goes on: a Controller that is slow is heard all the same.
                Err(_) => {
                    attempt.failed();
                    landing.is(State::Silent);
                    asking.await
                }
            }
        };
        learn(&mut attempt, &reply);
        match reply {
            Ok(reply) if says_away(reply.status()) => (Outcome::SaysAway, Some(reply)),
            Ok(reply) => {
                landing.is(State::Answered);
                self.cache.heard(&self.key, reply.status());
                self.receive(reply, &asked, landing, &mut attempt).await
            }
            Err(refusal) if is_outage(&refusal) => (Outcome::Away(refusal), None),
            Err(refusal @ Refusal::UpstreamCredential) => (Outcome::Refused(refusal), None),
            Err(_) => (Outcome::Again, None),
        }
    }

    async fn receive(
        &self,
        mut reply: Response<Relayed>,
        (asked_at, asked): &(Instant, HeaderMap),
        landing: &Landing,
        attempt: &mut Attempt,
    ) -> (Outcome, Option<Response<Relayed>>) {
        let (status, fields) = (reply.status(), reply.headers().clone());
        let length = fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        // Whether it is for all does not depend on its body, but for the size.
        let is_shared = Entry::new(&self.key, (*asked_at, asked), (status, &fields), b"").is_some();
        if !is_shared || length.is_some_and(|length| length > MAX_BODY) {
            return (Outcome::Apart, Some(reply));
        }
        match reply.body_mut().collect(MAX_BODY).await {
            Ok(Some(body)) => match Entry::new(&self.key, (*asked_at, asked), (status, &fields), &body).map(Arc::new) {
                Some(entry) => {
                    if !landing.is_outdated() {
                        self.cache.store(&self.key, &entry).await;
                    }
                    (Outcome::Shared(entry), None)
                }
                None => (Outcome::Again, None),
            },
            Ok(None) => (Outcome::Apart, Some(reply)),
            // Whose fetch it was may fetch no longer.
            Err(_) if !self.is_permitted() => (Outcome::Again, None),
            Err(_) => {
                attempt.failed();
                (Outcome::Away(Refusal::Upstream), None)
            }
        }
    }

    fn is_permitted(&self) -> bool {
        let gate = &self.exchange.proxy.gate;
        self.permit
            .admission()
            .is_none_or(|admission| gate.authorizer.authorize(&admission.terms, Instant::now()).is_ok())
    }
}
