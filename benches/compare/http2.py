"""One HTTP/2 connection of this script's own, over TLS, with one request at a time: what Go's client does, and no more.

Replies are not decoded but for their status, which is the first field (RFC 9113 8.3.2); 200 has a code of its own.
"""

import struct
from types import SimpleNamespace

from client import Client
from machine import Failure

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE = 1
# What Go's client announces: no push, windows of 4 MiB and 1 GiB, replies' heads up to 10 MiB.
GO_SETTINGS = struct.pack(">HIHIHI", 2, 0, 4, 4 << 20, 6, 10 << 20)
GO_WINDOW = struct.pack(">I", 1 << 30)
STATUS = {0x88: 200, 0x89: 204, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}  # RFC 7541, appendix A


class Http2Client(Client):
    """Like `Client`, but a reply is only a status and whether the connection ends."""

    def __init__(self, port, tls):
        super().__init__(port, tls)
        if self.socket.selected_alpn_protocol() != "h2":
            raise Failure(f"port {port} does not speak HTTP/2")
        self.received, self.stream, self.table_size, self.ends = b"", -1, None, False
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, GO_SETTINGS)
                            + _frame(WINDOW_UPDATE, 0, 0, GO_WINDOW))
        acknowledged = False
        try:
            while self.table_size is None or not acknowledged:
                kind, flags, _, _ = self._next()
                acknowledged = acknowledged or (kind == SETTINGS and flags & ACK)
        except OSError as problem:
            raise Failure(f"port {port}: no HTTP/2 after the handshake: {problem!r}") from problem

    def ask(self, method, path, headers, body=None):
        self.stream += 2
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        fields += [(name.lower(), value) for name, value in headers.items()]
        if body is not None:
            fields.append(("content-length", str(len(body))))
        end = END_STREAM if body is None else 0
        frames = _frame(HEADERS, END_HEADERS | end, self.stream, self._encode(fields))
        if body is not None:
            frames += _frame(DATA, END_STREAM, self.stream, body)
        status, content = None, b""
        try:
            self.socket.sendall(frames)
            while True:
                kind, flags, stream, payload = self._next()
                if stream != self.stream:
                    continue
                if kind == HEADERS and status is None:
                    # A change of the table's size may come first.
                    status = STATUS.get(next(byte for byte in payload if not 0x20 <= byte < 0x40), 0)
                elif kind == DATA:
                    content += payload
                elif kind == RST_STREAM:
                    raise Failure(f"{method} {path} on port {self.port}: the stream was reset")
                if flags & END_STREAM and kind in (DATA, HEADERS):
                    return SimpleNamespace(status=status, will_close=self.ends, headers={}), content
        except OSError as problem:
            raise Failure(f"{method} {path} on port {self.port}: {problem!r}") from problem

    def _encode(self, fields):
        """Field by field into the peer's table, if it has one, as Go does; nothing refers to the table."""
        indexed = self.table_size > 0
        block = b"" if indexed else b"\x20"
        for name, value in fields:
            block += (b"\x40" if indexed else b"\x00") + _string(name) + _string(value)
        return block

    def _next(self):
        """The next frame: kind, flags, stream, and payload without padding. Answers what has to be answered."""
        head = self._take(9)
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = self._take(int.from_bytes(head[:3], "big"))
        if kind in (DATA, HEADERS) and flags & PADDED:
            payload = payload[1:len(payload) - payload[0]]
        if kind == HEADERS and flags & PRIORITY:
            payload = payload[5:]
        if kind == SETTINGS and not flags & ACK:
            settings = dict(struct.iter_unpack(">HI", payload))
            self.table_size = min(4096, settings.get(HEADER_TABLE_SIZE, 4096))
            self.socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.ends = True
        return kind, flags, stream, payload

    def _take(self, length):
        while len(self.received) < length:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionResetError("closed")
            self.received += piece
        taken, self.received = self.received[:length], self.received[length:]
        return taken


def _frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _string(text):
    """A string without Huffman coding (RFC 7541 5.2)."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = len(data) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + data
