//! Whether Redis will be able to read back what it wrote.
//!
//! It replays its append-only file as the user `default`. That user's rights count although nobody may be let in as it:
//! without them Redis refuses its own commits at its next start, one by one, and comes back empty.

use redis::{Pipeline, RedisError, Value, from_redis_value};

use super::Access;
use super::fault::Fault;
use super::layout::Key;
use super::link::Use;
use super::unusable::Unusable;

/// Why this Redis would lose the registry at its next start, and what to write instead. `None` where it would not, and
/// where this user may not see whether it would: in contrast to commands, sidecars of `deploy/redis` may not.
pub(super) async fn problem(access: &Access) -> Result<Option<Unusable>, Fault> {
    let mut questions = Pipeline::new();
    questions.cmd("INFO").arg("persistence");
    let dry_run = |questions: &mut Pipeline, command: &[&str]| {
        questions.cmd("ACL").arg("DRYRUN").arg("default").arg(command);
    };
    dry_run(&mut questions, &["EXEC"]);
    dry_run(&mut questions, &["HSET", access.layout.key(Key::Meta), "revision", "1"]);
    dry_run(&mut questions, &["XADD", access.layout.key(Key::Log), "*", "i", "x"]);
    let answers: Vec<Result<Value, RedisError>> = access.link.read(Use::Main, questions.ignore_errors()).await?;
    let mut answers = answers.into_iter().map(|answer| {
        let text = answer.ok().and_then(|answer| from_redis_value::<String>(answer).ok());
        text.unwrap_or_default()
    });
    let is_replayed = answers.next().is_some_and(|info| info.contains("aof_enabled:1"));
    let refusal = answers.find(|said| !said.is_empty() && said != "OK");
    let refusal = refusal.map(|said| said.trim_end_matches('.').replacen("This", "this", 1));
    Ok(refusal.filter(|_| is_replayed).map(|refusal| Unusable::NotReplayed { refusal }))
}
