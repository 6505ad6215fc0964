//! What `tollgate dev` prints: where everything is, and lines to paste into another terminal.
//!
//! Every line that starts with four spaces is a command that works as printed, from any folder, in the order given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::seed::ALIAS;
use crate::store::StoreUrl;
use crate::token::{RawToken, TokenId};

#[derive(Debug)]
pub(crate) struct Banner {
    pub tollgate: SocketAddr,
    pub admin: SocketAddr,
    pub api: SocketAddr,
    pub heartbeat: SocketAddr,
    pub store: StoreUrl,
    /// This very program, by its absolute path.
    pub program: PathBuf,
    pub owner: RawToken,
    pub agent: RawToken,
    pub agent_id: TokenId,
}

/// How headings are set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all: for a pipe or a file.
    Plain,
    /// With a terminal's escape sequences.
    Terminal,
}

impl Banner {
    /// The text, raw tokens included, with a newline at the end.
    pub(crate) fn render(&self, style: Style) -> String {
        let Self { tollgate, admin, api, heartbeat, store, program, owner, agent, agent_id } = self;
        let (tollgate, admin, api, heartbeat) = (url(*tollgate), url(*admin), url(*api), url(*heartbeat));
        let (program, store) = (quote(&program.to_string_lossy()), store.to_string());
        let configuration = format!("'{tollgate}/api/configs/demo/toml?hostname=web-1'");
        let alias = format!("'{tollgate}/c/{ALIAS}?hostname=web-1'");
        let agent_says = r#"curl -i -H "Authorization: Bearer $AGENT""#;
        let beat = format!(
            r#"{agent_says} -d '{{"id":"web-1","version":"Telegraf 1.39.0","hostname":"web-1","status":"OK"}}' {tollgate}/agents/heartbeat"#
        );

        let mut lines = BannerText { text: String::new(), style };
        lines.heading("Tollgate is running, in front of a stand-in for Telegraf Controller.");
        lines.text("All of it is on this machine, and all of it is gone once you stop it.");
        lines.text("");
        for (what, place, about) in [
            ("Tollgate", &tollgate, "agents, and the lines below, come here"),
            ("health", &format!("{admin}/readyz"), "whether Tollgate is ready"),
            ("console", &format!("{admin}/"), "the page: open it, and sign in with the owner's token"),
            ("admin API", &format!("{admin}/api/v1"), "manages tokens, with the owner's (docs/api.md)"),
            ("Controller", &api, "what Tollgate protects"),
            ("heartbeats", &heartbeat, "its other port"),
            ("token store", &store, ""),
        ] {
            lines.text(format!("  {what:<11}  {place:<30}  {about}").trim_end());
        }

        lines.text("");
        lines.heading("Try it: paste these lines into another terminal, in this order.");
        lines.text("  Two tokens: agents fetch configurations and report with theirs, the owner may do everything.");
        lines.command(format!("AGENT={}", agent.reveal()));
        lines.command(format!("OWNER={}", owner.reveal()));
        lines.text("  An agent fetches its configuration, and reports:");
        lines.command(format!("{agent_says} {configuration}"));
        lines.command(&beat);
        lines.text("  The same configuration by its alias:");
        lines.command(format!("{agent_says} {alias}"));
        lines.text("  Who has reported? Not for an agent to know (403), but for the owner:");
        lines.command(format!("{agent_says} {tollgate}/api/agents"));
        lines.command(format!(r#"curl -i -H "Authorization: Bearer $OWNER" {tollgate}/api/agents"#));
        lines.text("  All tokens, by the admin API:");
        lines.command(format!(r#"curl -i -H "Authorization: Bearer $OWNER" {admin}/api/v1/tokens"#));
        lines.text("  Revoke the agents' token, and their next heartbeat is refused (401):");
        lines.command(format!("{program} --store {} token revoke {agent_id} --yes", quote(&store)));
        lines.command(&beat);

        lines.text("");
        lines.heading("With a Telegraf of your own, 1.37 or later, before the token is revoked:");
        lines.command(format!(
            "TELEGRAF_CONTROLLER_TOKEN=$AGENT INFLUX_TOKEN=$AGENT telegraf --config {alias} --config-url-watch-interval 5s"
        ));
        lines.text("  (It takes its token from TELEGRAF_CONTROLLER_TOKEN, until 1.38 from INFLUX_TOKEN.)");
        lines.text("");
        lines.heading("Stop it with Ctrl-C.");
        lines.text
    }
}

struct BannerText {
    text: String,
    style: Style,
}

impl BannerText {
    fn heading(&mut self, line: &str) {
        match self.style {
            Style::Plain => self.text(line),
            Style::Terminal => self.text(format!("\x1b[1m{line}\x1b[0m")),
        }
    }

    fn text(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn command(&mut self, line: impl AsRef<str>) {
        match self.style {
            Style::Plain => self.text(format!("    {}", line.as_ref())),
            Style::Terminal => self.text(format!("    \x1b[36m{}\x1b[0m", line.as_ref())),
        }
    }
}

/// The listener's URL, for a client on this machine: one on every address is reached at loopback.
pub(crate) fn url(listener: SocketAddr) -> String {
    let address = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    format!("http://{}", SocketAddr::new(address, listener.port()))
}

/// One word for the shell, in quotes where it needs them.
fn quote(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-._/:@+,=".contains(character);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn banner() -> Banner {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Banner {
            tollgate: address(8080),
            admin: address(9900),
            api: address(18888),
            heartbeat: address(18000),
            store: StoreUrl::Sqlite("/tmp/a b/tollgate.db".into()),
            program: "/opt/it's/tollgate".into(),
            owner: "tc-apiv1_owner000000000000000000".parse().expect("valid"),
            agent: "tc-apiv1_agent000000000000000000".parse().expect("valid"),
            agent_id: TokenId::from_u64(7),
        }
    }

    #[test]
    fn it_is_short_and_aligned_and_plain_for_a_pipe() {
        let text = banner().render(Style::Plain);
        assert!(text.lines().count() <= 37, "{text}");
        assert!(!text.contains('\x1b'));
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
        for line in text.lines().skip(3).take(7) {
            let (label, place) = line.split_at(15);
            assert!(
                label.ends_with("  ") && (place.starts_with("http://127") || place.starts_with("sqlite:")),
                "{line}"
            );
        }
    }

    #[test]
    fn escape_sequences_are_all_that_a_terminal_gets_more() {
        let text = banner().render(Style::Terminal);
        let plain = ["\x1b[1m", "\x1b[36m", "\x1b[0m"].iter().fold(text.clone(), |text, code| text.replace(code, ""));
        assert_ne!(text, plain);
        assert_eq!(plain, banner().render(Style::Plain));
    }

    #[test]
    fn each_token_is_shown_once() {
        let text = banner().render(Style::Plain);
        for token in [banner().owner, banner().agent] {
            assert_eq!(text.matches(token.reveal()).count(), 1);
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_at_loopback() {
        let url = |address: &str| url(address.parse().expect("valid"));
        assert_eq!(url("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:80"), "http://[::1]:80");
        assert_eq!(url("127.0.0.2:80"), "http://127.0.0.2:80");
        assert_eq!(url("[::1]:8080"), "http://[::1]:8080");
    }

    #[test]
    fn words_are_quoted_only_where_the_shell_needs_it() {
        assert_eq!(quote("sqlite:/tmp/tollgate-dev-1/tollgate.db"), "sqlite:/tmp/tollgate-dev-1/tollgate.db");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("/a b"), "'/a b'");
        assert_eq!(quote("~/it's"), r"'~/it'\''s'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_shell_reads_a_quoted_word_as_it_was(word in "[^\0]*") {
            let script = format!("printf %s {}", quote(&word));
            let output = Command::new("sh").args(["-c", &script]).output().expect("runs");
            prop_assert_eq!(output.stdout, word.as_bytes());
        }
    }
}
