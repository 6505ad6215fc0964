//! Heartbeats arrive by every protocol that agents speak, and what refuses them is in the agent's log.

use std::time::Instant;

use crate::controller::{Request, RequestKind};
use crate::setup::Setup;
use crate::tollgate::Door;

/// Without TLS.
pub(crate) async fn over_plain_http(setup: &mut Setup) -> Result<(), String> {
    beat(setup, Door::Plain, "http", "1.1").await
}

/// With `tls_ca`, which makes Telegraf speak HTTP/1.1.
pub(crate) async fn over_tls_by_http1(setup: &mut Setup) -> Result<(), String> {
    beat(setup, Door::Tls, "https", "1.1").await
}

/// With the authority in `SSL_CERT_FILE`: Telegraf offers both protocols, and the listener prefers HTTP/1.1.
pub(crate) async fn over_tls_as_the_listener_prefers(setup: &mut Setup) -> Result<(), String> {
    beat(setup, Door::TlsEither, "https", "1.1").await
}

/// The same agent, and a listener that has only HTTP/2.
pub(crate) async fn over_tls_by_http2(setup: &mut Setup) -> Result<(), String> {
    beat(setup, Door::Http2, "https", "2").await
}

async fn beat(setup: &mut Setup, door: Door, protocol: &str, version: &str) -> Result<(), String> {
    let token = setup.token("olga").await?;
    setup.agent("edge", door, &token)?;
    setup.all_run(1).await?;
    setup.all_go_on(Instant::now(), 4).await?;
    let is_beat = |request: &Request| matches!(request.kind, RequestKind::Beat(_));
    setup.controller.judge("edge", |request| {
        if request.forwarded() != Some(("127.0.0.1", protocol)) {
            return Err(format!("the Controller learns {:?} of where it came from", request.forwarded()));
        }
        // `Via` has the protocol that was received (RFC 9110 section 7.6.3). With `tls_ca` in the output only heartbeats
        // are bound to HTTP/1.1, not the fetches.
        match request.via() {
            Some(via) if is_beat(request) && !via.starts_with(version) => {
                Err(format!("it came via {via}, not by HTTP/{version}"))
            }
            Some(_) => Ok(()),
            None => Err("it came without a Via".to_owned()),
        }
    })?;
    setup.none_complains()
}

/// The agent's own log says what became of its token. It goes on, and so does everybody else.
pub(crate) async fn with_a_revoked_token(setup: &mut Setup) -> Result<(), String> {
    setup.tollgate.run(&["user", "add", "ivy", "--role", "manager"]).await?;
    let (revoked, kept) = (setup.token("olga").await?, setup.token("ivy").await?);
    setup.agent_by_each_door(&revoked)?;
    setup.agent("other", Door::Plain, &kept)?;
    setup.all_run(1).await?;

    let id = setup.token_id("olga").await?;
    setup.tollgate.run(&["token", "revoke", &id, "--wait"]).await?;

    setup
        .until_each("every agent learns why", |_, agent| Ok(agent.name == "other" || is_told(&agent.log(), 2)))
        .await?;
    let cut_off = Instant::now();
    setup
        .until("the other agent goes on", |setup| {
            Ok(setup.controller.count("other", Some(cut_off), |kind| matches!(kind, RequestKind::Beat(_))) >= 4)
        })
        .await?;
    for agent in setup.agents.iter().filter(|agent| agent.name != "other") {
        if setup.controller.count(&agent.name, Some(cut_off), |_| true) > 0 {
            return Err(format!("agent {} still reaches the Controller", agent.name));
        }
        if !is_told(&agent.log(), 3) {
            return Err(format!("agent {} has stopped beating", agent.name));
        }
    }
    setup.all_have_reloaded(0)?;
    setup.agents.retain(|agent| agent.name == "other");
    setup.none_complains()
}

/// The agents of a user who is disabled are refused with the same words, and go on by themselves once the user is enabled.
pub(crate) async fn of_a_disabled_user(setup: &mut Setup) -> Result<(), String> {
    setup.tollgate.run(&["user", "add", "ivy", "--role", "manager"]).await?;
    let token = setup.token("ivy").await?;
    setup.agent_by_each_door(&token)?;
    setup.all_run(1).await?;
    setup.tollgate.run(&["user", "disable", "ivy", "--yes"]).await?;
    // More than once: the watchers have been refused as well.
    setup
        .until_each("every agent learns why", |_, agent| Ok(is_told(&agent.log(), 2) && agent.watch_failures() >= 2))
        .await?;
    setup.tollgate.run(&["user", "enable", "ivy"]).await?;
    setup.all_go_on(Instant::now(), 3).await?;
    setup.all_have_reloaded(0)
}

/// Whether an agent wrote, so many times, that its token is not valid, as Telegraf writes it and in Tollgate's words.
fn is_told(log: &str, times: usize) -> bool {
    let told = |line: &&str| {
        line.contains("received status 401 (401 Unauthorized) with message {")
            && line.contains(r#""error":"Invalid token""#)
    };
    log.lines().filter(told).count() >= times
}
