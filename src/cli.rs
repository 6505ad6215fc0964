//! The command line: what the arguments mean, and how a command ends.
//!
//! ```text
//!   dev, serve, console,   the process itself                  (cli/serve.rs)
//!   check ───────────────►
//!   health, drain, cache ► the sidecar on this host            (cli/sidecar.rs)
//!   completions, man ────► this definition itself              (cli/generated.rs)
//!   audit ───────────────► session: store, registry, actor     (cli/audit.rs)
//!   status ──────────────► session: store, reports             (cli/status.rs)
//!   prove ───────────────► session: store, registry, actor     (cli/prove.rs)
//!   store ───────────────► stores, as a whole                  (cli/store.rs)
//!   init, user, token ───► session: store, registry, actor     (cli/session.rs)
//!                          one operation of the registry       (cli/user.rs, cli/token.rs, cli/import.rs, cli/export.rs)
//!                          what depends on tokens              (cli/usage.rs)
//!                          its records as text or JSON         (cli/output.rs, cli/list.rs, cli/table.rs)
//! ```
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 unknown: it may or may not be done. Records go to standard output, everything else to standard error.

mod args;
mod audit;
mod cache;
mod confirm;
mod control;
mod drain;
mod export;
mod generated;
mod health;
mod import;
mod journal;
mod list;
mod output;
mod prove;
mod purge;
mod serve;
mod session;
mod sidecar;
mod status;
mod store;
mod table;
mod time;
mod token;
mod unit;
mod usage;
mod user;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::app::signals;
use crate::chain::chain;
use crate::dev::DevOptions;
use crate::registry::{self, ImportError, RegistryError};
use crate::store::CommitError;
use crate::store::archive::CopyError;
use output::{OutputError, Unheard, fail};

/// Shown below `tollgate --help`.
const EXIT_CODES: &str = "\
Exit codes: 0 success, 1 failure (nothing was changed unless the message says so), 2 wrong usage,
3 unknown (the change may or may not be committed; the message says how to find out).";

/// An authenticating reverse proxy in front of Telegraf Controller, and the registry of its API tokens.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Globals {
    /// The store of tokens and users, such as sqlite:/var/lib/tollgate/tollgate.db; default: the configuration's,
    /// or a SQLite file in the state directory
    // Parsed later: clap would repeat a URL that is wrong, with the password in it.
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub store: Option<String>,
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try Tollgate on loopback, with a throwaway store, a stand-in Controller and tokens
    Dev(DevOptions),
    /// Run the proxy
    #[command(after_help = serve::SERVE_EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Run the admin API alone, beside the Redis of a fleet
    #[command(after_help = serve::CONSOLE_EXAMPLES)]
    Console(serve::ConsoleArgs),
    /// Check the configuration and print the values in effect, without secrets
    #[command(after_help = serve::CHECK_EXAMPLES)]
    Check(serve::CheckArgs),
    /// Create the registry and its owner, and print the owner's token once
    #[command(after_help = user::INIT_EXAMPLES)]
    Init(user::InitArgs),
    /// Manage users, whose roles limit what their tokens permit
    #[command(subcommand)]
    User(user::UserCommand),
    /// Manage API tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show who changed what, and verify that the audit trail is whole
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Copy, back up, restore and freeze registries
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Show and forget the configurations that the sidecar on this host has stored
    #[command(subcommand, after_help = cache::EXAMPLES)]
    Cache(cache::CacheCommand),
    /// Take the sidecar on this host out of its balancer while it serves on, or back in
    #[command(after_help = drain::EXAMPLES)]
    Drain(drain::DrainArgs),
    /// Say whether the sidecar on this host is ready
    #[command(after_help = health::EXAMPLES)]
    Health(health::HealthArgs),
    /// Print the script by which a shell completes the command line
    #[command(after_help = generated::COMPLETIONS_EXAMPLES)]
    Completions(generated::CompletionsArgs),
    /// Print a manual page
    #[command(after_help = generated::MAN_EXAMPLES)]
    Man(generated::ManArgs),
    /// Show the store and every sidecar
    Status(status::StatusArgs),
    /// Prove that a revoked token is refused: make one, revoke it, and measure at every sidecar's listener
    #[command(after_help = prove::EXAMPLES)]
    Prove(prove::ProveArgs),
}

/// Runs the command that the arguments name; the first is the program's own name.
///
/// # Errors
/// Why it failed, for [`report`]. Asking for help or the version ends here too.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.iter().skip(1).any(args::holds_raw_token) {
        return Err(usage(
            "there is a raw token in the arguments, where other users and the shell history can see it; name \
             tokens by id (see `tollgate token list`), and consider revoking this one",
        ));
    }
    let may_repeat = !arguments.iter().skip(1).any(args::may_hold_password);
    let Cli { globals, command } = Cli::try_parse_from(arguments).map_err(|error| match error.kind() {
        // clap repeats what it does not understand.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error,
        _ if may_repeat => error,
        kind => Cli::command().error(
            kind,
            "invalid arguments. They are not repeated here, because they seem to contain a password or a private key, \
             which other users of this host can see: name a file that holds it instead",
        ),
    })?;
    // What serves does it once it knows what to do at them.
    if !matches!(command, Command::Dev(_) | Command::Serve(_) | Command::Console(_)) {
        signals::release();
    }
    match command {
        Command::Dev(options) => serve::dev(&globals, options),
        Command::Serve(args) => serve::serve(&globals, args),
        Command::Console(args) => serve::console(&globals, args),
        Command::Check(args) => serve::check(&globals, args),
        Command::Init(args) => session::block_on(user::init(&globals, args)),
        Command::User(command) => session::block_on(user::run(&globals, command)),
        Command::Token(command) => session::block_on(token::run(&globals, command)),
        Command::Audit(command) => session::block_on(audit::run(&globals, command)),
        Command::Store(command) => session::block_on(store::run(&globals, command)),
        Command::Cache(command) => cache::run(&globals, command),
        Command::Drain(args) => drain::run(&globals, &args),
        Command::Health(args) => health::health(&globals, &args),
        Command::Completions(args) => generated::completions(&args),
        Command::Man(args) => generated::man(&args),
        Command::Status(args) => session::block_on(status::run(&globals, args)),
        Command::Prove(args) => session::block_on(prove::run(&globals, args)),
    }
}

/// An error for arguments that clap takes and their meaning rules out: exit code 2.
pub(crate) fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    Cli::command().error(ErrorKind::ValueValidation, message).into()
}

/// The exit code of a command that may or may not have been done, in contrast to one that failed.
const UNKNOWN: u8 = 3;

/// Prints why a command failed, with its causes, and gives the exit code.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        drop(error.print()); // help and version too; that their reader is gone is no failure
        return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    // `tollgate token list | head` has shown what was wanted.
    if error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed) {
        return ExitCode::SUCCESS;
    }
    if error.is::<Unheard>() {
        return ExitCode::FAILURE;
    }
    fail(&format!("tollgate: {}", chain(&**error)));
    if is_unknown(error) { UNKNOWN.into() } else { ExitCode::FAILURE }
}

fn is_unknown(error: &anyhow::Error) -> bool {
    if error.is::<session::NotConfirmed>()
        || error.is::<prove::NothingProven>()
        || matches!(error.downcast_ref(), Some(CopyError::Unknown(_)))
        || matches!(error.downcast_ref(), Some(CommitError::Unknown(_)))
    {
        return true;
    }
    let of_registry = error.downcast_ref::<RegistryError>().map(RegistryError::kind);
    let kind = of_registry.or_else(|| error.downcast_ref::<ImportError>().map(ImportError::kind));
    kind == Some(registry::ErrorKind::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_forms_scripts_depend_on_parse() {
        for line in [
            "tollgate dev",
            "tollgate serve --config t.toml --listen 127.0.0.1:1 --api-upstream http://c:8888",
            "tollgate serve --heartbeat-upstream http://c:8000 --store sqlite:t.db --admin-listen 127.0.0.1:2",
            "tollgate check --config t.toml",
            "tollgate check --config t.toml --running",
            "tollgate console --config t.toml --admin-listen 127.0.0.1:2",
            "tollgate init",
            "tollgate --store sqlite:t.db init --owner anna --json",
            "tollgate user add anna --role manager",
            "tollgate user list --limit 3 --after 0000000000001",
            "tollgate user show anna --json",
            "tollgate user set-role anna Viewer",
            "tollgate user disable anna",
            "tollgate user enable anna",
            "tollgate user delete anna --yes",
            "tollgate user transfer-ownership anna",
            "tollgate token create --user anna --description x",
            "tollgate token create --user anna --description x --preset telegraf-agent --expires 30d",
            "tollgate token create --user anna --description x --permission configs:read --permission heartbeat:write",
            "tollgate token create --user anna --description x --permission configs:read,heartbeat:write --json",
            "tollgate token list --user anna --state expired --store sqlite:t.db",
            "tollgate token show 0000000000001",
            "tollgate token revoke 0000000000001 0000000000002 --yes --force",
            "tollgate token delete 0000000000001",
            "tollgate token reassign 0000000000001 --to anna --yes",
            "tollgate token rotate 0000000000001 --overlap 24h",
            "tollgate token rotate 0000000000001 --overlap 0s --expires 30d --token-file - --wait --json",
            "tollgate token import",
            "tollgate token import tokens.jsonl --keep-going --skip-existing",
            "tollgate token import tokens.csv --preset telegraf-agent --json",
            "tollgate token export --full",
            "tollgate token revoke 0000000000001 --wait",
            "tollgate token delete 0000000000001 --wait --timeout 500ms --json",
            "tollgate store copy sqlite:a.db redis://h --freeze --json",
            "tollgate store backup a.backup",
            "tollgate store restore a.backup --json",
            "tollgate store freeze --reason moving",
            "tollgate store unfreeze",
            "tollgate audit list",
            "tollgate audit list --actor anna --action token.revoke --subject 0000000000001 --outcome denied --json",
            "tollgate audit list --since 30d --until 2027-01-31T00:00:00Z --limit 3 --after 17",
            "tollgate audit verify",
            "tollgate audit verify --file audit.jsonl --json",
            "tollgate status",
            "tollgate status --watch --json",
            "tollgate prove",
            "tollgate prove --via http://10.0.0.5:8080 --via https://edge:8443 --ca ca.pem --timeout 30s --json",
            "tollgate prove --via http://a:1,http://b:1,unix:/run/t.sock --certificate c.pem --key c.key",
            "tollgate token find 3f9a0c11b2d4",
            "tollgate token find --json",
            "tollgate token revoke --user anna --state expired --dry-run",
            "tollgate token delete --ids-from ids.txt --if-exists --yes",
            "tollgate token reassign 0000000000001 0000000000001 --ids-from - --to anna",
            "tollgate token create --user anna --description x --expires 2027-01-31",
            "tollgate token create --user anna --description x --token-file f --if-not-exists",
            "tollgate user add anna --role manager --if-not-exists --json",
            "tollgate user delete anna --if-exists --yes",
            "tollgate init --if-not-exists",
            "tollgate drain",
            "tollgate drain --undo --admin-listen 127.0.0.1:9900 --json",
            "tollgate health --certificate c.pem --key c.key",
            "tollgate token revoke 0000000000001 --reason INC-17",
            "tollgate user set-role anna viewer --reason left",
            "tollgate completions bash",
            "tollgate man",
            "tollgate man token revoke",
            "tollgate man --all DIRECTORY",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_is_mistyped_is_a_usage_error() {
        for line in [
            "tollgate",
            "tollgate tokens",
            "tollgate token",
            "tollgate token list anna",
            "tollgate token list --state dead",
            "tollgate token list --limit 0",
            "tollgate token list --limit -1",
            "tollgate token list --after x",
            "tollgate token show",
            "tollgate token show 1",
            "tollgate token revoke",
            "tollgate token reassign 0000000000001",
            "tollgate token create --user anna",
            "tollgate token create --description x",
            "tollgate token create --user anna --description x --preset agent",
            "tollgate token create --user anna --description x --permission config:read",
            "tollgate token create --user anna --description x --permission configs:read,",
            "tollgate token create --user anna --description x --expires tomorrow",
            "tollgate token create --user anna --description x --preset telegraf-agent --permission configs:read",
            "tollgate token rotate 0000000000001",
            "tollgate user add anna",
            "tollgate user add anna --role admin",
            "tollgate user set-role anna",
            "tollgate store copy sqlite:a.db",
            "tollgate store backup",
            "tollgate store freeze",
            "tollgate status anna",
            "tollgate audit",
            "tollgate audit list --outcome maybe",
            "tollgate audit list --since yesterday",
            "tollgate token revoke 0000000000001 --timeout 5s",
            "tollgate token revoke 0000000000001 --wait --timeout 5",
            "tollgate init anna",
            "tollgate prove 10.0.0.5:8080",
            "tollgate prove --via 10.0.0.5:8080",
            "tollgate prove --via http://a/b",
            "tollgate prove --via http://a --certificate c.pem",
            "tollgate prove --timeout 0s",
            "tollgate token find 3f9",
            "tollgate token revoke 0000000000001 --user anna",
            "tollgate token revoke --ids-from f --state active",
            "tollgate token create --user anna --description x --if-not-exists",
            "tollgate health --certificate c.pem",
            "tollgate token delete 0000000000001 --reason x",
            "tollgate completions tcsh",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_raw_token_among_the_arguments_is_refused_and_not_repeated() {
        let raw = crate::token::RawToken::generate().expect("entropy");
        let arguments = ["tollgate", "token", "revoke", raw.reveal()].map(OsString::from);
        let error = run(arguments).expect_err("refused");
        assert_eq!(error.downcast_ref::<clap::Error>().map(clap::Error::exit_code), Some(2));
        assert!(!format!("{error:?}").contains(raw.reveal()));
    }
}
