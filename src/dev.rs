//! `tollgate dev`: Tollgate on loopback with a throwaway store and a stand-in for Telegraf Controller, to try it.

pub mod banner;
pub mod controller;
pub mod directory;
pub mod heartbeat;
pub mod ports;
pub mod seed;
pub mod settings;
pub mod template;
