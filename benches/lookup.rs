//! What checking a token costs: the `Authorization` field's bytes, the digest, the lookup, the expiry, the permission,
//! with 1,000, 100,000 and 1,000,000 tokens in the replica. See `benches/README.md`.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tollgate::proxy::credential;
use tollgate::replica::Replica;
use tollgate::store::{SnapshotItem, Stamp};
use tollgate::token::{Action, Digest, Grant, Owner, Permission, PermissionSet, Resource, Role, TokenId, UserId};

/// The program's own allocator, so that the memory printed is what the program would use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The largest first: its memory is then new to the process, so that the growth is all of it.
const SIZES: [u64; 3] = [1_000_000, 100_000, 1_000];

/// Past every token that a replica here holds.
const UNKNOWN: u64 = 1 << 40;

const SECOND_NOW: i64 = 1_800_000_000;

fn checks(criterion: &mut Criterion) {
    let wanted = Permission::new(Resource::Heartbeat, Action::Write).expect("heartbeat:write exists");
    let mut group = criterion.benchmark_group("check");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));

    let mut values = Values::new(0..1_000);
    group.bench_function("digest", |bencher| bencher.iter(|| credential::digest(values.next())));

    for size in SIZES {
        let replica = if size == SIZES[0] { print_cost(size) } else { filled(size) };
        for (kind, first, admitted) in [("known", 0, true), ("unknown", UNKNOWN, false)] {
            // As many different values as there are tokens: asking for few would find them all in the caches.
            let mut values = Values::new(first..first + size);
            assert_eq!(admits(&replica, values.next(), wanted), admitted, "{kind} tokens are checked wrongly");
            let id = BenchmarkId::new(kind, size);
            group.bench_function(id, |bencher| bencher.iter(|| admits(&replica, values.next(), wanted)));
        }
    }
    group.finish();
}

/// The steps of a request from its credential to its permission.
fn admits(replica: &Replica, authorization: &[u8], wanted: Permission) -> bool {
    credential::digest(authorization)
        .ok()
        .and_then(|digest| replica.lookup(&digest))
        .filter(|holder| holder.expires_at.is_none_or(|at| SECOND_NOW < at))
        .is_some_and(|holder| holder.permissions.contains(wanted))
}

/// Prints the time and the memory that the largest replica takes.
fn print_cost(size: u64) -> Replica {
    let (before, began) = (resident_kib(), Instant::now());
    let replica = filled(size);
    let took = began.elapsed();
    let mib = || resident_kib().saturating_sub(before) / 1024;
    let at_once = mib();
    // The allocator returns what growing left behind after a moment, when it is next asked for something.
    std::thread::sleep(Duration::from_millis(200));
    drop(std::hint::black_box(vec![1u8; 1 << 20]));
    eprintln!("a replica of {size} tokens: filled in {took:.0?}, {at_once} MiB, {} MiB when settled", mib());
    replica
}

/// A replica as after a start with this many tokens, half of them with an expiry.
fn filled(size: u64) -> Replica {
    let replica = Replica::new();
    let user = UserId::from_u64(1);
    replica.begin_merge();
    let owner = Owner { name: "anna".to_owned(), role: Role::Owner, enabled: true };
    replica.merge(&SnapshotItem::Owner(user, owner, Stamp::default()));
    for number in 0..size {
        let grant = Grant {
            token: TokenId::from_u64(number),
            owner: user,
            permissions: PermissionSet::TELEGRAF_AGENT,
            expires_at: (number % 2 == 0).then_some(SECOND_NOW + 1),
        };
        replica.merge(&SnapshotItem::Grant(Digest::of(raw_token(number).as_bytes()), grant));
    }
    replica.sweep();
    replica
}

/// Values of `Authorization`, one after the other and then again. They lie in a row, so that reading them costs little,
/// as with a request that has just arrived; their digests are in no order, so the lookups are not.
struct Values {
    bytes: Vec<u8>,
    length: usize,
    at: usize,
}

impl Values {
    fn new(numbers: std::ops::Range<u64>) -> Self {
        let value = |number| format!("Bearer {}", raw_token(number)).into_bytes();
        let length = value(numbers.start).len();
        Self { bytes: numbers.flat_map(value).collect(), length, at: 0 }
    }

    fn next(&mut self) -> &[u8] {
        let start = self.at;
        self.at = if start + 2 * self.length > self.bytes.len() { 0 } else { start + self.length };
        &self.bytes[start..start + self.length]
    }
}

fn raw_token(number: u64) -> String {
    format!("tc-apiv1_{number:052}")
}

/// Resident memory of this process in KiB; 0 where `/proc` does not tell.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

criterion_group!(lookup, checks);
criterion_main!(lookup);
