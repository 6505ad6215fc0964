//! Replies that run: each of their pieces is judged, and their end.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use tollgate_harness::history::{CUT_OFF, Observed, Part};
use tollgate_harness::prober::{History, Place, Probe, Probes};
use tollgate_harness::random::Random;

/// How many run at each sidecar.
const AT_ONCE: usize = 3;

/// How long one runs at most, in milliseconds.
const TIME: (u64, u64) = (300, 8000);

/// A connection that says nothing for so long is given up: a sidecar that is stopped.
const SILENCE: Duration = Duration::from_secs(8);

/// Keeps some running at each of these sidecars, with tokens of these probes, until the tasks are dropped.
pub(crate) fn start(
    sidecars: &[(usize, Place)],
    probes: &Probes,
    history: &History,
    random: &mut Random,
    tasks: &mut JoinSet<()>,
) {
    for (sidecar, place) in sidecars.iter().cloned() {
        for _ in 0..AT_ONCE {
            let (place, probes, history) = (place.clone(), probes.clone(), history.clone());
            let mut random = Random::new(random.number());
            tasks.spawn(async move {
                loop {
                    let all: Vec<_> = probes.all().into_iter().filter(|probe| probe.flow.is_some()).collect();
                    if let Some(probe) = random.one_of(&all) {
                        let time = random.time(TIME.0, TIME.1);
                        let download = Download { sidecar, probe, history: history.clone() };
                        // A sidecar that is down is judged by those who ask.
                        drop(download.run(&place, time).await);
                    }
                    tokio::time::sleep(random.time(5, 100)).await;
                }
            });
        }
    }
}

struct Download {
    sidecar: usize,
    probe: Probe,
    history: History,
}

impl Download {
    async fn run(&self, place: &Place, time: Duration) -> io::Result<()> {
        let request = self.probe.flow.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let mut stream = TcpStream::connect(place.now()).await?;
        stream.set_nodelay(true)?;
        let sent_at = Instant::now();
        stream.write_all(request).await?;
        let mut buffer = vec![0; 64 * 1024];
        let read = stream.read(&mut buffer).await?;
        let status = buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let Some(status) = status.filter(|_| read > 12) else { return Err(io::ErrorKind::InvalidData.into()) };
        self.observe(sent_at, Some(status), Part::Whole);
        let ends_at = sent_at + time;
        while status == 200 && Instant::now() < ends_at {
            let Ok(read) = tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await else { break };
            let then = Instant::now() - CUT_OFF;
            match read {
                Ok(1..) => self.observe(then, Some(200), Part::Piece),
                Ok(0) | Err(_) => {
                    self.observe(then, None, Part::CutOff);
                    break;
                }
            }
        }
        Ok(())
    }

    fn observe(&self, sent_at: Instant, status: Option<u16>, part: Part) {
        let (sidecar, subject, answered_at) = (self.sidecar, self.probe.subject, Instant::now());
        self.history.with(|judge| judge.observe(Observed { sidecar, subject, sent_at, answered_at, status, part }));
    }
}
