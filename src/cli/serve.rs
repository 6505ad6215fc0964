//! `dev`, `serve`, `console` and `check`: the commands on the process itself.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde::Deserialize;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::args::Format;
use super::journal::{Prioritised, is_journal};
use super::output::{Output, Unheard, may_colour, note};
use super::{Globals, control, usage};
use crate::app::Reread;
use crate::audit;
use crate::config::{self, AdminListener, Changes, Config, LogConfig, LogFormat, Overrides, Place, Problems, Source};
use crate::dev::{self, DevOptions};
use crate::lines::{Lines, Stream};
use crate::store::Settings;

/// Shown below `serve --help`.
pub(super) const SERVE_EXAMPLES: &str = "\
Flags override TOLLGATE_... variables, which override the configuration file.

Examples:
  tollgate serve --listen 0.0.0.0:8080
  tollgate serve --config /etc/tollgate/tollgate.toml
  tollgate serve --api-upstream http://10.0.0.1:8888,http://10.0.0.2:8888
  TOLLGATE_UPSTREAM__API__URL=http://controller:8888 tollgate serve";

/// Flags for the commonest settings.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on for agents, such as 0.0.0.0:8080, :8080 or unix:/run/tollgate.sock; repeat it for several
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// URL of the Controller's API, such as http://127.0.0.1:8888; of several nodes a list with commas: at most 16, all
    /// http or all https
    #[arg(long, value_name = "URL[,URL...]")]
    pub api_upstream: Option<String>,
    /// URL of the Controller's heartbeat server, such as http://127.0.0.1:8000; of several nodes a list, as for
    /// --api-upstream
    #[arg(long, value_name = "URL[,URL...]")]
    pub heartbeat_upstream: Option<String>,
    /// Address to serve health, metrics and the admin API on, such as 127.0.0.1:9900
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
}

/// Runs everything on loopback until a signal ends it.
///
/// # Errors
/// When it cannot start. Options that would point it at a real store are refused.
pub(super) fn dev(globals: &Globals, options: DevOptions) -> anyhow::Result<()> {
    if globals.store.is_some() || globals.config.is_some() {
        return Err(usage("dev has a store and a configuration of its own; use `tollgate serve` with yours"));
    }
    Ok(dev::run(options)?)
}

/// Runs the sidecar until a signal ends it.
///
/// # Errors
/// When the configuration is wrong, or it cannot start.
pub(super) fn serve(globals: &Globals, args: ServeArgs) -> anyhow::Result<()> {
    let (source, overrides) = place(globals, args);
    let config = config::load(&source, &overrides).map_err(into_error)?;
    logging(config, |config, set_filter| {
        // The environment stays what it was at the start.
        // What is worth a warning of the files that it names is said when they are read to be used.
        let read =
            move || tracing::subscriber::with_default(NoSubscriber::default(), || config::load(&source, &overrides));
        let read = Box::new(read);
        crate::app::serve(config, Reread { read, set_filter })
    })
}

/// Shown below `console --help`.
pub(super) const CONSOLE_EXAMPLES: &str = "\
It takes [store], [admin], [freshness], [log] and timeouts.drain of the configuration. The store's user must be one
that may change the registry: admin.store_username, or else the one of [store].

Examples:
  tollgate console --config /etc/tollgate/console.toml
  TOLLGATE_STORE__URL=redis://tollgate-registry@redis tollgate console";

/// Flags of `console`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConsoleArgs {
    /// Address to serve the admin API on, such as 127.0.0.1:9900
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
}

/// Runs the console alone until a signal ends it.
///
/// # Errors
/// When the configuration is wrong, or it cannot start.
pub(super) fn console(globals: &Globals, args: ConsoleArgs) -> anyhow::Result<()> {
    let ConsoleArgs { admin_listen } = args;
    let args = ServeArgs { listen: Vec::new(), api_upstream: None, heartbeat_upstream: None, admin_listen };
    let config = load(globals, args)?;
    logging(config, |config, _| crate::app::console(config))
}

/// Of the log, as much may wait for who reads it.
const LOG_BYTES: usize = 1 << 20;

/// How long the end waits for who reads the log.
const LOG_TIME: Duration = Duration::from_secs(1);

/// Runs it with a log that nothing waits for.
fn logging(config: Config, run: impl FnOnce(Config, SetFilter) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let stderr = Box::new(Stream::new(io::stderr()).context("opening standard error")?);
    let lines = Lines::start("log", stderr, LOG_BYTES, Duration::ZERO, Arc::clone(Lines::lost_of_log()))?;
    let written = lines.clone();
    let set_filter = start_log(&config.log, move || written.clone())?;
    let outcome = run(config, set_filter);
    match lines.finish(LOG_TIME) {
        true => outcome,
        // Nobody reads what would be said of it, and saying it would wait for them.
        false => outcome.map_err(|_| Unheard.into()),
    }
}

/// Shown below `check --help`.
pub(super) const CHECK_EXAMPLES: &str = "\
A reload (SIGHUP, systemctl reload) changes every key but those that are marked with \"restart\".

Examples:
  tollgate check --config /etc/tollgate/tollgate.toml
  tollgate check --config /etc/tollgate/tollgate.toml --running";

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Say instead what a reload of the sidecar that runs on this host would change, and what needs a restart
    #[arg(long)]
    running: bool,
}

/// Prints the effective configuration; or what a running sidecar would make of it.
///
/// # Errors
/// Everything that is wrong with it; when there is no sidecar to compare it with.
pub(super) fn check(globals: &Globals, CheckArgs { serve: args, running }: CheckArgs) -> anyhow::Result<()> {
    // Not everything that is worth knowing is wrong: an expired certificate is a warning.
    drop(start_log(&LogConfig { filter: "warn".to_owned(), format: LogFormat::Text }, io::stderr)?);
    let config = load(globals, args)?;
    let text = if running { compared(&config)? } else { config::effective(&config) };
    Ok(Output::new(Format { json: false }).text(&text)?)
}

#[derive(Deserialize)]
struct Running {
    values: config::Values,
}

/// What a reload of the sidecar on this host would change. It is the one with the admin listener that this configuration names.
fn compared(config: &Config) -> anyhow::Result<String> {
    let running: Running = control::demand(config.admin.address, "GET", "/config")?;
    let Changes { reloaded, restart } = Changes::between(&running.values, &config.values());
    if !(reloaded.is_empty() && restart.is_empty()) {
        note(
            "read with this command's TOLLGATE_ variables and flags; the sidecar reads with those that it was started with",
        );
    }
    let listed = |title: &str, keys: Vec<String>| match keys.is_empty() {
        true => format!("{title}: nothing\n"),
        false => format!("{title}:\n{}", keys.iter().map(|key| format!("  {key}\n")).collect::<String>()),
    };
    Ok(listed("a reload changes", reloaded) + &listed("a restart is needed for", restart))
}

/// Where the registry is stored: what `--store` says, or else the configuration.
///
/// With `--store`, the other keys below `[store]` come from variables and from the file that `--config` names, if it
/// does. The file that is only the usual one (`TOLLGATE_CONFIG`) is not read, so that one that is broken does not prevent
/// anybody from revoking a token.
///
/// # Errors
/// A usage error for a `--store` that is no store URL, or shows a password; what is wrong with the configuration.
pub(super) fn store_settings(globals: &Globals) -> anyhow::Result<Settings> {
    gather_store(globals).map_err(into_error)
}

/// Whether the options or the environment say which registry is meant. systemd's own processes are told their state directory.
pub(super) fn names_store(globals: &Globals) -> bool {
    let names = |(name, _): (OsString, OsString)| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        name == "TOLLGATE_CONFIG" || name == "STATE_DIRECTORY" || name.starts_with("TOLLGATE_STORE")
    };
    globals.store.is_some() || globals.config.is_some() || std::env::vars_os().any(names)
}

/// The same of an argument: a URL is what `--store` would be; of a file nothing but that file counts, since variables and
/// flags would make one store of two.
///
/// # Errors
/// As [`store_settings`], with the argument's name.
pub(super) fn store_settings_of(globals: &Globals, argument: &'static str, place: &str) -> anyhow::Result<Settings> {
    let file = Path::new(place);
    let settings = match (file.is_file(), place.contains(':')) {
        (true, _) => config::store_settings(&Source::of_file(file.to_owned()), &Overrides::default()),
        (false, true) => gather_store(&Globals { store: Some(place.to_owned()), config: globals.config.clone() }),
        (false, false) => {
            return Err(usage(format_args!(
                "{argument}: there is no file {}: name a configuration file, or a store such as sqlite:PATH or redis://HOST",
                file.display()
            )));
        }
    };
    settings.map_err(|problems| into_error(problems.of_argument(argument)))
}

/// Where the admin listener is, by the configuration.
///
/// # Errors
/// What is wrong with it.
pub(super) fn admin_listener(globals: &Globals) -> anyhow::Result<AdminListener> {
    config::admin_listener(&Source::of_process(globals.config.clone())).map_err(into_error)
}

fn gather_store(globals: &Globals) -> Result<Settings, Problems> {
    let (source, overrides) = source_of(globals);
    config::store_settings(&source, &overrides)
}

/// What becomes of the audit trail, from where [`store_settings`] reads.
///
/// # Errors
/// What is wrong with the configuration.
pub(super) fn audit_settings(globals: &Globals) -> anyhow::Result<audit::Settings> {
    config::audit_settings(&source_of(globals).0).map_err(into_error)
}

/// How long new tokens may live, from where [`store_settings`] reads.
///
/// # Errors
/// What is wrong with the configuration.
pub(super) fn max_token_lifetime(globals: &Globals) -> anyhow::Result<Option<Duration>> {
    config::max_token_lifetime(&source_of(globals).0).map_err(into_error)
}

fn source_of(globals: &Globals) -> (Source, Overrides) {
    let source = Source::of_process(globals.config.clone());
    let source = if globals.store.is_some() { source.only_store() } else { source };
    (source, Overrides { store: globals.store.clone(), ..Overrides::default() })
}

fn load(globals: &Globals, args: ServeArgs) -> anyhow::Result<Config> {
    let (source, overrides) = place(globals, args);
    config::load(&source, &overrides).map_err(into_error)
}

/// Where the configuration comes from.
fn place(globals: &Globals, args: ServeArgs) -> (Source, Overrides) {
    let ServeArgs { listen, api_upstream, heartbeat_upstream, admin_listen } = args;
    let store = globals.store.clone();
    let overrides = Overrides { listen, api_upstream, heartbeat_upstream, store, admin_listen };
    (Source::of_process(globals.config.clone()), overrides)
}

/// When only flags are wrong, it was the command that was mistyped.
fn into_error(problems: Problems) -> anyhow::Error {
    let is_flag = |place: &Option<Place>| matches!(place, Some(Place::Flag(_)));
    if problems.iter().all(|problem| is_flag(&problem.place)) { usage(problems) } else { problems.into() }
}

/// Has the log go by another filter, which was judged.
type SetFilter = Box<dyn Fn(&str) + Send + Sync>;

/// Logs to this writer, which leads to standard error.
fn start_log<W>(log: &LogConfig, writer: W) -> anyhow::Result<SetFilter>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.filter).context("reading log.filter")?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let to_journal = is_journal(&io::stderr());
    let lines = match log.format {
        // The journal has the time, and levels of its own.
        LogFormat::Text if to_journal => lines.without_time().with_ansi(false).map_event_format(Prioritised).boxed(),
        LogFormat::Text => lines.with_ansi(may_colour(&io::stderr())).boxed(),
        LogFormat::Json if to_journal => lines.json().map_event_format(Prioritised).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| anyhow!(error)).context("starting the log")?;
    Ok(Box::new(move |filter| {
        // It was read once already, and the log is there for as long as the process.
        if let Ok(filter) = EnvFilter::try_new(filter) {
            handle.reload(filter).unwrap_or_default();
        }
    }))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::super::{Cli, Command};
    use super::*;
    use crate::upstream::MAX_NODES;

    fn globals(store: Option<&str>, config: Option<&str>) -> Globals {
        Globals { store: store.map(str::to_owned), config: config.map(Into::into) }
    }

    #[test]
    fn with_a_store_named_only_a_configuration_that_is_named_too_matters() {
        let store = store_settings(&globals(Some("sqlite:t.db"), None)).expect("a store");
        assert_eq!(store.url.to_string(), "sqlite:t.db");
        for store in [None, Some("sqlite:t.db")] {
            let error = store_settings(&globals(store, Some("/nonexistent/tollgate.toml"))).expect_err("no such file");
            assert!(error.to_string().contains("/nonexistent/tollgate.toml"), "{error}");
        }
    }

    #[test]
    fn a_password_among_the_arguments_is_refused_and_not_repeated() {
        let error = store_settings(&globals(Some("redis://u:s3cret@h"), None)).expect_err("refused");
        let text = error.to_string();
        assert!(
            error.is::<clap::Error>() && text.contains("TOLLGATE_STORE__URL") && !text.contains("s3cret"),
            "{text}"
        );
    }

    /// What the help says of them is what is accepted.
    #[test]
    fn upstream_flags_take_one_node_or_several() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").expect("a command").clone().render_help().to_string();
        let said = format!("at most {MAX_NODES}, all http or all https");
        assert!(serve.split_whitespace().collect::<Vec<_>>().join(" ").contains(&said), "{serve}");
        let example =
            SERVE_EXAMPLES.lines().find_map(|line| line.trim().strip_prefix("tollgate serve --api-upstream "));
        for flag in ["--api-upstream", "--heartbeat-upstream"] {
            assert!(serve.contains(&format!("{flag} <URL[,URL...]>")), "{serve}");
            for (urls, count) in [("http://a:1", 1), (example.expect("an example"), 2)] {
                let line = ["tollgate", "--store", "sqlite:t.db", "serve", flag, urls];
                let Cli { globals, command: Command::Serve(args) } = Cli::try_parse_from(line).expect(urls) else {
                    panic!("{flag}: another command")
                };
                let Config { upstreams, .. } = load(&globals, args).expect(urls);
                let upstream = if flag == "--api-upstream" { upstreams.api } else { upstreams.heartbeat };
                assert_eq!(upstream.nodes.len(), count, "{flag} {urls}");
            }
        }
    }

    #[test]
    fn dev_refuses_a_store() {
        let error = dev(&globals(Some("sqlite:t.db"), None), DevOptions::ANY).expect_err("refused");
        assert!(error.is::<clap::Error>());
    }
}
