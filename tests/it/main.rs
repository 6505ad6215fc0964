//! Integration tests: one binary, one file per subject.

mod cli;
mod conformance;
mod dev;
mod harness;
mod http2;
mod refusals;
mod registry;
mod sqlite;
