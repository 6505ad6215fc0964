#!/usr/bin/env python3
"""Counts the user instructions that a request costs the proxy, with so many requests in flight at once.

The proxy runs under valgrind's callgrind, the load and the upstream outside. The upstream answers nobody before all
requests of a round are there, so that they are in flight together. See ../README.md.
"""

import argparse
import json
import os
import re
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

import load
import machine
import report
from machine import Failure, Process
from proxies import HaProxy, Site, Tokens, Tollgate, config_body

TOKENS = 1000
IN_FLIGHT = (8, 64, 256)
SCENARIOS = {scenario.key: scenario for scenario in load.SCENARIOS}
KINDS = {"heartbeat": "heartbeat POST", "config": "configuration GET 4 KiB", "refused": "unknown token refused"}
GOAL = 23_600  # of a heartbeat, without SHA-256
WARM_UP = 512  # requests of each kind, at least, before those that are counted
PATIENCE = 60  # seconds: valgrind takes some fifty times as long as the processor
# callgrind counts an instruction for each byte that `rep stosb` and `rep movsb` fill or copy.
NO_REP = "GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000"
VALGRIND = ("env", NO_REP, "valgrind", "--tool=callgrind", "--vgdb=no", "--quiet")


def arguments():
    parser = argparse.ArgumentParser(prog="instructions.py", description=__doc__.splitlines()[0])
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT, metavar="N",
                        help=f"requests in flight at once (default {' '.join(map(str, IN_FLIGHT))})")
    parser.add_argument("--scenario", action="append", choices=KINDS, metavar="NAME",
                        help=f"only this one; may be given again. {', '.join(KINDS)}")
    parser.add_argument("--requests", type=int, default=4096, help="requests that are counted (default 4096)")
    parser.add_argument("--haproxy", action="store_true", help="count HAProxy's too")
    parser.add_argument("--tollgate", type=Path, help="use this binary (default: build the release binary)")
    parser.add_argument("--config", type=Path, help="further keys for Tollgate's configuration, such as pool.max_idle")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too (-: stdout)")
    parser.add_argument("--no-install", action="store_true", help="name missing programs instead of installing them")
    parser.add_argument("--keep", type=Path, metavar="FOLDER",
                        help="keep callgrind's files there, for callgrind_annotate")
    chosen = parser.parse_args()
    if min(*chosen.in_flight, chosen.requests) < 1:
        parser.error("requests and requests in flight are at least 1")
    chosen.scenario = chosen.scenario or list(KINDS)
    return chosen


def main():
    options = arguments()
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, _ended)
    try:
        if machine.IN_NAMESPACE not in os.environ:
            programs = ["valgrind", "openssl", "taskset", *(["haproxy"] if options.haproxy else [])]
            machine.install_missing(not options.no_install, programs)
            if not options.tollgate:
                sys.argv += ["--tollgate", str(machine.build_tollgate())]
                options = arguments()
        if not os.access(options.tollgate, os.X_OK):
            raise Failure(f"{options.tollgate} is not a program")
        machine.enter_namespace()
        run(options)
    except Failure as failure:
        sys.exit(f"instructions.py: {failure}")
    except KeyboardInterrupt:
        sys.exit("instructions.py: interrupted")


def _ended(number, _frame):
    raise Failure(f"ended by {signal.Signals(number).name}")


def run(options):
    for name in [name for name in os.environ if name.startswith("TOLLGATE_")]:
        del os.environ[name]
    machine.raise_descriptor_limit(4 * max(options.in_flight) + 1000)
    folder = Path(tempfile.mkdtemp(prefix="tollgate-instructions-"))
    try:
        binary = options.tollgate.resolve()
        upstream = GatheringUpstream()
        site = Site(folder, binary, machine.two_cores(), max(options.in_flight) + 100, upstream)
        os.sched_setaffinity(0, {site.load_core})
        tokens = Tokens(folder, binary, TOKENS)
        kinds = [Tollgate, *([HaProxy] if options.haproxy else [])]
        counts = {kind.name: count_all(kind, site, tokens, options) for kind in kinds}
        print(_table(counts, options))
        text = json.dumps(counts, indent=1) + "\n"
        if options.json and str(options.json) == "-":
            print(text, end="")
        elif options.json:
            options.json.write_text(text)
    finally:
        Process.stop_all()
        shutil.rmtree(folder, ignore_errors=True)


def _table(counts, options):
    rows = [("instructions per request, in flight", "", *[""] * len(options.in_flight)),
            ("", *map(str, options.in_flight), "goal")]
    for name, of_proxy in counts.items():
        for key in options.scenario:
            def cells(part):
                return [report.number(of_proxy[key][in_flight][part], ",.0f") for in_flight in options.in_flight]

            goal = f"flat, <= {GOAL:,}" if (name, key) == (Tollgate.name, "heartbeat") else ""
            rows.append((f"{name}: {KINDS[key]}", *cells("all"), ""))
            rows.append(("    without SHA-256", *cells("without_sha256"), goal))
    return report.table(rows)


# -- counting --------------------------------------------------------------------------------------------------------


def count_all(kind, site, tokens, options):
    """Instructions per request: {scenario: {in flight: {"all": count, "without_sha256": count}}}.

    What a process does besides (start, end, connecting) is taken out by the difference to a process that ends after
    the warm-up. That needs no control over the running process, which valgrind's own tools would need ptrace for.
    """
    counts = {key: {} for key in options.scenario}
    for in_flight in options.in_flight:
        rounds = -(-options.requests // in_flight)
        print(f"  {kind.name}, {in_flight} in flight", file=sys.stderr, flush=True)
        total, sha256 = _count_process(kind, site, tokens, options, in_flight, None, 0)
        for key in options.scenario:
            more, more_sha256 = _count_process(kind, site, tokens, options, in_flight, key, rounds)
            each, each_sha256 = ((a - b) / (rounds * in_flight) for a, b in ((more, total), (more_sha256, sha256)))
            known = each_sha256 > 0  # not in a stripped OpenSSL, as HAProxy's
            counts[key][in_flight] = {"all": each, "without_sha256": each - each_sha256 if known else None}
    return counts


def _count_process(kind, site, tokens, options, in_flight, key, rounds):
    """Instructions of one process, from its start to its end: warm-up, then `rounds` of one scenario.

    All, and those of SHA-256 itself.
    """
    out = site.folder / "callgrind.out"
    out.unlink(missing_ok=True)
    extra = options.config.read_text() if options.config else ""
    proxy = kind(site, tokens, wrapper=[*VALGRIND, f"--callgrind-out-file={out}"], extra=extra)
    requests = {key: SCENARIOS[key].request(1) for key in options.scenario}
    connections = [_connect(proxy.port) for _ in range(in_flight)]
    try:
        for warm in options.scenario:
            for _ in range(max(4, -(-WARM_UP // in_flight))):
                _round(proxy, SCENARIOS[warm], connections, requests[warm])
        for _ in range(rounds):
            _round(proxy, SCENARIOS[key], connections, requests[key])
    finally:
        for connection in connections:
            connection.close()
    proxy.process.stop(PATIENCE)
    text = out.read_text() if out.exists() else ""
    total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
    if not total:
        raise Failure(f"callgrind wrote no count for {proxy.name}; its output:\n{proxy.process.last_lines()}")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(out, options.keep / f"callgrind.out.{proxy.name}.{in_flight}.{key or 'warm-up'}")
    return int(total[1]), _own(text, re.compile(r"sha2::.*compress|sha256_block", re.IGNORECASE))


def _own(text, wanted):
    """What callgrind counted within functions of such names, not in what they call (Valgrind manual, 'Callgrind Format
    Specification': names are written once, with a number; the line after `calls=` is the callee's cost)."""
    names, inside, total = {}, False, 0
    lines = iter(text.splitlines())
    for line in lines:
        if found := re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line):
            if found[3]:
                names[found[2]] = found[3]
            if not found[1]:
                inside = bool(wanted.search(names[found[2]]))
        elif line.startswith("calls="):
            next(lines, None)
        elif inside and (found := re.match(r"[-+*\d]\S* (\d+)$", line)):
            total += int(found[1])
    return total


# -- load ------------------------------------------------------------------------------------------------------------


def _connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _round(proxy, scenario, connections, request):
    """One request on every connection; returns when all are answered, and as they should be."""
    proxy.site.upstream.gather = len(connections)
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        try:
            head, _ = _message(connection)
        except OSError as problem:
            raise Failure(f"{proxy.name}, {scenario.key}: no reply: {problem!r}; of {len(connections)} requests "
                          f"{proxy.site.upstream.waiting} wait at the upstream") from problem
        if not head.startswith(b"HTTP/1.1 200 " if scenario.known else b"HTTP/1.1 401 "):
            raise Failure(f"{proxy.name}, {scenario.key}: {head.decode(errors='replace')}")


def _message(connection):
    received = b""
    while True:
        length = _length(received)
        if length and len(received) >= length[1]:
            return received[:length[0]], received[length[0]:]
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("closed")
        received += piece


def _length(received):
    """Lengths of the head and of the whole message that `received` starts with, once the head is there."""
    head = received.find(b"\r\n\r\n") + 4
    if head < 4:
        return None
    if re.search(rb"(?i)\r\ntransfer-encoding:", received[:head]):
        raise Failure(f"a message of unknown length, which this does not read:\n{received[:head].decode()}")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", received[:head])
    return head, head + (int(found[1]) if found else 0)


class GatheringUpstream:
    """The Controller, but it answers only when `gather` requests are there, and then all of them."""

    def __init__(self):
        self.gather, self.waiting = 1, 0
        self.config_body = config_body()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        selector, asked = selectors.DefaultSelector(), []
        selector.register(self._listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    connection, _ = self._listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(connection, selectors.EVENT_READ, bytearray())
                    continue
                connection, received = key.fileobj, key.data
                try:
                    piece = connection.recv(65536)
                except ConnectionError:
                    piece = b""
                if not piece:
                    selector.unregister(connection)
                    connection.close()
                    continue
                received += piece
                length = _length(bytes(received))
                if length and len(received) >= length[1]:
                    asked.append((connection, received.startswith(b"GET")))
                    received.clear()
            self.waiting = len(asked)
            if len(asked) >= self.gather:
                for connection, is_get in asked:
                    connection.sendall(self._reply(is_get))
                asked.clear()

    def _reply(self, is_get):
        kind, body = ("application/toml", self.config_body) if is_get else ("application/json", b'{"success":true}')
        dated = "Last-Modified: Wed, 22 Oct 2025 16:02:30 GMT\r\n" if is_get else ""
        head = ("HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Wed, 22 Oct 2025 16:02:30 GMT\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{dated}Connection: keep-alive\r\n\r\n")
        return head.encode() + body


if __name__ == "__main__":
    main()
