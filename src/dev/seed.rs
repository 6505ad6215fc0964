//! What the throwaway store and the stand-in Controller start with.

use crate::registry::{Actor, Created, NewToken, Registry, RegistryError, Requested};
use crate::token::{PermissionSet, Role};

/// The user whose token the agents have: a manager, so that disabling it suspends the agents and nobody else.
pub(crate) const AGENTS_USER: &str = "fleet";

/// The alias of the configuration `demo`.
pub(crate) const ALIAS: &str = "web-servers";

/// Who made it all, in records and histories.
const OPERATOR: &str = "cli:dev";

/// The first tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// The Owner's: everything.
    pub owner: Created,
    /// The agents': the preset *Telegraf Agent*.
    pub agent: Created,
}

/// Creates the Owner, the user `fleet`, and a token for each.
///
/// # Errors
/// When the store fails, or was not empty.
pub(crate) async fn tokens(registry: &Registry) -> Result<Tokens, RegistryError> {
    let operator = Actor::Operator(OPERATOR.to_owned());
    let owner = registry.init(&operator, "owner").await?;
    registry.add_user(&operator, AGENTS_USER, Role::Manager).await?;
    let new = NewToken {
        user: AGENTS_USER.to_owned(),
        description: "agents of the demo".to_owned(),
        permissions: Requested::Permissions(PermissionSet::TELEGRAF_AGENT),
        expires_at: None,
    };
    let agent = registry.create_token(&operator, new).await?;
    Ok(Tokens { owner, agent })
}

/// The configuration `demo`: a small one as people write them, for agents that report to Tollgate at this URL.
pub(crate) fn configuration(tollgate: &str) -> String {
    include_str!("demo.toml").replace("{tollgate}", tollgate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::template;

    #[test]
    fn the_demo_is_toml_whose_heartbeats_go_to_tollgate() {
        let text = configuration("http://127.0.0.1:8080");
        let text = template::substitute(&text, "hostname=web-1").expect("needs the host name only");
        let table: toml::Table = text.parse().expect("TOML");
        let heartbeat = &table["outputs"]["heartbeat"][0];
        assert_eq!(heartbeat["url"].as_str(), Some("http://127.0.0.1:8080/agents/heartbeat"));
        assert_eq!(heartbeat["instance_id"].as_str(), Some("web-1"));
        assert_eq!(heartbeat["token"].as_str(), Some("${TELEGRAF_CONTROLLER_TOKEN}"));
        assert_eq!(table["agent"]["hostname"].as_str(), Some("web-1"));
        assert_eq!(table["agent"]["interval"].as_str(), Some("10s"));
    }
}
