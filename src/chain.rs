//! An error with its causes, in one line.

/// `what failed: why: and why that`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
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
