//! Values of arguments that more than one command takes, or that need more than a name to read.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::civil::Date;
use jiff::fmt::friendly::SpanParser;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::token::raw::PREFIX;
use crate::token::{Permission, PermissionSet, Reason, TokenId, UserId};
use crate::units::{InvalidDuration, parse_duration};

/// `--json`, for commands that print records.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Format {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `--reason`, for commands whose doing stays in the history of tokens.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ReasonArg {
    /// Why, for the history of each token (`token show`): one line of at most 200 characters. The audit trail does not have it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<Reason>,
}

/// How much of a list to print.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Page<Id: PageId> {
    /// Most records to print [default: all]
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    pub limit: Option<usize>,
    /// Start after this id, the last one of the previous page
    #[arg(long, value_name = "ID")]
    pub after: Option<Id>,
}

/// The id of a record that lists show.
pub(crate) trait PageId:
    FromStr<Err: std::error::Error + Send + Sync> + fmt::Display + Copy + Send + Sync + 'static
{
}

impl PageId for TokenId {}
impl PageId for UserId {}
/// The number of an audit entry.
impl PageId for u64 {}

fn parse_limit(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or("a limit is a whole number, 1 or more")
}

/// Permission sets with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Preset {
    /// What an agent needs to fetch its configuration and to send heartbeats.
    TelegrafAgent,
}

/// What a token shall permit.
#[derive(Debug, Clone, Args)]
pub(super) struct PermissionArgs {
    /// A named set of permissions: telegraf-agent is configs:read and heartbeat:write
    #[arg(long, value_name = "NAME", conflicts_with = "permission", hide_possible_values = true)]
    pub preset: Option<Preset>,
    /// A permission such as configs:read; repeat the option, or separate several with commas
    #[arg(long, value_name = "RESOURCE:ACTION", value_delimiter = ',')]
    pub permission: Vec<Permission>,
}

impl PermissionArgs {
    /// What was asked for; `None` when nothing was.
    pub(super) fn requested(&self) -> Option<PermissionSet> {
        match self.preset {
            Some(Preset::TelegrafAgent) => Some(PermissionSet::TELEGRAF_AGENT),
            None => (!self.permission.is_empty()).then(|| self.permission.iter().copied().collect()),
        }
    }
}

/// When a token shall expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// So long after its creation.
    After(Duration),
    /// At this time; of a date, at its end in UTC.
    At(Timestamp),
}

/// A text that is not an [`Expiry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidExpiry {
    /// Neither a duration nor a time.
    #[error(
        "write a duration such as 30d, 12h or 1d12h, at most 36500d, a date such as 2027-01-31, or a time such as 2027-01-31T08:00:00Z"
    )]
    Form,
    /// A duration of nothing.
    #[error("a token must be valid for at least one second")]
    Zero,
}

impl Expiry {
    /// The time it means for a token created now, to the second.
    pub(super) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            // A hundred years at most.
            Self::After(duration) => now.checked_add(duration).unwrap_or(Timestamp::MAX),
        }
    }
}

impl FromStr for Expiry {
    type Err = InvalidExpiry;

    fn from_str(text: &str) -> Result<Self, InvalidExpiry> {
        match parse_duration(text) {
            Ok(duration) if duration < Duration::from_secs(1) => Err(InvalidExpiry::Zero),
            Ok(duration) => Ok(Self::After(duration)),
            Err(InvalidDuration) => text.parse().ok().or_else(|| end_of(text)).map(Self::At).ok_or(InvalidExpiry::Form),
        }
    }
}

/// The end of a day in UTC: whoever names a day expects the token to work on it.
fn end_of(date: &str) -> Option<Timestamp> {
    let has_form = date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let day: Date = has_form.then(|| date.parse().ok()).flatten()?;
    Some(day.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// How long ago something was: months and years by the calendar (UTC).
#[derive(Debug, Clone, Copy)]
pub(super) struct Age(Span);

/// A text that is not an [`Age`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a duration such as 90d, 12h, 6mo or 1y")]
pub(super) struct InvalidAge;

impl Age {
    /// The moment that was so long before this one. Nothing is older than the calendar.
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        let then = now.to_zoned(TimeZone::UTC).checked_sub(self.0);
        then.map_or(Timestamp::MIN, |then| then.timestamp())
    }
}

impl FromStr for Age {
    type Err = InvalidAge;

    fn from_str(text: &str) -> Result<Self, InvalidAge> {
        static PARSER: SpanParser = SpanParser::new();
        let span = PARSER.parse_span(text).ok().filter(|span| !span.is_negative());
        span.map(Self).ok_or(InvalidAge)
    }
}

/// A moment: so long ago, or a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// So long before now.
    Ago(Age),
    /// At this time.
    At(Timestamp),
}

/// A text that is not a [`Moment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write how long ago, such as 12h, 90d or 6mo, or a time such as 2027-01-31T00:00:00Z")]
pub(super) struct InvalidMoment;

impl Moment {
    pub(super) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(age) => age.before(now),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Moment {
    type Err = InvalidMoment;

    fn from_str(text: &str) -> Result<Self, InvalidMoment> {
        text.parse().map(Self::Ago).or_else(|_| text.parse().map(Self::At)).map_err(|_| InvalidMoment)
    }
}

/// Fewest characters after the prefix that are taken for a secret; a hint (`tc-apiv1_...abc123`) has none.
const SECRET_LENGTH: usize = 8;

/// Whether an argument has a raw token in it. None takes one: every user of the host can read the arguments of a
/// process, shells record them, and clap repeats what it does not understand.
pub(super) fn holds_raw_token(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    let is_secret = |symbol: &char| symbol.is_ascii_alphanumeric() || matches!(symbol, '_' | '-');
    text.match_indices(PREFIX).any(|(at, prefix)| {
        text[at + prefix.len()..].chars().take_while(is_secret).take(SECRET_LENGTH).count() == SECRET_LENGTH
    })
}

/// Whether an argument could have a password or a private key in it: a URL with more than an address, a PEM section.
pub(super) fn may_hold_password(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    // A password with no address after it looks like a port.
    let is_port = |port: &str| port.split(['/', ',']).next().is_some_and(|port| port.parse::<u16>().is_ok());
    let is_plain = |rest: &str| !rest.contains(['@', '?', '#']) && rest.split(':').skip(1).all(is_port);
    text.contains("-----BEGIN") || text.split_once("://").is_some_and(|(_, rest)| !is_plain(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_count_from_now() {
        let now = Timestamp::from_second(1_000).expect("a time");
        let after = |text: &str| text.parse::<Expiry>().map(|expiry| expiry.resolve(now).as_second());
        assert_eq!(after("45s"), Ok(1_045));
        assert_eq!(after("30d"), Ok(1_000 + 30 * 86_400));
        assert_eq!(after("1w2d3h4m5s"), Ok(1_000 + 9 * 86_400 + 3 * 3_600 + 4 * 60 + 5));
        assert_eq!(after("1970-01-01T01:00:00Z"), Ok(3_600));
        assert_eq!(after("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(after("1970-01-02"), Ok(2 * 86_400), "all of that day");
        assert_eq!(after("1972-02-29").map(|end| end % 86_400), Ok(0));
    }

    #[test]
    fn what_is_no_expiry_is_refused() {
        for text in [
            "",
            "30",
            "d",
            "30x",
            "1h1d",
            "1d1d",
            "-1d",
            "1.5d",
            "9999999d",
            "99999999999999999999w",
            "never",
            "2027-02-29",
            "20270131",
            "2027-1-31",
            "9999-12-31",
            "30é",
            "１d",
        ] {
            assert_eq!(text.parse::<Expiry>(), Err(InvalidExpiry::Form), "{text}");
        }
        assert_eq!("0d".parse::<Expiry>(), Err(InvalidExpiry::Zero));
    }

    #[test]
    fn ages_count_back_by_the_calendar() {
        let now: Timestamp = "2028-02-29T12:00:00Z".parse().expect("a time");
        let before = |text: &str| text.parse::<Age>().map(|age| age.before(now).to_string());
        for (text, then) in [
            ("0s", "2028-02-29T12:00:00Z"),
            ("90d", "2027-12-01T12:00:00Z"),
            ("1w12h", "2028-02-22T00:00:00Z"),
            ("6mo", "2027-08-29T12:00:00Z"),
            ("1y", "2027-02-28T12:00:00Z"),
        ] {
            assert_eq!(before(text), Ok(then.to_owned()), "{text}");
        }
        assert_eq!(before("19000y"), Ok(Timestamp::MIN.to_string()));
        for text in ["", "90", "-90d", "90d ago", "y", "2027-01-31T00:00:00Z", "99999999y"] {
            assert_eq!(before(text), Err(InvalidAge), "{text}");
        }
    }

    #[test]
    fn raw_tokens_are_recognised_in_arguments() {
        let holds = |text: &str| holds_raw_token(&OsString::from(text));
        let raw = crate::token::RawToken::generate().expect("entropy");
        assert!(holds(raw.reveal()));
        assert!(holds(&format!("--description=Bearer {}", raw.reveal())));
        assert!(holds("tc-apiv1_ tc-apiv1_abcdefgh"));
        for text in ["", "tc-apiv1_", "replaces tc-apiv1_...abc123", "tc-apiv1_tokens.jsonl", "0abcdefghjkmn"] {
            assert!(!holds(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_expiry_or_refused(text in "[0-9wdhms:TZ+-]{0,24}") {
            if let Ok(Expiry::After(duration)) = text.parse() {
                proptest::prop_assert!(duration >= Duration::from_secs(1));
            }
        }
    }
}
