//! What several test programs use: the integration tests, the soak and the Telegraf scenarios. In a crate of its own, so
//! that what only one of them calls is no dead code in the others.

pub mod authority;
pub mod history;
pub mod metronome;
pub mod oracle;
pub mod pair;
pub mod prober;
pub mod random;
pub mod redis;
pub mod relay;
mod wait;

pub use wait::{PATIENCE, eventually, within};
