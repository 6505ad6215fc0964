//! Everything that is in a namespace, handed over while it goes on ([`read`]); and a namespace that is filled from elsewhere
//! ([`fill`]).
//!
//! Redis has no snapshots. So all is scanned, and then read again what the log says was changed since the scan began, until
//! nothing was:
//!
//! ```text
//!   position P ─► users, tokens with histories ─► recalled ─► log after P? ─┬─ none, and the position is P: done
//!                       ▲   the users and tokens that were touched, retired ◄┴─ entries up to P'
//!                       └────────────────────────────── P := P' ◄──┘
//! ```
//!
//! A namespace that is being filled has `unfinished`, which says by whom and how many pieces are written, and no meta. Each piece
//! is a script that checks both: what a failover lost, or another command has taken over, is noticed with the next one.

mod fill;
mod piece;
mod read;
mod verify;

pub(crate) use self::fill::RedisUnfinished;
pub(super) use self::fill::absent;
pub(super) use self::read::dump;
