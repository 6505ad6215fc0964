//! Digests that the store lost the revocation of: left by sidecars, read by all of them, settled by commands.
//!
//! ```text
//!   recalled    set   each one, until a command has settled it
//!   recall_log  list  the same in the order in which they came, until all are settled: what is known is not read again
//! ```
//!
//! A digest is listed after it was added. Sidecars of the version before add without listing, and so does one that dies in
//! between; and whoever has a sidecar's user can list what was never added, or twice. So an entry counts if it is in the set, and
//! whoever reads goes by how many different ones came, see [`RecalledPage`].

use std::fmt;
use std::str::FromStr;

use redis::{ParsingError, Pipeline, RedisError, Value, from_redis_value};

use super::fault::Fault;
use super::heard::Carried;
use super::layout::{self, Key};
use super::link::{ANSWER_TIMEOUT, Use};
use super::log::SMALL;
use super::snapshot::run_in;
use super::{Access, script};
use crate::store::{RECALLS_LEFT, RecalledPage, RecalledPlace};
use crate::token::Digest;

const PAGE: &str = include_str!("recalled.lua");
const SETTLE: &str = include_str!("settle.lua");

/// Digests settled by one command. It may be repeated without harm, so it is sent again like one that only reads.
const PIECE: usize = 1000;

/// About how many bytes a digest takes in an answer, and to be added and listed.
const COST: usize = 40;
const COST_TO_ADD: usize = 130;

/// How far they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Which server that was, and since when in charge: another one may hold others. Empty where that may not be asked.
    server: String,
    /// How many entries the list had when the reading began, or were read since.
    listed: u64,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The set is being read.
    Scan(u64),
    /// It was read; others may come.
    Listen,
}

/// The next page, no larger than what is carried beside probes.
pub(super) async fn page(access: &Access, from: Option<&RecalledPlace>) -> Result<RecalledPage, Fault> {
    if let Some(place) = from.and_then(|place| std::str::from_utf8(&place.0).ok()?.parse::<Place>().ok()) {
        let answer = ask(access, &place).await?;
        let is_known = answer.server == place.server && (!place.server.is_empty() || place.is_scan());
        // It begins anew when all are settled.
        if is_known && (answer.length >= place.listed || place.is_scan()) {
            return Ok(answer.following(access, place));
        }
    }
    let begin = Place { server: String::new(), listed: 0, then: Then::Scan(0) };
    let answer = ask(access, &begin).await?;
    let place = Place { server: answer.server.clone(), listed: answer.length, ..begin };
    Ok(RecalledPage { begins: true, ..answer.following(access, place) })
}

/// What the script answers, and which server does.
struct Answer {
    server: String,
    present: u64,
    ever: u64,
    length: u64,
    cursor: u64,
    /// How many members, or entries, were read.
    read: u64,
    /// Those of them that are recalled digests.
    digests: Vec<Vec<u8>>,
}

async fn ask(access: &Access, place: &Place) -> Result<Answer, Fault> {
    access.pace.read(|bytes| ask_for(access, place, bytes.min(SMALL) / COST)).await
}

/// About so many digests.
async fn ask_for(access: &Access, place: &Place, count: usize) -> Result<(Answer, Carried), Fault> {
    let keys = [Key::Meta, Key::Recalled, Key::RecallLog].map(|key| access.layout.key(key));
    let cursor = if let Then::Scan(cursor) = place.then { cursor.to_string() } else { String::new() };
    let mut commands = Pipeline::new();
    let mut page = script("EVAL_RO", PAGE, &keys);
    page.arg(count).arg(cursor).arg(place.listed);
    commands.add_command(page).cmd("INFO").arg("server").arg("replication");
    let (answers, exchange) = access.link.fetch(Use::Main, commands.ignore_errors()).await?;
    let answers: [Result<Value, RedisError>; 2] = answers;
    let [page, server] = answers.map(|answer| answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT)));
    let server = server.ok().and_then(|server| from_redis_value::<String>(server).ok()).unwrap_or_default();
    let unexpected = |problem: ParsingError| Fault::UnexpectedAnswer(problem.to_string());
    let (present, ever, length, cursor, read, digests) = from_redis_value(page?).map_err(unexpected)?;
    let reign = |info: &str| Some(format!("{}-{}", run_in(info)?, value_in(info, "master_replid:")?));
    let server = reign(&server).unwrap_or_default();
    Ok((Answer { server, present, ever, length, cursor, read, digests }, exchange.answer))
}

fn value_in<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

impl Answer {
    /// The page at a place.
    fn following(self, access: &Access, mut place: Place) -> RecalledPage {
        let others = self.read - self.digests.len() as u64;
        // Of the list's some may be settled.
        if others > 0 && place.is_scan() {
            let (store, key) = (&access.name, access.layout.key(Key::Recalled));
            tracing::error!(store, key, members = others, "some members are not digests");
        }
        let is_last = match place.then {
            Then::Scan(_) if self.cursor > 0 => {
                place.then = Then::Scan(self.cursor);
                false
            }
            Then::Scan(_) => {
                place.then = Then::Listen;
                true
            }
            Then::Listen => {
                place.listed += self.read;
                place.listed >= self.length
            }
        };
        RecalledPage {
            total: self.present,
            recalls: self.ever,
            begins: false,
            digests: self.digests.iter().filter_map(|digest| layout::digest(digest)).collect(),
            is_last,
            next: Some(RecalledPlace(place.to_string().into_bytes())),
        }
    }
}

impl Place {
    fn is_scan(&self) -> bool {
        matches!(self.then, Then::Scan(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, listed, then } = self;
        write!(f, "{server} {listed} ")?;
        match then {
            Then::Scan(cursor) => write!(f, "{cursor}"),
            Then::Listen => f.write_str("listen"),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<_> = text.split(' ').collect();
        let [server, listed, then] = parts[..] else { return Err(()) };
        let then = match then {
            "listen" => Then::Listen,
            cursor => Then::Scan(cursor.parse().map_err(drop)?),
        };
        Ok(Self { server: server.to_owned(), listed: listed.parse().map_err(drop)?, then })
    }
}

pub(super) async fn recall(access: &Access, mut digests: &[Digest]) -> Result<(), Fault> {
    while !digests.is_empty() {
        let add = |bytes: usize| add(access, digests, (bytes / COST_TO_ADD).max(1));
        digests = &digests[access.questions.carry(add).await?..];
    }
    Ok(())
}

/// Adds the first of them, and says how many. Sidecars that add them once more do no harm.
async fn add(access: &Access, digests: &[Digest], count: usize) -> Result<(usize, Carried), Fault> {
    let [set, list] = [Key::Recalled, Key::RecallLog].map(|key| access.layout.key(key));
    let members: Vec<_> = digests.iter().take(count).map(|digest| digest.as_bytes().as_slice()).collect();
    let present: u64 = access.ask(redis::cmd("SCARD").arg(set)).await?;
    if present + members.len() as u64 > RECALLS_LEFT {
        return Err(Fault::TooManyRecalls(present));
    }
    let mut commands = Pipeline::new();
    for member in &members {
        commands.cmd("SADD").arg(set).arg(*member);
    }
    let (added, exchange): (Vec<u64>, _) = access.link.fetch(Use::Main, &commands).await?;
    // Those of others are listed by them.
    let own: Vec<_> = members.iter().zip(added).filter_map(|(member, added)| (added > 0).then_some(*member)).collect();
    if !own.is_empty() {
        let mut commands = Pipeline::new();
        commands.cmd("RPUSH").arg(list).arg(&own);
        let (_,): (u64,) = access.link.send(Use::Main, &commands).await?;
    }
    Ok((members.len(), exchange.whole))
}

pub(super) async fn settle(access: &Access, digests: &[Digest]) -> Result<(), Fault> {
    let keys = [Key::Meta, Key::Recalled, Key::RecallLog].map(|key| access.layout.key(key));
    for digests in digests.chunks(PIECE) {
        let members: Vec<_> = digests.iter().map(|digest| digest.as_bytes().as_slice()).collect();
        let answer: Vec<String> = access.ask(script("EVAL", SETTLE, &keys).arg(&members)).await?;
        if let [_, command] = &answer[..] {
            return Err(Fault::NotPermitted(command.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for then in [Then::Scan(0), Then::Scan(u64::MAX), Then::Listen] {
            for server in ["", "a-b"] {
                let place = Place { server: server.to_owned(), listed: 7, then };
                assert_eq!(place.to_string().parse(), Ok(place));
            }
        }
        for text in ["", "a 1", "a x listen", "a 1 x", "a 1 2 3"] {
            assert_eq!(text.parse::<Place>(), Err(()), "{text}");
        }
    }
}
