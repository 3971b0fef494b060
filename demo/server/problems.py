"""What a request is answered when it fails: a status, and one JSON object for people and programs.

Every endpoint raises `Problem`; any other exception is a bug and becomes 500 without details.
"""

from collections.abc import Mapping

from starlette.responses import JSONResponse

__all__ = ["Problem", "busy", "not_found"]


class Problem(Exception):  # noqa: N818 - what a client did, or the server has no room for
    """A request that cannot be answered: status, code for programs, message and hint for people."""

    def __init__(
        self, status: int, code: str, message: str, hint: str, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.headers = headers

    def response(self) -> JSONResponse:
        """Return the answer."""
        content = {"code": self.code, "message": self.message, "hint": self.hint}
        return JSONResponse(content, self.status, headers=dict(self.headers))


def busy(what: str, *, wait_s: int) -> Problem:
    """Return the answer to a request for which there is no room now: 429 with ``Retry-After``."""
    hint = f"try again in {wait_s} s"
    return Problem(429, "busy", what, hint, {"Retry-After": str(wait_s)})


def not_found(what: str, hint: str) -> Problem:
    """Return the answer to a name that stands for nothing: 404."""
    return Problem(404, "not_found", what, hint)
