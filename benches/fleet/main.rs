//! What a fleet of sidecars on one Redis costs, and how fast a revocation is everywhere. See `benches/README.md`.
//!
//! Everything is real: one `redis-server`, the `tollgate` program as every sidecar and for every command, HTTP/1.1
//! requests over loopback; in `crowd`, which is about Redis, sidecars are simulated, see [`lean`]. All of it is started
//! here, on free ports, and ends with this process.

mod bulk;
mod client;
mod crowd;
mod deployment;
mod figures;
mod lean;
mod morning;
mod revoke;
mod scale;

use std::process::ExitCode;

use figures::Figures;

/// The scenarios, in the order in which they run.
const SCENARIOS: [&str; 5] = ["revoke", "bulk", "scale", "crowd", "morning"];

const HELP: &str = "\
cargo bench --bench fleet [-- OPTIONS]

  --only NAME       one scenario: revoke, bulk, scale, crowd or morning (all of them: about 10 minutes)
  --sidecars N      sidecars in `revoke` and `bulk` (20)
  --seconds N       how long revocations go on (10)
  --tokens N        tokens in `scale` (1000000) and `crowd` (250000)
  --simulated N     sidecars in `crowd` (1000)";

/// What was asked for.
#[derive(Debug, Clone)]
struct Options {
    only: Option<String>,
    sidecars: usize,
    seconds: u32,
    tokens: Option<usize>,
    simulated: usize,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { only: None, sidecars: 20, seconds: 10, tokens: None, simulated: 1000 };
    while let Some(argument) = arguments.next() {
        // `cargo bench` adds it.
        if argument == "--bench" {
            continue;
        }
        let value = arguments.next().ok_or_else(|| HELP.to_owned())?;
        let number = || value.parse::<usize>().ok().filter(|number| *number > 0).ok_or_else(|| HELP.to_owned());
        match argument.as_str() {
            "--only" if SCENARIOS.contains(&value.as_str()) => options.only = Some(value),
            "--sidecars" => options.sidecars = number()?,
            "--seconds" => options.seconds = u32::try_from(number()?).map_err(|error| error.to_string())?,
            "--tokens" => options.tokens = Some(number()?),
            "--simulated" => options.simulated = number()?,
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(help) => {
            eprintln!("{help}");
            return ExitCode::from(2);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut figures = Figures::default();
    runtime.block_on(async {
        let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
        if wanted("revoke") {
            revoke::run(&options, &mut figures).await;
        }
        if wanted("bulk") {
            bulk::run(&options, &mut figures).await;
        }
        if wanted("scale") {
            scale::run(&options, &mut figures).await;
        }
        if wanted("crowd") {
            crowd::run(&options, &mut figures).await;
        }
        if wanted("morning") {
            morning::run(&mut figures).await;
        }
    });
    figures.print();
    if figures.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
