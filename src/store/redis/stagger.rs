//! Attempts of which one has to succeed: the next one begins when one has ended, and beside it when that takes long (as in
//! RFC 8305 section 5).

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long an attempt may take before the next one begins beside it.
const PATIENCE: Duration = Duration::from_millis(250);

/// What one of the attempts that are under way came to, those included that `waiting` begins meanwhile; `None` when none
/// is left.
pub(super) async fn next<T, A>(under_way: &mut JoinSet<T>, waiting: &mut impl Iterator<Item = A>) -> Option<T>
where
    T: Send + 'static,
    A: Future<Output = T> + Send + 'static,
{
    loop {
        let begun = waiting.next().map(|attempt| under_way.spawn(attempt));
        let limit = if begun.is_some() { PATIENCE } else { Duration::MAX };
        match timeout(limit, under_way.join_next()).await {
            Ok(Some(Ok(outcome))) => return Some(outcome),
            Ok(None) => return None,
            Ok(Some(Err(_))) | Err(_) => {} // cut off, as the runtime ends; or slow
        }
    }
}
