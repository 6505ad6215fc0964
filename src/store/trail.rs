//! The fourth contract: the audit trail, as lines that a store does not look into.
//!
//! A commit leaves its entries loose ([`Batch::audit`](super::Batch::audit)). They become lines of the trail later, by
//! [`Trail::link`], which takes a step only where both the trail's end and the loose entries are still what they were, byte
//! by byte. None of this is a commit: there is no revision of it, and replicas do not hear of it.

use async_trait::async_trait;

use super::StoreError;

/// A line of the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// Its number, from 1.
    pub seq: u64,
    /// It, without an end of line. JSON, unless somebody else wrote it.
    pub text: Vec<u8>,
}

/// Both ends of the trail, and what comes next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrailEnds {
    /// The oldest line.
    pub first: Option<AuditLine>,
    /// The newest line.
    pub last: Option<AuditLine>,
    /// The loose entries that were left first.
    pub loose: Vec<Vec<u8>>,
    /// How many loose entries there are.
    pub loose_count: u64,
}

/// A step: loose entries become lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrailStep {
    /// The newest line, as it was read.
    pub last: Option<AuditLine>,
    /// The first loose entries, as they were read. They go.
    pub loose: Vec<Vec<u8>>,
    /// What comes after the newest line.
    pub lines: Vec<AuditLine>,
    /// Lines up to this number go.
    pub remove_through: Option<u64>,
}

/// The audit trail.
#[async_trait]
pub trait Trail: Send + Sync + 'static {
    /// Leaves entries that belong to no commit.
    async fn note(&self, entries: &[Vec<u8>]) -> Result<(), StoreError>;

    /// Both ends of the trail, and at most so many loose entries.
    async fn trail_ends(&self, loose: usize) -> Result<TrailEnds, StoreError>;

    /// Takes the step whole, or not at all where something is no longer as it was read. Says which. A store that is frozen
    /// takes none.
    async fn link(&self, step: &TrailStep) -> Result<bool, StoreError>;

    /// Lines after this number, oldest first.
    async fn trail_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError>;

    /// Lines before this number, or all of them, newest first.
    async fn trail_before(&self, seq: Option<u64>, limit: usize) -> Result<Vec<AuditLine>, StoreError>;

    /// Up to which line the trail was written to that place.
    async fn written_to(&self, place: &str) -> Result<Option<u64>, StoreError>;

    /// Says so.
    async fn set_written_to(&self, place: &str, seq: u64) -> Result<(), StoreError>;
}
