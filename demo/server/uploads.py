"""Read the file of an upload: in memory, counted while it arrives, within a time limit.

Starlette's own reading of forms would write files above 1 MB to disk and trust ``Content-Length``.
"""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from dinoforge.demo.server.problems import Problem

__all__ = ["MAX_UPLOAD", "read_body", "read_upload"]

MAX_UPLOAD = 20_000_000  # bytes of a request
_TIME_S = 30  # for a whole body: 5 Mbit/s


class _Parser(MultiPartParser):
    """Keeps the file in memory, whatever its size: the stream is limited."""

    spool_max_size = 2 * MAX_UPLOAD


async def read_body(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request.

    Raises
    ------
    Problem
        413 beyond ``limit`` bytes, 408 after 30 s.
    """
    announced = request.headers.get("content-length", "0")
    size = int(announced) if announced.isascii() and announced.isdigit() else 0
    rest, stream, ends = limit, request.stream(), asyncio.get_running_loop().time() + _TIME_S
    while size <= rest:
        try:
            async with asyncio.timeout_at(ends):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            what = f"the request did not arrive within {_TIME_S} s"
            raise Problem(
                408, "too_slow", what, "send less, or over a faster connection"
            ) from error
        rest, size = rest - len(piece), 0
        yield piece
    hint = f"send less than {limit // 1_000_000} MB"
    raise Problem(413, "too_large", "the request is too large", hint)


async def read_upload(request: Request) -> bytes:
    """Return the content of the part ``file`` of a multipart request.

    Raises
    ------
    Problem
        400 if there is none, and those of `read_body`.
    """
    kind = request.headers.get("content-type", "")
    problem = Problem(
        400, "bad_request", "no part `file` of multipart/form-data", "curl -F file=@photo.jpg"
    )
    if not kind.lower().startswith("multipart/form-data"):
        raise problem
    parser = _Parser(request.headers, read_body(request, MAX_UPLOAD), max_files=1, max_fields=8)
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        raise problem from error
    except ClientDisconnect as error:
        raise Problem(400, "bad_request", "the client disconnected", "send it again") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise problem
        return await file.read()
    finally:
        await form.close()
