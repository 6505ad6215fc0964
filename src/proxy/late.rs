//! Requests with tokens after their end. They are refused; that there are any shows an agent that was forgotten when the
//! token was rotated.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::lock::Mutex;
use crate::store::LateRequests;
use crate::token::TokenId;

/// Most tokens that are remembered: one more takes the place of the one that came longest ago.
const MOST: usize = 100;

/// What came late since the sidecar started, by token. Only who has a token that expired gets into it.
#[derive(Debug, Default)]
pub struct LateUses(Mutex<HashMap<TokenId, LateRequests>>);

impl LateUses {
    /// A request with this token was refused because it had expired.
    pub(crate) fn add(&self, token: TokenId) {
        let now = Timestamp::now();
        let mut uses = self.0.lock();
        if uses.len() >= MOST && !uses.contains_key(&token) {
            let oldest = uses.values().min_by_key(|late| late.last_at).map(|late| late.token);
            oldest.map(|oldest| uses.remove(&oldest));
        }
        let late = uses.entry(token).or_insert(LateRequests { token, count: 0, last_at: now });
        (late.count, late.last_at) = (late.count + 1, now);
    }

    /// All of them, the latest first.
    pub(crate) fn latest(&self) -> Vec<LateRequests> {
        let mut all: Vec<_> = self.0.lock().values().copied().collect();
        all.sort_by_key(|late| std::cmp::Reverse((late.last_at, late.token)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_and_bounded() {
        let uses = LateUses::default();
        for id in 1..=3 * MOST as u64 {
            uses.add(TokenId::from_u64(id));
            uses.add(TokenId::from_u64(7));
        }
        let latest = uses.latest();
        assert_eq!(latest.len(), MOST);
        let seventh = latest.iter().find(|late| late.token.to_u64() == 7).expect("it goes on");
        assert_eq!(seventh.count, 3 * MOST as u64 + 1);
        assert!(latest.is_sorted_by(|a, b| a.last_at >= b.last_at));
    }
}
