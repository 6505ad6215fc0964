//! Integration tests: one binary, one file per subject.

mod conformance;
mod sqlite;
