//! Tollgate: an authenticating reverse proxy that runs as a sidecar in front of Telegraf Controller.
//!
//! Two paths run through this crate, each readable from top to bottom.

pub mod config;
pub mod dev;
pub mod proxy;
pub mod registry;
pub mod replica;
pub mod store;
pub mod token;
