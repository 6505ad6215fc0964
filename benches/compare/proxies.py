"""The upstream and the two proxies: their configurations, and starting them for the same job."""

import hashlib
import http.client
import json
import os
import socket
import subprocess
from pathlib import Path

from machine import Failure, Process, free_port, wait_until

HEARTBEAT_PATH = "/agents/heartbeat"
CONFIG_PATH = "/api/configs/1/toml"
ECHO_PATH = "/api/configs/2/toml"
HEARTBEAT_REPLY = '{"success":true}'
UNKNOWN = 10**9  # the first number of tokens that no store holds
CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"


def token(number):
    """The raw token of that number, of the length that Tollgate's own have."""
    return f"tc-apiv1_{number:052d}"


def config_body():
    """A configuration of 4 KiB."""
    return b"".join(b"# line %04d of a configuration: padding\n" % i for i in range(200))[:4096]


class Upstream:
    """nginx as the Controller: a small JSON reply to a heartbeat, a configuration of 4 KiB."""

    def __init__(self, folder, core):
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        body = folder / "www" / CONFIG_PATH.strip("/")
        body.parent.mkdir(parents=True)
        self.config_body = config_body()
        body.write_bytes(self.config_body)
        temp = "\n".join(
            f"    {kind}_temp_path {folder}/nginx-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        # As root, the worker has to stay root to read this run's private folder.
        config.write_text(f"""\
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
{temp}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_buffer_size 16k;
    # The upstream shares its core with the load: what it saves, the proxies get to do.
    open_file_cache max=10 inactive=1h;
    open_file_cache_valid 1h;
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        root {folder}/www;
        default_type application/toml;
        location = {HEARTBEAT_PATH} {{ default_type application/json; return 200 '{HEARTBEAT_REPLY}'; }}
        location = {ECHO_PATH} {{ return 200 '$http_x_forwarded_for'; }}
    }}
}}
""")
        self.process = Process("nginx", ["nginx", "-p", folder, "-c", config], core, folder / "nginx.log")
        wait_until(lambda: _answers(self.port, None), self.process)


class Tokens:
    """Token numbers 0 to `count` - 1, in the form that each proxy reads. Made when first asked for."""

    def __init__(self, folder, tollgate, count):
        self.folder, self.tollgate, self.count = folder, tollgate, count

    def haproxy_map(self):
        path = self.folder / f"tokens-{self.count}.map"
        if not path.exists():
            with open(path, "w") as file:
                for number in range(self.count):
                    file.write(f"{hashlib.sha256(token(number).encode()).hexdigest().upper()} owner\n")
        return path

    def store(self):
        path = self.folder / f"tokens-{self.count}.sqlite"
        if not path.exists():
            self._tollgate(path, "init", "--owner", "owner")
            for first in range(0, self.count, 100_000):
                lines = self.folder / "import.jsonl"
                with open(lines, "w") as file:
                    for number in range(first, min(first + 100_000, self.count)):
                        line = {"token": token(number), "user": "owner", "description": "bench",
                                "permissions": ["configs:read", "heartbeat:write"]}
                        file.write(json.dumps(line) + "\n")
                self._tollgate(path, "token", "import", str(lines))
                lines.unlink()
        return f"sqlite:{path}"

    def _tollgate(self, path, *arguments):
        command = [str(self.tollgate), "--store", f"sqlite:{path}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise Failure(f"`tollgate {' '.join(arguments)}` failed:\n{done.stderr}")


class Proxy:
    """A running proxy: `port` for plain HTTP, `tls_port` for TLS.

    `wrapper` is a command that runs it, such as valgrind; `extra` are further lines for the top of its configuration;
    `away` is an upstream that will go away: the proxy stores what it fetches, and nobody's token is shown there.
    """

    name = ""

    def __init__(self, site, tokens, wrapper=(), away=None):
        self.site, self.tokens, self.wrapper = site, tokens, wrapper
        self.upstream = away or site.upstream
        self.port, self.tls_port = free_port(), free_port()
        self.folder = site.folder / self.name
        self.folder.mkdir(exist_ok=True)

    def _run(self, command, ready):
        """Starts it and measures, in milliseconds, how long it takes to be ready."""
        self.process = Process(self.name, [*self.wrapper, *command], self.site.proxy_core, self.folder / "log")
        pause = 0.2 if self.wrapper else 0.0005  # every question is work for it, which would be counted
        self.start_ms = (wait_until(ready, self.process, 60, pause) - self.process.started) * 1000
        if not self.wrapper:
            self.process.memory_kib()  # if that is not permitted, fail now and not after the load

    def stop(self):
        self.process.stop()


class HaProxy(Proxy):
    """HAProxy with the digest of the token looked up in a map.

    Its cache gives no stale answer in place of an error, so what it stores stays fresh: less work than to ask whether the
    upstream is back.
    """

    name = "haproxy"

    def __init__(self, site, tokens, wrapper=(), extra="", away=None):
        super().__init__(site, tokens, wrapper, away)
        config = self.folder / "haproxy.cfg"
        cache = "" if not away else """
cache configs
    total-max-size 64
    max-object-size 1048576
    max-age 604800
"""
        store = "" if not away else """
    http-request del-header Authorization
    http-request cache-use configs
    http-response set-header Cache-Control max-age=604800
    http-response cache-store configs"""
        config.write_text(f"""\
{extra}
global
    nbthread 1
    maxconn {site.connections + 1000}
    no strict-limits
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    tune.ssl.cachesize 0
    ssl-default-bind-ciphersuites {CIPHERS}
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 30s
    timeout http-request 30s
    timeout http-keep-alive 300s
    http-reuse always{cache}
frontend gate
    bind 127.0.0.1:{self.port} backlog 4096
    bind 127.0.0.1:{self.tls_port} backlog 4096 ssl crt {site.certificate_and_key} alpn h2,http/1.1
    option forwardfor
    http-request set-var(txn.digest) "req.hdr(authorization),field(2,' '),sha2(256),hex"
    http-request set-var(txn.owner) "var(txn.digest),map_str({tokens.haproxy_map()})"
    http-request return status 401 content-type application/json hdr WWW-Authenticate Bearer \
string '{{"error":"Invalid token"}}' unless {{ var(txn.owner) -m found }}
    use_backend heartbeat if {{ path {HEARTBEAT_PATH} }}
    use_backend api if {{ path_beg /api/ }}
backend heartbeat
    server controller 127.0.0.1:{self.upstream.port}
backend api{store}
    server controller 127.0.0.1:{self.upstream.port}
""")
        self._run(["haproxy", "-db", "-f", config], lambda: _answers(self.port, HEARTBEAT_PATH))


class Tollgate(Proxy):
    """Tollgate as it comes, with two listeners, HTTP/2 for those who ask for it, and this run's store."""

    name = "tollgate"

    def __init__(self, site, tokens, wrapper=(), extra="", away=None):
        super().__init__(site, tokens, wrapper, away)
        admin = free_port()
        store = "" if not away else """
[config_cache]
enabled = true
[upstream.api.credential]
mode = "strip"
"""
        config = self.folder / "tollgate.toml"
        config.write_text(f"""\
{extra}
[[listener]]
address = "127.0.0.1:{self.port}"
[[listener]]
address = "127.0.0.1:{self.tls_port}"
tls.certificate = "{site.certificate}"
tls.key = "{site.key}"
tls.alpn = ["h2", "http/1.1"]
{store}""")
        upstream = f"http://127.0.0.1:{self.upstream.port}"
        command = [
            site.tollgate, "serve", "--config", config, "--store", tokens.store(),
            "--api-upstream", upstream, "--heartbeat-upstream", upstream, "--admin-listen", f"127.0.0.1:{admin}",
        ]
        self._run(command, lambda: _answers(admin, "/readyz", 200))


class Nginx(Proxy):
    """nginx with the whole `Authorization` looked up in a map: it has no digests. It asks the upstream each time."""

    name = "nginx"

    def __init__(self, site, tokens, away):
        super().__init__(site, tokens, away=away)
        config = self.folder / "nginx.conf"
        known = "\n".join(f'        "Bearer {token(number)}" 1;' for number in range(tokens.count))
        temp = "\n".join(
            f"    {kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(f"""\
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
master_process off;
pid {self.folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
{temp}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    proxy_cache_path {self.folder}/cache keys_zone=configs:16m use_temp_path=off;
    open_file_cache max=100 inactive=1h;
    open_file_cache_valid 1h;
    map_hash_max_size 65536;
    map_hash_bucket_size 256;
    map $http_authorization $known {{
        default 0;
{known}
    }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        location / {{
            if ($known = 0) {{ return 401; }}
            proxy_set_header Authorization "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_cache configs;
            proxy_cache_key $request_uri;
            proxy_cache_valid 200 1s;
            proxy_cache_use_stale error timeout updating http_502 http_503 http_504;
            proxy_cache_lock on;
            proxy_pass http://127.0.0.1:{self.upstream.port};
        }}
    }}
}}
""")
        command = ["nginx", "-p", self.folder, "-c", config]
        self._run(command, lambda: _answers(self.port, HEARTBEAT_PATH))


def _answers(port, path, status=None):
    """Whether a server accepts connections and, if a path is given, answers it (with that status)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            if path is None:
                return True
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            return status is None or reply.status == status
    except (OSError, http.client.HTTPException):
        return False


class Site:
    """What all proxies of a run share: the upstream (nginx, unless given), the certificate, the cores, the folder."""

    def __init__(self, folder, tollgate, cores, connections, upstream=None):
        self.folder, self.tollgate, self.connections = folder, tollgate, connections
        self.proxy_core, self.load_core = cores
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.certificate_and_key = folder / "both.pem"
        self._make_certificate()
        self.upstream = upstream or Upstream(folder, self.load_core)

    def _make_certificate(self):
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", str(self.key), "-out", str(self.certificate),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"openssl made no certificate:\n{done.stderr}")
        self.certificate_and_key.write_text(self.certificate.read_text() + self.key.read_text())
