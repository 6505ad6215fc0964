//! What goes through Tollgate, and what does not: paths that could be read in two ways, fields that only Tollgate may
//! say, credentials, and what a reply may carry back.

mod credential;
mod path;
mod reply;
mod request;
