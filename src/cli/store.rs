//! `tollgate store`: registries as a whole, moved and kept.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::Globals;
use super::args::Format;
use super::output::{Output, note};
use super::serve::{store_settings, store_settings_of};
use super::session::{NotConfirmed, login_name};
use crate::chain::chain;
use crate::store::archive::{self, Backup, CopyError, Whole};
use crate::store::{self, Absent, CommitError, CommitId, Position, Settings, Store, StoreError, Unconfirmed};

const COPY_EXAMPLES: &str = "\
FROM and TO are URLs, or configuration files whose [store] is meant: for passwords, certificates and
namespaces. A URL takes the rest of [store] from --config and the environment, a file from nowhere.

Examples:
  tollgate store copy sqlite:/var/lib/tollgate/tollgate.db redis://redis.example --freeze
  tollgate store copy old.toml new.toml

docs/moving-to-redis.md has the order in which sidecars follow.";

const BACKUP_EXAMPLES: &str = "\
The file holds digests, no tokens. A file that is there already is never written over.

Examples:
  tollgate store backup \"$(date +%F).backup\"
  tollgate --config /etc/tollgate/registry.toml store backup registry.backup";

const RESTORE_EXAMPLES: &str = "\
The store is the one of --store or --config. In the place of a registry that is there: move its
files away, or remove its keys; sidecars serve on from memory meanwhile (docs/backup.md).

Examples:
  tollgate --store sqlite:trial.db store restore registry.backup
  tollgate --store redis://redis.example store restore registry.backup";

/// `store ...`
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy a registry into an empty store, while everything runs
    #[command(after_help = COPY_EXAMPLES)]
    Copy(CopyArgs),
    /// Write everything that the registry holds into one file, while everything runs
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(FileArgs),
    /// Make a registry of a backup, in a store that is empty
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(FileArgs),
    /// Refuse changes of the registry; sidecars and whoever reads go on
    Freeze(FreezeArgs),
    /// Take changes again
    Unfreeze,
}

/// `store copy`
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The store to read: a URL, or a configuration file
    #[arg(value_name = "FROM")]
    from: String,
    /// The empty store to write: a URL, or a configuration file
    #[arg(value_name = "TO")]
    to: String,
    /// Have FROM refuse changes from now on, until `tollgate store unfreeze`, or until the copy fails
    #[arg(long)]
    freeze: bool,
    #[command(flatten)]
    format: Format,
}

/// `store backup` and `store restore`
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// `store freeze`
#[derive(Debug, Args)]
pub(crate) struct FreezeArgs {
    /// What everybody is told whose change is refused
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
}

/// Longest reason, in bytes.
const LONGEST_REASON: usize = 200;

fn parse_reason(text: &str) -> Result<String, &'static str> {
    let is_line = !text.trim().is_empty() && text.len() <= LONGEST_REASON && !text.chars().any(char::is_control);
    is_line.then(|| text.to_owned()).ok_or("a reason is one line of at most 200 bytes")
}

/// What was copied, as programs see it.
#[derive(Serialize)]
struct Copied<'a> {
    from: &'a str,
    to: &'a str,
    #[serde(flatten)]
    summary: archive::Summary,
    /// Of what was read.
    revision: u64,
    /// Of the new registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
}

/// Runs one of them.
///
/// # Errors
/// When it fails: the source is as it was, and the target whole or no registry.
pub(super) async fn run(globals: &Globals, command: StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Copy(args) => copy(globals, args).await,
        StoreCommand::Backup(args) => backup(globals, args).await,
        StoreCommand::Restore(args) => restore(globals, args).await,
        StoreCommand::Freeze(args) => {
            let store = open(&store_settings(globals)?).await?;
            set_frozen(&*store, Some(&format!("{}, {}", args.reason, operator()))).await?;
            done(format_args!("{} is frozen: `tollgate store unfreeze` lifts that", store.describe()))?;
            confirmed(store.unconfirmed().await)
        }
        StoreCommand::Unfreeze => {
            let store = open(&store_settings(globals)?).await?;
            set_frozen(&*store, None).await?;
            done(format_args!("{} takes changes", store.describe()))?;
            confirmed(store.unconfirmed().await)
        }
    }
}

async fn open(settings: &Settings) -> Result<std::sync::Arc<dyn Store>, StoreError> {
    store::open(settings, Absent::Refuse).await
}

fn operator() -> String {
    format!("by cli:{} at {}", login_name(), jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default())
}

fn done(text: impl std::fmt::Display) -> anyhow::Result<()> {
    Ok(Output::new(Format { json: false }).done(&format!("{text}\n"))?)
}

async fn set_frozen(store: &dyn Store, reason: Option<&str>) -> anyhow::Result<()> {
    match store.freeze(reason, None).await {
        Err(error @ CommitError::Unknown(_)) => Err(error).context("`tollgate status` says whether it is frozen"),
        outcome => outcome.map(|_| ()).map_err(Into::into),
    }
}

/// What a failover may lose is no plain success.
fn confirmed(unconfirmed: Option<Unconfirmed>) -> anyhow::Result<()> {
    unconfirmed.map_or(Ok(()), |unconfirmed| Err(NotConfirmed(unconfirmed).into()))
}

/// A freeze for one copy, which lifts no other one.
struct Freeze<'a> {
    source: &'a dyn Store,
    /// No other one has it.
    reason: String,
    /// Why it was frozen before.
    before: Option<String>,
}

impl<'a> Freeze<'a> {
    async fn begin(source: &'a dyn Store, target: &str) -> anyhow::Result<Self> {
        let (before, id) = (source.frozen().await?, CommitId::random()?);
        let reason = format!("copied to {target}, {}, copy {id}", operator());
        let freeze = Self { source, reason, before };
        if let Err(error) = set_frozen(source, Some(&freeze.reason)).await {
            freeze.take_back().await;
            return Err(error);
        }
        // Before the copy, so that whoever kills it has read it.
        note(format_args!(
            "{} is frozen, and stays so if this is killed: `tollgate store unfreeze` lifts that",
            source.describe()
        ));
        Ok(freeze)
    }

    /// As it was before, unless somebody else has frozen it since.
    async fn take_back(&self) {
        let name = self.source.describe();
        match self.source.freeze(self.before.as_deref(), Some(&self.reason)).await {
            Ok(true) if self.before.is_none() => note(format_args!("{name} takes changes again")),
            Ok(true) => note(format_args!("{name} is frozen as it was before")),
            Ok(false) => note(format_args!("{name} is left as it is: it is no longer frozen by this copy")),
            Err(error) => note(format_args!("{name} may still be frozen ({})", chain(&error))),
        }
    }
}

async fn copy(globals: &Globals, args: CopyArgs) -> anyhow::Result<()> {
    if globals.store.is_some() {
        return Err(super::usage("copy takes its stores as FROM and TO: leave out --store"));
    }
    let from = store_settings_of(globals, "FROM", &args.from)?;
    let to = store_settings_of(globals, "TO", &args.to)?;
    let source = open(&from).await.context("opening the store to copy from")?;
    let name = to.describe();
    let target = archive::begin(&to).await.context("opening the store to copy to")?;
    let freeze = match args.freeze {
        true => Some(Freeze::begin(&*source, &name).await?),
        false => None,
    };
    let reason = freeze.as_ref().map(|freeze| freeze.reason.as_str());
    let outcome = archive::copy(&*source, reason, target, &to).await;
    // Where the copy may be a registry, a change of the source would be one that it lacks.
    let failed = outcome.as_ref().is_err_and(|error| !matches!(error, CopyError::Unknown(_)));
    if let Some(freeze) = freeze.as_ref().filter(|_| failed) {
        freeze.take_back().await;
    }
    let made = outcome?;
    report(args.format, &source.describe(), &name, made.of, Some(made.position))?;
    if freeze.is_some() {
        note(format_args!("{} stays frozen, so that no change is made that the copy lacks", source.describe()));
    }
    confirmed(made.unconfirmed)?;
    confirmed(source.unconfirmed().await).context("freezing the store to copy from")
}

async fn backup(globals: &Globals, args: FileArgs) -> anyhow::Result<()> {
    let store = open(&store_settings(globals)?).await?;
    let whole = archive::write_backup(&*store, &args.file).await?;
    report(args.format, &store.describe(), &args.file.display().to_string(), whole, None)
}

async fn restore(globals: &Globals, args: FileArgs) -> anyhow::Result<()> {
    let settings = store_settings(globals)?;
    // Read to its end before anything is written.
    let backup = Backup::open(&args.file).map_err(CopyError::from)?;
    let target = archive::begin(&settings).await?;
    let made = archive::restore(backup, target, &settings).await?;
    report(args.format, &args.file.display().to_string(), &settings.describe(), made.of, Some(made.position))?;
    confirmed(made.unconfirmed)
}

fn report(format: Format, from: &str, to: &str, whole: Whole, became: Option<Position>) -> anyhow::Result<()> {
    let (summary, revision) = (whole.summary, whole.position.revision.0);
    let output = Output::new(format);
    if output.json {
        let epoch = became.map(|position| position.epoch.to_string());
        return output.json(&Copied { from, to, summary, revision, epoch });
    }
    Ok(output.done(&format!("{from}, revision {revision} -> {to}: {summary}\n"))?)
}
