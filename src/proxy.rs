//! The data path.

pub mod path;
pub mod route;
