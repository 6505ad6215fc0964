"""The scenarios under load: what is sent, that both proxies answer it as they should, and what it costs them."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from client import Client, tls_context
from machine import Failure, core_busy_ns
from proxies import CONFIG_PATH, ECHO_PATH, HEARTBEAT_PATH, HEARTBEAT_REPLY, token

CONNECTIONS = 64
UNKNOWN = 10**9  # the first number of tokens that no store holds

# What Telegraf sends, in its field order.
HEARTBEAT = json.dumps({
    "id": "7f1d6b1e-52f9-4b0a-9a3b-6f2f3f0c9d41",
    "version": "Telegraf 1.39.0",
    "schema": 1,
    "hostname": "edge-gateway-0042.plant-7.example.com",
    "configurations": ["http://telegraf-controller.example.com:8888/api/configs/1/toml?site=plant-7&line=4"],
    "statistics": {"errors": 0, "warnings": 2, "metrics": 184467},
    "logs": [
        {"time": "2025-10-22T16:02:30.123456789Z", "level": "WARN", "source": "inputs.modbus::press-4",
         "attributes": {"alias": "press-4", "category": "inputs", "plugin": "modbus"},
         "message": "Collection took longer than expected; not complete after interval of 10s"},
    ],
    "status": "OK",
}, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Scenario:
    """One kind of request, sent as fast as the answers come (or at `rate` a second, over all connections)."""

    key: str
    title: str
    goal: "float | None"
    method: str = "POST"
    known: bool = True
    close: bool = False
    tls: bool = False
    rate: "int | None" = None

    @property
    def path(self):
        return HEARTBEAT_PATH if self.method == "POST" else CONFIG_PATH

    @property
    def body(self):
        return HEARTBEAT if self.method == "POST" else None

    def headers(self):
        headers = {"User-Agent": "Telegraf/1.39.0 Go/1.25.1"}
        if self.method == "POST":
            headers["Content-Type"] = "application/json"
        else:
            headers["Accept"] = "application/toml"
        if self.close:
            headers["Connection"] = "close"
        return headers

    def port(self, proxy):
        return proxy.tls_port if self.tls else proxy.port


SCENARIOS = [
    Scenario("heartbeat", "heartbeat POST, 64 keep-alive", 0.90),
    Scenario("rate", "the same, about 4,000/s", None, rate=4000),
    Scenario("config", "configuration GET 4 KiB", 0.90, method="GET"),
    Scenario("refused", "unknown token refused", 0.75, known=False),
    Scenario("connect", "one connection per request", 1.0, close=True),
    Scenario("tls", "heartbeat, TLS 1.3 keep-alive", 0.70, tls=True),
    Scenario("handshake", "TLS handshake per request", 0.50, close=True, tls=True),
]


# -- correctness -----------------------------------------------------------------------------------------------------


def check(scenario, proxy):
    """Two requests, one after the other; fails unless both are answered right and the connection is kept, or not.

    Returns what TLS negotiated, which must be the same with every proxy.
    """
    context = tls_context(proxy.site) if scenario.tls else None
    headers = {**scenario.headers(), "Authorization": f"Bearer {token(1 if scenario.known else UNKNOWN)}"}
    client = Client(scenario.port(proxy), context)
    for _ in range(2):
        reply, body = client.ask(scenario.method, scenario.path, headers, scenario.body)
        _expect(proxy, scenario, "status", reply.status, 200 if scenario.known else 401)
        if scenario.known:
            right = HEARTBEAT_REPLY.encode() if scenario.method == "POST" else proxy.site.upstream.config_body
            _expect(proxy, scenario, "body", body, right)
        dated = "Last-Modified" in reply.headers
        _expect(proxy, scenario, "presence of Last-Modified", dated, scenario.method == "GET")
        _expect(proxy, scenario, "`Connection: close` in the reply", reply.will_close, scenario.close)
        negotiated = client.negotiated()
        if scenario.close:
            _expect(proxy, scenario, "closing of the connection", client.is_closed(), True)
            client = Client(scenario.port(proxy), context)
    return negotiated


def check_same_job(proxy):
    """That a request without a token is refused, and that the upstream is told the client's address."""
    for headers, right in (({}, (401, None)), ({"Authorization": f"Bearer {token(0)}"}, (200, b"127.0.0.1"))):
        reply, body = Client(proxy.port).ask("GET", ECHO_PATH, headers)
        if (reply.status, body if reply.status == 200 else None) != right:
            raise Failure(f"{proxy.name}: GET {ECHO_PATH} with {list(headers)} gave {reply.status} {body!r}")


def _expect(proxy, scenario, what, seen, right):
    if seen != right:
        raise Failure(f"{proxy.name}, {scenario.title}: {what} is {seen!r}, expected {right!r}")


# -- load ------------------------------------------------------------------------------------------------------------


def run_wrk(scenario, proxy, seconds, tokens_used=1000):
    """Runs wrk once and returns its counts. Anything but the expected status, or any broken connection, fails."""
    folder = proxy.site.folder
    files = {
        "LOAD_TOKENS": "\n".join(token(i if scenario.known else UNKNOWN + i) for i in range(tokens_used)),
        "LOAD_HEADERS": "".join(f"{name}: {value}\n" for name, value in scenario.headers().items()),
        "LOAD_BODY": scenario.body.decode() if scenario.body else None,
    }
    environment = {**os.environ, "LOAD_METHOD": scenario.method, "LOAD_PATH": scenario.path}
    for name, text in files.items():
        if text is not None:
            path = folder / name.lower()
            path.write_text(text)
            environment[name] = str(path)
    if scenario.rate:
        environment["LOAD_PAUSE_MS"] = str(round(CONNECTIONS * 1000 / scenario.rate))
    command = [
        "taskset", "-c", str(proxy.site.load_core), "wrk", "--threads", "1", "--connections", str(CONNECTIONS),
        "--duration", str(seconds), "--timeout", "10s", "--script", str(Path(__file__).with_name("load.lua")),
        f"{'https' if scenario.tls else 'http'}://127.0.0.1:{scenario.port(proxy)}",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60)
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not found:
        raise Failure(f"{proxy.name}, {scenario.title}: wrk failed:\n{done.stdout}{done.stderr}")
    counts = json.loads(found[1])
    broken = {kind: counts[kind] for kind in ("connect", "read", "write", "timeout") if counts[kind]}
    _expect(proxy, scenario, "broken connections", broken, {})
    _expect(proxy, scenario, "replies above 399", counts["status"], 0 if scenario.known else counts["requests"])
    if counts["requests"] < 10:
        raise Failure(f"{proxy.name}, {scenario.title}: only {counts['requests']} requests in {seconds} s")
    return counts


def measure(scenario, proxy, seconds):
    """One round: what each request cost the proxy, and how many there were."""
    core = proxy.site.proxy_core
    cpu, busy = proxy.process.cpu_ns(), core_busy_ns(core)
    counts = run_wrk(scenario, proxy, seconds)
    cpu, busy = proxy.process.cpu_ns() - cpu, core_busy_ns(core) - busy
    wall = counts["microseconds"] * 1000
    return {
        "cpu_us": cpu / 1000 / counts["requests"],
        "per_second": counts["requests"] * 1e9 / wall,
        "busy": cpu / wall,
        "others": max(0.0, (busy - cpu) / wall),
        "p50_us": counts["p50_us"],
        "p99_us": counts["p99_us"],
    }
