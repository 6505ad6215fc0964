//! One listener, asked again and again whether it lets the canary in.
//!
//! It is asked for what the canary does not permit, and what no token of its user can ([`PATH`] needs `license:read`, the
//! Owner's, on a route that no group opens). Identity comes before permission, so 403 is said to a token that is good, and
//! 401 to one that is not; neither is forwarded. The texts tell Tollgate's replies from those of whatever else may be there.

use std::fmt;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::outcome::Outcome;
use super::settings::ProveSettings;
use crate::chain::chain;
use crate::proxy::refusal::Refusal;
use crate::token::{Action, Permission, RawToken, Resource};
use crate::upstream::{Connector, UpstreamConfig, UpstreamError, UpstreamUrl, Upstreams};

/// What is asked for.
const PATH: &str = "/api/license";

/// What it needs.
const NEEDED: Option<Permission> = Permission::new(Resource::License, Action::Read);

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first pause between two questions, and the longest: until it lets the canary in, where every question is a failed
/// authentication and counts against `limits.failed_auth`.
const BEFORE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// And until it refuses it, where none does.
const AFTER: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(100));

/// Of a reply there is no more to read.
const MAX_REPLY: usize = 16 * 1024;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("Tollgate-prove/", env!("CARGO_PKG_VERSION")));

/// A listener, and the connection to it.
pub(super) struct Door {
    connector: Connector,
    host: HeaderValue,
    /// The canary's. Freed memory is wiped, see `main`.
    authorization: HeaderValue,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

/// What a listener said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// It knows the canary, and that it does not permit this.
    LetIn,
    /// It does not know it, or knows that it was revoked.
    Refused,
    /// It says that the canary has expired.
    Expired,
    /// It is not fresh: it lets nobody in.
    Stale,
    /// It had too many failures from here.
    Limited,
    /// Something that Tollgate does not say to this.
    Foreign(u16),
    /// Nothing.
    Nothing(String),
}

impl fmt::Display for Answer {
    /// After "the listener".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LetIn => f.write_str("lets it in"),
            Self::Refused => f.write_str("refuses it"),
            Self::Expired => f.write_str("says that the canary has expired: compare the clocks of the two hosts"),
            Self::Stale => f.write_str("is not fresh and lets nobody in (503): is its store away?"),
            Self::Limited => f.write_str("has had too many failed authentications from here (429)"),
            Self::Foreign(status) => write!(
                f,
                "answers {status}, which Tollgate does not say to a token that does not permit {PATH}: is it a sidecar, and does \
                 no [[route]] of its own open that path?"
            ),
            Self::Nothing(reason) => write!(f, "does not answer: {reason}"),
        }
    }
}

impl Door {
    /// # Errors
    /// When the name or the files cannot be used.
    pub(super) fn new(url: &UpstreamUrl, settings: &ProveSettings, canary: &RawToken) -> Result<Self, UpstreamError> {
        let config = UpstreamConfig {
            nodes: vec![url.clone()],
            tls: url.https.then(|| settings.tls.clone()),
            connect_timeout: PATIENCE,
            ..Upstreams::default().api
        };
        let text = Zeroizing::new(format!("Bearer {}", canary.reveal()));
        let mut authorization = HeaderValue::from_str(&text).map_err(|_| UpstreamError::Authority)?;
        authorization.set_sensitive(true);
        let host = HeaderValue::from_str(&url.authority).map_err(|_| UpstreamError::Authority)?;
        Ok(Self { connector: Connector::new(url, &config)?, host, authorization, sender: None })
    }

    /// Asks until it lets the canary in, and says how long that took.
    ///
    /// # Errors
    /// What it did instead, until then.
    pub(super) async fn until_let_in(mut self, since: Instant, by: Instant) -> Result<(Self, Duration), Outcome> {
        let (mut pause, mut last) = (BEFORE.0, None);
        loop {
            match self.ask(by).await {
                Answer::LetIn => return Ok((self, since.elapsed())),
                // A proxy in front may be whole again in a moment; what else there is stays what it is.
                foreign @ Answer::Foreign(..500) => return Err(Outcome::Unknown(foreign.to_string())),
                // The deadline came in between: what it said before says more.
                Answer::Nothing(_) if Instant::now() >= by && last.is_some() => {}
                other => last = Some(other),
            }
            if Instant::now() + pause >= by {
                return Err(match last {
                    None | Some(Answer::Refused) => Outcome::NotLetIn,
                    Some(other) => Outcome::Unknown(other.to_string()),
                });
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(BEFORE.1);
        }
    }

    /// Asks until it refuses the canary, and once more, by another connection.
    pub(super) async fn until_refused(mut self, since: Instant, by: Instant) -> Outcome {
        let mut pause = AFTER.0;
        let refused_after = loop {
            match self.ask(by).await {
                Answer::Refused => break since.elapsed(),
                Answer::LetIn if Instant::now() + pause >= by => return Outcome::StillLetIn(since.elapsed()),
                other if Instant::now() + pause >= by => return Outcome::Unknown(other.to_string()),
                _ => sleep(pause).await,
            }
            pause = (pause * 5 / 4).min(AFTER.1);
        };
        self.sender = None;
        // It has its time, however late the first one came.
        match self.ask(Instant::now() + PATIENCE).await {
            Answer::LetIn => Outcome::LetInAgain,
            _ => Outcome::Refused(refused_after),
        }
    }

    async fn ask(&mut self, by: Instant) -> Answer {
        let patience = by.saturating_duration_since(Instant::now()).clamp(BEFORE.0, PATIENCE);
        let answer = match timeout(patience, self.exchange()).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("nothing came within {:.1} s", patience.as_secs_f64())),
        };
        answer.unwrap_or_else(|reason| {
            self.sender = None;
            Answer::Nothing(reason)
        })
    }

    async fn exchange(&mut self) -> Result<Answer, String> {
        // A connection that was used before may end at any time: that is no answer.
        if let Some(mut sender) = self.sender.take()
            && let Ok(answer) = self.send(&mut sender).await
        {
            self.sender = Some(sender);
            return Ok(answer);
        }
        let (stream, _) = self.connector.connect().await.map_err(|error| chain(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        // It ends with the sender; what it meets, the sender does too.
        tokio::spawn(connection);
        let answer = self.send(&mut sender).await.map_err(|error| chain(&error))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn send(&self, sender: &mut SendRequest<Empty<Bytes>>) -> Result<Answer, hyper::Error> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http::Uri::from_static(PATH);
        for (name, value) in [(HOST, &self.host), (AUTHORIZATION, &self.authorization), (USER_AGENT, &AGENT)] {
            request.headers_mut().insert(name, value.clone());
        }
        sender.ready().await?;
        Ok(read(sender.send_request(request).await?).await)
    }
}

/// What Tollgate says of a refusal.
#[derive(Deserialize)]
struct Said {
    error: String,
    #[serde(rename = "request_id")]
    _request_id: String,
}

async fn read(reply: Response<Incoming>) -> Answer {
    let status = reply.status().as_u16();
    let body = Limited::new(reply.into_body(), MAX_REPLY).collect().await.map(|body| body.to_bytes());
    let said = body.ok().and_then(|body| serde_json::from_slice::<Said>(&body).ok());
    said.map_or(Answer::Foreign(status), |said| judge(status, &said.error))
}

fn judge(status: u16, error: &str) -> Answer {
    let is = |refusal: &Refusal| status == refusal.status() && error == refusal.to_string();
    match status {
        _ if NEEDED.map(Refusal::Permission).as_ref().is_some_and(is) => Answer::LetIn,
        _ if is(&Refusal::UnknownToken) => Answer::Refused,
        _ if is(&Refusal::Expired) => Answer::Expired,
        _ if is(&Refusal::Stale) => Answer::Stale,
        429 => Answer::Limited,
        status => Answer::Foreign(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tollgate_says_is_an_answer() {
        for (status, error, expected) in [
            (403, "Insufficient permissions: license:read required", Answer::LetIn),
            (401, "Invalid token", Answer::Refused),
            (401, "Token expired", Answer::Expired),
            (503, "Token registry unavailable", Answer::Stale),
            (503, "Upstream overloaded", Answer::Foreign(503)),
            (429, "Too many failed authentications", Answer::Limited),
            // Another needs another permission: the token is known there, and it is no sidecar of this version.
            (403, "Forbidden", Answer::Foreign(403)),
            (401, "Unauthorized", Answer::Foreign(401)),
            (401, "Missing or invalid Authorization header", Answer::Foreign(401)),
            (200, "Invalid token", Answer::Foreign(200)),
            (404, "Not found", Answer::Foreign(404)),
        ] {
            assert_eq!(judge(status, error), expected, "{status} {error}");
        }
    }

    #[test]
    fn what_is_asked_for_is_on_no_route_that_a_group_opens_or_a_canary_may_use() {
        use crate::proxy::route::{Access, Group, RouteTable};
        use crate::replica::MaxStaleness;
        use crate::token::Role;
        let table = RouteTable::new(&Group::ALL, &[], true, |_| MaxStaleness::Never);
        let route = table.find("GET", PATH).expect("a route");
        let needed = NEEDED.expect("a permission");
        assert!(matches!(route.access, Access::Token { needed: Some(permission), .. } if permission == needed));
        assert!(!Role::Manager.permissions().contains(needed));
    }
}
