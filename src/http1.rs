//! HTTP/1.1 messages (RFC 9112), as a proxy needs them: heads parsed in place, framing decided once and strictly,
//! bodies decoded as they pass.
//!
//! Where RFC 9112 lets a recipient be lenient (bare LF, obs-fold, several Content-Length fields that agree), this is
//! strict: every leniency that two servers exercise differently is a way to smuggle a request past the check.

pub mod body;
pub(crate) mod buffer;
pub mod head;

pub use body::{BodyLength, Decoder};
pub(crate) use buffer::Buffer;
pub use head::{Field, MAX_FIELDS};
