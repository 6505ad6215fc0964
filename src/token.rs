//! The domain: tokens, permissions, roles and records. No I/O, no clock, no configuration.
//!
//! Values are parsed once, at the edge, into types that cannot hold an illegal value: a [`Digest`] is 32 bytes, a
//! [`Permission`] is one that exists, a [`PermissionSet`] holds nothing else.

mod digest_prefix;
pub(crate) mod grant;
pub(crate) mod id;
pub(crate) mod moment;
pub(crate) mod permission;
pub mod raw;
pub(crate) mod record;
pub(crate) mod role;

pub use digest_prefix::{DigestPrefix, InvalidDigestPrefix};
pub use grant::{Grant, Owner};
pub use id::{TokenId, UserId};
pub use permission::{Action, Permission, PermissionSet, Resource};
pub use raw::{Digest, RawToken};
pub use record::{
    HistoryEntry, InvalidReason, MAX_HISTORY, Reason, TokenEvent, TokenRecord, TokenState, UserRecord, UserStatus,
};
pub use role::Role;
