"""Listen, print the address, serve until Ctrl-C."""

import asyncio
import socket

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dinoforge.errors import UsageError

__all__ = ["listen", "serve"]

_HEADERS_S = 10  # for the headers of a request
_CONNECTIONS = 512


class _ImpatientProtocol(H11Protocol):
    """Ends connections that do not send a whole request header in time; uvicorn waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(_HEADERS_S, self._end_if_idle)

    def data_received(self, data: bytes) -> None:
        """Give each request its own time."""
        was_idle = self.conn.their_state is h11.IDLE
        super().data_received(data)
        if not was_idle:
            self._limit.cancel()
            self._limit = self.loop.call_later(_HEADERS_S, self._end_if_idle)

    def _end_if_idle(self) -> None:
        is_answered = self.cycle is None or self.cycle.response_complete
        if is_answered and self.conn.their_state is h11.IDLE:
            self.transport.close()


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
