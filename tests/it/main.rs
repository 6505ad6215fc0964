//! Integration tests: one binary, one file per subject.

mod cli;
mod client_gone;
mod config_head;
mod conformance;
mod dev;
mod drain;
mod faults;
mod fleet;
mod freshness;
mod harness;
mod http1;
mod http2;
mod hygiene;
mod interim;
mod memory;
mod primary;
mod redis;
mod refusals;
mod registry;
mod reply_fields;
mod revocation;
mod snapshot_file;
mod sqlite;
mod stale_cut;
mod tls;
mod upstream;
