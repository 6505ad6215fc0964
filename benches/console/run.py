#!/usr/bin/env python3
"""How long the console takes for a list of many tokens, and how much it sends. See benches/README.md."""

import argparse
import datetime
import gzip
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOAL_MS = 200
GOAL_BYTES = 60 * 1024
OWNERS = 40
VIEWS = [
    ("all, newest first", "/tokens"),
    ("all, oldest first", "/tokens?sort=created"),
    ("sorted by last use", "/tokens?sort=-last-used"),
    ("sorted by expiry", "/tokens?sort=expires"),
    ("sorted by description", "/tokens?sort=description"),
    ("sorted by owner", "/tokens?sort=owner"),
    ("of one user", "/tokens?user=team-7"),
    ("active", "/tokens?state=active"),
    ("expired", "/tokens?state=expired"),
    ("with a permission that all have", "/tokens?permission=heartbeat%3Awrite"),
    ("with one that a single token has", "/tokens?permission=users%3Awrite"),
    ("never used", "/tokens?unused=ever"),
    ("expires within 30 days", "/tokens?expires=30d"),
    ("search, many found", "/tokens?text=plant"),
    ("search, one found", "/tokens?text=host+054321"),
    ("search, none found", "/tokens?text=nobody+has+this"),
    ("search, sorted by last use", "/tokens?text=plant&sort=-last-used"),
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# What is ended with this, however it ends.
STARTED = []


class Console:
    """A running console, and somebody who is signed in."""

    def __init__(self, program, arguments, environment, token):
        self.port = free_port()
        environment = {**environment, "TOLLGATE_ADMIN__ADDRESS": f"127.0.0.1:{self.port}"}
        self.process = subprocess.Popen([program, *arguments], env=environment, stderr=subprocess.DEVNULL)
        STARTED.append(self.process)
        self.cookie = ""
        deadline = time.monotonic() + 60
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit("the console does not become ready")
            time.sleep(0.05)
        _, head, page = self.get("/sign-in")
        csrf = re.search(rb'name="csrf" value="(\w+)"', page).group(1).decode()
        self.cookie = head["set-cookie"].split(";")[0]
        form = urllib.parse.urlencode({"csrf": csrf, "token": token})
        status, head, _ = self.request("POST", "/sign-in", form)
        if status != 303:
            sys.exit(f"signing in is answered with {status}")
        self.cookie = head["set-cookie"].split(";")[0]

    def request(self, method, path, form=None):
        fields = {"Cookie": self.cookie, "Origin": f"http://127.0.0.1:{self.port}"}
        if form is not None:
            fields["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request(method, path, form, fields)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        except OSError:
            return 0, {}, b""

    def get(self, path):
        return self.request("GET", path)

    def timed(self, path):
        began = time.monotonic()
        status, _, page = self.get(path)
        took = (time.monotonic() - began) * 1000
        if status != 200:
            sys.exit(f"{path} is answered with {status}")
        return took, page

    def memory_mib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024

    def cpu_ms(self):
        """What the process has used: on a busy machine this says more than how long something took."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def furnish(program, environment, count, folder):
    """A registry with so many tokens, two thirds of them used. Returns the Owner's token."""
    run = lambda *arguments: subprocess.run(  # noqa: E731
        [program, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout
    owner = re.search(r"tc-apiv1_\w+", run("init")).group(0)
    for number in range(OWNERS):
        run("user", "add", f"team-{number}", "--role", "manager")
    now = datetime.datetime.now(datetime.timezone.utc)
    lines = ["digest,user,description,expires_at"]
    for number in range(count):
        digest = hashlib.sha256(f"token {number}".encode()).hexdigest()
        ends = now + datetime.timedelta(days=number % 700 + 1)
        ends = ends.strftime("%Y-%m-%dT%H:%M:%SZ") if number % 3 else ""
        lines.append(f"{digest},team-{number % OWNERS},plant {number % 97} host {number:06},{ends}")
    (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
    run("token", "import", str(folder / "tokens.csv"), "--preset", "telegraf-agent")
    # What sidecars would have recorded: they tell it a few tokens at a time.
    with sqlite3.connect(folder / "tollgate.db") as database:
        database.execute("INSERT OR IGNORE INTO usage_began (id, at) VALUES (1, 0)")
        database.execute(
            "INSERT OR IGNORE INTO usage (token, last_used, levels) SELECT id, ?1 - abs(random() % 8000000000), '' "
            "FROM tokens WHERE rowid % 3 > 0",
            (int(time.time() * 1000),),
        )
    return owner


def measure(console, rounds):
    """Prints what each view takes; returns whether all meet the goal."""
    before = console.memory_mib()
    first, _ = console.timed("/tokens")
    print(f"    {'the first list, while all are read':<44} {first:7.1f} ms")
    good = True
    for name, path in VIEWS:
        used = console.cpu_ms()
        times = [console.timed(path)[0] for _ in range(rounds)]
        used = (console.cpu_ms() - used) / rounds
        good &= max(times) < GOAL_MS
        mark = "" if max(times) < GOAL_MS else "   MISSED"
        print(f"    {name:<44} {statistics.median(times):7.1f} ms, at most {max(times):7.1f} ms, CPU {used:6.1f} ms{mark}")
    print(f"    {'memory for it':<44} {console.memory_mib() - before:7.1f} MiB")
    return good


def weigh(console):
    """Prints what a browser loads for a full page; returns whether it meets the goal."""
    _, page = console.timed("/tokens")
    assets = {path.decode() for path in re.findall(rb'(?:href|src)="(/assets/(?:style|console)[^"]+)"', page)}
    parts = [("HTML", page)] + [(path.split("?")[0], console.timed(path)[1]) for path in sorted(assets)]
    total = 0
    for name, content in parts:
        small = len(gzip.compress(content, 6))
        total += small
        print(f"    {name:<44} {len(content):7} bytes, {small:6} compressed")
    print(f"    {'all':<44} {total / 1024:7.1f} KiB compressed, goal {GOAL_BYTES // 1024}")
    return total <= GOAL_BYTES


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--program", help="a built program, instead of building it")
    parser.add_argument("--only", choices=["sqlite", "redis"])
    options = parser.parse_args()
    if options.program is None:
        subprocess.run(["cargo", "build", "--locked", "--release"], cwd=ROOT, check=True)
    program = options.program or str(ROOT / "target/release/tollgate")
    folder = Path(tempfile.mkdtemp(prefix="tollgate-console-"))
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TOLLGATE_")}
    file = f"sqlite:{folder}/tollgate.db"
    environment = {**kept, "TOLLGATE_STORE__URL": file, "STATE_DIRECTORY": str(folder)}
    good = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        owner = furnish(program, environment, options.tokens, folder)
        if options.only != "redis":
            print(f"{options.tokens} tokens, SQLite, `tollgate serve`")
            sidecar = {"TOLLGATE_UPSTREAM__API__URL": "http://127.0.0.1:1"}
            serve = ["serve", "--listen", f"127.0.0.1:{free_port()}"]
            console = Console(program, serve, {**environment, **sidecar}, owner)
            good &= measure(console, options.rounds)
            good &= weigh(console)
            console.stop()
        if options.only != "sqlite":
            print(f"{options.tokens} tokens, Redis, `tollgate console`")
            port = free_port()
            redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
            STARTED.append(subprocess.Popen(redis, stdout=subprocess.DEVNULL))
            url = f"redis://127.0.0.1:{port}"
            time.sleep(0.5)
            subprocess.run([program, "store", "copy", file, url], env=environment, check=True, capture_output=True)
            console = Console(program, ["console"], {**environment, "TOLLGATE_STORE__URL": url}, owner)
            good &= measure(console, options.rounds)
            console.stop()
    finally:
        for process in STARTED:
            process.terminate()
            process.wait()
        shutil.rmtree(folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
