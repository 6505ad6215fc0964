//! An error with its causes, in one line.

/// `what failed: why: and why that`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |mut text, cause| {
        let cause = cause.to_string();
        // Some errors display their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let cause = || anyhow::anyhow!("disk full");
        assert_eq!(chain(&*cause().context("nothing was changed")), "nothing was changed: disk full");
        assert_eq!(chain(&*cause().context("writing: disk full").context("sorry")), "sorry: writing: disk full");
    }
}
