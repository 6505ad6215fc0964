//! `--wait`: a command ends when every sidecar that could still let a token in has applied what was committed.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::output::{Output, note};
use super::session::Session;
use super::table::printable;
use crate::registry::receipt::Receipt;
use crate::units::parse_duration;

/// How long the sidecars of this host have to apply what was done before the command ends.
const MOMENT: Duration = Duration::from_secs(1);

/// Whether to wait, and how long.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct WaitArgs {
    /// Wait until every live sidecar has applied the change; with --json, add the outcome as "wait"
    #[arg(long)]
    wait: bool,
    /// Longest time to wait [default: 5s]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

impl WaitArgs {
    /// Waits, if that was asked for, until every live sidecar has applied what the session committed.
    ///
    /// # Errors
    /// When the store does not say which sidecars there are.
    pub(crate) async fn wait(self, session: &Session) -> anyhow::Result<Option<Receipt>> {
        if !self.wait {
            return Ok(None);
        }
        let waited = session.registry.receipt(self.timeout.unwrap_or(Duration::from_secs(5))).await;
        Ok(Some(waited.context("it is committed, but it is unknown which sidecars have applied it")?))
    }

    /// After something was taken away: unless it was waited for anyway, waits a moment for the sidecars of this host, so that
    /// what is typed next meets what was done. Says which have not applied it.
    pub(crate) async fn linger(self, session: &Session) {
        if self.wait {
            return;
        }
        // That it cannot be known is no failure of what was done.
        let missing = session.registry.missing_here(MOMENT).await.unwrap_or_default();
        if !missing.is_empty() {
            note(format_args!(
                "not applied yet by {}; it is committed, and --wait waits for all sidecars",
                printable(&missing.join(", "))
            ));
        }
    }

    /// The end of a command that changed something: prints what it did, and waits if that was asked for. As JSON, the
    /// receipt is a member `wait` of what is printed.
    ///
    /// # Errors
    /// When it cannot be printed, and when not every sidecar has applied it.
    pub(crate) async fn print_and_wait(
        self,
        session: &Session,
        output: Output,
        done: &impl Serialize,
        print: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // Whether or not that can be printed, a receipt that is none is reported.
        if !output.json {
            let printed = print();
            return self.wait(session).await?.map_or(Ok(()), |receipt| receipt.print(output)).and(printed);
        }
        // Whatever comes of the waiting: what was done is printed.
        let receipt = self.wait(session).await;
        let printed = match receipt.as_ref().ok().and_then(Option::as_ref) {
            None => output.json(done),
            Some(receipt) => with_receipt(done, receipt).and_then(|done| output.json(&done)),
        };
        receipt?.map_or(Ok(()), |receipt| receipt.print(output)).and(printed)
    }
}

/// What was done, with the receipt as its member `wait`.
fn with_receipt(done: &impl Serialize, receipt: &Receipt) -> anyhow::Result<serde_json::Value> {
    let done = serde_json::to_value(done).context("writing JSON")?;
    // Of a list nothing is a member.
    let mut done = if done.is_object() { done } else { serde_json::json!({ "users": done }) };
    done["wait"] = serde_json::to_value(receipt.view()).context("writing JSON")?;
    Ok(done)
}

impl Receipt {
    /// Prints it for a person, where text was asked for.
    ///
    /// # Errors
    /// When some sidecar has not applied it, with their names; when it cannot be printed.
    pub(super) fn print(&self, output: Output) -> anyhow::Result<()> {
        let sentence = self.sentence()?;
        if !output.json {
            output.done(&format!("{sentence}\n"))?;
        }
        Ok(())
    }

    /// As [`Receipt::print`], beside what is alone on standard output.
    ///
    /// # Errors
    /// As [`Receipt::print`].
    pub(super) fn print_aside(&self) -> anyhow::Result<()> {
        note(self.sentence()?);
        Ok(())
    }
}
