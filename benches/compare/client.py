"""One HTTP/1.1 connection of this script's own, for checks and for holding connections open."""

import http.client
import socket
import ssl

from machine import Failure


class Client:
    """A connection to a port of 127.0.0.1, with TLS when a context is given. Blocking; closed when dropped."""

    def __init__(self, port, tls=None):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")

    def ask(self, method, path, headers, body=None):
        """Sends a request in one piece, as Telegraf does; returns the reply and its body."""
        try:
            self.socket.sendall(as_sent(method, path, {"Host": "localhost", **headers}, body))
            reply = http.client.HTTPResponse(self.socket, method=method)
            reply.begin()
            return reply, reply.read()
        except (OSError, http.client.HTTPException) as problem:
            raise Failure(f"{method} {path} on port {self.port}: {problem!r}") from problem

    def is_closed(self):
        """Whether the other side closes the connection within a second (this reads what is unread)."""
        self.socket.settimeout(1)
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except OSError:
            return False

    def negotiated(self):
        """Protocol and cipher, or None without TLS."""
        return (self.socket.version(), self.socket.cipher()[0]) if isinstance(self.socket, ssl.SSLSocket) else None

    def forget_tls(self):
        """Keeps the connection and drops this side's TLS state, of which thousands would fill the memory."""
        self.socket = socket.socket(fileno=self.socket.detach())


def as_sent(method, path, fields, body=None):
    """A request's bytes, by HTTP/1.1."""
    if body is not None:
        fields = {**fields, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b"")


def tls_context(site, h2=False):
    """TLS 1.3 only, trusting the run's certificate; a new context resumes no session. ALPN offers HTTP/2 or nothing."""
    context = ssl.create_default_context(cafile=str(site.certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if h2:
        context.set_alpn_protocols(["h2"])
    return context
