"""The load and the take-overs of rolling-restart.sh: an open loop, so that a stall shows as late replies and not as fewer."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

PATH = "/api/configs/1/toml"
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 10


async def controller(reader, writer):
    """Answers every request without a body."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(REPLY)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


class Load:
    def __init__(self, port, token):
        head = f"GET {PATH} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n"
        self.kept, self.once = (head + "\r\n").encode(), (head + "Connection: close\r\n\r\n").encode()
        self.port, self.idle, self.failures, self.served, self.slowest = port, [], {}, 0, 0.0

    async def exchange(self, keep):
        connection = None
        while keep and self.idle and connection is None:
            # As clients do: one that was closed while it was idle is not used.
            kept = self.idle.pop()
            connection = None if kept[0].at_eof() else kept
        connection = connection or await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
        writer.write(self.kept if keep else self.once)
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1]
        fields = head.lower()
        length = int(fields.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if status != b"200":
            raise ValueError(f"status {status.decode()}")
        if keep and b"connection: close" not in fields:
            self.idle.append(connection)
        else:
            writer.close()

    async def one(self, keep):
        begun = time.monotonic()
        try:
            await asyncio.wait_for(self.exchange(keep), PATIENCE)
            self.served += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
        except Exception as error:  # whatever it is, it is a request that failed
            kind = f"{'kept' if keep else 'new'} connection: {type(error).__name__} {error}"
            self.failures[kind] = self.failures.get(kind, 0) + 1

    async def run(self, rate, stop):
        tasks, begun, number = set(), time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - begun) * rate)
            for number in range(number, due):
                task = asyncio.create_task(self.one(number % 2 == 0))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            number = max(number, due)
            await asyncio.sleep(0.002)
        if tasks:
            await asyncio.wait(tasks)


async def said(lines, message):
    while True:
        line = await asyncio.wait_for(lines.readline(), 60)
        if not line:
            raise SystemExit(f"it ended before it said {message!r}")
        fields = json.loads(line)["fields"]
        if fields["message"] == message:
            return fields


async def main(program, take_overs, rate, pause):
    server = await asyncio.start_server(controller, "127.0.0.1", 0)
    upstream = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            "HOME": directory,
            "TOLLGATE_STORE__URL": f"sqlite:{directory}/t.db",
            "TOLLGATE_LOG__FORMAT": "json",
        }
        program = os.path.abspath(program)
        token = subprocess.run([program, "init"], env=environment, check=True, capture_output=True, text=True).stdout.strip()
        arguments = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        arguments += ["--api-upstream", upstream, "--heartbeat-upstream", upstream]
        read, write = os.pipe()
        first = subprocess.Popen([program, *arguments], env=environment, stdin=subprocess.DEVNULL, stderr=write)
        os.close(write)
        log = asyncio.StreamReader(limit=1 << 20)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(log), os.fdopen(read, "rb")
        )
        process = first.pid
        try:
            port = int((await said(log, "listening"))["address"].rsplit(":", 1)[1])
            await said(log, "ready")
            load, stop = Load(port, token), asyncio.Event()
            running = asyncio.create_task(load.run(rate, stop))
            begun = time.monotonic()
            for _ in range(take_overs):
                await asyncio.sleep(pause)
                os.kill(process, signal.SIGUSR2)
                over = await said(log, "another process has taken over: finishing in-flight requests")
                process = over["process"]
            await asyncio.sleep(pause)
            took = time.monotonic() - begun
            stop.set()
            await running
            for _, writer in load.idle:
                writer.close()
        finally:
            os.kill(process, signal.SIGTERM)
            await log.read()  # to the end: the last of them has ended
            pipe.close()
            first.wait()
        failed = sum(load.failures.values())
        print(f"{take_overs} take-overs in {took:.0f} s: {load.served + failed} requests ({load.served / took:.0f}/s), {failed} failed")
        print(f"slowest {load.slowest * 1000:.0f} ms")
        for kind, count in sorted(load.failures.items()):
            print(f"  {count} {kind}")
        return 1 if failed else 0


if __name__ == "__main__":
    binary, take_overs, rate, pause = sys.argv[1:]
    sys.exit(asyncio.run(main(binary, int(take_overs), int(rate), float(pause))))
