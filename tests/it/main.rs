//! Integration tests: one binary, one file per subject.

mod cli;
mod conformance;
mod dev;
mod registry;
mod sqlite;
