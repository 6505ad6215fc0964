//! Digests that the store lost the revocation of: left by sidecars, read by all of them, settled by commands.

use redis::{ParsingError, Pipeline, RedisError, Value, from_redis_value};

use super::Access;
use super::fault::Fault;
use super::layout::{self, Key};
use super::link::{ANSWER_TIMEOUT, Use};
use super::snapshot::run_in;
use crate::store::{RECALLS_LEFT, RecalledPage, RecalledPlace};
use crate::token::Digest;

const PAGE: &str = include_str!("recalled.lua");
const SETTLE: &str = include_str!("settle.lua");

/// Digests written by one command. Either may be repeated without harm, so it is sent again like one that only reads.
const PIECE: usize = 1000;

/// About how many bytes a digest takes in an answer.
const COST: usize = 40;

/// Bytes read at once over the main connection, behind which probes wait.
const SMALL: usize = 48 * 1024;

/// The next page, no larger than what is carried beside probes. A scan's place belongs to one run of one server; on another
/// one it begins anew.
pub(super) async fn page(access: &Access, from: Option<&RecalledPlace>) -> Result<RecalledPage, Fault> {
    let (run, cursor) = from.and_then(parse).unwrap_or_default();
    let page = read(access, cursor).await?;
    match from.is_some() && page.run != run {
        true => Ok(read(access, 0).await?.into_page(access)),
        false => Ok(page.into_page(access)),
    }
}

/// What the script answers, and which run of which server it is.
struct Page {
    run: String,
    total: u64,
    cursor: u64,
    members: Vec<Vec<u8>>,
    damaged: u64,
}

async fn read(access: &Access, cursor: u64) -> Result<Page, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("EVAL_RO").arg(PAGE).arg(1).arg(access.layout.key(Key::Recalled)).arg(cursor).arg(SMALL / COST);
    // Where that may not be asked, every run is taken for the same.
    commands.cmd("INFO").arg("server");
    let answers: [Result<Value, RedisError>; 2] = access.link.read(Use::Main, commands.ignore_errors()).await?;
    let [page, server] = answers.map(|answer| answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT)));
    let server = server.ok().and_then(|server| from_redis_value::<String>(server).ok()).unwrap_or_default();
    let unexpected = |problem: ParsingError| Fault::UnexpectedAnswer(problem.to_string());
    let (total, cursor, members, damaged) = from_redis_value(page?).map_err(unexpected)?;
    Ok(Page { run: run_in(&server).unwrap_or_default().to_owned(), total, cursor, members, damaged })
}

impl Page {
    fn into_page(self, access: &Access) -> RecalledPage {
        if self.damaged > 0 {
            let (store, key, members) = (&access.name, access.layout.key(Key::Recalled), self.damaged);
            tracing::error!(store, key, members, "some members are not digests");
        }
        let digests = self.members.iter().filter_map(|member| layout::digest(member)).collect();
        let next = (self.cursor > 0).then(|| RecalledPlace(format!("{} {}", self.run, self.cursor).into_bytes()));
        RecalledPage { total: self.total, digests, next }
    }
}

/// Which run it is a place of, and where that is.
fn parse(place: &RecalledPlace) -> Option<(String, u64)> {
    let (run, cursor) = std::str::from_utf8(&place.0).ok()?.split_once(' ')?;
    Some((run.to_owned(), cursor.parse().ok()?))
}

pub(super) async fn recall(access: &Access, digests: &[Digest]) -> Result<(), Fault> {
    let key = access.layout.key(Key::Recalled);
    for digests in digests.chunks(PIECE) {
        let mut commands = Pipeline::new();
        commands.cmd("SCARD").arg(key);
        let (present,): (u64,) = access.link.read(Use::Main, &commands).await?;
        if present + digests.len() as u64 > RECALLS_LEFT {
            return Err(Fault::TooManyRecalls(present));
        }
        let members: Vec<_> = digests.iter().map(|digest| digest.as_bytes().as_slice()).collect();
        let mut commands = Pipeline::new();
        commands.cmd("SADD").arg(key).arg(&members);
        let (_,): (u64,) = access.link.read(Use::Main, &commands).await?;
    }
    Ok(())
}

pub(super) async fn settle(access: &Access, digests: &[Digest]) -> Result<(), Fault> {
    let keys = [Key::Meta, Key::Recalled].map(|key| access.layout.key(key));
    for digests in digests.chunks(PIECE) {
        let members: Vec<_> = digests.iter().map(|digest| digest.as_bytes().as_slice()).collect();
        let mut commands = Pipeline::new();
        commands.cmd("EVAL").arg(SETTLE).arg(keys.len()).arg(&keys).arg(&members);
        let (_,): (Vec<String>,) = access.link.read(Use::Main, &commands).await?;
    }
    Ok(())
}
