//! A sidecar with very many tokens: until it is ready, from Redis and from its snapshot file, and its memory.

use std::time::Duration;

use super::Options;
use super::deployment::{Deployment, Sidecar, filler};
use super::figures::Figures;

pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let tokens = options.tokens.unwrap_or(1_000_000);
    for (count, from_redis, from_file) in [(tokens.min(100_000), 400.0, None), (tokens, 3000.0, Some(1000.0))] {
        eprintln!("scale: {count} tokens");
        let deployment = Deployment::start().await;
        figures.time(format!("import of {count} tokens"), deployment.import((0..count).map(filler)), None);
        let mut plain = Sidecar::spawn(&deployment, &[]);
        figures.time(format!("{count} tokens, ready from Redis"), plain.time_to_ready(), from_redis);
        // What the snapshot left behind is given back a moment later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        figures.add(format!("{count} tokens, memory"), plain.memory(), "MiB", from_file.map(|_| 160.0));
        drop(plain);
        let file = deployment.directory.path().join("replica.snapshot");
        let variables = [("TOLLGATE_STORE__SNAPSHOT_FILE", file.as_path())];
        let mut first = Sidecar::spawn(&deployment, &variables);
        first.wait_until_ready();
        first.stop();
        let bytes = std::fs::metadata(&file).expect("it was written").len();
        figures.add(format!("{count} tokens, snapshot file"), bytes as f64 / 1_048_576.0, "MiB", None);
        let mut second = Sidecar::spawn(&deployment, &variables);
        figures.time(format!("{count} tokens, ready from the file"), second.time_to_ready(), from_file);
        tokio::time::sleep(Duration::from_secs(2)).await;
        figures.add(format!("{count} tokens, memory after that"), second.memory(), "MiB", from_file.map(|_| 160.0));
    }
}
