"""Who may ask what: in front of every endpoint, and the headers of every answer.

- *Host*: only names that no other site can give to this machine (DNS rebinding).
- *Origin*: requests that a page of another site makes are refused; there is no CORS.
- *Token*: needed for everything if there is one; as a bearer, or by ``/?token=`` once as a cookie.
- *CSRF*: whatever changes something needs a token that other pages cannot read.
- *Rate*: a bucket per client.
"""

import ipaddress
import secrets
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dinoforge.demo.server.problems import Problem, busy

__all__ = ["Access", "Rates"]

_COOKIE = "dinoforge_token"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Rates:
    """A bucket of requests per client, refilled all the time."""

    def __init__(self, *, burst: float = 400, per_second: float = 80, clients: int = 1000) -> None:
        self._burst, self._rate, self._clients = burst, per_second, clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # filled to, when

    def take(self, client: str, cost: float) -> None:
        """Count a request.

        Raises
        ------
        Problem
            429, if the bucket of the client is empty.
        """
        now = time.monotonic()
        filled, then = self._buckets.pop(client, (self._burst, now))
        filled = min(self._burst, filled + self._rate * (now - then))
        is_allowed = filled >= cost
        self._buckets[client] = (filled - cost * is_allowed, now)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        if not is_allowed:
            raise busy("too many requests from this address", wait_s=1)


@dataclass
class Access:
    """ASGI middleware, the outermost; ``host`` is the address that the server listens on."""

    app: ASGIApp
    csrf: str
    host: str = "127.0.0.1"
    token: str = ""  # empty: none is needed, on the loopback only
    rates: Rates = field(default_factory=Rates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, pass it on, and add headers to the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope, receive)
        try:
            self._check_site(request)
            self.rates.take(request.client.host if request.client else "", self._cost(request))
            if self.token and request.query_params.get("token") and scope["path"] == "/":
                await self._sign_in(request)(scope, receive, send_with_headers)
                return
            self._check_token(request)
        except Problem as problem:
            await problem.response()(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def _cost(self, request: Request) -> float:
        return 10 if request.method == "POST" and request.url.path == "/api/images" else 1

    def _check_site(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if not self._is_own_name(host):
            raise _forbidden("host", "the Host header names another machine")
        origin = request.headers.get("origin")
        is_other = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if request.method == "GET" and request.url.path == "/":
            return  # a link from elsewhere to the page itself is harmless
        if is_other or origin not in (None, f"http://{host}", f"https://{host}"):
            raise _forbidden("origin", "the request comes from another site")

    def _is_own_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            # A name of this machine, which another site cannot give it, when others may connect.
            own = {self.host, socket.gethostname(), socket.getfqdn()}
            return bool(self.token) and name in {one.lower() for one in own}
        # An address is no name that a site could make lead here.
        return address.is_loopback or bool(self.token)

    def _sign_in(self, request: Request) -> RedirectResponse:
        if not secrets.compare_digest(request.query_params["token"].encode(), self.token.encode()):
            raise _unauthorized()
        response = RedirectResponse("/", 303)
        response.set_cookie(_COOKIE, self.token, httponly=True, samesite="strict")
        return response

    def _check_token(self, request: Request) -> None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = bearer or request.cookies.get(_COOKIE, "")
        if self.token and not secrets.compare_digest(given.encode(), self.token.encode()):
            raise _unauthorized()
        if request.method in ("GET", "HEAD", "OPTIONS") or (self.token and bearer):
            return
        csrf = request.headers.get("x-csrf-token", "")
        if not secrets.compare_digest(csrf.encode(), self.csrf.encode()):
            hint = "send the header X-CSRF-Token with `csrf` of /api/health"
            raise Problem(
                403, "csrf", "the CSRF token is missing or from an earlier run of the server", hint
            )


def _forbidden(code: str, what: str) -> Problem:
    return Problem(403, code, what, "open the address that the demo printed at its start")


def _unauthorized() -> Problem:
    hint = "open the address that the demo printed, or send Authorization: Bearer TOKEN"
    challenge = {"WWW-Authenticate": "Bearer"}
    return Problem(401, "unauthorized", "the token is missing or wrong", hint, challenge)
