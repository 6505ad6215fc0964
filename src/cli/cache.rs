//! `cache`: what the sidecar on this host has stored of configurations, and that it forgets them. Never what is in them.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;

use super::Globals;
use super::args::Format;
use super::control::ControlArgs;
use super::output::Output;
use super::table::{Cell, TextTable};
use crate::proxy::StoredConfiguration;
use crate::proxy::path::normalise;
use crate::units::{format_duration, format_size};

/// Shown below `cache --help`.
pub(super) const EXAMPLES: &str = "\
For root, and the user that the sidecar on this host runs as.
Exit codes: 0 done, 1 not: nothing is stored of that path, files remain on disk, or there is no sidecar.

Examples:
  tollgate cache list
  tollgate cache purge /api/configs/web/toml
  tollgate cache purge --all";

/// What to do with the stored configurations.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the stored configurations: path, age, size, and how often each was given
    List(ListArgs),
    /// Forget stored configurations, in memory and on disk
    Purge(PurgeArgs),
}

/// What is listed.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    sidecar: ControlArgs,
    #[command(flatten)]
    format: Format,
}

/// What is forgotten.
#[derive(Debug, Args)]
#[group(id = "what", args = ["path", "all"], required = true, multiple = false)]
pub(crate) struct PurgeArgs {
    /// Those of this path, whatever the query; as `list` shows it
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    sidecar: ControlArgs,
    #[command(flatten)]
    format: Format,
}

/// Runs it.
///
/// # Errors
/// When no sidecar answers, or it stores nothing.
pub(super) fn run(globals: &Globals, command: CacheCommand) -> anyhow::Result<()> {
    match command {
        CacheCommand::List(args) => list(globals, &args),
        CacheCommand::Purge(args) => purge(globals, &args),
    }
}

#[derive(Deserialize)]
struct Listed {
    configurations: Vec<StoredConfiguration>,
}

fn list(globals: &Globals, ListArgs { sidecar, format }: &ListArgs) -> anyhow::Result<()> {
    let output = Output::new(*format);
    let Listed { configurations } = sidecar.demand(globals, "GET", "/config-cache")?;
    if output.json {
        return output.json(&configurations);
    }
    let row = |stored: &StoredConfiguration| {
        let age = format_duration(std::time::Duration::from_secs(stored.age_seconds));
        let size = format_size(stored.bytes as u64);
        [Cell::from(stored.path.as_str()), age.into(), size.into(), stored.hits.to_string().into()]
    };
    let rows = configurations.iter().map(row).collect();
    Ok(output.text(&TextTable::new(["PATH", "AGE", "SIZE", "HITS"], output.colour).page(rows))?)
}

#[derive(Deserialize, serde::Serialize)]
struct Purged {
    purged: usize,
}

fn purge(globals: &Globals, PurgeArgs { path, sidecar, format, .. }: &PurgeArgs) -> anyhow::Result<()> {
    let output = Output::new(*format);
    // Listed with its query, of which it does not depend what is forgotten.
    let path = path.as_deref().map(|path| path.split('?').next().unwrap_or_default());
    if let Some(path) = path {
        normalise(path).with_context(|| format!("{path} is not the path of a configuration"))?;
    }
    let target = format!("/config-cache{}", path.unwrap_or_default());
    let purged: Purged = sidecar.demand(globals, "DELETE", &target)?;
    if let (0, Some(path)) = (purged.purged, path) {
        bail!("nothing is stored of {path}");
    }
    match output.json {
        true => output.json(&purged),
        false => Ok(output.text(&format!("{} forgotten\n", purged.purged))?),
    }
}
