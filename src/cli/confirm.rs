//! Asking before what cannot be undone.

use std::io::{self, BufRead, IsTerminal as _, Write};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfirmError {
    /// There is nobody to ask.
    #[error("{0} Nothing was changed: no confirmation possible without a terminal; pass --yes")]
    NoTerminal(String),
    /// The answer was not yes.
    #[error("not confirmed; nothing was changed")]
    Declined,
    /// The terminal failed.
    #[error("asking for confirmation; nothing was changed")]
    Asking(#[from] io::Error),
}

/// Asks on standard error and reads the answer from standard input; both must be a terminal.
///
/// # Errors
/// [`ConfirmError`] for any answer but `y` or `yes`.
pub(super) fn confirm(question: &str) -> Result<(), ConfirmError> {
    if !is_possible() {
        return Err(ConfirmError::NoTerminal(question.to_owned()));
    }
    ask(question, &mut io::stdin().lock(), &mut io::stderr().lock())
}

/// Whether there is somebody to ask.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 64;

fn ask(question: &str, answers: &mut impl BufRead, questions: &mut impl Write) -> Result<(), ConfirmError> {
    write!(questions, "{question} [y/N] ")?;
    questions.flush()?;
    let mut answer = Vec::new();
    io::Read::take(answers, MAX_ANSWER).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        writeln!(questions)?; // end of input: the next line is not part of the question
    }
    match answer.trim_ascii().to_ascii_lowercase().as_slice() {
        b"y" | b"yes" => Ok(()),
        _ => Err(ConfirmError::Declined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(answer: &[u8]) -> bool {
        let mut shown = Vec::new();
        let result = ask("Revoke 3 tokens?", &mut &*answer, &mut shown);
        assert!(shown.starts_with(b"Revoke 3 tokens? [y/N] "));
        result.is_ok()
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        for answer in ["y\n", "Y\n", "yes\n", " YES \r\n", "y"] {
            assert!(answered(answer.as_bytes()), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "no\n", "yess\n", "y y\n", "\u{fffd}\n", &" ".repeat(100)] {
            assert!(!answered(answer.as_bytes()), "{answer:?}");
        }
        assert!(!answered(b"\xff\n"));
    }
}
