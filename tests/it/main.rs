//! Integration tests: one binary, one file per subject.

mod cli;
mod conformance;
mod harness;
mod refusals;
mod registry;
mod sqlite;
