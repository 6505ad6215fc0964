"""Memory of idle keep-alive connections: many are opened, each makes one request, then all stay silent."""

import select
import time
from concurrent.futures import ThreadPoolExecutor

from client import Client, tls_context
from http2 import Http2Client
from load import SCENARIOS
from machine import Failure, raise_descriptor_limit
from proxies import token

HEARTBEAT = SCENARIOS[0]

OPENERS = 32  # connections that are busy at once, so that the proxy's memory for busy ones stays small
WARM_UP = 256  # connections opened and closed before the first reading, so that what is made once is not counted
SAMPLE = 50  # connections that make a second request in the end


def measure_idle(proxy, tls, h2, count, settle):
    """KiB that each of `count` idle connections adds to the proxy, after `settle` seconds of silence."""
    if raise_descriptor_limit(count + 1000) < count + 1000:
        raise Failure(f"{count} connections need a limit of {count + 1000} open files: raise it, or --connections less")
    context = tls_context(proxy.site, h2) if tls else None
    _open(proxy, context, h2, WARM_UP)
    time.sleep(1)
    before = proxy.process.memory_kib()
    began = time.monotonic()
    clients = _open(proxy, context, h2, count)
    seconds = time.monotonic() - began
    time.sleep(settle)
    after = proxy.process.memory_kib()
    _check_open(proxy, clients)
    return {"kib_each": (after - before) / count, "memory_mib": after / 1024, "open_seconds": seconds}


def _open(proxy, context, h2, count):
    def one(number):
        client = (Http2Client if h2 else Client)(proxy.tls_port if context else proxy.port, context)
        _beat(client, number % proxy.tokens.count)
        if context and number >= SAMPLE:
            client.forget_tls()
        return client

    pool = ThreadPoolExecutor(OPENERS)
    try:
        return list(pool.map(one, range(count)))
    finally:
        pool.shutdown(cancel_futures=True)


def _beat(client, number):
    headers = {**HEARTBEAT.headers(), "Authorization": f"Bearer {token(number)}"}
    reply, _ = client.ask(HEARTBEAT.method, HEARTBEAT.path, headers, HEARTBEAT.body)
    if reply.status != 200 or reply.will_close:
        raise Failure(f"a heartbeat got {reply.status}" + (" and `Connection: close`" if reply.will_close else ""))


def _check_open(proxy, clients):
    """That the memory was that of connections still open and usable."""
    poll = select.poll()
    for client in clients:
        poll.register(client.socket, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    closed = len(poll.poll(0))
    if closed:
        raise Failure(f"{proxy.name} closed {closed} of {len(clients)} idle connections")
    for client in clients[:SAMPLE]:
        _beat(client, 0)
