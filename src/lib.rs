//! Tollgate: an authenticating reverse proxy that runs as a sidecar in front of Telegraf Controller.
//!
//! Two paths run through this crate, each readable from top to bottom.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod connection;
pub mod dev;
pub mod http1;
pub mod listener;
pub mod proxy;
pub mod registry;
pub mod reload;
pub mod replica;
pub mod socket;
pub mod store;
pub mod tls;
pub mod token;
pub mod upstream;
pub mod worker;
