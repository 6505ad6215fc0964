//! `completions` and `man`: what is made of the definition of the command line.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Format;
use super::output::Output;
use super::{Cli, usage};

/// Shown below `completions --help`.
pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  tollgate completions bash > /usr/share/bash-completion/completions/tollgate
  tollgate completions zsh > /usr/local/share/zsh/site-functions/_tollgate
  tollgate completions fish > ~/.config/fish/completions/tollgate.fish";

/// Shown below `man --help`.
pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  tollgate man | man -l -
  tollgate man token revoke | man -l -
  tollgate man --all /usr/local/share/man/man1";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Whose
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Of this command, such as `token revoke`; without it, of tollgate
    #[arg(conflicts_with = "all")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIRECTORY")]
    all: Option<PathBuf>,
}

/// Prints the script by which a shell completes the command line.
///
/// # Errors
/// When it cannot be printed.
pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tollgate", &mut script);
    print(script)
}

/// Prints a manual page, or writes all of them.
///
/// # Errors
/// When there is no such command, when it cannot be printed, or a file cannot be written.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<()> {
    let mut root = Cli::command();
    root.build();
    if let Some(directory) = &args.all {
        return write_all(&root, directory);
    }
    let mut page = &root;
    for name in &args.command {
        let found = page.find_subcommand(name);
        page = found.ok_or_else(|| usage(format_args!("there is no command `{}`", args.command.join(" "))))?;
    }
    print(render(&Man::new(page.clone()))?)
}

fn write_all(command: &Command, directory: &Path) -> anyhow::Result<()> {
    let page = Man::new(command.clone());
    let file = directory.join(page.get_filename());
    std::fs::write(&file, render(&page)?).with_context(|| format!("writing {}", file.display()))?;
    let mut commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    commands.try_for_each(|command| write_all(command, directory))
}

fn render(page: &Man) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(text)
}

fn print(text: Vec<u8>) -> anyhow::Result<()> {
    let text = String::from_utf8(text).context("it is not text")?;
    Ok(Output::new(Format { json: false }).text(&text)?)
}
