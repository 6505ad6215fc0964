//! Tollgate: an authenticating reverse proxy that runs as a sidecar in front of Telegraf Controller.
//!
//! Two paths run through this crate, and only [`app`] knows both:
//!
//! ```text
//! a request:  listener ─► connection ─► proxy::call: route ─► credential ─► authorize ─► sanitize ─► forward ─► upstream
//!                                                           │ reads
//!                                                        replica
//!                                                           ▲ writes
//! a token:    cli, console ─► registry (rules) ─► store (commit) ─► change ─► replica::driver (synchroniser)
//! ```
//!
//! A request reads the replica and never waits for the store. A change to a token reaches the replica and never sees a
//! request. What happens when something fails:
//!
//! - The store cannot be read: the replica serves until it is staler than the configured bound, then everything that
//!   needs a token gets 503. Never 401: that would blame a good token. A store that holds no registry, or none any more,
//!   is the same: that says nothing about any token.
//! - A change is missed: the probe of the store's position, every second, finds the gap.
//! - The store loses its last writes: what they touched is read again, and what was seen revoked stays revoked; the store
//!   is informed, so that every sidecar refuses it. A store that was restored as another life of it is read anew.
//! - A sidecar is restarted: it goes on from its snapshot file, which makes nothing fresher than it was.
//! - An upstream fails: 502 or 504; within a reply, the reply is cut off visibly.
//! - A client misbehaves: one of the documented replies, or a closed connection. One that leaves takes its request along.
//!
//! | module | subject |
//! | --- | --- |
//! | [`token`] | the domain: tokens, digests, permissions, roles, records; no I/O |
//! | [`store`] | the contract of where records live; the SQLite and Redis stores |
//! | [`audit`] | the audit trail: entries, their chain, and where else they are written |
//! | [`registry`] | who may do what to which token, and what follows |
//! | [`replica`] | what requests read, and the synchroniser that holds it at the store's position |
//! | [`proxy`] | the steps of a request, whichever protocol it came by: route, credential, sanitize, forward, refusal |
//! | [`http1`] | HTTP/1.1 as clients speak it: heads, framing, bodies, buffers |
//! | [`connection`] | one client connection: the gate for HTTP/1, hyper's server for HTTP/2 |
//! | [`worker`] | one serving thread: its deadlines, buffers and upstream connections |
//! | [`socket`] | a connection's bytes, plain or TLS |
//! | [`upstream`] | connections to the Controller, carried by hyper's client, and how many there may be |
//! | [`listener`], [`tls`] | accepting, and TLS configurations |
//! | [`reload`] | files that are read again when they change |
//! | [`usage`] | which tokens are used here, and by which agents, on its way to the store |
//! | [`health`], [`readiness`] | how this sidecar is, and whether it wants requests |
//! | [`fleet`] | this sidecar among the others: its reports |
//! | [`access_log`], [`traces`] | what is said of each request |
//! | [`prove`] | whether sidecars refuse a token that was revoked, measured at their listeners |
//! | [`console`] | the admin API: tokens and users, managed from elsewhere |
//! | [`admin`], [`metrics`] | health, metrics and the console on their own listener |
//! | [`config`] | the configuration, valid by construction |
//! | [`app`] | a sidecar from start to stop |
//! | [`cli`] | the commands |
//! | [`units`] | durations and sizes as people write them |
//! | [`lines`] | lines on their way out of the process, for which nobody waits: the log, the access log |
//! | [`chain`], [`hex`], [`lock`], [`random`] | one of each: an error with its causes, digits, locks, randomness |
//! | [`slots`] | how many of something there may be at once |
//! | [`reading`] | files that may hang, for which nobody waits for ever |
//! | [`words`] | enums whose variants have names |
//! | [`clock`] | time that a suspended machine does not stop |
//! | [`dev`] | `tollgate dev`: everything on loopback, with a stand-in Controller |
//!
//! Public is what tests and benches use; everything else is private, so that the compiler finds what nobody uses.

#![allow(rustdoc::private_intra_doc_links, reason = "these pages are read by whoever works on the crate")]

mod access_log;
mod admin;
pub mod app;
pub mod audit;
mod backoff;
mod chain;
pub mod cli;
pub mod clock;
pub mod config;
mod connection;
mod console;
mod descriptor;
mod dev;
pub mod fleet;
pub mod health;
mod hex;
mod histogram;
pub mod http1;
mod lines;
mod listener;
mod lock;
mod metrics;
mod prove;
pub mod proxy;
mod random;
pub mod readiness;
mod reading;
pub mod registry;
mod reload;
pub mod replica;
mod sampler;
mod slots;
mod socket;
pub mod store;
pub mod tls;
pub mod token;
mod traces;
pub mod units;
pub mod upstream;
mod usage;
mod words;
mod worker;
