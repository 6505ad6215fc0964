//! Fuzzing of whole exchanges against the real program, black box: see `fuzz.rs`.
//!
//! ```text
//! tests/exchange/run.sh [MINUTES [SEED]]
//! ```
//!
//! Prints the seed, what happened how often, and a verdict. Ends by itself, with code 0 if nothing was found; a finding comes
//! with the history of the connections concerned, and code 1. `TOLLGATE` names another program to try.

// As the integration tests have it, which include it from elsewhere.
#[path = "fuzz.rs"]
mod fuzz;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Clients at once.
const CLIENTS: u64 = 32;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let minutes = words.next().map_or(Ok(1.0), |minutes| minutes.parse::<f64>().map_err(drop));
    let seed = words
        .next()
        .map_or_else(|| Ok(tollgate_harness::random::fresh_seed()), |seed| seed.parse::<u64>().map_err(drop));
    let time = minutes.and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).map_err(drop));
    let (Ok(time), Ok(seed), None) = (time, seed, words.next()) else {
        eprintln!("usage: tests/exchange/run.sh [MINUTES [SEED]]");
        return ExitCode::from(2);
    };
    let program = std::env::var_os("TOLLGATE").unwrap_or_else(|| env!("CARGO_BIN_EXE_tollgate").into());
    println!("seed {seed}, {time:?}, {CLIENTS} clients");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let played = match runtime {
        Ok(runtime) => runtime.block_on(fuzz::play(&PathBuf::from(program), time, seed, CLIENTS)),
        Err(error) => Err(error.to_string()),
    };
    let report = match played {
        Ok(report) => report,
        Err(problem) => {
            println!("{problem}\nverdict: could not be played");
            return ExitCode::FAILURE;
        }
    };
    report.counts.iter().for_each(|(what, count)| println!("{count:>9}  {what}"));
    match report.finding {
        None => {
            println!("verdict: nothing found in {:.1?} (seed {seed})", report.time);
            ExitCode::SUCCESS
        }
        Some(finding) => {
            println!("{finding}\nverdict: FOUND after {:.1?} (seed {seed})", report.time);
            ExitCode::FAILURE
        }
    }
}
