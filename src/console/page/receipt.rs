//! What is known of a change: said at the next page.

use super::session::Notice;
use crate::console::change::Done;
use crate::registry::receipt::ReceiptView;

/// How long a page waits for the sidecars.
pub(super) const WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// That something was done, and which sidecars have applied it.
pub(super) fn notice<T>(text: String, applied: &str, done: &Done<T>) -> Notice {
    let mut is_good = true;
    let mut details = Vec::new();
    if let Some(receipt) = &done.wait {
        is_good &= receipt.complete;
        details.push(in_words(applied, receipt));
    }
    if let Some(problem) = &done.wait_problem {
        is_good = false;
        details.push(format!("It is done, but it is not known which sidecars have applied it: {problem}."));
    }
    if done.unconfirmed.is_some() {
        is_good = false;
        details.push(
            "A failover of the store may lose it: not every replica that could be promoted has confirmed it."
                .to_owned(),
        );
    }
    Notice { is_good, text, detail: (!details.is_empty()).then(|| details.join(" ")) }
}

/// `Refused by all 3 sidecars, 4 ms.`
fn in_words(applied: &str, receipt: &ReceiptView) -> String {
    let ReceiptView { complete, sidecars, applied: count, milliseconds, .. } = receipt;
    if *complete {
        return match sidecars {
            1 => format!("{applied} by the only sidecar, {milliseconds:.0} ms."),
            _ => format!("{applied} by {count} of {sidecars} sidecars, {milliseconds:.0} ms."),
        };
    }
    if let (Some(problem), true) = (&receipt.problem, receipt.missing.is_empty()) {
        return format!("{applied} by {count} of {sidecars} sidecars that report. No receipt for all: {problem}.");
    }
    let missing: Vec<_> = receipt.missing.iter().map(|missing| missing.name.as_str()).collect();
    format!(
        "{applied} by {count} of {sidecars} sidecars. Not yet by {}: it is committed, and a sidecar that does not receive it \
         stops serving after its max_staleness.",
        missing.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(applied: usize, sidecars: usize) -> ReceiptView {
        ReceiptView {
            complete: applied == sidecars,
            revision: 7,
            sidecars,
            applied,
            slowest: None,
            milliseconds: 4.2,
            missing: Vec::new(),
            problem: None,
        }
    }

    #[test]
    fn a_receipt_says_by_how_many_and_how_fast() {
        assert_eq!(in_words("Refused", &receipt(3, 3)), "Refused by 3 of 3 sidecars, 4 ms.");
        assert_eq!(in_words("Refused", &receipt(1, 1)), "Refused by the only sidecar, 4 ms.");
        let mut none = receipt(0, 0);
        none.complete = false;
        none.problem = Some("no sidecar reports".to_owned());
        assert!(in_words("Refused", &none).ends_with("No receipt for all: no sidecar reports."));
    }
}
