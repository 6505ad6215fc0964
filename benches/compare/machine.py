"""What a run needs of the machine: programs, a network of its own, two cores, processes and what they cost."""

import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = {
    "haproxy": "haproxy",
    "wrk": "wrk",
    "nginx": "nginx",
    "openssl": "openssl",
    "taskset": "util-linux",
    "valgrind": "valgrind",
    "h2load": "nghttp2-client",
}
IN_NAMESPACE = "COMPARE_NAMESPACE"


class Failure(Exception):
    """A run that cannot go on, with what to do about it."""


# -- programs --------------------------------------------------------------------------------------------------------


def install_missing(allowed, programs):
    """Makes sure that the programs are there; installs packages only as root, with apt-get, and when allowed."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where Debian puts haproxy and nginx, and users do not look
    missing = sorted({PACKAGES[program] for program in programs if not shutil.which(program)})
    if not missing:
        return
    command = "apt-get install -y --no-install-recommends " + " ".join(missing)
    if not (allowed and os.geteuid() == 0 and shutil.which("apt-get")):
        raise Failure(f"not installed: {' '.join(missing)}. As root: {command}")
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in ("apt-get update", command):
        if subprocess.run(step.split(), env=environment, stdout=subprocess.DEVNULL).returncode != 0:
            raise Failure(f"`{step}` failed")


def build_tollgate():
    """Builds the release binary and returns its path."""
    root = Path(__file__).resolve().parents[2]
    print("building Tollgate (release)", file=sys.stderr)
    if subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=root).returncode != 0:
        raise Failure("`cargo build --release` failed")
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return root / target / "release" / "tollgate"


# -- network ---------------------------------------------------------------------------------------------------------


def enter_namespace():
    """Starts this script again in a network namespace of its own, where loopback runs reno and every port is free.

    A machine's default may be BBR, which paces even loopback with timers: noise. Returns whether it is in one.
    """
    if IN_NAMESPACE in os.environ:
        return os.environ[IN_NAMESPACE] == "own" and _prepare_loopback()
    for options in (["--net"], ["--net", "--map-root-user"]):
        unshare = ["unshare", *options]
        if shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            os.environ[IN_NAMESPACE] = "own"
            os.execvp("unshare", [*unshare, sys.executable, "-B", *sys.argv])
    os.environ[IN_NAMESPACE] = "none"
    return False


def _prepare_loopback():
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x1)  # struct ifreq with IFF_UP
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS
    for key, value in (("tcp_congestion_control", "reno"), ("ip_local_port_range", "10000 65000")):
        try:
            Path("/proc/sys/net/ipv4", key).write_text(value)
        except OSError:
            pass  # congestion_control() reports what is in force
    return True


def congestion_control():
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- limits ----------------------------------------------------------------------------------------------------------


def two_cores():
    """The proxy's core and the core of everything else."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Failure("needs two cores: one for the proxy alone, one for the load and the upstream")
    return cores[0], cores[1]


def raise_descriptor_limit(wanted):
    """Raises the limit on open files, which children inherit, as far as it goes; returns what it is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(wanted, hard), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
        except (ValueError, OSError):
            continue
    return hard


# -- processes -------------------------------------------------------------------------------------------------------


class Process:
    """One process of this run, bound to a core. It dies with this script, or when stopped."""

    running = []

    def __init__(self, name, command, core, log):
        self.name, self.log = name, log
        self.started = time.monotonic()
        # Should this script be killed outright, the kernel ends what it started.
        with_parent = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                [*with_parent, "taskset", "-c", str(core), *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        self.pid = self.child.pid
        Process.running.append(self)

    def check_alive(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.name} ended with status {self.child.returncode}:\n{self.last_lines()}")

    def last_lines(self):
        """What it said last."""
        return "\n".join(Path(self.log).read_text(errors="replace").splitlines()[-15:])

    def cpu_ns(self):
        """User and system time of all its threads, ended ones included, in nanoseconds."""
        return time.clock_gettime_ns((~self.pid << 3) | 2)  # the process's CPU clock: clock_getcpuclockid(3)

    def memory_kib(self):
        """Memory that is its own (proportional set size), in KiB. The kernel's socket buffers are not in it."""
        try:
            return _kib(f"/proc/{self.pid}/smaps_rollup", "Pss:")
        except PermissionError as problem:
            raise Failure(f"may not read /proc/{self.pid}/smaps_rollup: {self.name} does not let itself be read, by "
                          "others than root. Run this as root, or let users make namespaces") from problem
        except FileNotFoundError:  # a kernel without it
            return _kib(f"/proc/{self.pid}/status", "VmRSS:")

    def peak_memory_kib(self):
        return _kib(f"/proc/{self.pid}/status", "VmHWM:")

    def stop(self, patience=3):
        """Asks it to end, and kills it if it has not within `patience` seconds; returns whether it ended by itself."""
        if self in Process.running:
            Process.running.remove(self)
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
                return False
        return True

    @classmethod
    def stop_all(cls):
        for process in list(cls.running):
            process.stop()


def _kib(path, field):
    for line in Path(path).read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise Failure(f"{path} has no {field}")


def core_busy_ns(core):
    """Time that a core has been busy, with whatever, in nanoseconds (clock ticks of 10 ms)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    raise Failure(f"/proc/stat has no cpu{core}")


def wait_until(ready, process, seconds=10.0, pause=0.002):
    """Waits until `ready()` is true, as long as the process lives; returns when it was, on the monotonic clock."""
    deadline = time.monotonic() + seconds
    while True:
        if ready():
            return time.monotonic()
        process.check_alive()
        if time.monotonic() > deadline:
            raise Failure(f"{process.name} was not ready after {seconds:.0f} s; its output is in {process.log}")
        time.sleep(pause)
