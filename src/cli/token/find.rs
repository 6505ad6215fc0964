//! `token find`: whose token it is that an agent has, or that the log names.

use std::io::{self, IsTerminal as _, Read};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::super::args::Format;
use super::super::output::{Output, note};
use super::super::session::Session;
use super::show;
use crate::token::raw::MAX_LENGTH;
use crate::token::{DigestPrefix, RawToken, TokenId};

/// Shown below `token find --help`.
pub(super) const EXAMPLES: &str = "\
The sidecars' log has the first digits of the digest of each token that was refused (`digest`). A raw
token is read from standard input only, and neither printed nor stored.

Examples:
  tollgate token find 3f9a0c11b2d4
  tollgate token find < agent.token";

/// Arguments of `token find`.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// The first digits of its digest, 6 at least; without them a raw token is read from standard input
    digits: Option<DigestPrefix>,
    /// Most agents to print, the latest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    agents: usize,
    #[command(flatten)]
    format: Format,
}

/// Shows the token, or all whose digests begin so.
///
/// # Errors
/// When there is none.
pub(super) async fn run(session: &Session, args: FindArgs) -> anyhow::Result<()> {
    let FindArgs { digits, agents, format } = args;
    let Session { registry, actor } = session;
    let ids: Vec<TokenId> = match digits {
        None => vec![registry.token_with(actor, &read()?.digest()).await?],
        Some(digits) if let Some(digest) = digits.digest() => vec![registry.token_with(actor, &digest).await?],
        Some(digits) => registry.tokens_beginning(actor, digits).await?,
    };
    show::all(session, &ids, agents, Output::new(format)).await
}

/// Reads the raw token: the first line, with or without the `Bearer` that it had in a request.
fn read() -> anyhow::Result<RawToken> {
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        note("reading a raw token from the terminal; Ctrl-D ends the input, Ctrl-C cancels");
    }
    from(stdin).context("reading a raw token from standard input (or name the first digits of its digest)")
}

/// Longest input that is looked at: a token with what it has around it in a request.
const MAX_INPUT: usize = MAX_LENGTH + 64;

fn from(input: impl Read) -> anyhow::Result<RawToken> {
    // Long enough from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT + 1));
    input.take(MAX_INPUT as u64).read_to_end(&mut bytes)?;
    let text = std::str::from_utf8(&bytes).context("it is not text")?.trim();
    let token = ["Bearer ", "Token "].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    Ok(token.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_found() {
        for text in ["tc-apiv1_abc", "tc-apiv1_abc\r\n", " Bearer tc-apiv1_abc\n", "Token tc-apiv1_abc"] {
            assert_eq!(from(text.as_bytes()).expect(text).reveal(), "tc-apiv1_abc", "{text}");
        }
        for text in ["", "abc", "tc-apiv1_abc tc-apiv1_abc", "\u{e9}"] {
            let error = from(text.as_bytes()).expect_err(text);
            assert!(text.is_empty() || !format!("{error:#}").contains("abc"), "{error:#}");
        }
    }
}
