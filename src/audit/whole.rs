//! Whether the trail of a store is what was written, by all that is known of it: its own chain, and what other places have.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::chain::{Head, TrailText};
use super::verify::{Verdict, Verifier};
use crate::store::{Store, StoreError};

/// Lines read at once.
const PAGE: usize = 500;

/// Longest line that a file may have.
const LONGEST: u64 = 1 << 20;

/// What knows the trail besides its store, and so shows that its end was cut off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// A file with lines of it.
    pub file: Option<PathBuf>,
    /// Lines of it, such as the last one that syslog got.
    pub heads: Vec<Head>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// In the store.
    pub verdict: Verdict,
    /// How many entries of the store are not chained yet.
    pub not_chained: u64,
    /// What is wrong by what other places know.
    pub elsewhere: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.count() == 0
    }

    /// How much is wrong.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.verdict.findings.len() as u64 + self.verdict.more + self.elsewhere.len() as u64
    }
}

/// Reads the whole trail, and what the witnesses have of it.
///
/// # Errors
/// When the store fails. A file that cannot be read is something that is wrong.
pub async fn verify(store: &dyn Store, witnesses: Witnesses) -> Result<Verification, StoreError> {
    let (mut verifier, mut after) = (Verifier::default(), 0);
    loop {
        let page = store.trail_after(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        page.iter().for_each(|line| verifier.add(line));
    }
    let (verdict, not_chained) = (verifier.verdict(), store.trail_ends(0).await?.loose_count);
    let Witnesses { file, mut heads } = witnesses;
    let mut elsewhere = Vec::new();
    if let Some(file) = file {
        let reading = file.clone();
        let read =
            spawn_blocking(move || verify_file(&reading)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match read {
            Ok(found) => {
                elsewhere.extend(found.findings.iter().map(|finding| format!("{}: {finding}", file.display())));
                heads.extend(found.head);
            }
            Err(error) => elsewhere.push(format!("{} cannot be compared: {error}", file.display())),
        }
    }
    for head in &heads {
        elsewhere.extend(compare(store, head, verdict.first).await?);
    }
    Ok(Verification { verdict, not_chained, elsewhere })
}

/// What is wrong with the trail of the store, which begins with entry `first`, if it once ended so.
async fn compare(store: &dyn Store, head: &Head, first: Option<u64>) -> Result<Option<String>, StoreError> {
    let Head { seq, .. } = head;
    // Retention may have removed it.
    if first.is_some_and(|first| *seq < first) {
        return Ok(None);
    }
    let line = store.trail_after(seq.saturating_sub(1), 1).await?;
    Ok(match line.first() {
        Some(line) if Head::of(line) == *head => None,
        Some(line) if line.seq == *seq => {
            Some(format!("entry {seq} has another hash in the store: its trail was replaced"))
        }
        _ => Some(format!("entry {seq} is not in the store: the end of its trail was cut off")),
    })
}

/// What is in a file, line by line. It may begin anywhere in the trail.
fn verify_file(file: &Path) -> io::Result<Verdict> {
    let mut reader = BufReader::new(File::open(file)?);
    let (mut verifier, mut number, mut line) = (Verifier::of_part(), 0_u64, Vec::new());
    loop {
        line.clear();
        number += 1;
        reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        let text = match line.strip_suffix(b"\n") {
            Some(text) => text,
            None if line.len() as u64 == LONGEST => return Err(io::Error::other(format!("line {number} has no end"))),
            // One that is being written has none yet.
            None => return Ok(verifier.verdict()),
        };
        let line = TrailText(text).line();
        verifier.add(&line.ok_or_else(|| io::Error::other(format!("line {number} is none of an audit trail")))?);
    }
}
