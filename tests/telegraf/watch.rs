//! Edits are loaded once each, whatever was broken when they were made, and nothing else makes an agent reload.

use std::time::Instant;

use crate::setup::{Redis, Setup};
use crate::tollgate::Door;

/// How the Controller, or the sidecar's store, is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// The Controller's connections are refused.
    Gone,
    /// The Controller takes requests and does not answer.
    Silent,
    /// The Controller answers 503, with a `Last-Modified`.
    Unavailable,
    /// The Controller answers 401 to what the sidecar shows it.
    Refusing,
    /// The store cannot be reached, for longer than the sidecar believes its replica.
    Stale,
}

/// With everything well.
pub(crate) async fn while_all_is_well(setup: &mut Setup) -> Result<(), String> {
    let token = setup.token("olga").await?;
    setup.agent_by_each_door(&token)?;
    setup.all_run(1).await?;
    for edit in 1..=2 {
        let edited = Instant::now();
        let edition = setup.controller.edit();
        setup.none_misses(edition, edited).await?;
        // And not again.
        setup.all_go_on(Instant::now(), 3).await?;
        setup.all_have_reloaded(edit)?;
    }
    setup.none_complains()
}

/// Connections to the Controller are refused.
pub(crate) async fn while_the_controller_is_gone(setup: &mut Setup) -> Result<(), String> {
    outage(setup, Outage::Gone).await
}

/// The Controller accepts and says nothing.
pub(crate) async fn while_the_controller_hangs(setup: &mut Setup) -> Result<(), String> {
    outage(setup, Outage::Silent).await
}

/// The Controller says 503, dated.
pub(crate) async fn while_the_controller_says_503(setup: &mut Setup) -> Result<(), String> {
    outage(setup, Outage::Unavailable).await
}

/// The Controller refuses the sidecar's credential: no agent is told that its own token is bad, and all go on by themselves.
pub(crate) async fn while_the_controller_refuses_the_sidecar(setup: &mut Setup) -> Result<(), String> {
    outage(setup, Outage::Refusing).await?;
    let told = |line: &str| {
        line.contains("received status 502 (502 Bad Gateway) with message {")
            && line.contains(r#""error":"Upstream does not accept the sidecar's credential""#)
    };
    for agent in &setup.agents {
        let (name, log) = (&agent.name, agent.log());
        if log.contains("401 Unauthorized") || log.contains("Token expired") || !log.lines().any(told) {
            return Err(format!("agent {name} blames its token, or does not say what is wrong"));
        }
    }
    Ok(())
}

/// Tollgate itself says 503.
pub(crate) async fn while_the_store_is_away(setup: &mut Setup) -> Result<(), String> {
    outage(setup, Outage::Stale).await
}

async fn outage(setup: &mut Setup, outage: Outage) -> Result<(), String> {
    let token = setup.token("olga").await?;
    setup.agent_by_each_door(&token)?;
    setup.all_run(1).await?;

    begin(setup, outage);
    every_watcher_fails(setup, 1).await?;
    let edition = setup.controller.edit();
    every_watcher_fails(setup, 4).await?;
    setup.all_have_reloaded(0)?;
    let over = Instant::now();
    end(setup, outage);

    setup.none_misses(edition, over).await?;
    setup.all_go_on(Instant::now(), 3).await?;
    setup.all_have_reloaded(1)
}

fn begin(setup: &Setup, outage: Outage) {
    match outage {
        Outage::Gone => setup.controller.goes(),
        Outage::Silent => setup.controller.falls_silent(),
        Outage::Unavailable => setup.controller.becomes_unavailable(),
        Outage::Refusing => setup.controller.refuses(),
        Outage::Stale => {
            if let Some(Redis::One(redis)) = &setup.redis {
                redis.pause()
            }
        }
    }
}

fn end(setup: &Setup, outage: Outage) {
    match outage {
        Outage::Gone | Outage::Silent | Outage::Unavailable | Outage::Refusing => setup.controller.recovers(),
        Outage::Stale => {
            if let Some(Redis::One(redis)) = &setup.redis {
                redis.resume()
            }
        }
    }
}

/// Waits until every watcher has failed so many times, which none may take for an edit.
async fn every_watcher_fails(setup: &mut Setup, times: usize) -> Result<(), String> {
    setup
        .until_each("every watcher notices", |_, agent| match agent.reloads() {
            0 => Ok(agent.watch_failures() >= times),
            _ => Err("reloads for nothing".to_owned()),
        })
        .await
}

/// SIGTERM and SIGKILL of the sidecar.
pub(crate) async fn while_the_sidecar_restarts(setup: &mut Setup) -> Result<(), String> {
    /// How many agents there are.
    const AGENTS: usize = 50;

    let token = setup.token("olga").await?;
    for number in 0..AGENTS {
        let door = [Door::Plain, Door::Plain, Door::Tls, Door::TlsEither, Door::Http2][number % 5];
        setup.agent(&format!("edge-{number}"), door, &token)?;
    }
    setup.all_run(1).await?;
    setup.all_have_reloaded(0)?;

    setup.tollgate.stop().await?;
    every_watcher_fails(setup, 2).await?;
    setup.tollgate.start().await?;
    setup.all_go_on(Instant::now(), 3).await?;
    setup.all_have_reloaded(0)?;

    let failures: Vec<_> = setup.agents.iter().map(|agent| agent.watch_failures()).collect();
    setup.tollgate.kill();
    let edition = setup.controller.edit();
    let most = failures.iter().copied().max().unwrap_or_default();
    every_watcher_fails(setup, most + 2).await?;
    let back = Instant::now();
    setup.tollgate.start().await?;
    setup.none_misses(edition, back).await?;
    setup.all_go_on(Instant::now(), 3).await?;
    setup.all_have_reloaded(1)
}
