//! What came of it: at each listener, and all together.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::canary::USER;
use super::target::Unmeasured;
use crate::chain::chain;
use crate::registry::receipt::{Receipt, ReceiptView};
use crate::store::StoreError;
use crate::token::TokenId;
use crate::words::words;

words! {
    /// What is known of the promise.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Verdict {
        /// Every listener let the canary in, and refused it once it was revoked.
        Proven = "proven",
        /// A listener was seen to do otherwise.
        NotProven = "not_proven",
        /// None was, and not of all is it known.
        Unknown = "unknown",
    }
}

/// What one listener did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It refused the canary so long after the revocation was sent to the store.
    Refused(Duration),
    /// It never let the canary in: it does not get what is committed.
    NotLetIn,
    /// It let the canary in for so long after that, and to the end.
    StillLetIn(Duration),
    /// It refused the canary, and let it in again.
    LetInAgain,
    /// It could not be asked, or says something else: what.
    Unknown(String),
}

impl Outcome {
    const fn verdict(&self) -> Verdict {
        match self {
            Self::Refused(_) => Verdict::Proven,
            Self::NotLetIn | Self::StillLetIn(_) | Self::LetInAgain => Verdict::NotProven,
            Self::Unknown(_) => Verdict::Unknown,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::NotLetIn => "not_let_in",
            Self::StillLetIn(_) => "still_let_in",
            Self::LetInAgain => "let_in_again",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What is wrong, after the listener's name.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Self::Refused(_) => None,
            Self::NotLetIn => Some(
                "does not let in a token that was just made: it is cut off from the store, or serves another registry"
                    .to_owned(),
            ),
            Self::StillLetIn(after) => {
                Some(format!("still lets the canary in {:.1} s after its revocation", after.as_secs_f64()))
            }
            Self::LetInAgain => Some(
                "refused the canary and let it in again: are there several sidecars behind this address? Name each"
                    .to_owned(),
            ),
            Self::Unknown(what) => Some(what.clone()),
        }
    }
}

/// One listener, asked.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(super) url: String,
    /// Whose it is, by what that one reports.
    pub(super) sidecar: Option<String>,
    /// Since before the canary was made.
    pub(super) let_in_after: Option<Duration>,
    pub(super) outcome: Outcome,
}

impl Measured {
    /// For people: its sidecar's name, if that is known, and where it is.
    fn name(&self) -> String {
        match &self.sidecar {
            Some(sidecar) => format!("{sidecar} ({})", self.url),
            None => self.url.clone(),
        }
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct Proof {
    /// When it began.
    pub started_at: Timestamp,
    /// Which token was revoked; it is deleted by now.
    pub canary: TokenId,
    /// Every listener that was asked.
    pub(super) listeners: Vec<Measured>,
    /// Sidecars that report and could not be asked.
    pub(super) unmeasured: Vec<Unmeasured>,
    /// Whether somebody said which listeners to ask, and so that it is all of them.
    pub(super) are_named: bool,
    /// What sidecars report of the revocation: their own word.
    pub(super) reports: Result<Receipt, StoreError>,
    /// Why the canary could not be deleted.
    pub leftover: Option<String>,
}

/// A [`Proof`] as programs see it.
#[derive(Debug, Serialize)]
pub(crate) struct ProofView<'a> {
    verdict: &'static str,
    started_at: Timestamp,
    /// `null` where there was none.
    canary: Option<TokenId>,
    user: &'static str,
    /// How long the slowest of those that refused the canary took.
    slowest_ms: Option<f64>,
    listeners: Vec<ListenerView<'a>>,
    not_measured: Vec<UnmeasuredView<'a>>,
    /// What sidecars say of themselves: `null` where the store did not say.
    reports: Option<ReceiptView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ListenerView<'a> {
    url: &'a str,
    sidecar: Option<&'a str>,
    outcome: &'static str,
    let_in_after_ms: Option<f64>,
    refused_after_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct UnmeasuredView<'a> {
    sidecar: &'a str,
    address: &'a str,
}

impl<'a> From<&'a Unmeasured> for UnmeasuredView<'a> {
    fn from(Unmeasured { sidecar, address }: &'a Unmeasured) -> Self {
        Self { sidecar, address }
    }
}

impl<'a> ProofView<'a> {
    /// Of a run that measured nothing: why.
    pub(crate) fn of_nothing(started_at: Timestamp, problem: String, unmeasured: &'a [Unmeasured]) -> Self {
        Self {
            verdict: Verdict::Unknown.name(),
            started_at,
            canary: None,
            user: USER,
            slowest_ms: None,
            listeners: Vec::new(),
            not_measured: unmeasured.iter().map(UnmeasuredView::from).collect(),
            reports: None,
            problems: vec![problem],
        }
    }
}

/// To a hundredth.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

impl Measured {
    fn view(&self) -> ListenerView<'_> {
        ListenerView {
            url: &self.url,
            sidecar: self.sidecar.as_deref(),
            outcome: self.outcome.name(),
            let_in_after_ms: self.let_in_after.map(milliseconds),
            refused_after_ms: self.refused_after().map(milliseconds),
            problem: self.outcome.problem(),
        }
    }

    fn refused_after(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::Refused(after) => Some(after),
            _ => None,
        }
    }
}

impl Proof {
    /// What is known now. That a listener does otherwise was seen, or it was not: what sidecars report of themselves makes
    /// the one doubtful, and never the other.
    pub(crate) fn verdict(&self) -> Verdict {
        let has = |verdict| self.listeners.iter().any(|listener| listener.outcome.verdict() == verdict);
        match has(Verdict::NotProven) {
            true => Verdict::NotProven,
            false if has(Verdict::Unknown) || self.listeners.is_empty() || !self.doubts().is_empty() => {
                Verdict::Unknown
            }
            false => Verdict::Proven,
        }
    }

    /// How many refused the canary.
    pub(crate) fn refused(&self) -> usize {
        self.listeners.iter().filter_map(Measured::refused_after).count()
    }

    /// How long the slowest of these took.
    pub(crate) fn slowest(&self) -> Option<Duration> {
        self.listeners.iter().filter_map(Measured::refused_after).max()
    }

    /// Rows for people: whose listener it is, the two times, and where it is.
    pub(crate) fn rows(&self) -> impl Iterator<Item = [String; 4]> {
        let time =
            |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
        self.listeners.iter().map(move |listener| {
            let sidecar = listener.sidecar.clone().unwrap_or_else(|| "-".to_owned());
            [sidecar, time(listener.let_in_after), time(listener.refused_after()), listener.url.clone()]
        })
    }

    /// Why it is not known of all sidecars, although no listener did what it should not.
    fn doubts(&self) -> Vec<String> {
        let named = |Unmeasured { sidecar, address }: &Unmeasured| format!("{sidecar} ({address})");
        let unmeasured: Vec<_> = self.unmeasured.iter().map(named).collect();
        let unmeasured = (!unmeasured.is_empty()).then(|| {
            let why = match self.are_named {
                true => "more sidecars report than were asked, and not all of these were",
                false => "not asked, since what they report is no way to them from here",
            };
            format!("{why}: {}; name each with --via", unmeasured.join(", "))
        });
        let reports = match &self.reports {
            // Whoever names all listeners needs no list of the sidecars.
            Ok(receipt) if receipt.missing.is_empty() && self.are_named => None,
            Ok(receipt) => receipt.sentence().err().map(|error| format!("by the sidecars' own reports: {error}")),
            Err(_) if self.are_named => None,
            Err(error) => Some(format!("the store does not say which sidecars there are: {}", chain(error))),
        };
        unmeasured.into_iter().chain(reports).collect()
    }

    /// Everything that is wrong, each with its place.
    pub(crate) fn problems(&self) -> Vec<String> {
        let of_listener = |listener: &Measured| Some(format!("{} {}", listener.name(), listener.outcome.problem()?));
        self.listeners.iter().filter_map(of_listener).chain(self.doubts()).collect()
    }

    /// One sentence: what was measured and what was not.
    pub(crate) fn summary(&self) -> String {
        let (asked, refused) = (self.listeners.len(), self.refused());
        let listeners = if asked == 1 { "listener" } else { "listeners" };
        let slowest =
            self.slowest().map_or(String::new(), |slowest| format!(" within {:.1} ms", milliseconds(slowest)));
        let verdict = match self.verdict() {
            Verdict::Proven => "proven",
            Verdict::NotProven => "NOT proven",
            Verdict::Unknown => "unknown",
        };
        let measured = format!(
            "{verdict}: {refused} of {asked} {listeners} let the canary in, and refused it{slowest} once it was revoked"
        );
        let reported = match &self.reports {
            Ok(receipt) if receipt.is_whole() => {
                format!("; {}, by their own reports", receipt.sentence().unwrap_or_default())
            }
            _ => String::new(),
        };
        let problems: String = self.problems().iter().map(|problem| format!("; {problem}")).collect();
        format!("{measured}{reported}{problems}")
    }

    /// As programs see it.
    pub(crate) fn view(&self) -> ProofView<'_> {
        ProofView {
            verdict: self.verdict().name(),
            started_at: self.started_at,
            canary: Some(self.canary),
            user: USER,
            slowest_ms: self.slowest().map(milliseconds),
            listeners: self.listeners.iter().map(Measured::view).collect(),
            not_measured: self.unmeasured.iter().map(UnmeasuredView::from).collect(),
            reports: self.reports.as_ref().ok().map(Receipt::view),
            problems: self.problems(),
        }
    }
}

#[cfg(test)]
mod tests;
