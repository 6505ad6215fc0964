//! Which tokens were used here, and by which agents: remembered by the data path, written to the store by a task.
//!
//! ```text
//!   request let through ──► Uses (latest use of each token, of each agent) ── every 10 s, what is new ──► store
//! ```
//!
//! A use is a request that was let through: what is refused is none. What the store does not take stays and is told
//! later, with its time: ages by a clock that nobody sets go there, and the store makes times of them. Telling twice does no harm, as
//! the latest use wins. What is lost is what was not written yet when the process is killed, or could not be written until its
//! end.
//!
//! Memory is bounded: some 40 bytes for a token, 200 for an agent, of which there are 131,072 at most. If more than that
//! come while the store is away, tokens are remembered all the same, and which agents they were is not.

mod flush;
mod heartbeat;
mod memory;

pub(crate) use flush::Flusher;
pub(crate) use heartbeat::{Beginning, name, version_of};
pub(crate) use memory::{Seen, Uses};
