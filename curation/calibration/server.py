"""The page on which a person marks pairs: a server for this machine alone, without any network.

It listens on 127.0.0.1 and answers only below a random path, so that neither other users nor web
pages can read the pictures or give answers.
"""

import http.server
import json
import secrets
import threading
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pyarrow as pa

from dinoforge.config import config_of
from dinoforge.curated import ledger_path
from dinoforge.curation.calibration.calibration import Calibration
from dinoforge.curation.calibration.labels import ANSWERS
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import thumbnail
from dinoforge.runs import read_recipe, working_folders
from dinoforge.tables import read_table

__all__ = ["PairServer"]

_SIDE = 640  # longer side of a picture on the page, pixels
_MAX_BODY = 1000  # bytes of a request


class PairServer:
    """Serves the pairs of an open calibration; use as a context manager."""

    def __init__(self, calibration: Calibration, port: int = 0) -> None:
        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        except OSError as error:
            what = f"port {port} cannot be used: {error.strerror}"
            raise UsageError(what=what, where="--port", do="choose another, or 0") from error
        self._server.daemon_threads = True
        self._server.site = _Site(calibration, secrets.token_urlsafe(16))  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        """Address of the page."""
        site: _Site = self._server.site  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{self._server.server_port}/{site.token}/"

    def __enter__(self) -> "PairServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def serve(self) -> None:
        """Answer requests until the process is interrupted."""
        self._server.serve_forever()

    def stop(self) -> None:
        """End `serve`, from another thread."""
        self._server.shutdown()


class _Site:
    """What the pages show; answers are taken one at a time."""

    def __init__(self, calibration: Calibration, token: str) -> None:
        self.calibration, self.token = calibration, token
        self._lock = threading.Lock()
        run = calibration.run_folder
        self._locations = read_table(ledger_path(run), ["shard", "offset", "size"])
        self._reader = ImageReader(run, working_folders(run))
        self._policy = config_of(DecodePolicy, read_recipe(run).get("decode", {}))
        self._picture = lru_cache(maxsize=64)(self._make_picture)

    def page(self) -> str:
        folder = Path(__file__).resolve().parent / "templates"
        return render(
            "calibrate.html",
            folder=folder,
            title="Same picture or not?",
            run=str(self.calibration.run_folder),
            start=self.state(),
        )

    def state(self) -> dict[str, Any]:
        """All answers and estimates."""
        with self._lock:
            result = self.calibration.result().as_json()
            answers = self.calibration.labels.answers
            pairs = self.calibration.sample.pairs
            result["answers"] = [answers.get((pair.i, pair.j)) for pair in pairs]
            return result

    def pair(self, number: int) -> dict[str, Any]:
        """Two pictures; their similarity is not shown, so that it does not influence anybody."""
        pair = self.calibration.sample.pairs[number]
        with self._lock:
            return {"pictures": [self._picture(image) for image in (pair.i, pair.j)]}

    def answer(self, number: int, answer: str | None) -> dict[str, Any]:
        with self._lock:
            self.calibration.answer(number, answer)
        return self.state()

    def _make_picture(self, image_id: int) -> str | None:
        row: pa.Table = self._locations.slice(image_id, 1)
        try:
            (data,) = self._reader.read_each(row)
            return None if data is None else thumbnail(decode(data, self._policy), side=_SIDE).uri
        except (Undecodable, UsageError):
            return None


class _Handler(http.server.BaseHTTPRequestHandler):
    """Requests below the random path; all others are not found."""

    timeout = 60  # seconds, for a connection that sends nothing

    @property
    def _site(self) -> _Site:
        return self.server.site  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        """Send the page, the state, or a pair."""
        parts = self._parts()
        if parts == [""]:
            self._send("text/html; charset=utf-8", self._site.page().encode())
        elif parts == ["state"]:
            self._send_json(self._site.state())
        elif parts is not None and parts[0] == "pair" and (number := self._number(parts[1:])) >= 0:
            self._send_json(self._site.pair(number))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Take an answer."""
        parts = self._parts()
        number = self._number(parts[1:]) if parts is not None and parts[0] == "answer" else -1
        if number < 0:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)) if length.isdigit() and int(length) < _MAX_BODY else b""
        try:
            answer = json.loads(body)["answer"]
        except (ValueError, TypeError, KeyError):
            answer = ""
        if answer is not None and answer not in ANSWERS:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self._send_json(self._site.answer(number, answer))

    def _parts(self) -> list[str] | None:
        """Return the path below the token; None for anything else.

        The host is checked, too: a web page could have its own name lead here.
        """
        host = self.headers.get("Host", "").rpartition(":")[0]
        parts = self.path.split("/")
        is_known = len(parts) > 2 and secrets.compare_digest(
            parts[1].encode(), self._site.token.encode()
        )
        return parts[2:] if is_known and host in {"127.0.0.1", "localhost"} else None

    def _number(self, words: list[str]) -> int:
        num = len(self._site.calibration.sample.pairs)
        is_number = len(words) == 1 and words[0].isascii() and words[0].isdigit()
        return int(words[0]) if is_number and int(words[0]) < num else -1

    def _send_json(self, value: Any) -> None:
        self._send("application/json", json.dumps(value).encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing: the addresses contain the token."""
