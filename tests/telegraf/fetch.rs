//! Configurations are fetched, and then really run.

use std::time::{Duration, Instant};

use crate::agent::{Agent, Launch, Variable};
use crate::controller::{ALIAS, RequestKind};
use crate::setup::{PATIENCE, Setup};
use crate::tollgate::Door;

/// As `TELEGRAF_CONTROLLER_TOKEN` has it.
pub(crate) async fn with_the_controllers_variable(setup: &mut Setup) -> Result<(), String> {
    fetch(setup, Variable::Controller, "Bearer").await
}

/// As `INFLUX_TOKEN` has it.
pub(crate) async fn with_the_older_variable(setup: &mut Setup) -> Result<(), String> {
    fetch(setup, Variable::Influx, "Token").await
}

async fn fetch(setup: &mut Setup, variable: Variable, scheme: &str) -> Result<(), String> {
    let token = setup.token("olga").await?;
    let agent = setup.launch(Launch { variable, ..Setup::deployed("edge", Door::Plain, &token) })?;
    setup.agents.push(agent);
    setup.all_run(1).await?;
    setup
        .until_each("it beats again and again", |setup, agent| {
            Ok(setup.controller.count(&agent.name, None, |kind| kind == RequestKind::Beat(1)) >= 4)
        })
        .await?;
    setup.controller.judge("edge", |request| {
        // Heartbeats have a setting of their own for the token, and know one scheme.
        let scheme = if matches!(request.kind, RequestKind::Beat(_)) { "Bearer" } else { scheme };
        if request.credential() != Some(&format!("{scheme} {token}")) {
            return Err(format!("the credential of a {:?} is not the agent's, by {scheme}", request.kind));
        }
        if request.kind == RequestKind::Fetch && request.accept() != Some("application/toml") {
            return Err(format!("a fetch accepts {:?}", request.accept()));
        }
        if !request.user_agent().is_some_and(|name| name.starts_with("Telegraf/")) {
            return Err(format!("the user agent is {:?}", request.user_agent()));
        }
        match request.forwarded() {
            Some(("127.0.0.1", "http")) => Ok(()),
            other => Err(format!("the Controller learns {other:?} of where it came from")),
        }
    })?;
    setup.all_have_reloaded(0)?;
    setup.none_complains()
}

/// By an alias: it boots, and loads an edit.
pub(crate) async fn from_an_alias(setup: &mut Setup) -> Result<(), String> {
    let token = setup.token("olga").await?;
    setup.agent_by_alias("alias", Door::Plain, &token)?;
    setup.agent_by_alias("alias-tls", Door::TlsEither, &token)?;
    setup.all_run(1).await?;
    let edited = Instant::now();
    let edition = setup.controller.edit();
    setup.none_misses(edition, edited).await?;
    setup.all_have_reloaded(1)?;
    for agent in ["alias", "alias-tls"] {
        setup.controller.judge(agent, |request| match request.kind {
            RequestKind::Fetch | RequestKind::Ask if request.path != ALIAS => {
                Err(format!("it asks for {}", request.path))
            }
            _ => Ok(()),
        })?;
    }
    setup.none_complains()
}

/// An agent whose token nobody knows gets no configuration, says why, and gives up.
pub(crate) async fn with_an_unknown_token(setup: &mut Setup) -> Result<(), String> {
    let token = format!("tc-apiv1_{}", "0123456789abcdef".repeat(4));
    let agent = setup.launch(Setup::deployed("stranger", Door::Plain, &token))?;
    gives_up(agent, "401 Unauthorized").await?;
    match setup.controller.count("stranger", None, |_| true) {
        0 => Ok(()),
        count => Err(format!("{count} requests of it reached the Controller")),
    }
}

/// Waits until an agent has given up, since its fetch was refused like this.
pub(crate) async fn gives_up(mut agent: Agent, why: &str) -> Result<(), String> {
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match agent.ended() {
                Some(status) => return status,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    let status = ended.await.map_err(|_| format!("agent {} goes on: {}", agent.name, agent.log()))?;
    if status.success() || !agent.log().contains(&format!("failed to fetch HTTP config: {why}")) {
        return Err(format!("agent {} ended with {status}: {}", agent.name, agent.log()));
    }
    Ok(())
}
