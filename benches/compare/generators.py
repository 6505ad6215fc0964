"""What makes the load: wrk, h2load for HTTP/2, and openloop.rs where requests are sent on a fixed schedule.

Each runs on the load's core with the same number of connections and returns its counts: `requests`, `microseconds`, and
percentiles of latency where it knows them. Anything but the expected status, or any broken connection, fails.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from machine import Failure

CONNECTIONS = 64
HERE = Path(__file__).parent


def build_openloop(folder):
    """Compiles openloop.rs. Cargo would compile everything that the tests need, too."""
    command = ["rustc", "--edition", "2024", "-O", str(HERE / "openloop.rs"), "-o", str(folder / "openloop")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as problem:
        raise Failure("the open loop needs rustc; --scenario leaves it out") from problem
    if done.returncode != 0:
        raise Failure(f"rustc did not build openloop.rs:\n{done.stderr}")


def run(scenario, proxy, seconds, tokens_used=1000):
    """Load for so many seconds, with so many tokens in turn."""
    generator = _h2load if scenario.h2 else _openloop if scenario.rate else _wrk
    counts = generator(scenario, proxy, seconds, tokens_used)
    if counts["requests"] < 10:
        raise Failure(f"{proxy.name}, {scenario.title}: only {counts['requests']} requests in {seconds} s")
    return counts


def _wrk(scenario, proxy, seconds, tokens_used):
    folder = proxy.site.folder
    files = {
        "LOAD_TOKENS": "\n".join(scenario.token(number) for number in range(tokens_used)),
        "LOAD_HEADERS": "".join(f"{name}: {value}\n" for name, value in scenario.headers().items()),
        "LOAD_BODY": scenario.body.decode() if scenario.body else None,
    }
    environment = {"LOAD_METHOD": scenario.method, "LOAD_PATH": scenario.path}
    for name, text in files.items():
        if text is not None:
            environment[name] = str(folder / name.lower())
            Path(environment[name]).write_text(text)
    counts = _result(scenario, proxy, _output(scenario, proxy, seconds, environment, [
        "wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", str(seconds), "--timeout", "10s",
        "--script", str(HERE / "load.lua"),
        f"{'https' if scenario.tls else 'http'}://127.0.0.1:{scenario.port(proxy)}",
    ]))
    broken = {kind: counts[kind] for kind in ("connect", "read", "write", "timeout") if counts[kind]}
    expect(proxy, scenario, "broken connections", broken, {})
    expect(proxy, scenario, "replies above 399", counts["status"], 0 if scenario.known else counts["requests"])
    return counts


def _openloop(scenario, proxy, seconds, tokens_used):
    requests = proxy.site.folder / "requests"
    requests.write_bytes(b"\0".join(scenario.request(number) for number in range(tokens_used)))
    return _result(scenario, proxy, _output(scenario, proxy, seconds, {}, [
        str(proxy.site.folder / "openloop"), f"127.0.0.1:{scenario.port(proxy)}", str(CONNECTIONS), str(scenario.rate),
        str(seconds), str(requests),
    ]))


def _h2load(scenario, proxy, seconds, _tokens_used):
    """One token: h2load has one set of header fields. What is under way at the end is left out of its counts."""
    headers = {**scenario.headers(), "Authorization": f"Bearer {scenario.token(0)}"}
    body = proxy.site.folder / "body"
    body.write_bytes(scenario.body)
    output = _output(scenario, proxy, seconds, {}, [
        "h2load", "--clients", str(CONNECTIONS), "--max-concurrent-streams", "1", "--duration", str(seconds),
        "--npn-list", "h2", "--data", str(body),
        *(f"--header={name}: {value}" for name, value in headers.items()),
        f"https://127.0.0.1:{scenario.port(proxy)}{scenario.path}",
    ])
    requests = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$", output, re.M)
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s),", output, re.M)
    protocol = re.search(r"^Application protocol: (.*)$", output, re.M)
    cipher = re.search(r"^Cipher: (.*)$", output, re.M)
    if not (requests and finished and protocol and cipher):
        raise Failure(f"{proxy.name}, {scenario.title}: h2load printed no counts:\n{output}")
    expect(proxy, scenario, "protocol and cipher", (protocol[1], cipher[1]), ("h2", "TLS_AES_128_GCM_SHA256"))
    expect(proxy, scenario, "requests failed, errored or timed out", requests.groups()[1:], ("0", "0", "0"))
    microseconds = float(finished[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[finished[2]]
    return {"requests": int(requests[1]), "microseconds": round(microseconds)}


def _output(scenario, proxy, seconds, environment, command):
    command = ["taskset", "-c", str(proxy.site.load_core), *command]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise Failure(f"{proxy.name}, {scenario.title}: {command[3]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _result(scenario, proxy, output):
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if not found:
        raise Failure(f"{proxy.name}, {scenario.title}: the load printed no counts:\n{output}")
    return json.loads(found[1])


def expect(proxy, scenario, what, seen, right):
    if seen != right:
        raise Failure(f"{proxy.name}, {scenario.title}: {what} is {seen!r}, expected {right!r}")
