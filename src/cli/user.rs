//! `init` and `user ...`.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::args::{Format, Page, ReasonArg};
use super::list::{self, Listed};
use super::output::{Output, note};
use super::session::Session;
use super::table::{Cell, Tone, details, printable};
use super::usage::{Asking, confirm_for, confirm_taking};
use super::wait::WaitArgs;
use super::{Globals, time, token};
use crate::registry::view::UserView;
use crate::registry::{Ensured, RegistryError, Taking};
use crate::store::Absent;
use crate::token::{Role, UserId, UserRecord, UserStatus};

/// Shown below `init --help`.
pub(super) const INIT_EXAMPLES: &str = "\
The token is printed to standard output, once: only its SHA-256 is stored.

Examples:
  tollgate init                                    a SQLite store in the state directory
  (umask 077; tollgate init --owner anna > owner.token)
  tollgate --store sqlite:/var/lib/tollgate/tollgate.db init";

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The owner's name
    #[arg(long, value_name = "NAME", default_value = "owner")]
    pub owner: String,
    /// That there is an owner already is no failure: nothing is made or printed then
    #[arg(long)]
    pub if_not_exists: bool,
    /// Text or JSON.
    #[command(flatten)]
    pub format: Format,
}

/// The commands on users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user
    Add {
        /// 1 to 64 of A-Z a-z 0-9 . _ @ + -
        name: String,
        /// administrator, manager or viewer
        #[arg(long)]
        role: Role,
        /// That the user is there already, with this role, is no failure, and changes nothing; one who is disabled stays so
        #[arg(long)]
        if_not_exists: bool,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
    },
    /// List users, the newest first
    List {
        /// How much of it.
        #[command(flatten)]
        page: Page<UserId>,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
    },
    /// Show one user
    Show {
        /// The user's name
        name: String,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
    },
    /// Change a user's role; their tokens lose permissions that the new role lacks
    SetRole {
        /// The user's name
        name: String,
        /// administrator, manager or viewer; a viewer's tokens are revoked
        role: Role,
        /// Skip the confirmation, of a role that takes something from the user's tokens
        #[arg(long)]
        yes: bool,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
        /// Whether to wait for the sidecars.
        #[command(flatten)]
        wait: WaitArgs,
        /// For the history.
        #[command(flatten)]
        reason: ReasonArg,
    },
    /// Suspend all tokens of a user until the user is enabled again
    Disable {
        /// The user's name
        name: String,
        /// Skip the confirmation, where the user has tokens that work
        #[arg(long)]
        yes: bool,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
        /// Whether to wait for the sidecars.
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Enable a disabled user and their tokens
    Enable {
        /// The user's name
        name: String,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
    },
    /// Delete a user and all of their tokens
    Delete {
        /// The user's name
        name: String,
        /// That there is no such user is no failure
        #[arg(long)]
        if_exists: bool,
        /// Skip the confirmation
        #[arg(long)]
        yes: bool,
        /// Whether to wait for the sidecars.
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Make an administrator the owner; the current owner becomes an administrator
    TransferOwnership {
        /// The administrator who becomes the owner
        name: String,
        /// Skip the confirmation
        #[arg(long)]
        yes: bool,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
        /// Whether to wait for the sidecars.
        #[command(flatten)]
        wait: WaitArgs,
        /// For the history.
        #[command(flatten)]
        reason: ReasonArg,
    },
}

const THERE: &str = "the registry has an owner already: nothing was changed, and no token is printed";

/// Creates the owner and a token that permits everything.
///
/// # Errors
/// When there is an owner already, or the store fails.
pub(super) async fn init(globals: &Globals, args: InitArgs) -> anyhow::Result<()> {
    let session = Session::open(globals, Absent::Create).await?;
    if args.if_not_exists && !session.registry.users(&session.actor, None, 1).await?.is_empty() {
        note(THERE);
        return Ok(());
    }
    let created = match session.registry.init(&session.actor, &args.owner).await {
        // Another one was faster.
        Err(RegistryError::AlreadyInitialised) if args.if_not_exists => {
            note(THERE);
            return Ok(());
        }
        created => created?,
    };
    session.finish(token::print_created(&created, Output::new(args.format))).await
}

/// Runs a command on users.
///
/// # Errors
/// Why nothing, or not all, was done.
pub(super) async fn run(globals: &Globals, command: UserCommand) -> anyhow::Result<()> {
    // A user has no history. Their tokens do, as long as they are not deleted with them.
    let reason = match &command {
        UserCommand::SetRole { reason, .. } | UserCommand::TransferOwnership { reason, .. } => reason.reason.as_ref(),
        _ => None,
    };
    let session = Session::open(globals, Absent::Refuse).await?.because_of(reason);
    let only_reads = matches!(command, UserCommand::List { .. } | UserCommand::Show { .. });
    let outcome = execute(&session, command).await;
    if only_reads {
        return outcome;
    }
    session.finish(outcome).await
}

async fn execute(session: &Session, command: UserCommand) -> anyhow::Result<()> {
    let Session { registry, actor } = session;
    match command {
        UserCommand::Add { name, role, if_not_exists, format } => {
            let ensured = match if_not_exists {
                true => match existing(session, &name).await? {
                    Some(user) => Ensured::There(user),
                    None => match registry.ensure_user(actor, &name, role).await? {
                        Ensured::Made(user) => Ensured::Made(user),
                        Ensured::There(user) => Ensured::There(user.record),
                    },
                },
                false => Ensured::Made(registry.add_user(actor, &name, role).await?),
            };
            let (user, sentence) = match ensured {
                Ensured::Made(user) => (user, format!("added {name}, {role}\n")),
                Ensured::There(user) if user.role == role => {
                    // That was somebody's decision: no script takes it back by the way, nor has to fail for it.
                    if user.status == UserStatus::Disabled {
                        note(format_args!(
                            "{name} is disabled, and gets no tokens: `tollgate user enable {name}` changes that"
                        ));
                    }
                    (user, format!("{name} is there already, {role}\n"))
                }
                Ensured::There(user) => {
                    return Err(anyhow!(
                        "{name} is there already, and is {}; `tollgate user set-role {name} {role}` changes that",
                        user.role
                    ));
                }
            };
            print(&user, Output::new(format), &sentence)
        }
        UserCommand::List { page, format } => list(session, page, Output::new(format)).await,
        UserCommand::Show { name, format } => show(session, &name, Output::new(format)).await,
        UserCommand::SetRole { name, role, yes, format, wait, reason: _ } => {
            if !yes {
                let question = |tokens| {
                    let loss = match role.manages_tokens() {
                        true => format!("take from {tokens} the permissions that the role lacks"),
                        false => format!("revoke {tokens}"),
                    };
                    format!("Make {name} {role}, and {loss}? This takes effect at once and cannot be undone.")
                };
                confirm_taking(session, Taking::Role { of: &name, role }, question).await?;
            }
            let change = registry.set_role(actor, &name, role).await?;
            let consequence = match (change.narrowed, change.revoked) {
                (0, 0) => String::new(),
                (narrowed, 0) => format!("; {} lost permissions", token::count(narrowed)),
                (0, revoked) => format!("; {} revoked", token::count(revoked)),
                (narrowed, revoked) => format!("; {} revoked, {narrowed} lost permissions", token::count(revoked)),
            };
            let now = match change.before == role {
                false => "now",
                true if consequence.is_empty() => "already",
                true => "already, and an interrupted change is now complete",
            };
            let sentence = format!("{name} is {role} {now}{consequence}\n");
            print_and_wait(session, wait, &change.user, Output::new(format), &sentence).await?;
            wait.linger(session).await;
            Ok(())
        }
        UserCommand::Disable { name, yes, format, wait } => {
            if !yes {
                let question = |tokens| format!("Disable {name}, and stop {tokens} until {name} is enabled again?");
                confirm_taking(session, Taking::Disable(&name), question).await?;
            }
            let user = registry.set_status(actor, &name, UserStatus::Disabled).await?;
            let sentence = format!("disabled {name}: their tokens no longer authenticate\n");
            print_and_wait(session, wait, &user, Output::new(format), &sentence).await?;
            wait.linger(session).await;
            Ok(())
        }
        UserCommand::Enable { name, format } => {
            let user = registry.set_status(actor, &name, UserStatus::Active).await?;
            print(&user, Output::new(format), &format!("enabled {name}: their tokens authenticate again\n"))
        }
        UserCommand::Delete { name, if_exists, yes, wait } => {
            // Somebody else may delete it before it comes to that.
            match delete(session, &name, yes, wait).await {
                Err(error) if if_exists && matches!(error.downcast_ref(), Some(RegistryError::NoSuchUser(_))) => {
                    note(format_args!("there is no user {}: nothing was changed", printable(&name)));
                    Ok(())
                }
                deleted => deleted,
            }
        }
        UserCommand::TransferOwnership { name, yes, format, wait, reason: _ } => {
            transfer_ownership(session, &name, yes, wait, Output::new(format)).await
        }
    }
}

async fn existing(session: &Session, name: &str) -> Result<Option<UserRecord>, RegistryError> {
    match session.registry.user(&session.actor, name).await {
        Ok(user) => Ok(Some(user.record)),
        Err(RegistryError::NoSuchUser(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Prints a user as JSON, or the sentence that says what was done.
fn print(user: &UserRecord, output: Output, sentence: &str) -> anyhow::Result<()> {
    if output.json { output.json(&UserView::from(user)) } else { Ok(output.done(sentence)?) }
}

/// As [`print`], and waits for the sidecars if that was asked for.
async fn print_and_wait(
    session: &Session,
    wait: WaitArgs,
    user: &UserRecord,
    output: Output,
    sentence: &str,
) -> anyhow::Result<()> {
    wait.print_and_wait(session, output, &UserView::from(user), || Ok(output.done(sentence)?)).await
}

async fn list(session: &Session, page: Page<UserId>, output: Output) -> anyhow::Result<()> {
    let when_empty = match page.after {
        Some(_) => "no more users",
        None => "no users yet; `tollgate init` creates the owner and the first token",
    };
    let Session { registry, actor } = session;
    let read = async |before, limit| registry.users(actor, before, limit).await;
    list::list(output, page, when_empty, read).await
}

impl Listed<5> for UserRecord {
    const HEADINGS: [&'static str; 5] = ["ID", "NAME", "ROLE", "STATUS", "CREATED"];
    type Id = UserId;
    type View = UserView;

    fn id(&self) -> UserId {
        self.id
    }

    fn view(&self, _: Timestamp) -> UserView {
        UserView::from(self)
    }

    fn row(&self, now: Timestamp) -> [Cell; 5] {
        let created = time::short(self.created_at, now);
        [self.id.to_string().into(), self.name.as_str().into(), role(self), status(self), created.into()]
    }
}

async fn show(session: &Session, name: &str, output: Output) -> anyhow::Result<()> {
    let user = session.registry.user(&session.actor, name).await?.record;
    if output.json {
        return output.json(&UserView::from(&user));
    }
    let tokens = session.registry.count_tokens_of(&session.actor, name).await?;
    let pairs = [
        ("name", user.name.as_str().into()),
        ("id", user.id.to_string().into()),
        ("role", role(&user)),
        ("status", status(&user)),
        ("tokens", tokens.to_string().into()),
        ("created", time::full(user.created_at, Timestamp::now()).into()),
    ];
    Ok(output.text(&details(&pairs, output.colour))?)
}

async fn delete(session: &Session, name: &str, yes: bool, wait: WaitArgs) -> anyhow::Result<()> {
    if !yes {
        let question = |tokens| format!("Delete {name} and {tokens}? This takes effect at once and cannot be undone.");
        let tokens = session.registry.taken_by(&session.actor, Taking::Delete(name)).await?;
        confirm_for(session, &tokens, Asking::Always, question).await?;
    }
    let deleted = session.registry.delete_user(&session.actor, name).await?;
    let output = Output::new(Format { json: false });
    let print = || Ok(output.done(&format!("deleted {name} and {}\n", token::count(deleted)))?);
    wait.print_and_wait(session, output, &(), print).await?;
    wait.linger(session).await;
    Ok(())
}

async fn transfer_ownership(
    session: &Session,
    name: &str,
    yes: bool,
    wait: WaitArgs,
    output: Output,
) -> anyhow::Result<()> {
    if !yes {
        let question = |tokens| {
            format!(
                "Make {name} the owner? The current owner becomes an administrator, {tokens} of theirs permit no more than \
                 that from then on, and only {name} can give the ownership back."
            )
        };
        let tokens = session.registry.taken_by(&session.actor, Taking::Ownership(name)).await?;
        confirm_for(session, &tokens, Asking::Always, question).await?;
    }
    let transfer = session.registry.transfer_ownership(&session.actor, name).await?;
    let (new, old) = (&transfer.new.name, &transfer.old.name);
    let consequence = match transfer.narrowed {
        0 => String::new(),
        narrowed => format!("; {} of {old} lost permissions", token::count(narrowed)),
    };
    let print = || Ok(output.done(&format!("{new} is the owner now, and {old} an administrator{consequence}\n"))?);
    wait.print_and_wait(session, output, &[&transfer.new, &transfer.old].map(UserView::from), print).await
}

fn role(user: &UserRecord) -> Cell {
    user.role.name().into()
}

fn status(user: &UserRecord) -> Cell {
    let tone = match user.status {
        UserStatus::Active => Tone::Good,
        UserStatus::Disabled => Tone::Bad,
    };
    Cell::toned(&user.status.to_string(), tone)
}
