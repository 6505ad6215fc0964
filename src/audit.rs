//! The audit trail: who changed which token or user, when, from where, and what was refused.
//!
//! ```text
//!   registry ── Batch with its events ──► commit ──► loose entries          (in the same transaction)
//!                                                        │
//!   whoever commits, afterwards ── link() ───────────────┴──► lines, each with the hash of the one before
//!                               └─ forward() ──► file, syslog
//! ```
//!
//! An [`Event`] is written with the commit that it tells of, so there is none without the other. It is chained in a second
//! step ([`link()`]) that no commit waits for: each command takes it after its own commit, and so does whatever else can
//! commit, again and again. Two at once do no harm: the store takes a step only if the trail still ends as it did
//! when it was read, byte by byte. Sidecars cannot commit, and have no part in it.
//!
//! A line is JSON. Its last member is the SHA-256 of the line without it, and the one before is the hash of the line before
//! ([`chain`]), so [`verify()`] finds what is missing and what was changed. The lines in a store, in a file and in syslog are
//! the same bytes: whoever cuts off the end of one is found by the other.

pub mod chain;
mod event;
mod forward;
mod link;
mod settings;
mod verify;
mod whole;

pub use chain::{Head, InvalidHead, TrailText};
pub use event::{Action, ActorType, Event, Origin, Outcome, Subject, Who, events};
pub use forward::{Forwarded, forward};
pub use link::{Linked, link};
pub use settings::Settings;
pub use verify::{Finding, Verdict, Verifier};
pub use whole::{Verification, Witnesses, verify};
