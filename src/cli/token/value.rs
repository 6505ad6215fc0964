//! The value of a token that its maker brings: from a file or standard input, never an argument.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::super::output::note;
use crate::token::RawToken;
use crate::token::raw::{InvalidValue, MAX_LENGTH};

/// Reads it: the value, perhaps with the end of its line, and nothing else. `-` is standard input.
///
/// # Errors
/// When it cannot be read, and when it has another form.
pub(super) fn read(file: &Path) -> anyhow::Result<RawToken> {
    if file != Path::new("-") {
        let reading = || format!("reading the token's value from {}", file.display());
        return from(File::open(file).with_context(reading)?).with_context(reading);
    }
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        note("reading the token's value from the terminal; Ctrl-D ends the input, Ctrl-C cancels");
    }
    from(stdin).context("reading the token's value from standard input")
}

fn from(input: impl Read) -> anyhow::Result<RawToken> {
    // Long enough from the start, and for no more than is looked at: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH + 1));
    input.take(MAX_LENGTH as u64).read_to_end(&mut bytes)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| InvalidValue::Characters)?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(RawToken::brought(line)?)
}
