//! Integration tests: one binary, one file per subject.

mod cli;
mod conformance;
mod dev;
mod harness;
mod http1;
mod http2;
mod hygiene;
mod refusals;
mod registry;
mod sqlite;
mod upstream;
