//! Where results go: records on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use super::args::Format;
use super::journal::{ERROR, is_journal};

/// Standard output as the command was asked to use it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// Whether text may be coloured.
    pub colour: bool,
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("writing to standard output")]
pub(crate) struct OutputError(#[source] io::Error);

/// It failed, and what takes its messages takes none.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard error")]
pub(crate) struct Unheard;

impl OutputError {
    /// Whether the reader went away, as `head` does.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Output {
    /// Standard output for a command with this `--json` or without it.
    pub(crate) fn new(format: Format) -> Self {
        Self { json: format.json, colour: !format.json && may_colour(&io::stdout()) }
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// [`OutputError`], also when the reader is gone.
    pub(crate) fn text(&self, text: &str) -> Result<(), OutputError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(OutputError)
    }

    /// Writes what a command has done, which is said on standard error where it cannot be written.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub(crate) fn done(&self, text: &str) -> Result<(), OutputError> {
        self.text(text).inspect_err(|error| {
            if !error.is_closed() {
                note(text.trim_end());
            }
        })
    }

    /// Writes one value as JSON, indented.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value).context("writing JSON")?;
        text.push('\n');
        Ok(self.text(&text)?)
    }
}

/// A JSON array written as its elements come, one a line, so that a list of any length needs no more than a page of
/// memory. It is whole only after [`JsonArray::end`]: a list that broke off does not parse.
#[derive(Debug)]
pub(super) struct JsonArray {
    output: Output,
    empty: bool,
}

impl JsonArray {
    pub(super) const fn new(output: Output) -> Self {
        Self { output, empty: true }
    }

    pub(super) fn extend<T: Serialize>(&mut self, values: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
        let mut text = String::new();
        for value in values {
            text.push_str(if std::mem::replace(&mut self.empty, false) { "[\n  " } else { ",\n  " });
            text.push_str(&serde_json::to_string(&value).context("writing JSON")?);
        }
        Ok(self.output.text(&text)?)
    }

    pub(super) fn end(self) -> Result<(), OutputError> {
        self.output.text(if self.empty { "[]\n" } else { "\n]\n" })
    }
}

/// Whether colour may go there: to terminals only, and to none when `NO_COLOR` is set (<https://no-color.org>).
pub(super) fn may_colour(stream: &impl IsTerminal) -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    stream.is_terminal() && !declined && !dumb
}

/// Whether what is printed goes to nobody: to `/dev/null`, which also stands in for a standard output that was closed.
pub(super) fn is_discarded() -> bool {
    let number = |file: rustix::io::Result<rustix::fs::Stat>| file.ok().map(|stat| (stat.st_mode, stat.st_rdev));
    number(rustix::fs::fstat(io::stdout())).is_some_and(|stdout| Some(stdout) == number(rustix::fs::stat("/dev/null")))
}

/// Says something to the person at the terminal: a line on standard error. That it cannot be said is no failure.
pub(super) fn note(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Says why a command fails, in lines of that priority where systemd's journal gets them.
pub(super) fn fail(text: &str) {
    match is_journal(&io::stderr()) {
        true => text.lines().for_each(|line| note(format_args!("{ERROR}{line}"))),
        false => note(text),
    }
}
