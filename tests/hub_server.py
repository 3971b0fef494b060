"""The routes of the Hub of Hugging Face that reading a data set needs, for files of a folder."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "datasets/user/pictures"
PRIVATE = "datasets/user/private"  # answers 401
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Counts requests by method and path."""

    daemon_threads = True
    is_broken = False

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.requests = folder, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def entry(self, path):
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        content = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "oid": oid, "size": len(content), "path": name}

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        path = unquote(url.path).lstrip("/")
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.is_broken:
            self._send(503, b"", {})
        elif PRIVATE in path:
            self._send(401, b'{"error": "Unauthorized"}', {"X-Error-Code": "RepoNotFound"})
        elif path.startswith(f"api/{REPOSITORY}/tree/main"):
            self._tree(path.removeprefix(f"api/{REPOSITORY}/tree/main").strip("/"), url.query)
        elif path in {f"api/{REPOSITORY}", f"api/{REPOSITORY}/revision/main"}:
            info = {"id": REPOSITORY.partition("/")[2], "sha": COMMIT, "siblings": [], "tags": []}
            self._json(info | {"private": False, "disabled": False, "downloads": 0, "likes": 0})
        elif path.startswith(f"{REPOSITORY}/resolve/main/"):
            self._content(path.removeprefix(f"{REPOSITORY}/resolve/main/"))
        else:
            self._missing("Repo")

    def do_POST(self):
        self.server.requests.append(f"{self.command} {self.path}")
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if self.path != f"/api/{REPOSITORY}/paths-info/main":
            self._missing("Repo")
            return
        paths = [self.server.folder / name for name in body["paths"]]
        self._json([self.server.entry(path) for path in paths if path.exists()])

    def _tree(self, name, query):
        top = self.server.folder / name
        if not top.is_dir():
            self._missing("Entry")
            return
        below = top.rglob("*") if "recursive=true" in query.lower() else top.iterdir()
        self._json([self.server.entry(path) for path in sorted(below)])

    def _content(self, name):
        path = self.server.folder / name
        if not path.is_file():
            self._missing("Entry")
            return
        size, headers = path.stat().st_size, {"Accept-Ranges": "bytes"}
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        with path.open("rb") as file:
            file.seek(int(first))
            content = file.read(int(last or size) + 1 - int(first))
        status = 206 if "Range" in self.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(content) - 1}/{size}"
        self._send(status, content, headers)

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, kind):
        self._send(404, b'{"error": "not found"}', {"X-Error-Code": f"{kind}NotFound"})

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
