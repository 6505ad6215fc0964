//! The process itself, under the names that every Prometheus client gives these: dashboards of others know them.

use std::collections::HashMap;
use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::{Metric, counter, gauge};
use crate::clock::Instant;

/// Ticks of a second in `/proc/self/stat`: the kernel shows it so whatever its own clock does.
const USER_HZ: f64 = 100.0;

pub(super) const METRICS: &[Metric] = &[
    counter("process_cpu_seconds_total", "User and system time of all threads, in seconds.", |_| cpu_seconds()),
    gauge("process_resident_memory_bytes", "Memory that the process has.", |_| memory("VmRSS")),
    gauge("process_virtual_memory_bytes", "Addresses that the process has.", |_| memory("VmSize")),
    gauge("process_open_fds", "Open file descriptors.", |_| open_fds()),
    gauge("process_max_fds", "File descriptors that may be open.", |_| {
        Some(getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64))
    }),
    gauge("process_start_time_seconds", "When the process was started, in seconds since 1970.", |_| *STARTED),
];

fn cpu_seconds() -> Option<f64> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// A field of `/proc/self/status`, which says it in KiB.
fn memory(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let fields: HashMap<_, _> = status.lines().filter_map(|line| line.split_once(':')).collect();
    let kibibytes: u64 = fields.get(field)?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((kibibytes * 1024) as f64)
}

/// Since Linux 6.2 the directory says how many it has; before, they are counted.
fn open_fds() -> Option<f64> {
    const DIRECTORY: &str = "/proc/self/fd";
    let counted = match fs::metadata(DIRECTORY).ok()?.len() {
        // Less the one that reads it.
        0 => u64::try_from(fs::read_dir(DIRECTORY).ok()?.count()).ok()?.checked_sub(1)?,
        known => known,
    };
    Some(counted as f64)
}

/// Found out once: by two clocks it would be another moment each time, and look like a restart.
static STARTED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may have anything in it. After it comes the third field; the 22nd is the start.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: f64 = fields.split(' ').nth(22 - 3)?.parse().ok()?;
    let age = Instant::now().uptime().as_secs_f64() - ticks / USER_HZ;
    Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64() - age)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_all_of_it() {
        assert!(cpu_seconds().is_some_and(|seconds| seconds > 0.0));
        let (resident, addresses) = (memory("VmRSS").expect("known"), memory("VmSize").expect("known"));
        assert!(resident > 100_000.0 && addresses >= resident, "{resident} {addresses}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let started = STARTED.expect("known");
        // Ticks are hundredths.
        assert!(started <= now + 0.1 && started > now - 86_400.0, "{started} {now}");
    }

    #[test]
    fn an_open_file_counts() {
        let before = open_fds().expect("known");
        let _many: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/stat").expect("opens")).collect();
        // Other tests open and close some meanwhile.
        assert!(open_fds().expect("known") > before + 50.0);
    }
}
