//! `prove`: that a revoked token is refused, measured where agents connect.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Globals;
use super::args::Format;
use super::output::{Output, note};
use super::serve::store_settings;
use super::session::Session;
use super::table::{Cell, TextTable};
use crate::chain::chain;
use crate::prove::{Here, Proof, ProofView, ProveSettings, Prover, Verdict};
use crate::store::{Absent, StoreUrl};
use crate::tls::{Identity, UpstreamTlsConfig};
use crate::units::parse_duration;
use crate::upstream::UpstreamUrl;

/// Shown below `prove --help`.
pub(super) const EXAMPLES: &str = "\
It makes a token of the user tollgate-canary that is good for nothing, waits until every listener lets it in,
revokes it, measures when each refuses it, and deletes it. Nothing of it reaches the Controller. docs/prove.md
has what is measured, and how.

Exit codes: 0 proven, 1 not: a listener was seen to let the revoked token in, or never to let it in before,
3 unknown: none was, but not all could be measured.

Examples:
  tollgate prove
  tollgate prove --via http://10.0.0.5:8080 --via http://10.0.0.6:8080
  tollgate prove --via https://edge-1.example:8443 --ca ca.pem --json";

/// Which listeners are measured, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProveArgs {
    /// A listener to measure, such as http://10.0.0.5:8080, https://HOST:PORT or unix:PATH; repeat it, or separate several
    /// with commas [default: the first listener of each sidecar that reports to the store, as far as it can be reached
    /// from here]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    via: Vec<UpstreamUrl>,
    /// Authorities (PEM) to verify https listeners with, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A certificate (PEM) for listeners that ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Longest wait until all let the token in, and then until all refuse it [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// Text or JSON.
    #[command(flatten)]
    format: Format,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("a timeout is longer than nothing".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

/// A listener did what it should not: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Disproven(String);

/// Nobody knows: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NothingProven(Cow<'static, str>);

/// Proves once.
///
/// # Errors
/// [`NothingProven`], and that it is not so. Whatever else goes wrong proves nothing: exit code 1 would say that a listener let
/// the token in.
pub(super) async fn run(globals: &Globals, args: ProveArgs) -> anyhow::Result<()> {
    let ProveArgs { via, ca, certificate, key, timeout, format } = args;
    let (output, started_at) = (Output::new(format), Timestamp::now());
    let identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
    let settings = ProveSettings {
        via,
        tls: UpstreamTlsConfig { ca, server_name: None, identity },
        timeout: timeout.unwrap_or(ProveSettings::TIMEOUT),
    };
    let (session, here, mut signals) = match open(globals).await {
        Err(error) if !error.is::<clap::Error>() => {
            say(output, &ProofView::of_nothing(started_at, chain(&*error), &[]));
            return Err(error.context(NOTHING));
        }
        opened => opened?,
    };
    let interrupted = async {
        let [interrupt, terminate] = &mut signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let prover = Prover { registry: session.registry.clone(), actor: session.actor.clone(), here, settings };
    let outcome = match prover.prove(interrupted).await {
        Ok(proof) => print(&proof, output),
        Err(error) => {
            say(output, &error.view(started_at));
            Err(error).context(NOTHING)
        }
    };
    session.finish(outcome).await
}

const NOTHING: NothingProven = NothingProven(Cow::Borrowed("nothing is proven"));

/// The registry, which sidecars are on this host, and the signals that end a run: from here on they end no process.
async fn open(globals: &Globals) -> anyhow::Result<(Session, Here, [Signal; 2])> {
    let session = Session::open(globals, Absent::Refuse).await?;
    let here = match store_settings(globals)?.url {
        StoreUrl::Sqlite(_) => Here::All,
        StoreUrl::Redis(_) => Here::None,
    };
    let install = |kind| signal(kind).context("setting up signals");
    Ok((session, here, [install(SignalKind::interrupt())?, install(SignalKind::terminate())?]))
}

/// That nothing was measured, in the form in which programs are told what is.
fn say(output: Output, view: &ProofView<'_>) {
    if output.json
        && let Err(unwritten) = output.json(view)
    {
        note(chain(&*unwritten));
    }
}

fn print(proof: &Proof, output: Output) -> anyhow::Result<()> {
    let summary = proof.summary();
    if let Some(reason) = &proof.leftover {
        note(format_args!(
            "the canary {} could not be deleted ({reason}): it expires within minutes, and a later run deletes it",
            proof.canary
        ));
    }
    let verdict = proof.verdict();
    let written = write(proof, &summary, output);
    match verdict {
        // That the reader is gone is no failure; that it cannot be written leaves them with nothing.
        Verdict::Proven => written.context(NothingProven(summary.into())),
        // Said on standard error, whoever reads the rest.
        Verdict::NotProven => Err(Disproven(summary).into()),
        Verdict::Unknown => Err(NothingProven(summary.into()).into()),
    }
}

fn write(proof: &Proof, summary: &str, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output.json(&proof.view());
    }
    let headings = ["SIDECAR", "LET IN AFTER", "REFUSED AFTER", "LISTENER"];
    let rows = proof.rows().map(|row| row.each_ref().map(|text| Cell::from(text.as_str())));
    output.text(&TextTable::new(headings, output.colour).page(rows.collect()))?;
    if proof.verdict() == Verdict::Proven {
        output.text(&format!("\n{summary}\n"))?;
    }
    Ok(())
}
