"""Listen, print the address, serve until Ctrl-C."""

import asyncio
import logging
import socket
import traceback

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dinoforge.errors import UsageError

__all__ = ["listen", "serve"]

_REQUEST_S = 10  # for the headers of a request, and for the rest of one that is answered
_ANSWER_S = 30  # for reading an answer, as long as for the body of a request
_CONNECTIONS = 512


class _ImpatientProtocol(H11Protocol):
    """Ends connections of clients that neither send nor read in time; uvicorn waits forever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._check = self.loop.call_later(_REQUEST_S, self._end_if_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give each request its own time, unless answers to earlier ones are still unread."""
        is_read, before = not self.transport.get_write_buffer_size(), self.cycle
        super().data_received(data)
        if is_read and self.cycle is not before:
            self._since = self.loop.time()

    def on_response_complete(self) -> None:
        """Give the client time to read the answer and to send what comes next."""
        self._since = self.loop.time()
        super().on_response_complete()

    def _end_if_late(self) -> None:
        """End the connection if the client has been waited for too long; else check again."""
        is_unread = self.transport.get_write_buffer_size() > 0
        is_answered = self.cycle is None or self.cycle.response_complete
        left_s = self._since + (_ANSWER_S if is_unread else _REQUEST_S) - self.loop.time()
        if left_s <= 0 and (is_unread or is_answered):
            self.transport.abort()  # `close` would wait until everything has been read
        else:
            wait_s = left_s if left_s > 0 else _REQUEST_S
            self._check = self.loop.call_later(wait_s, self._end_if_late)


def listen(host: str, port: int) -> socket.socket:
    """Open the port; 0 is any free one.

    Raises
    ------
    UsageError
        If it cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        what = f"{host} port {port} cannot be used: {getattr(error, 'strerror', None) or error}"
        raise UsageError(what=what, where="--port", do="choose another, or 0") from error


def serve(app: ASGIApp, opened: socket.socket) -> None:
    """Answer requests until the process is interrupted."""
    logging.getLogger("uvicorn.error").addFilter(_without_message)
    config = uvicorn.Config(
        app,
        http=_ImpatientProtocol,
        ws="none",
        # Addresses may contain the token, and a proxy that nobody has set up is not trusted.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run(sockets=[opened])


def _without_message(record: logging.LogRecord) -> bool:
    """Log where an exception was raised, but not its message, which may quote what was sent."""
    if record.exc_info and record.exc_info[0]:
        kind, _, trace = record.exc_info
        frames = "".join(traceback.format_tb(trace))
        record.msg, record.args = "a request failed: %s\n%s", (kind.__name__, frames)
        record.exc_info = None
    return True
