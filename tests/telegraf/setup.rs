//! What a scenario plays on: a Controller, a sidecar in front of it, and agents.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::agent::{Agent, Launch, Variable};
use crate::controller::{ALIAS, CONFIGURATION, Controller, RequestKind};
use crate::process::Reaper;
use crate::tollgate::{Certificate, Door, Tollgate};
use tollgate_harness::pair::Pair;
use tollgate_harness::redis::RedisServer;
use tollgate_harness::relay::Relay;

/// Longest wait for anything; only a failure takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Lines shown of each log when something is wrong.
const SHOWN: usize = 25;

/// What all scenarios share.
pub(crate) struct Lab {
    /// Where Telegraf is.
    pub(crate) telegraf: PathBuf,
    pub(crate) certificate: Certificate,
    pub(crate) reaper: Arc<Reaper>,
}

/// How a sidecar is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) store: StoreKind,
    /// It stores configurations, in memory and on disk.
    pub(crate) cache: bool,
    /// Variables, without `TOLLGATE_`.
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

/// Where tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Sqlite,
    /// One that can be stopped.
    Redis,
    /// A primary and its replica, which can take over.
    Pair,
}

/// A running Redis, or two.
pub(crate) enum Redis {
    One(RedisServer),
    /// Sidecars and commands go by the relay, which leads to the primary.
    Two(Pair, Relay),
}

impl Redis {
    async fn start(kind: StoreKind) -> Option<Self> {
        match kind {
            StoreKind::Sqlite => None,
            StoreKind::Redis => Some(Self::One(RedisServer::start())),
            StoreKind::Pair => {
                let pair = Pair::start().await;
                let relay = Relay::start(pair.primary.address()).await;
                Some(Self::Two(pair, relay))
            }
        }
    }

    fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Two(_, relay) => format!("redis://{}", relay.address()),
        }
    }
}

/// Everything. Ends when it is dropped.
pub(crate) struct Setup {
    /// None of them may end.
    pub(crate) agents: Vec<Agent>,
    pub(crate) tollgate: Tollgate,
    pub(crate) controller: Controller,
    pub(crate) redis: Option<Redis>,
    lab: Arc<Lab>,
    directory: TempDir,
}

impl Setup {
    /// Starts the sidecar and the Controller.
    pub(crate) async fn start(lab: &Arc<Lab>, settings: Settings) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| format!("a directory: {error}"))?;
        let redis = Redis::start(settings.store).await;
        let sqlite = || format!("sqlite:{}", directory.path().join("tollgate.db").display());
        let store = redis.as_ref().map_or_else(sqlite, Redis::url);
        let controller = Controller::start()?;
        let (home, address) = (directory.path().to_owned(), controller.address());
        let tollgate = Tollgate::new(home, store, &lab.certificate, address, settings, &lab.reaper);
        let mut tollgate = tollgate.await?;
        tollgate.start().await?;
        Ok(Self { agents: Vec::new(), tollgate, controller, redis, lab: Arc::clone(lab), directory })
    }

    /// Where everything is written to.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new token of this user, for agents.
    pub(crate) async fn token(&self, user: &str) -> Result<String, String> {
        let create = ["token", "create", "--user", user, "--description", "edge", "--preset", "telegraf-agent"];
        self.tollgate.run(&create).await
    }

    /// The id of a user's token for agents. The Owner has another one, with another description.
    pub(crate) async fn token_id(&self, user: &str) -> Result<String, String> {
        let list = self.tollgate.run(&["token", "list", "--json"]).await?;
        let tokens: serde_json::Value = serde_json::from_str(&list).map_err(|error| format!("{error}: {list}"))?;
        let is_meant = |token: &&serde_json::Value| token["user"] == user && token["description"] == "edge";
        let token = tokens.as_array().and_then(|tokens| tokens.iter().find(is_meant));
        token.and_then(|token| token["id"].as_str()).map(str::to_owned).ok_or(format!("no token of {user}"))
    }

    /// Starts an agent that is not looked after.
    pub(crate) fn launch(&self, launch: Launch) -> Result<Agent, String> {
        Agent::start(&self.lab, self, launch)
    }

    /// How an agent is deployed that watches its configuration every second.
    pub(crate) fn deployed(name: &str, door: Door, token: &str) -> Launch {
        let (configuration, variable) = (CONFIGURATION, Variable::Controller);
        Launch { name: name.to_owned(), configuration, door, variable, token: token.to_owned(), watch: "1s" }
    }

    /// Starts an agent that must not end, and has its configuration by its alias.
    pub(crate) fn agent_by_alias(&mut self, name: &str, door: Door, token: &str) -> Result<(), String> {
        let launch = Launch { configuration: ALIAS, ..Self::deployed(name, door, token) };
        self.agents.push(self.launch(launch)?);
        Ok(())
    }

    /// Starts an agent that must not end.
    pub(crate) fn agent(&mut self, name: &str, door: Door, token: &str) -> Result<(), String> {
        self.agents.push(self.launch(Self::deployed(name, door, token))?);
        Ok(())
    }

    /// Kills every agent.
    pub(crate) fn kill_agents(&mut self) -> Vec<Launch> {
        std::mem::take(&mut self.agents).into_iter().map(Agent::kill).collect()
    }

    /// Kills every agent and starts it again.
    pub(crate) fn restart_agents(&mut self) -> Result<(), String> {
        let launches = self.kill_agents();
        self.start_agents(launches)
    }

    /// Starts these agents.
    pub(crate) fn start_agents(&mut self, launches: Vec<Launch>) -> Result<(), String> {
        for launch in launches {
            self.agents.push(self.launch(launch)?);
        }
        Ok(())
    }

    /// Starts one agent by each door.
    pub(crate) fn agent_by_each_door(&mut self, token: &str) -> Result<(), String> {
        Door::ALL.into_iter().try_for_each(|door| self.agent(&format!("{door:?}").to_lowercase(), door, token))
    }

    /// Waits until something holds, while every agent and the sidecar live.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        holds: impl Fn(&Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self)? {
            self.all_live()?;
            if Instant::now() > deadline {
                return Err(format!("not within {PATIENCE:?}: {what}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.all_live()
    }

    /// Waits until something holds of every agent.
    pub(crate) async fn until_each(
        &mut self,
        what: &str,
        holds: impl Fn(&Self, &Agent) -> Result<bool, String>,
    ) -> Result<(), String> {
        let last = Cell::new(0);
        let reached = self.until(what, |setup| {
            for (number, agent) in setup.agents.iter().enumerate() {
                if !holds(setup, agent).map_err(|problem| format!("agent {} {problem}", agent.name))? {
                    last.set(number);
                    return Ok(false);
                }
            }
            Ok(true)
        });
        let outcome = reached.await;
        // Of those that are late one is enough to see why.
        outcome.map_err(|problem| match self.agents.get(last.get()) {
            Some(agent) if problem.contains(what) => format!("{problem}, but agent {} does not", agent.name),
            _ => problem,
        })
    }

    /// Waits until every agent beats as this edition tells it to, and has learnt when that was made, so that the next edit
    /// is news: who asks again has the answer of before.
    pub(crate) async fn all_run(&mut self, edition: u32) -> Result<(), String> {
        let what = format!("every agent runs edition {edition} and watches it");
        self.until_each(&what, |setup, agent| {
            let beats = setup.controller.count(&agent.name, None, |kind| kind == RequestKind::Beat(edition));
            let asks = setup.controller.count(&agent.name, None, |kind| kind == RequestKind::Ask);
            Ok(beats > 0 && asks > 1)
        })
        .await
    }

    /// Waits until every agent has beaten and asked this many times since.
    pub(crate) async fn all_go_on(&mut self, since: Instant, times: usize) -> Result<(), String> {
        self.until_each("every agent beats and watches", |setup, agent| {
            let beats = setup.controller.count(&agent.name, Some(since), |kind| matches!(kind, RequestKind::Beat(_)));
            let asks = setup.controller.count(&agent.name, Some(since), |kind| kind == RequestKind::Ask);
            Ok(beats >= times && asks >= times)
        })
        .await
    }

    /// Waits until every agent runs an edition that was made while it could not be told, `since` when it can.
    pub(crate) async fn none_misses(&mut self, edition: u32, since: Instant) -> Result<(), String> {
        self.until_each(&format!("every agent loads edition {edition}"), |setup, agent| {
            let count = |kind: RequestKind| setup.controller.count(&agent.name, Some(since), |seen| seen == kind);
            // The first answer is different from what it knew, unless it has forgotten that.
            if count(RequestKind::Fetch) == 0 && count(RequestKind::Ask) >= 3 {
                return Err(format!("missed the edit: it was told of edition {edition}, and runs the one before"));
            }
            Ok(count(RequestKind::Beat(edition)) > 0)
        })
        .await
    }

    /// Waits until every agent has had a configuration so many times, over all its lives.
    pub(crate) async fn all_have_booted(&mut self, times: usize) -> Result<(), String> {
        self.until_each(&format!("every agent has booted {times} times"), |_, agent| Ok(agent.boots() >= times)).await
    }

    /// Every agent has loaded its configuration anew exactly this many times since it was started.
    pub(crate) fn all_have_reloaded(&self, times: usize) -> Result<(), String> {
        for agent in &self.agents {
            let had = (self.fetches(agent), agent.reloads());
            if had != (times + 1, times) {
                let name = &agent.name;
                return Err(format!("agent {name} (fetched, reloaded) {had:?} times, not {:?}", (times + 1, times)));
            }
        }
        Ok(())
    }

    /// How often the Controller gave an agent its configuration.
    pub(crate) fn fetches(&self, agent: &Agent) -> usize {
        self.controller.count(&agent.name, None, |kind| kind == RequestKind::Fetch)
    }

    /// No agent has anything to complain of.
    pub(crate) fn none_complains(&self) -> Result<(), String> {
        for agent in &self.agents {
            let complaints = agent.complaints();
            if !complaints.is_empty() {
                return Err(format!("agent {} complains: {complaints:#?}", agent.name));
            }
        }
        Ok(())
    }

    /// Only what agents send has reached the Controller, and neither a log nor an error has a token in it.
    pub(crate) fn is_sound(&self) -> Result<(), String> {
        let unexpected = self.controller.unexpected();
        if !unexpected.is_empty() {
            return Err(format!("the Controller saw {unexpected:#?}"));
        }
        // Of a token no more is said than its prefix, three dots and its end.
        let mut named = self.tollgate.log();
        self.agents.iter().for_each(|agent| named += &agent.log());
        if named.split("tc-apiv1_").skip(1).any(|rest| !rest.starts_with("...")) {
            return Err("a log has a token in it".to_owned());
        }
        Ok(())
    }

    /// The ends of the logs of the sidecar and of the agent that a problem is about.
    pub(crate) fn logs(&self, problem: &str) -> String {
        let end = |log: &str| {
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(SHOWN)..].join("\n  ")
        };
        let mut logs = format!("the sidecar's log:\n  {}\n", end(&self.tollgate.log()));
        for agent in self.agents.iter().filter(|agent| problem.contains(&format!("agent {} ", agent.name))) {
            logs += &format!("the log of agent {}:\n  {}\n", agent.name, end(&agent.log()));
        }
        logs
    }

    fn all_live(&mut self) -> Result<(), String> {
        for agent in &mut self.agents {
            if let Some(status) = agent.ended() {
                return Err(format!("agent {} ended, {status}: {:#?}", agent.name, agent.complaints()));
            }
        }
        Ok(())
    }
}
