//! Lines for systemd's journal: each begins with its priority (`sd-daemon(3)`), which the journal takes off.

use std::fmt;
use std::os::fd::AsFd;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether this is a connection to the journal: `JOURNAL_STREAM` names it by device and inode.
pub(super) fn is_journal(stream: &impl AsFd) -> bool {
    #[expect(clippy::disallowed_methods, reason = "what systemd says of this process")]
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let named = named.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    named.is_some_and(|named: (u64, u64)| {
        rustix::fs::fstat(stream).is_ok_and(|found| (found.st_dev, found.st_ino) == named)
    })
}

/// In front of a line about an error.
pub(super) const ERROR: &str = "<3>";

/// A format, with the priority in front.
pub(super) struct Prioritised<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => ERROR,
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })?;
        self.0.format_event(context, writer, event)
    }
}
