//! What the soak shares with the integration tests.

#![expect(dead_code, reason = "the integration tests use the rest")]

#[path = "../it/harness/history.rs"]
pub(crate) mod history;
#[path = "../it/harness/metronome.rs"]
pub(crate) mod metronome;
#[path = "../it/harness/oracle.rs"]
pub(crate) mod oracle;
#[path = "../it/harness/pair.rs"]
pub(crate) mod pair;
#[path = "../it/harness/prober.rs"]
pub(crate) mod prober;
#[path = "../it/harness/redis.rs"]
pub(crate) mod redis;
#[path = "../it/harness/relay.rs"]
pub(crate) mod relay;
#[path = "../it/harness/wait.rs"]
mod wait;

pub(crate) use wait::{PATIENCE, eventually};
