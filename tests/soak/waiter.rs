//! `tollgate token revoke --wait` and `delete --wait`, as processes: what they say is judged by what sidecars let in afterwards.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Mutex;
use tollgate::token::{PermissionSet, Role};

use crate::operator::{active, tidy};
use tollgate_harness::oracle::{Life, Name, Oracle, Waited};
use tollgate_harness::random::Random;

/// How long a command waits for sidecars, as its argument says it: shorter and longer than the bound.
const TIMEOUTS: [&str; 3] = ["300ms", "1s", "3s"];

/// The pause between two commands, in milliseconds.
const PAUSE: (u64, u64) = (50, 1200);

/// An operator who waits.
#[derive(Clone)]
pub(crate) struct Waiter {
    pub(crate) oracle: Arc<Mutex<Oracle>>,
    pub(crate) store: String,
    pub(crate) quorum: u32,
    /// Every command is taken at more than its word: what is committed is taken to be applied by all.
    pub(crate) sabotage: bool,
    pub(crate) receipts: Arc<Receipts>,
}

/// How many commands ended how.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    pub(crate) given: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Waiter {
    /// Works until it is dropped. While it is to be quiet it begins nothing new.
    pub(crate) async fn work(self, quiet: Arc<AtomicBool>, mut random: Random) {
        loop {
            {
                let mut oracle = self.oracle.lock().await;
                if !oracle.in_doubt && !quiet.load(Ordering::Relaxed) {
                    self.once(&mut oracle, &mut random).await;
                }
            }
            tokio::time::sleep(random.time(PAUSE.0, PAUSE.1)).await;
        }
    }

    /// Ends one token, and makes another for the next time.
    pub(crate) async fn once(&self, oracle: &mut Oracle, random: &mut Random) {
        if let Some(token) = random.one_of(&active(oracle)) {
            self.end(oracle, token, random).await;
        }
        if oracle.in_doubt {
            return;
        }
        tidy(oracle);
        // Enough that one of them was there before whatever is lost.
        while active(oracle).len() < 6 && self.create(oracle).await.is_some() {}
    }

    async fn create(&self, oracle: &mut Oracle) -> Option<Name> {
        let user = match oracle.model.users.keys().next().cloned() {
            Some(user) => user,
            None => oracle.add_user(Role::Manager).await.ok()?,
        };
        oracle.create(&user, PermissionSet::TELEGRAF_AGENT).await.ok()
    }

    async fn end(&self, oracle: &mut Oracle, token: Name, random: &mut Random) {
        let Some(id) = oracle.ids(&[token]).pop().map(|id| id.to_string()) else { return };
        let timeout = random.one_of(&TIMEOUTS).unwrap_or(TIMEOUTS[0]);
        let (verb, end) = if random.percent(50) { ("delete", Life::Deleted) } else { ("revoke", Life::Revoked) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["token", verb, &id, "--yes", "--json", "--wait", "--timeout", timeout]);
        command.env_clear().env("HOME", "/nonexistent").env("LOGNAME", "soak");
        command.env("TOLLGATE_STORE__URL", &self.store).env("TOLLGATE_STORE__QUORUM_REPLICAS", self.quorum.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let run = async {
            let ended = tokio::task::spawn_blocking(move || command.output()).await;
            let Ok(Ok(output)) = ended else { return Waited::Unknown };
            // It prints what it did, whatever became of the waiting.
            let is_committed = output.stdout.windows(id.len()).any(|part| part == id.as_bytes());
            match output.status.code() {
                Some(0) => Waited::Vouched,
                Some(1) if is_committed && self.sabotage => Waited::Vouched,
                Some(1) if is_committed => Waited::Committed,
                _ => Waited::Unknown,
            }
        };
        let receipts = match oracle.end_and_wait(token, end, run).await {
            Waited::Vouched => &self.receipts.given,
            Waited::Committed | Waited::Unknown => &self.receipts.refused,
        };
        receipts.fetch_add(1, Ordering::Relaxed);
    }
}
