//! What these scenarios share with the integration tests.

#![expect(dead_code, reason = "the integration tests use the rest")]

#[path = "../it/tls/authority.rs"]
pub(crate) mod authority;
#[path = "../it/harness/redis.rs"]
pub(crate) mod redis;
#[path = "../it/harness/wait.rs"]
mod wait;

use wait::PATIENCE;
