//! What the commands on the registry share: the store they were pointed at, and who is at the keyboard.

use std::future::Future;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use super::Globals;
use super::output::{OutputError, may_colour, note};
use super::serve::{audit_settings, max_token_lifetime, names_store, store_settings};
use super::unit::{self, Chosen};
use crate::audit::Forwarded;
use crate::chain::chain;
use crate::registry::receipt::longest_bound;
use crate::registry::{Actor, Registry};
use crate::store::{self, Absent, StoreError, Unconfirmed};
use crate::token::Reason;

/// The registry, opened for one command.
#[derive(Clone)]
pub(crate) struct Session {
    /// The rules, on the store.
    pub registry: Registry,
    /// Who acts: the operator.
    pub actor: Actor,
}

impl Session {
    /// Opens the store that the options and the configuration name.
    ///
    /// # Errors
    /// When they name none that can be opened.
    pub(crate) async fn open(globals: &Globals, absent: Absent) -> anyhow::Result<Self> {
        let settings = store_settings(globals)?;
        let Chosen { settings, config, said } = match names_store(globals) {
            true => Chosen { settings, config: None, said: None },
            false => unit::choose(settings, absent, Path::new("/")),
        };
        said.into_iter().for_each(note);
        let globals = &Globals { config: config.or_else(|| globals.config.clone()), ..globals.clone() };
        let store = store::open(&settings, absent).await?;
        let registry = Registry::new(store)
            .with_audit(audit_settings(globals)?)
            .with_max_token_lifetime(max_token_lifetime(globals)?);
        Ok(Self { registry, actor: Actor::Operator(format!("cli:{}", login_name())) })
    }
}

impl Session {
    /// The same, for this reason.
    pub(super) fn because_of(self, reason: Option<&Reason>) -> Self {
        Self { registry: self.registry.because_of(reason.cloned()), ..self }
    }
}

/// What was committed may not last: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}, but confirmed by {} of {} replicas only: a failover to another replica loses it. Once \
     `tollgate status` shows all replicas connected, check the result, and run the command again if it is lost",
    .0.revision.map_or("done".to_owned(), |revision| format!("committed (revision {revision})")),
    .0.confirmed,
    .0.promotable
)]
pub(super) struct NotConfirmed(pub(super) Unconfirmed);

impl Session {
    /// The end of a command that changes something. First of all that was its own, which is never waited with; now what the
    /// store lost is made good. And it is not a plain success if a failover may lose what was done.
    ///
    /// # Errors
    /// The command's, or [`NotConfirmed`].
    pub(crate) async fn finish(&self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        if !outcome.as_ref().is_err_and(is_unavailable) {
            self.settle_recalls().await;
            self.tend_audit().await;
        }
        let outcome = without_closed_output(outcome);
        let unconfirmed = self.registry.store().unconfirmed().await.map(NotConfirmed);
        match (outcome, unconfirmed) {
            (Ok(()), Some(unconfirmed)) => Err(unconfirmed.into()),
            (Err(error), Some(unconfirmed)) => {
                note(format_args!("tollgate: changes made before the failure: {unconfirmed}"));
                Err(error)
            }
            (outcome, None) => outcome,
        }
    }

    /// Chains the audit trail, and writes it to where it is to be: a second step that no commit waits for.
    async fn tend_audit(&self) {
        match self.registry.tend_audit().await {
            Ok(tended) => {
                let Forwarded { waiting, problems, .. } = tended.forwarded;
                if !problems.is_empty() {
                    note(format_args!(
                        "{waiting} audit entries are not written ({}); they stay in the store, and the next command that \
                         changes the registry tries again",
                        problems.join("; ")
                    ));
                }
            }
            Err(error) => note(format_args!(
                "could not chain the audit trail ({}): the next command that changes the registry does",
                chain(&error)
            )),
        }
    }

    /// Revokes again what the store lost the revocation of.
    async fn settle_recalls(&self) {
        let store = self.registry.store();
        // Besides, whoever looks first after a failover is who knows when it was: the later, the longer receipts take.
        let looked = async { store.unreported(longest_bound(&store.sidecars().await?)).await };
        let (settled, _) = tokio::join!(self.registry.settle_recalls(), looked);
        match settled {
            Ok(0) => {}
            Ok(1) => note("revoked 1 token again: the store had lost its revocation, which a sidecar remembered"),
            Ok(count) => note(format_args!(
                "revoked {count} tokens again: the store had lost their revocations, which sidecars remembered"
            )),
            Err(error) => note(format_args!(
                "could not repeat all revocations that the store had lost ({}); sidecars refuse these tokens all the same, and \
                 the next command that changes the registry continues",
                chain(&error)
            )),
        }
    }
}

/// What came of a change that was made: that nobody reads what was done is no failure, that it cannot be written is one.
fn without_closed_output(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    match outcome.as_ref().err().and_then(|error| error.downcast_ref::<OutputError>()) {
        None => outcome,
        Some(error) if error.is_closed() => Ok(()),
        Some(_) => outcome.context("the change was made, but the result could not be written to standard output"),
    }
}

/// Whether a command failed because the store is not there.
fn is_unavailable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::Unavailable { .. })))
}

/// Runs one command to its end, on this thread. What the store logs meanwhile, from warnings on, is printed too.
///
/// # Errors
/// The command's, or that the runtime cannot start.
pub(super) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).without_time().with_target(false);
    // It fails where there is one already, in a test say.
    lines.with_ansi(may_colour(&io::stderr())).with_writer(io::stderr).try_init().ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(command)
}

/// Longest login name recorded, in bytes.
const MAX_LOGIN: usize = 64;

/// Who is at the keyboard: the one who called `sudo`, the login name, that of the password database (in a container, or under
/// cron, the environment has none), or the number of the user.
///
/// The environment can say anything, but whoever can set it can also write the store: the name is a help for the
/// audit among honest operators, not a proof.
pub(super) fn login_name() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"].into_iter().find_map(|name| {
        #[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
        let value = std::env::var(name).ok()?;
        is_login(&value).then_some(value)
    });
    let user = nix::unistd::geteuid();
    let known = || nix::unistd::User::from_uid(user).ok().flatten().map(|user| user.name).filter(|name| is_login(name));
    named.or_else(known).unwrap_or_else(|| user.to_string())
}

fn is_login(name: &str) -> bool {
    (1..=MAX_LOGIN).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}
