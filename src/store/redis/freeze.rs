//! A registry that refuses changes, for a reason that its meta says.

use redis::{Pipeline, cmd};

use super::commit::{self, CommitFailure};
use super::fault::Fault;
use super::layout::Key;
use super::replicas::Written;
use super::{Access, script};

const FREEZE: &str = include_str!("freeze.lua");

/// Refuses changes from now on, for this reason, or takes them again; only if it is frozen as `only` says, where that is given:
/// whether it was. As of any commit, replicas are waited for.
pub(super) async fn freeze(access: &Access, reason: Option<&str>, only: Option<&str>) -> Result<bool, CommitFailure> {
    let mut freeze = script("EVAL", FREEZE, &[access.layout.key(Key::Meta)]);
    freeze.arg(reason.unwrap_or_default()).arg(only);
    let mut commands = Pipeline::new();
    commands.add_command(freeze);
    access.mark_for_quorum(&mut commands);
    let (mut sent, mut is_open) = (commit::send::<Vec<String>>(access, commands.clone()).await, false);
    if let Err(fault) = &sent
        && (fault.ends_connection() || fault.was_executed())
    {
        // Done twice, it finds that it was done.
        is_open = fault.leaves_open();
        sent = commit::send(access, commands).await;
    }
    let failure = |fault: Fault| match is_open || fault.leaves_open() {
        true => CommitFailure::Unknown(fault),
        false => CommitFailure::Failed(fault),
    };
    let (answer, confirmation) = sent.map_err(failure)?;
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["done"] => {}
        ["other"] => return Ok(false),
        ["absent"] => return Err(access.layout.absent().into()),
        ["forbidden", what] => return Err(Fault::NotPermitted(what.to_owned()).into()),
        _ => return Err(Fault::UnexpectedAnswer(answer.join(" ")).into()),
    }
    let confirmation = confirmation.reaches(access.quorum).map_err(CommitFailure::Unknown)?;
    access.answered(Written::Freeze(reason.map(str::to_owned)), confirmation);
    Ok(true)
}

/// The reason, if changes are refused.
pub(super) async fn frozen(access: &Access) -> Result<Option<String>, Fault> {
    let (frozen,): (Option<String>,) = access.ask(cmd("HMGET").arg(access.layout.key(Key::Meta)).arg("frozen")).await?;
    Ok(frozen)
}
