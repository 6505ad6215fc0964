"""The scenarios under load: what is sent, that both proxies answer it as they should, and what it costs them."""

import json
from dataclasses import dataclass

import generators
from client import Client, as_sent, tls_context
from generators import expect
from http2 import Http2Client
from machine import Failure, core_busy_ns
from proxies import CONFIG_PATH, ECHO_PATH, HEARTBEAT_PATH, HEARTBEAT_REPLY, UNKNOWN, token


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
    """One kind of request, sent as fast as the answers come (or at `rate` a second, whatever the answers do)."""

    key: str
    title: str
    goal: "float | None"
    method: str = "POST"
    known: bool = True
    close: bool = False
    tls: bool = False
    h2: bool = False  # HTTP/2, with one stream at a time
    stored: bool = False  # the upstream is away, and the answer is one of before
    rate: "int | None" = None
    p99_goal: "float | None" = None

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
        if self.stored:
            headers["Host"] = "localhost"  # HAProxy stores by it
        if self.close:
            headers["Connection"] = "close"
        return headers

    def token(self, number):
        return token(number if self.known else UNKNOWN + number)

    def request(self, number):
        """The whole request with that token, by HTTP/1.1."""
        fields = {"Host": "localhost", **self.headers(), "Authorization": f"Bearer {self.token(number)}"}
        return as_sent(self.method, self.path, fields, self.body)

    def port(self, proxy):
        return proxy.tls_port if self.tls else proxy.port

    def connect(self, proxy):
        """A connection of this script's own."""
        context = tls_context(proxy.site, self.h2) if self.tls else None
        return (Http2Client if self.h2 else Client)(self.port(proxy), context)


SCENARIOS = [
    Scenario("heartbeat", "heartbeat POST, 64 keep-alive", 0.87),
    Scenario("rate", "the same, open loop at 4,000/s", 0.82, rate=4000, p99_goal=1.0),
    Scenario("config", "configuration GET 4 KiB", 0.87, method="GET"),
    Scenario("stored", "the same, stored, upstream away", 1.0, method="GET", stored=True),
    Scenario("refused", "unknown token refused", 0.70, known=False),
    Scenario("connect", "one connection per request", 0.95, close=True),
    Scenario("tls", "heartbeat, TLS 1.3 keep-alive", 0.74, tls=True),
    Scenario("handshake", "TLS handshake per request", 0.40, close=True, tls=True),
    Scenario("h2", "heartbeat, HTTP/2 over TLS 1.3", 0.85, tls=True, h2=True),
]


# -- correctness -----------------------------------------------------------------------------------------------------


def check(scenario, proxy):
    """Two requests, one after the other; fails unless both are answered right and the connection is kept, or not.

    Returns what TLS negotiated, which must be the same with every proxy.
    """
    headers = {**scenario.headers(), "Authorization": f"Bearer {scenario.token(1)}"}
    client = scenario.connect(proxy)
    for _ in range(2):
        reply, body = client.ask(scenario.method, scenario.path, headers, scenario.body)
        expect(proxy, scenario, "status", reply.status, 200 if scenario.known else 401)
        if scenario.known:
            right = HEARTBEAT_REPLY.encode() if scenario.method == "POST" else proxy.site.upstream.config_body
            expect(proxy, scenario, "body", body, right)
        dated = "Last-Modified" in reply.headers
        expect(proxy, scenario, "presence of Last-Modified", dated, scenario.method == "GET")
        expect(proxy, scenario, "`Connection: close` in the reply", reply.will_close, scenario.close)
        negotiated = client.negotiated()
        if scenario.close:
            expect(proxy, scenario, "closing of the connection", client.is_closed(), True)
            client = scenario.connect(proxy)
    return negotiated


def check_same_job(proxy):
    """That a request without a token is refused, and that the upstream is told the client's address."""
    for headers, right in (({}, (401, None)), ({"Authorization": f"Bearer {token(0)}"}, (200, b"127.0.0.1"))):
        reply, body = Client(proxy.port).ask("GET", ECHO_PATH, headers)
        if (reply.status, body if reply.status == 200 else None) != right:
            raise Failure(f"{proxy.name}: GET {ECHO_PATH} with {list(headers)} gave {reply.status} {body!r}")


# -- load ------------------------------------------------------------------------------------------------------------


def measure(scenario, proxy, seconds):
    """One round: what each request cost the proxy, and how many there were."""
    core = proxy.site.proxy_core
    cpu, busy = proxy.process.cpu_ns(), core_busy_ns(core)
    counts = generators.run(scenario, proxy, seconds)
    cpu, busy = proxy.process.cpu_ns() - cpu, core_busy_ns(core) - busy
    wall = counts["microseconds"] * 1000
    return {
        "cpu_us": cpu / 1000 / counts["requests"],
        "per_second": counts["requests"] * 1e9 / wall,
        "busy": cpu / wall,
        "others": max(0.0, (busy - cpu) / wall),
        **{key: value for key, value in counts.items() if key.endswith("_us")},
    }
