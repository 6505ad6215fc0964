//! Notices the commits of other processes.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Shared, read, schema};
use crate::store::Notice;

/// How often the position is read: a few microseconds each time, from memory that all connections share.
const INTERVAL: Duration = Duration::from_millis(20);

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Poll {
    _alive: mpsc::SyncSender<()>,
}

impl Poll {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (alive, dropped) = mpsc::sync_channel(0);
        let thread = thread::Builder::new().name("sqlite-watch".to_owned()).spawn(move || run(&shared, &dropped));
        if let Err(error) = thread {
            // The replica still probes the position, so it learns of every commit, only later.
            tracing::warn!(%error, "no thread to watch the store with: commits of other processes are noticed late");
        }
        Self { _alive: alive }
    }
}

fn run(shared: &Shared, dropped: &mpsc::Receiver<()>) {
    let mut connection = None;
    while let Err(RecvTimeoutError::Timeout) = dropped.recv_timeout(INTERVAL) {
        if connection.is_none() {
            connection = schema::open_reader(&shared.path).ok();
        }
        // Errors are left to the probes, which report them: here they would be repeated fifty times a second.
        let Some(reader) = &connection else { continue };
        let mut announced = shared.announced();
        if let Ok(position) = read::position(reader)
            && (position.epoch, position.revision) != *announced
        {
            *announced = (position.epoch, position.revision);
            shared.notices.send(Notice::Moved);
        }
    }
}
