"""Runs Tollgate and HAProxy side by side on this machine and prints what each costs, with the ratios.

Each proxy in turn, round by round, so that drift of the machine meets both; the proxy has a core of its own, the load
(wrk, h2load, openloop.rs) and the upstream (nginx) share another; everything is on loopback. See ../README.md.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import generators
import load
import machine
import report
from idle import measure_idle
from machine import Failure, Process
from proxies import HaProxy, Nginx, Site, Tokens, Tollgate, Upstream

PROGRAMS = ("haproxy", "wrk", "h2load", "nginx", "openssl", "taskset")
TOKENS = 10_000
MANY_TOKENS = 1_000_000
IDLE = {  # scenario -> title, over TLS, HTTP/2, goal in KiB
    "idle": ("idle keep-alive connection, plain", False, False, 1.6),
    "idle-tls": ("idle keep-alive connection, TLS", True, False, 8),
    "idle-h2": ("idle HTTP/2 connection, TLS", True, True, 19),
}
START = {  # scenario -> tokens, goal in ms, goal in MiB
    "start": (TOKENS, 100, None),
    "million": (MANY_TOKENS, None, 160),
}
KEYS = [scenario.key for scenario in load.SCENARIOS] + [*IDLE, *START]


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each load scenario (default 5)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a round, each proxy (default 4)")
    parser.add_argument("--scenario", action="append", choices=KEYS, metavar="NAME",
                        help=f"only this one; may be given again. {', '.join(KEYS)}")
    parser.add_argument("--connections", type=int, default=10_000, help="idle connections (default 10,000)")
    parser.add_argument("--connections-tls", type=int, help="idle TLS connections (default: as many)")
    parser.add_argument("--settle", type=float, default=3, help="seconds of silence before memory is read (default 3)")
    parser.add_argument("--only", choices=report.NAMES, help="run one of the two")
    parser.add_argument("--tollgate", type=Path, help="use this binary (default: build the release binary)")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="write every round of everything as JSON too (-: stdout)")
    parser.add_argument("--no-install", action="store_true", help="name missing programs instead of installing them")
    parser.add_argument("--minutes", type=int, default=30, help="give up after this long (default 30)")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder with configurations and logs")
    chosen = parser.parse_args()
    if min(chosen.rounds, chosen.seconds, chosen.connections, chosen.minutes) < 1:
        parser.error("rounds, seconds, connections and minutes are at least 1")
    chosen.scenario = chosen.scenario or KEYS
    chosen.connections_tls = chosen.connections_tls or chosen.connections
    return chosen


def main():
    options = arguments()
    for stop in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(stop, ended)
    try:
        if machine.IN_NAMESPACE not in os.environ:
            machine.install_missing(not options.no_install, PROGRAMS)
            if options.only != "haproxy" and not options.tollgate:
                sys.argv += ["--tollgate", str(machine.build_tollgate())]
                options = arguments()
        if options.tollgate and not os.access(options.tollgate, os.X_OK):
            raise Failure(f"{options.tollgate} is not a program")
        isolated = machine.enter_namespace()
        signal.alarm(options.minutes * 60)
        run(options, isolated)
    except Failure as failure:
        sys.exit(f"run.sh: {failure}")
    except KeyboardInterrupt:
        sys.exit("run.sh: interrupted")


def ended(number, _frame):
    raise Failure(f"ended by {signal.Signals(number).name}" + (": see --minutes" if number == signal.SIGALRM else ""))


def run(options, isolated):
    for name in [name for name in os.environ if name.startswith("TOLLGATE_")]:
        del os.environ[name]  # Tollgate runs as it comes, not as this shell would configure it
    machine.raise_descriptor_limit(2 * max(options.connections, options.connections_tls) + 4000)
    folder = Path(tempfile.mkdtemp(prefix="tollgate-compare-"))
    try:
        binary = options.tollgate.resolve() if options.tollgate else None
        most = max(options.connections, options.connections_tls)
        site = Site(folder, binary, machine.two_cores(), most)
        kinds = [kind for kind in (Tollgate, HaProxy) if options.only in (None, kind.name)]
        facts = describe(site, options, kinds, isolated)
        print(facts["text"], flush=True)
        results = {"machine": facts, "load": [], "idle": [], "start": []}
        measure_all(options, site, kinds, results)
        if options.json and str(options.json) == "-":
            print(json.dumps(results, indent=1))
        elif options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        signal.alarm(0)
        Process.stop_all()
        if options.keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def measure_all(options, site, kinds, results):
    tokens = Tokens(site.folder, site.tollgate, TOKENS)
    if any(scenario.rate and scenario.key in options.scenario for scenario in load.SCENARIOS):
        generators.build_openloop(site.folder)
    for scenario in load.SCENARIOS:
        if scenario.key in options.scenario:
            results["load"].append(under_load(scenario, site, kinds, tokens, options))
    if results["load"]:
        print("\n" + report.load_table(results["load"]), flush=True)
        if any(row["latency"] for row in results["load"]):
            print("\n" + report.latency_table(results["load"]), flush=True)
        warn_of_others(results["load"])

    for key, (title, tls, h2, goal) in IDLE.items():
        if key in options.scenario:
            count = options.connections_tls if tls else options.connections
            results["idle"].append({"scenario": key, "title": f"{title} ({count:,})", "goal": goal})
            for kind in kinds:
                values = when_idle(kind, site, tokens, tls, h2, count, options.settle)
                results["idle"][-1][kind.name] = values["kib_each"]
                results["idle"][-1][f"{kind.name}_details"] = values
    if results["idle"]:
        print("\n" + report.value_table("memory of connections", "KiB each", results["idle"]), flush=True)

    for key, (count, goal_ms, goal_mib) in START.items():
        if key in options.scenario:
            results["start"] += at_start(site, kinds, key, count, goal_ms, goal_mib, options)
    if results["start"]:
        print("\n" + report.value_table("after the start", "", results["start"]), flush=True)


def under_load(scenario, site, kinds, tokens, options):
    """All rounds of one scenario: both proxies running, one under load at a time, the order turned each round."""
    progress(scenario.title)
    if scenario.stored:
        away = Upstream(site.folder / "away", site.load_core)
        proxies = [kind(site, tokens, away=away) for kind in (*kinds, Nginx)]
    else:
        proxies = [kind(site, tokens) for kind in kinds]
    negotiated = set()
    for proxy in proxies:
        load.check_same_job(proxy)
        negotiated.add(load.check(scenario, proxy))
    if scenario.stored:
        away.process.stop()
        time.sleep(1.1)  # until what nginx stored is not fresh any more
    for proxy in proxies:
        load.check(scenario, proxy)
        generators.run(scenario, proxy, 1)  # warms both up: buffers, upstream connections
    if len(negotiated) != 1:
        raise Failure(f"{scenario.title}: the proxies negotiated different TLS: {negotiated}")
    rounds = []
    for index in range(options.rounds):
        order = proxies if index % 2 == 0 else proxies[::-1]
        rounds.append({proxy.name: load.measure(scenario, proxy, options.seconds) for proxy in order})
    memory = {proxy.name: proxy.process.memory_kib() / 1024 for proxy in proxies}
    for proxy in proxies:
        proxy.process.check_alive()
        proxy.stop()
    if scenario.stored:
        cpu, per_second = (report.median([one[Nginx.name] for one in rounds], key) for key in ("cpu_us", "per_second"))
        print(f"\nnginx, {scenario.title}: {cpu:.1f} us of CPU per request, {per_second:,.0f} requests/s", flush=True)
    return report.load_row(scenario, rounds, memory) | {"tls": negotiated.pop()}


def when_idle(kind, site, tokens, tls, h2, count, settle):
    progress(f"{count:,} idle connections{', TLS' if tls else ''}{', HTTP/2' if h2 else ''}: {kind.name}")
    proxy = kind(site, tokens)
    values = measure_idle(proxy, tls, h2, count, settle)
    proxy.stop()
    return values


def at_start(site, kinds, key, count, goal_ms, goal_mib, options):
    """Rows of the time to ready (median of all rounds) and of the memory then (last round)."""
    ready = {"scenario": f"{key}-ready", "title": f"{count:,} tokens: start to ready, ms", "goal": goal_ms}
    memory = {"scenario": f"{key}-memory", "title": f"{count:,} tokens: memory, MiB", "goal": goal_mib}
    peak = {"scenario": f"{key}-peak", "title": f"{count:,} tokens: highest until then, MiB", "goal": None}
    tokens = Tokens(site.folder, site.tollgate, count)
    for kind in kinds:
        progress(f"start with {count:,} tokens: {kind.name}")
        times = []
        for _ in range(options.rounds):
            proxy = kind(site, tokens)
            times.append(proxy.start_ms)
            load.check_same_job(proxy)
            if len(times) == options.rounds:
                time.sleep(options.settle)
                memory[kind.name] = proxy.process.memory_kib() / 1024
                peak[kind.name] = proxy.process.peak_memory_kib() / 1024
            proxy.stop()
        ready[kind.name] = statistics.median(times)
        ready[f"{kind.name}_rounds"] = times
    return [ready, memory, peak]


def describe(site, options, kinds, isolated):
    """What the figures depend on."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]
    versions = {"haproxy": first_line("haproxy", "-v"), "wrk": first_line("wrk", "-v"),
                "h2load": first_line("h2load", "--version"),
                "nginx": first_line("nginx", "-v"), "openssl": first_line("openssl", "version")}
    if Tollgate in kinds:
        versions["tollgate"] = first_line(str(site.tollgate), "--version")
    facts = {
        "cpu": models[0] if models else platform.machine(), "kernel": platform.release(), "versions": versions,
        "proxy_core": site.proxy_core, "load_core": site.load_core, "congestion_control": machine.congestion_control(),
        "own_network_namespace": isolated, "rounds": options.rounds, "seconds": options.seconds,
        "heartbeat_bytes": len(load.HEARTBEAT), "load_average": os.getloadavg()[0],
    }
    facts["text"] = "\n".join([
        f"{facts['cpu']}, Linux {facts['kernel']}; proxy on core {site.proxy_core}, load and upstream on core "
        f"{site.load_core}; loopback with {facts['congestion_control']}"
        + ("" if isolated else " (no network namespace of its own)"),
        *(versions[name] for name in sorted(versions)),
        f"{options.rounds} rounds of {options.seconds} s each, in turn; medians; heartbeats of "
        f"{facts['heartbeat_bytes']} bytes; {TOKENS:,} tokens",
    ])
    return facts


def first_line(*command):
    """wrk and nginx print their version to either stream and with either status."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else command[0]


def warn_of_others(rows):
    """Other work on the proxy's core spoils its caches: say so rather than print doubtful figures in silence."""
    most = max((one[name]["others"], row["title"]) for row in rows for one in row["rounds"] for name in one)
    if most[0] > 0.10:
        print(f"\nDoubtful: other work took up to {most[0]:.0%} of the proxy's core (in: {most[1]}).", flush=True)


def progress(text):
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
