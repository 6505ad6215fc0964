//! Real Telegraf agents, the real program, and a stand-in for the Controller: what agents log, and what the Controller sees.
//!
//! ```text
//! tests/telegraf/run.sh [NAME...]     only the scenarios with such a part in their names
//! ```
//!
//! Heartbeats and watches are a second apart instead of a minute; everything else is as agents are deployed. One line for
//! each scenario, and code 0 if all of them passed.

mod agent;
mod controller;
mod fetch;
mod heartbeat;
mod outage;
mod port;
mod process;
mod setup;
mod tollgate;
mod watch;

use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use process::Reaper;
use setup::{Lab, Settings, Setup, StoreKind};
use tollgate::Certificate;
use tollgate_harness::authority::Authority;

/// Longest time for one scenario.
const LIMIT: Duration = Duration::from_secs(150);

/// What is played.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    settings: Settings,
    play: for<'a> fn(&'a mut Setup) -> Play<'a>,
}

type Play<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;

impl Scenario {
    /// With a sidecar that is set up in this way.
    const fn on(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }
}

/// A scenario by its function, on a sidecar with the defaults.
macro_rules! scenario {
    ($module:ident::$name:ident) => {
        Scenario {
            name: concat!(stringify!($module), "::", stringify!($name)),
            settings: PLAIN,
            play: |setup| Box::pin($module::$name(setup)),
        }
    };
}

/// Played side by side.
const SMALL: &[Scenario] = &[
    scenario!(fetch::with_the_controllers_variable),
    scenario!(fetch::with_the_older_variable),
    scenario!(fetch::from_an_alias),
    scenario!(fetch::with_an_unknown_token),
    scenario!(heartbeat::over_plain_http),
    scenario!(heartbeat::over_tls_by_http1),
    scenario!(heartbeat::over_tls_as_the_listener_prefers),
    scenario!(heartbeat::over_tls_by_http2),
    scenario!(heartbeat::with_a_revoked_token),
    scenario!(heartbeat::of_a_disabled_user),
    scenario!(watch::while_all_is_well),
    scenario!(watch::while_the_controller_is_gone),
    scenario!(watch::while_the_controller_hangs).on(HASTY),
    scenario!(watch::while_the_controller_says_503),
    scenario!(watch::while_the_controller_refuses_the_sidecar).on(STRIPPING),
    scenario!(watch::while_the_store_is_away).on(DOUBTFUL),
];

/// With the configuration cache, in turn with the others, since there are as many agents again.
const CACHED: &[Scenario] = &[
    scenario!(outage::agents_boot).on(CACHING),
    scenario!(outage::agents_reload).on(CACHING),
    scenario!(outage::the_host_reboots).on(CACHING),
    scenario!(outage::the_controller_hangs).on(CACHING),
    scenario!(outage::the_controller_says_503).on(CACHING),
    scenario!(outage::only_fetches_fail).on(CACHING),
    scenario!(outage::an_agent_looks_when_it_is_over).on(CACHING),
    scenario!(outage::a_token_is_revoked).on(CACHING),
    scenario!(outage::a_token_is_rotated).on(Settings { variables: STRIPPING.variables, ..CACHING }),
    scenario!(outage::redis_fails_over).on(Settings { store: StoreKind::Pair, ..CACHING }),
    scenario!(outage::it_outlasts_what_is_stored).on(FORGETFUL),
];

/// Played alone: they need the machine for themselves.
const LARGE: &[Scenario] = &[scenario!(watch::while_the_sidecar_restarts)];

/// As it comes.
const PLAIN: Settings = Settings { store: StoreKind::Sqlite, cache: false, variables: &[] };

/// Stores configurations.
const CACHING: Settings = Settings { cache: true, ..PLAIN };

/// Gives what it has stored for a few seconds only.
const FORGETFUL: Settings = Settings { variables: &[("CONFIG_CACHE__MAX_AGE", "12s")], ..CACHING };

/// Waits a second for an answer of the Controller.
const HASTY: Settings = Settings { variables: &[("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "1s")], ..PLAIN };

/// Shows the Controller no credential.
const STRIPPING: Settings = Settings {
    variables: &[("UPSTREAM__API__CREDENTIAL__MODE", "strip"), ("UPSTREAM__HEARTBEAT__CREDENTIAL__MODE", "strip")],
    ..PLAIN
};

/// Has a store that can be stopped, and believes its replica for two seconds.
const DOUBTFUL: Settings = Settings {
    store: StoreKind::Redis,
    variables: &[("FRESHNESS__MAX_STALENESS", "2s"), ("FRESHNESS__PROBE_INTERVAL", "200ms")],
    ..PLAIN
};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (flag, telegraf) = (words.next(), words.next());
    let (Some("--telegraf"), Some(telegraf)) = (flag.as_deref(), telegraf) else {
        eprintln!("usage: tests/telegraf/run.sh [NAME...]");
        return ExitCode::from(2);
    };
    let names: Vec<_> = words.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, play(telegraf.into(), &names)),
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok((passed, failed)) => {
            println!("{passed} passed, {failed} failed");
            if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            println!("{problem}\n0 passed, 0 failed");
            ExitCode::FAILURE
        }
    }
}

/// Plays what is wanted and counts what passed and what failed.
async fn play(telegraf: PathBuf, names: &[String]) -> Result<(usize, usize), String> {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost", "127.0.0.1"]);
    let certificate = Certificate { authority: authority.certificate(), certificate, key };
    let lab = Arc::new(Lab { telegraf, certificate, reaper: Arc::new(Reaper::start()?) });
    let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| scenario.name.contains(name));
    let (mut passed, mut failed) = (0, 0);
    for together in [SMALL, CACHED, LARGE] {
        let mut playing = JoinSet::new();
        for scenario in together.iter().filter(wanted).copied() {
            let lab = Arc::clone(&lab);
            playing.spawn_local(async move {
                let (begun, outcome) = (Instant::now(), perform(&lab, scenario).await);
                (scenario.name, begun.elapsed(), outcome)
            });
        }
        while let Some(played) = playing.join_next().await {
            match played {
                Ok((name, took, Ok(()))) => {
                    passed += 1;
                    println!("{name} ... ok ({:.1} s)", took.as_secs_f64());
                }
                Ok((name, took, Err(problem))) => {
                    failed += 1;
                    println!("{name} ... FAILED ({:.1} s): {problem}", took.as_secs_f64());
                }
                Err(panic) => {
                    failed += 1;
                    println!("a scenario ... FAILED: {panic}");
                }
            }
        }
    }
    Ok((passed, failed))
}

async fn perform(lab: &Arc<Lab>, scenario: Scenario) -> Result<(), String> {
    let mut setup = Setup::start(lab, scenario.settings).await?;
    let outcome = match tokio::time::timeout(LIMIT, (scenario.play)(&mut setup)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not within {LIMIT:?}")),
    };
    let sound = outcome
        .and_then(|()| setup.is_sound())
        .and_then(|()| if setup.tollgate.is_alive() { Ok(()) } else { Err("the sidecar has ended".to_owned()) });
    sound.map_err(|problem| format!("{problem}\n{}", setup.logs(&problem)))
}
