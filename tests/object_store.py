"""A real S3 server process on loopback, and a proxy before it that makes requests fail."""

import contextlib
import os
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

ACCESS, SECRET = "AKIATESTTESTTESTTEST", "secret-that-no-file-may-hold"
REFUSED_BUCKET = "refused"

_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
_FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def _answer(status, body):
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


@contextlib.contextmanager
def s3_server(log=subprocess.DEVNULL):
    """Run moto's server; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    environment = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": "1000"}
    server = subprocess.Popen([*command, "-p", str(port)], stdout=log, stderr=log, env=environment)
    try:
        _wait(port, server)
        yield port
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def gs_server():
    """Run an emulator of Google Cloud Storage, in memory; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "gcp_storage_emulator", "start", "--in-memory"]
    words = ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", "data", "--quiet"]
    server = subprocess.Popen(
        [*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port, server)
        yield port
    finally:
        server.kill()
        server.wait()


def _wait(port, server):
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return
        time.sleep(0.1)
    raise AssertionError("the server does not answer")


class FaultyProxy(socketserver.ThreadingTCPServer):
    """Pass HTTP on to a port; a share of the requests gets a 503, or a connection that is cut.

    Cut before the answer, or in the middle of it: a short read. Counts requests by method and what
    it did. The bucket ``refused`` answers 403.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, upstream, share=0.0, seed=0):
        super().__init__(("127.0.0.1", 0), _Connection)
        self.upstream, self.share = upstream, share
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.requests, self.faults = [], []

    @property
    def port(self):
        return self.server_address[1]

    def fault_of(self, line):
        with self.lock:
            self.requests.append(line)
            if self.random.random() >= self.share:
                return ""
            kind = self.random.choice(["busy", "cut before", "cut within"])
            self.faults.append(kind)
            return kind

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    def handle_error(self, request, client_address):
        """Print nothing: clients are killed on purpose."""


class _Connection(socketserver.StreamRequestHandler):
    """One request per connection: simple, and a cut one concerns nobody else."""

    disable_nagle_algorithm = True

    def handle(self):
        head = self._read_head(self.rfile)
        if not head:
            return
        line = head.split(b"\r\n", 1)[0].decode()
        length = self._length(head)
        if b"100-continue" in head.lower():
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(length) if length else b""
        if b"chunked" in head.lower():
            body = self._chunks()
        if f"/{REFUSED_BUCKET}" in line:
            is_head = line.startswith("HEAD")
            self.wfile.write(_answer("403 Forbidden", b"" if is_head else _FORBIDDEN))
            return
        fault = self.server.fault_of(line)
        if fault == "busy":
            self.wfile.write(_answer("503 Slow Down", b"" if line.startswith("HEAD") else _BUSY))
        elif fault != "cut before":
            self._pass_on(head, body, is_cut=fault == "cut within")

    def _pass_on(self, head, body, is_cut):
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:
            # The server sends in pieces and waits for an answer to each: 40 ms otherwise.
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            lines = [
                line
                for line in head.split(b"\r\n")
                if line and not line.lower().startswith((b"connection:", b"expect:"))
            ]
            upstream.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
            answer = upstream.makefile("rb")
            top = self._read_head(answer)
            rest = answer.read()
            top = top.replace(b"Connection: keep-alive", b"Connection: close")
            self.wfile.write(top + (rest[: len(rest) // 2] if is_cut else rest))

    @staticmethod
    def _read_head(stream):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return b""
            head += line
        return head

    @staticmethod
    def _length(head):
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                return int(line.split(b":")[1])
        return 0

    def _chunks(self):
        body = b""
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            piece = self.rfile.read(size)
            body += line + piece + self.rfile.readline()
            if not size:
                return body


def environment(port):
    """Return the variables that lead every S3 client here."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def copy_folder(folder, url):
    """Copy all files of a folder to a URL."""
    from dinoforge.remote.store import object_key, open_store

    store = open_store(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.pipe_file(object_key(f"{url}/{path.relative_to(folder)}"), path.read_bytes())
