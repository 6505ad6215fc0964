//! With the configuration cache: while the Controller is away, agents boot, reload and watch as ever, and what was edited meanwhile
//! is loaded when it is back.

use std::time::Instant;

use crate::agent::Agent;
use crate::controller::RequestKind;
use crate::fetch::gives_up;
use crate::setup::{Redis, Setup};
use crate::tollgate::Door;
use tollgate_harness::relay::Traffic;

/// Connections to it are refused. Agents boot from what is stored.
pub(crate) async fn agents_boot(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.goes();
    setup.restart_agents()?;
    setup.all_have_booted(2).await?;
    it_ends(setup, 1).await
}

/// SIGHUP: an agent stops what it runs before it fetches.
pub(crate) async fn agents_reload(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.goes();
    setup.agents.iter().for_each(Agent::hang_up);
    setup.all_have_booted(2).await?;
    it_ends(setup, 2).await
}

/// Agents and sidecar are killed, and started again.
pub(crate) async fn the_host_reboots(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.until("all is on disk", |setup| Ok(setup.tollgate.stored_files() >= setup.agents.len())).await?;
    setup.controller.goes();
    let agents = setup.kill_agents();
    setup.tollgate.kill();
    setup.tollgate.start().await?;
    setup.start_agents(agents)?;
    setup.all_have_booted(2).await?;
    it_ends(setup, 1).await
}

/// It accepts and says nothing, and agents have no timeout for that.
pub(crate) async fn the_controller_hangs(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.falls_silent();
    setup.restart_agents()?;
    setup.all_have_booted(2).await?;
    it_ends(setup, 1).await
}

/// With a `Last-Modified` of its own, for which every watcher would reload.
pub(crate) async fn the_controller_says_503(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.becomes_unavailable();
    setup.restart_agents()?;
    setup.all_have_booted(2).await?;
    it_ends(setup, 1).await
}

/// Watchers learn of the edit, and what they reload is the stored configuration: again and again, but nobody dies of it.
pub(crate) async fn only_fetches_fail(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.is_busy();
    let edition = setup.controller.edit();
    setup.all_have_booted(3).await?;
    let over = Instant::now();
    setup.controller.recovers();
    setup
        .until_each("every agent loads the edit", |setup, agent| {
            Ok(setup.controller.count(&agent.name, Some(over), |kind| kind == RequestKind::Beat(edition)) > 0)
        })
        .await?;
    let reloads: Vec<_> = setup.agents.iter().map(|agent| (agent.reloads(), setup.fetches(agent))).collect();
    setup.all_go_on(Instant::now(), 3).await?;
    let since: Vec<_> = setup.agents.iter().map(|agent| (agent.reloads(), setup.fetches(agent))).collect();
    if since != reloads || since.iter().any(|(_, fetches)| *fetches != 2) {
        return Err(format!("(reloads, fetches) went on from {reloads:?} to {since:?}"));
    }
    Ok(())
}

/// A watcher takes the first time that it is told for that of what its agent runs.
pub(crate) async fn an_agent_looks_when_it_is_over(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.goes();
    let mut agents = setup.kill_agents();
    agents.iter_mut().for_each(|agent| agent.watch = "6s");
    setup.start_agents(agents)?;
    setup.all_have_booted(2).await?;
    // Well before six seconds are over.
    let edition = setup.controller.edit();
    let over = Instant::now();
    setup.controller.recovers();
    setup.none_misses(edition, over).await?;
    setup.all_go_on(Instant::now(), 2).await?;
    setup.all_have_reloaded(1)
}

/// The stored answer is nobody's any more.
pub(crate) async fn a_token_is_revoked(setup: &mut Setup) -> Result<(), String> {
    setup.tollgate.run(&["user", "add", "ivy", "--role", "manager"]).await?;
    let (revoked, kept) = (setup.token("olga").await?, setup.token("ivy").await?);
    setup.agent("revoked", Door::Plain, &revoked)?;
    setup.agent("kept", Door::Plain, &kept)?;
    setup.all_run(1).await?;
    setup.controller.goes();
    let mut agents = setup.kill_agents();
    let id = setup.token_id("olga").await?;
    setup.tollgate.run(&["token", "revoke", &id, "--wait"]).await?;
    let refused = agents.remove(0);
    let refused = setup.launch(refused)?;
    setup.start_agents(agents)?;
    setup.all_have_booted(2).await?;
    let log = setup.directory().join("revoked.log");
    gives_up(refused, "401 Unauthorized").await?;
    let log = std::fs::read_to_string(log).map_err(|error| error.to_string())?;
    match log.matches("I! Loaded inputs: mem").count() {
        1 => Ok(()),
        boots => Err(format!("it has booted {boots} times")),
    }
}

/// Where the Controller does not see agents' tokens, one is given what the other has fetched.
pub(crate) async fn a_token_is_rotated(setup: &mut Setup) -> Result<(), String> {
    let old = setup.token("olga").await?;
    setup.agent("first", Door::Plain, &old)?;
    setup.agent("second", Door::TlsEither, &old)?;
    setup.all_run(1).await?;
    setup.controller.goes();
    let id = setup.token_id("olga").await?;
    let new = setup.tollgate.run(&["token", "rotate", &id, "--overlap", "1h"]).await?;
    let mut agents = setup.kill_agents();
    agents[1].token = new;
    setup.start_agents(agents)?;
    setup.all_have_booted(2).await?;
    it_ends(setup, 1).await
}

/// The replica takes over while the Controller is away.
pub(crate) async fn redis_fails_over(setup: &mut Setup) -> Result<(), String> {
    deployed(setup).await?;
    setup.controller.goes();
    let Some(Redis::Two(pair, relay)) = &mut setup.redis else { return Err("no pair".to_owned()) };
    pair.is_in_step().await;
    relay.set(Traffic::Cut).await;
    pair.promote().await;
    let agents = setup.kill_agents();
    setup.start_agents(agents)?;
    setup.all_have_booted(2).await?;
    if let Some(Redis::Two(pair, relay)) = &setup.redis {
        relay.lead_to(pair.primary.address());
        relay.heal().await;
    }
    // What the new primary knows of a token holds: this one is good, and nothing was stored for it.
    let late = setup.token("olga").await?;
    let late = setup.launch(Setup::deployed("plain", Door::Plain, &late))?;
    gives_up(late, "502 Bad Gateway").await?;
    it_ends(setup, 1).await
}

/// Who boots then does not; who runs goes on, and loads the edit when it is over.
pub(crate) async fn it_outlasts_what_is_stored(setup: &mut Setup) -> Result<(), String> {
    let token = deployed(setup).await?;
    setup.controller.goes();
    let edition = setup.controller.edit();
    setup
        .until_each("nothing is stored any more", |_, agent| match agent.reloads() {
            0 => Ok(agent.watch_failures() > 0),
            _ => Err("reloads for nothing".to_owned()),
        })
        .await?;
    let late = setup.launch(Setup::deployed("plain", Door::Plain, &token))?;
    gives_up(late, "502 Bad Gateway").await?;
    setup.all_have_reloaded(0)?;
    let over = Instant::now();
    setup.controller.recovers();
    setup.none_misses(edition, over).await?;
    setup.all_go_on(Instant::now(), 3).await?;
    setup.all_have_reloaded(1)
}

/// Agents by each door run the first edition.
async fn deployed(setup: &mut Setup) -> Result<String, String> {
    let token = setup.token("olga").await?;
    setup.agent_by_each_door(&token)?;
    setup.all_run(1).await?;
    Ok(token)
}

/// Watchers look several times, an edit among them; then the Controller is back. Since the beginning every agent has reloaded so many
/// times, and no watcher was without an answer.
async fn it_ends(setup: &mut Setup, reloads: usize) -> Result<(), String> {
    every_watcher_looks(setup, 2).await?;
    let edition = setup.controller.edit();
    every_watcher_looks(setup, 3).await?;
    // What the edit does is yet to come.
    all_have_reloaded(setup, reloads - 1)?;
    let over = Instant::now();
    setup.controller.recovers();
    setup.none_misses(edition, over).await?;
    setup.all_go_on(Instant::now(), 3).await?;
    all_have_reloaded(setup, reloads)?;
    match setup.agents.iter().find(|agent| agent.watch_failures() > 0) {
        Some(agent) => Err(format!("agent {} was not told when its configuration was made", agent.name)),
        None => Ok(()),
    }
}

/// So many times, over all their lives. How often the Controller was asked for that is the sidecar's affair: what nobody waits for any
/// more is stored all the same.
fn all_have_reloaded(setup: &Setup, times: usize) -> Result<(), String> {
    match setup.agents.iter().find(|agent| agent.reloads() != times) {
        Some(agent) => Err(format!("agent {} reloaded {} times, not {times}", agent.name, agent.reloads())),
        None => Ok(()),
    }
}

/// Waits until watchers were told what is stored, so many times each, on the whole.
async fn every_watcher_looks(setup: &mut Setup, times: usize) -> Result<(), String> {
    let enough = setup.tollgate.stored_looks() + times * setup.agents.len();
    setup.until("watchers are told what is stored", |setup| Ok(setup.tollgate.stored_looks() >= enough)).await
}
