//! Panics: a bug of ours or of a library's ends the task that it happens in, is counted, and is logged.
//!
//! | where | what ends |
//! | --- | --- |
//! | a request on HTTP/1, or a connection | the connection ([`Guard`]) |
//! | a request on HTTP/2 | its stream ([`Guard`]) |
//! | an upstream connection | it, and the request that it carries ([`Guard`]) |
//! | what the sidecar cannot do without | nothing: it is started again ([`crate::app::supervise`]) |
//! | there again and again, or a worker's thread itself | the process |

use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Held by a task that may end by a panic without harm to others. Counts it if it does.
pub(crate) struct Guard(Arc<AtomicU64>);

impl Guard {
    /// Counts here.
    #[must_use]
    pub(crate) fn new(panics: &Arc<AtomicU64>) -> Self {
        Self(Arc::clone(panics))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// From now on panics are logged, like everything else, and not printed beside it.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let location = info.location().map(tracing::field::display);
        let thread = std::thread::current();
        tracing::error!(location, thread = thread.name(), reason = message(info), "a panic: this is a bug");
    }));
}

/// What it says. A message may quote the text that was worked on, so it ends where a raw token begins.
fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    harmless(info.payload_as_str().unwrap_or("no message"))
}

fn harmless(message: &str) -> &str {
    message.split(crate::token::raw::PREFIX).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_panic_is_counted() {
        let panics = Arc::default();
        drop(Guard::new(&panics));
        assert_eq!(panics.load(Ordering::Relaxed), 0);
        let guard = Guard::new(&panics);
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("of the test");
        });
        assert!(thread.join().is_err());
        assert_eq!(panics.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_raw_token_in_a_message_is_not_logged() {
        assert_eq!(harmless("index out of bounds"), "index out of bounds");
        let raw = crate::token::RawToken::generate().expect("entropy");
        let message = format!("byte index 3 is out of bounds of `Bearer {}`", raw.reveal());
        assert_eq!(harmless(&message), "byte index 3 is out of bounds of `Bearer ");
    }
}
