//! Edits are loaded once each, whatever was broken when they were made, and nothing else makes an agent reload.

use std::time::Instant;

use crate::site::Site;
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
    /// The store cannot be reached, for longer than the sidecar believes its replica.
    Stale,
}

/// With everything well.
pub(crate) async fn while_all_is_well(site: &mut Site) -> Result<(), String> {
    let token = site.token("olga").await?;
    site.agent_by_each_door(&token)?;
    site.all_run(1).await?;
    for edit in 1..=2 {
        let edited = Instant::now();
        let edition = site.controller.edit();
        site.none_misses(edition, edited).await?;
        // And not again.
        site.all_go_on(Instant::now(), 3).await?;
        site.all_have_reloaded(edit)?;
    }
    site.none_complains()
}

/// Connections to the Controller are refused.
pub(crate) async fn while_the_controller_is_gone(site: &mut Site) -> Result<(), String> {
    outage(site, Outage::Gone).await
}

/// The Controller accepts and says nothing.
pub(crate) async fn while_the_controller_hangs(site: &mut Site) -> Result<(), String> {
    outage(site, Outage::Silent).await
}

/// The Controller says 503, dated.
pub(crate) async fn while_the_controller_says_503(site: &mut Site) -> Result<(), String> {
    outage(site, Outage::Unavailable).await
}

/// Tollgate itself says 503.
pub(crate) async fn while_the_store_is_away(site: &mut Site) -> Result<(), String> {
    outage(site, Outage::Stale).await
}

async fn outage(site: &mut Site, outage: Outage) -> Result<(), String> {
    let token = site.token("olga").await?;
    site.agent_by_each_door(&token)?;
    site.all_run(1).await?;

    begin(site, outage);
    every_watcher_fails(site, 1).await?;
    let edition = site.controller.edit();
    every_watcher_fails(site, 4).await?;
    site.all_have_reloaded(0)?;
    let over = Instant::now();
    end(site, outage);

    site.none_misses(edition, over).await?;
    site.all_go_on(Instant::now(), 3).await?;
    site.all_have_reloaded(1)
}

fn begin(site: &Site, outage: Outage) {
    match outage {
        Outage::Gone => site.controller.goes(),
        Outage::Silent => site.controller.falls_silent(),
        Outage::Unavailable => site.controller.becomes_unavailable(),
        Outage::Stale => site.redis.iter().for_each(|redis| redis.pause()),
    }
}

fn end(site: &Site, outage: Outage) {
    match outage {
        Outage::Gone | Outage::Silent | Outage::Unavailable => site.controller.recovers(),
        Outage::Stale => site.redis.iter().for_each(|redis| redis.resume()),
    }
}

/// Waits until every watcher has failed so many times, which none may take for an edit.
async fn every_watcher_fails(site: &mut Site, times: usize) -> Result<(), String> {
    site.until_each("every watcher notices", |_, agent| match agent.reloads() {
        0 => Ok(agent.watch_failures() >= times),
        _ => Err("reloads for nothing".to_owned()),
    })
    .await
}

/// SIGTERM and SIGKILL of the sidecar.
pub(crate) async fn while_the_sidecar_restarts(site: &mut Site) -> Result<(), String> {
    /// How many agents there are.
    const AGENTS: usize = 50;

    let token = site.token("olga").await?;
    for number in 0..AGENTS {
        let door = [Door::Plain, Door::Plain, Door::Tls, Door::TlsEither, Door::Http2][number % 5];
        site.agent(&format!("edge-{number}"), door, &token)?;
    }
    site.all_run(1).await?;
    site.all_have_reloaded(0)?;

    site.tollgate.stop().await?;
    every_watcher_fails(site, 2).await?;
    site.tollgate.start().await?;
    site.all_go_on(Instant::now(), 3).await?;
    site.all_have_reloaded(0)?;

    let failures: Vec<_> = site.agents.iter().map(|agent| agent.watch_failures()).collect();
    site.tollgate.kill();
    let edition = site.controller.edit();
    let most = failures.iter().copied().max().unwrap_or_default();
    every_watcher_fails(site, most + 2).await?;
    let back = Instant::now();
    site.tollgate.start().await?;
    site.none_misses(edition, back).await?;
    site.all_go_on(Instant::now(), 3).await?;
    site.all_have_reloaded(1)
}
