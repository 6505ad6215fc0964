//! Requests that nobody can be let in for: counted, told to the operator with what is known, and, where one client has too many,
//! answered with 429. Never a good token, nor one that is known: whoever comes from the same address has done nothing wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Network;
use super::network::client_network;
use super::refusal::Refusal;
use crate::clock::Instant;
use crate::lock::{Mutex, RwLock};
use crate::replica::{Known, Replica};
use crate::sampler::Sampler;
use crate::token::{Digest, DigestPrefix};
use crate::words::words;
use crate::worker::RequestId;

/// How many failed authentications of one client network get the reason for it.
#[derive(Debug, Clone)]
pub struct FailedAuthLimit {
    /// A second; 0: no limit.
    pub rate: u32,
    /// At once.
    pub burst: u32,
    /// Whose are not counted; this host's never are.
    pub exempt: Vec<Network>,
}

impl Default for FailedAuthLimit {
    fn default() -> Self {
        Self { rate: 10, burst: 1000, exempt: Vec::new() }
    }
}

words! {
    /// Why a request was not authenticated.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Failure {
        /// None, several, or another form than `Bearer TOKEN`.
        NoCredential = "no_credential",
        /// No token of Telegraf Controller.
        TokenFormat = "token_format",
        /// Nobody's, or revoked, or deleted.
        UnknownToken = "unknown_token",
        /// Past its expiry.
        Expired = "expired",
        /// Its owner is disabled.
        OwnerDisabled = "owner_disabled",
    }
}

/// Client networks that are remembered at most.
const MAX_CLIENTS: usize = 65_536;

/// Between two looks for clients that can be forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Lines about one client in a [`PERIOD`].
const LINES: u32 = 3;

/// See [`LINES`].
const PERIOD: Duration = Duration::from_secs(60);

/// Failed authentications, over all workers.
#[derive(Debug)]
pub(crate) struct FailedAuth {
    limit: RwLock<FailedAuthLimit>,
    clients: Mutex<Clients>,
    totals: [AtomicU64; Failure::ALL.len()],
    limited: AtomicU64,
    /// Over all clients.
    log: Sampler,
}

#[derive(Debug, Default)]
struct Clients {
    known: HashMap<u128, Client>,
    /// Since the last line about any client.
    left_out: u64,
    /// When those that have used nothing up were forgotten last: who looks through all holds up every worker.
    swept: Option<Instant>,
}

impl Clients {
    /// Whether there is room for one more, which is made if need be. Who has used something up is not forgotten.
    fn has_room(&mut self, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_INTERVAL);
        if self.known.len() >= MAX_CLIENTS && is_due {
            self.known.retain(|_, client| client.due > now);
            self.swept = Some(now);
        }
        self.known.len() < MAX_CLIENTS
    }
}

/// What is remembered of a client network.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// When what it used up will be there again: the theoretical arrival time of GCRA.
    due: Instant,
    /// Since when its lines are counted.
    since: Instant,
    /// Those that were written: what is left out for the sake of others uses nothing up.
    lines: u32,
    left_out: u64,
    warned: bool,
}

/// What to do about one more.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// After how long there is room for another one; `None`: there was room for this one.
    retry_after: Option<Duration>,
    /// Say it, and how many were not said; `None`: leave it out too.
    left_out: Option<LeftOut>,
    /// It is the first in a while that is too many.
    is_offence: bool,
}

/// How many have no line, each counted until there is one that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeftOut {
    /// Since the last line about this client.
    of_client: u64,
    /// Since the last line about any.
    of_all: u64,
}

impl FailedAuth {
    pub(crate) fn new(limit: FailedAuthLimit) -> Self {
        Self {
            limit: RwLock::new(limit),
            clients: Mutex::default(),
            totals: [const { AtomicU64::new(0) }; Failure::ALL.len()],
            limited: AtomicU64::new(0),
            log: Sampler::default(),
        }
    }

    /// This counts from now on; what was used up stays so.
    pub(crate) fn set_limit(&self, limit: FailedAuthLimit) {
        *self.limit.write() = limit;
    }

    /// How many there were.
    pub(crate) fn total(&self, failure: Failure) -> u64 {
        self.totals[failure as usize].load(Ordering::Relaxed)
    }

    /// How many of them were answered with 429.
    pub(crate) fn limited(&self) -> u64 {
        self.limited.load(Ordering::Relaxed)
    }

    /// The time between two, and the time that all at once take: `None`, where this client's are not limited.
    fn pace(&self, client: IpAddr, failure: Failure) -> Option<(Duration, Duration)> {
        let limit = self.limit.read();
        let interval = Duration::from_secs(1).checked_div(limit.rate)?;
        let is_known = matches!(failure, Failure::Expired | Failure::OwnerDisabled);
        let is_exempt =
            client.to_canonical().is_loopback() || limit.exempt.iter().any(|network| network.has_client(client));
        if is_known || is_exempt {
            return None;
        }
        Some((interval, interval.saturating_mul(limit.burst)))
    }

    fn judge(&self, client: IpAddr, failure: Failure, now: Instant) -> Verdict {
        let clients = &mut *self.clients.lock();
        let key = client_network(client);
        if !clients.known.contains_key(&key) && !clients.has_room(now) {
            let left_out = self.say(None, &mut clients.left_out, now);
            return Verdict { retry_after: None, left_out, is_offence: false };
        }
        let client_state = Client { due: now, since: now, lines: 0, left_out: 0, warned: false };
        let state = clients.known.entry(key).or_insert(client_state);
        if now.duration_since(state.since) >= PERIOD {
            (state.since, state.lines, state.warned) = (now, 0, false);
        }
        let mut retry_after = None;
        if let Some((interval, all)) = self.pace(client, failure) {
            let due = state.due.max(now) + interval;
            match due.duration_since(now).checked_sub(all) {
                Some(late) if late > Duration::ZERO => retry_after = Some(late),
                _ => state.due = due,
            }
        }
        let is_offence = retry_after.is_some() && !std::mem::replace(&mut state.warned, retry_after.is_some());
        let left_out = match retry_after {
            None => self.say(Some(state), &mut clients.left_out, now),
            Some(_) => {
                (state.left_out, clients.left_out) = (state.left_out + 1, clients.left_out + 1);
                None
            }
        };
        Verdict { retry_after, left_out, is_offence }
    }

    /// Whether one more is said, of a client and of all.
    fn say(&self, client: Option<&mut Client>, all_left_out: &mut u64, now: Instant) -> Option<LeftOut> {
        let has_said_enough = client.as_ref().is_some_and(|client| client.lines >= LINES);
        if has_said_enough || self.log.admit_at(now).is_none() {
            *all_left_out += 1;
            client.into_iter().for_each(|client| client.left_out += 1);
            return None;
        }
        let of_client = client.map_or(0, |client| {
            client.lines += 1;
            std::mem::take(&mut client.left_out)
        });
        Some(LeftOut { of_client, of_all: std::mem::take(all_left_out) })
    }
}

/// A request that was refused, as far as it matters here.
pub(crate) struct Attempt<'a> {
    /// Whose it is.
    pub client: IpAddr,
    /// That of its token, if it shows one.
    pub digest: Option<Digest>,
    /// What it was refused by.
    pub replica: &'a Replica,
    /// Under which it is in the log.
    pub request_id: Option<RequestId>,
}

impl FailedAuth {
    /// What a request that was refused is answered with, if authentication failed: counts it, and says it to the operator.
    pub(crate) fn refused(&self, attempt: &Attempt<'_>, refusal: Refusal) -> Refusal {
        let Attempt { client, digest, replica, .. } = *attempt;
        let known = digest.map_or(Known::Nothing, |digest| replica.known(&digest));
        let failure = match (&refusal, &known) {
            (Refusal::NoCredential, _) => Failure::NoCredential,
            (Refusal::TokenFormat, _) => Failure::TokenFormat,
            (Refusal::Expired, _) => Failure::Expired,
            (Refusal::UnknownToken, Known::OwnerDisabled { .. }) => Failure::OwnerDisabled,
            // It expired so long ago that this is no longer said.
            (Refusal::UnknownToken, Known::Usable { .. }) => Failure::Expired,
            (Refusal::UnknownToken, _) => Failure::UnknownToken,
            _ => return refusal,
        };
        self.totals[failure as usize].fetch_add(1, Ordering::Relaxed);
        let Verdict { retry_after, left_out, is_offence } = self.judge(client, failure, Instant::now());
        if is_offence {
            tracing::warn!(%client, "a client has too many failed authentications: 429 for what is over limits.failed_auth");
        }
        if let Some(left_out) = left_out {
            log(attempt, failure, &known, left_out);
        }
        let Some(retry_after) = retry_after else { return refusal };
        self.limited.fetch_add(1, Ordering::Relaxed);
        let seconds = retry_after.as_secs() + 1;
        Refusal::TooManyFailures { retry_after: seconds.to_string() }
    }
}

fn log(attempt: &Attempt<'_>, failure: Failure, known: &Known, left_out: LeftOut) {
    let LeftOut { of_client, of_all } = left_out;
    let Attempt { client, digest, replica, request_id } = attempt;
    let reason = match (failure, digest) {
        (Failure::NoCredential, _) => "no token, or not in the form `Authorization: Bearer TOKEN`",
        (Failure::TokenFormat, _) => "what was sent is no token of Telegraf Controller",
        (Failure::Expired, _) => "the token expired",
        (Failure::OwnerDisabled, _) => "the token's owner is disabled",
        (Failure::UnknownToken, digest) => {
            match digest.as_ref().map_or(Some(false), |digest| replica.was_removed(digest)) {
                Some(true) => "the token was revoked or deleted",
                Some(false) => "there is no such token, or it was revoked or deleted before this sidecar started",
                None => "there is no such token, or it was revoked or deleted",
            }
        }
    };
    let (token, user) = match known {
        Known::Usable { token, owner } | Known::OwnerDisabled { token, owner } => (Some(token), Some(owner.name())),
        Known::Nothing => (None, None),
    };
    let token = token.map(tracing::field::display);
    let digest = digest.as_ref().map(|digest| tracing::field::display(DigestPrefix::of(digest)));
    let request_id = request_id.as_ref().map(RequestId::as_str);
    tracing::info!(
        %client, reason, token, user, digest, request_id, left_out = of_client, left_out_of_all = of_all,
        "authentication refused"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(rate: u32, burst: u32) -> FailedAuth {
        let exempt = vec!["198.51.100.0/24".parse().expect("a network")];
        FailedAuth::new(FailedAuthLimit { rate, burst, exempt })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn refused(failed: &FailedAuth, client: &str, failure: Failure, at: Duration) -> bool {
        let now = Instant::since_boot(Duration::from_secs(1000) + at);
        failed.judge(address(client), failure, now).retry_after.is_some()
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let failed = limited(10, 100);
        let at = |milliseconds| {
            let refused =
                |_: &i32| refused(&failed, "192.0.2.7", Failure::UnknownToken, Duration::from_millis(milliseconds));
            200 - (0..200).filter(refused).count()
        };
        assert_eq!((at(0), at(50), at(100), at(1100), at(60_000)), (100, 0, 1, 10, 100));
        // Of the others nothing is used up.
        assert!(!refused(&failed, "192.0.2.8", Failure::UnknownToken, Duration::ZERO));
    }

    #[test]
    fn networks_count_as_one_client_and_ipv4_as_such() {
        let failed = limited(1, 1);
        let first = |client| !refused(&failed, client, Failure::TokenFormat, Duration::ZERO);
        assert!(first("2001:db8::1") && !first("2001:db8::ffff:1") && first("2001:db8:0:1::1"));
        assert!(
            first("192.0.2.7") && !first("::ffff:192.0.2.7") && !first("64:ff9b::192.0.2.7") && first("64:ff9b::1")
        );
    }

    #[test]
    fn who_is_known_exempt_or_of_this_host_is_not_limited() {
        let failed = limited(1, 1);
        let last = |client, failure| (0..9).fold(false, |_, _| refused(&failed, client, failure, Duration::ZERO));
        assert!(last("192.0.2.7", Failure::NoCredential));
        for client in
            ["127.0.0.1", "::1", "::ffff:127.0.0.1", "198.51.100.9", "::ffff:198.51.100.9", "64:ff9b::198.51.100.9"]
        {
            assert!(!last(client, Failure::UnknownToken), "{client}");
        }
        // Whom a translator hides behind no address of ours is not of this host.
        assert!(last("64:ff9b::127.0.0.1", Failure::UnknownToken) && last("64:ff9b::192.0.2.9", Failure::UnknownToken));
        for failure in [Failure::Expired, Failure::OwnerDisabled] {
            assert!(!last("192.0.2.7", failure), "{failure}");
        }
        assert!(!(0..9).any(|_| refused(&limited(0, 1), "192.0.2.7", Failure::UnknownToken, Duration::ZERO)));
    }

    #[test]
    fn a_full_table_frees_no_offender_and_refuses_no_newcomer() {
        let failed = limited(1, 2);
        let offend = |client: u32| {
            let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + client).to_string();
            (0..3).map(|_| refused(&failed, &client, Failure::UnknownToken, Duration::ZERO)).collect::<Vec<_>>()
        };
        for client in 0..MAX_CLIENTS {
            assert_eq!(offend(client.try_into().expect("small")), [false, false, true]);
        }
        assert_eq!(offend(100_000), [false, false, false], "a newcomer");
        assert!(refused(&failed, "10.0.0.0", Failure::UnknownToken, Duration::ZERO), "an offender");
        // When they have used up nothing any more, there is room.
        assert!(!refused(&failed, "192.0.2.7", Failure::UnknownToken, Duration::from_secs(3)));
        assert_eq!(failed.clients.lock().known.len(), 1);
    }

    #[test]
    fn of_a_client_a_few_are_said_each_minute_and_once_that_it_is_too_many() {
        let failed = limited(10, 5);
        let mut said = (0, 0, 0);
        for second in [0, 1, 61] {
            for _ in 0..100 {
                let now = Instant::since_boot(Duration::from_secs(1000 + second));
                let verdict = failed.judge(address("192.0.2.7"), Failure::UnknownToken, now);
                said.0 += u32::from(verdict.left_out.is_some());
                said.1 += u32::from(verdict.is_offence);
                said.2 += verdict.left_out.map_or(0, |left_out| left_out.of_client);
            }
        }
        assert_eq!(said, (6, 2, 197));
    }

    #[test]
    fn what_is_left_out_for_the_sake_of_others_uses_up_no_line_and_is_said_later() {
        let failed = limited(10, 5);
        let said = |client: &str, second: u64| {
            let now = Instant::since_boot(Duration::from_secs(1000 + second));
            failed.judge(address(client), Failure::OwnerDisabled, now).left_out
        };
        let others = (1..=8).filter(|number| said(&format!("198.51.100.{number}"), 0).is_some()).count();
        assert!(others < 8, "there are lines for so many only: {others}");
        let left_out = 8 - others as u64;
        assert_eq!([(); 6].map(|()| said("192.0.2.77", 0)), [None; 6]);
        let then = said("192.0.2.77", 14);
        assert_eq!(then, Some(LeftOut { of_client: 6, of_all: 6 + left_out }));
        assert_eq!(said("198.51.100.8", 14), Some(LeftOut { of_client: 1, of_all: 0 }));
    }

    #[test]
    fn whoever_finds_the_table_full_is_in_the_log_all_the_same() {
        let failed = limited(1, 20);
        let at = |second| Instant::since_boot(Duration::from_secs(second));
        for client in 0..MAX_CLIENTS {
            let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(client).expect("small"));
            // Enough to be remembered when there may be lines again.
            for _ in 0..12 {
                failed.judge(client.into(), Failure::UnknownToken, at(1000));
            }
        }
        let left_out = |second| failed.judge(address("192.0.2.7"), Failure::UnknownToken, at(second)).left_out;
        assert_eq!(left_out(1000), None, "there were lines enough");
        let said = left_out(1011).expect("is said");
        assert_eq!(failed.clients.lock().known.len(), MAX_CLIENTS, "and nobody was forgotten for it");
        assert!(said.of_client == 0 && said.of_all > 12 * 65_000, "{said:?}");
    }
}
