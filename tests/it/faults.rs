//! The guarantee while things break, with real processes and real sockets: whatever fails, nothing revoked is accepted
//! past the bound, nothing good is refused as unknown, and everything is level again soon after.
//!
//! A [`Fleet`](crate::harness::Fleet) is asked all the time, and every reply is judged: see
//! [`history`](tollgate_harness::history).

mod cluster;
mod failover;
mod judge;
mod link;
mod lost;
mod process;
mod refusing;
mod relay;
mod sentinel;
