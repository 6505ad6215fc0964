//! Heartbeats on a fixed schedule, whatever the answers do, for `run.sh`: wrk cannot, it waits for an answer first.
//!
//! The requests are spread evenly over time and, in turn, over the connections. Each is measured from the moment that
//! it was due: one that has to wait for its turn because the one before was answered late has waited, too. A thread a
//! connection, with nothing but the standard library: `run.sh` builds this with `rustc`, without anything else.
//!
//!     openloop ADDRESS CONNECTIONS REQUESTS-A-SECOND SECONDS FILE
//!
//! The file has whole requests, each with a zero byte after it; they are sent in turn.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// An answer that takes longer ends the run.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between connecting and the first request.
const SETTLE: Duration = Duration::from_millis(100);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("openloop: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, connections, rate, seconds, file] = arguments.as_slice() else {
        return Err("usage: openloop ADDRESS CONNECTIONS REQUESTS-A-SECOND SECONDS FILE".into());
    };
    let number = |text: &str| text.parse::<NonZeroU32>().map(NonZeroU32::get);
    let (connections, rate, seconds) = (number(connections)?, number(rate)?, number(seconds)?);
    let text = fs::read(file)?;
    let requests: Vec<&[u8]> = text.split(|byte| *byte == 0).filter(|request| !request.is_empty()).collect();
    if requests.is_empty() {
        return Err(format!("{file} has no requests").into());
    }
    // The kernel may end a sleep late by this much: 50 us, unless told otherwise. Threads inherit it.
    fs::write("/proc/self/timerslack_ns", "1")?;
    let sockets: Vec<TcpStream> = (0..connections).map(|_| connect(address)).collect::<Outcome<_>>()?;
    let interval = Duration::from_secs(1) / rate;
    let start = Instant::now() + SETTLE;
    let outcomes: Vec<Outcome<Vec<Sample>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(sockets)
            .map(|(first, socket)| {
                let due = (first..rate * seconds).step_by(connections as usize);
                let requests = &requests;
                scope.spawn(move || {
                    due.map(|turn| exchange(&socket, requests[turn as usize % requests.len()], start + interval * turn))
                        .collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    let elapsed = start.elapsed();
    let samples: Vec<Sample> = outcomes.into_iter().collect::<Outcome<Vec<_>>>()?.concat();
    report(&samples, elapsed);
    Ok(())
}

/// One request.
#[derive(Clone, Copy)]
struct Sample {
    /// From when it was due to the end of its reply.
    latency: Duration,
    /// From when it was due until it was sent: this program's own doing, unless the reply before was late.
    late: Duration,
}

fn connect(address: &str) -> Outcome<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn exchange(mut socket: &TcpStream, request: &[u8], due: Instant) -> Outcome<Sample> {
    thread::sleep(due.saturating_duration_since(Instant::now()));
    let late = due.elapsed();
    socket.write_all(request)?;
    let mut buffer = [0; 4096];
    let mut held = 0;
    while !is_complete(&buffer[..held])? {
        match socket.read(&mut buffer[held..])? {
            0 => return Err("the connection ended within a reply".into()),
            more => held += more,
        }
    }
    Ok(Sample { latency: due.elapsed(), late })
}

/// Whether this is a whole reply; anything but 200 with a `Content-Length` is an error.
fn is_complete(received: &[u8]) -> Outcome<bool> {
    let Some(head) = received.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(&received[..head]);
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match length {
        Some(length) if status.starts_with("HTTP/1.1 200 ") => Ok(received.len() >= head + 4 + length),
        _ => Err(format!("an unexpected reply: {text}").into()),
    }
}

/// One line for the script that started this, in the form of `load.lua`'s.
fn report(samples: &[Sample], elapsed: Duration) {
    let sorted = |of: fn(&Sample) -> Duration| {
        let mut all: Vec<u128> = samples.iter().map(|sample| of(sample).as_micros()).collect();
        all.sort_unstable();
        all
    };
    let at = |sorted: &[u128], per_mille: usize| sorted[(sorted.len() * per_mille / 1000).min(sorted.len() - 1)];
    let (latency, late) = (sorted(|sample| sample.latency), sorted(|sample| sample.late));
    println!(
        "RESULT {{\"requests\": {}, \"microseconds\": {}, \"p50_us\": {}, \"p99_us\": {}, \"p999_us\": {}, \
         \"late_p99_us\": {}}}",
        samples.len(),
        elapsed.as_micros(),
        at(&latency, 500),
        at(&latency, 990),
        at(&latency, 999),
        at(&late, 990),
    );
}
