//! `dev`, `serve`, `check`.

use super::Globals;
use clap::Args;

/// x
#[derive(Debug, Args)]
pub struct DevArgs {}
/// x
#[derive(Debug, Args)]
pub struct ServeArgs {}

/// x
pub fn dev(globals: &Globals, args: DevArgs) -> anyhow::Result<()> {
    Ok(())
}
/// x
pub fn serve(globals: &Globals, args: ServeArgs) -> anyhow::Result<()> {
    Ok(())
}
/// x
pub fn check(globals: &Globals, args: ServeArgs) -> anyhow::Result<()> {
    Ok(())
}
