"""The application: endpoints below ``/api``, the page at ``/``, and `Access` in front of both."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from dinoforge.demo.server.access import Access
from dinoforge.demo.server.api import atlas, collection, copies, images, regions, search, views
from dinoforge.demo.server.operations import Operation, openapi, read_call
from dinoforge.demo.server.problems import Problem
from dinoforge.demo.server.site import Site
from dinoforge.pages.render import render

__all__ = ["OPERATIONS", "make_app"]

OPERATIONS: tuple[Operation, ...] = (
    *collection.OPERATIONS,
    *images.OPERATIONS,
    *search.OPERATIONS,
    *regions.OPERATIONS,
    *views.OPERATIONS,
    *copies.OPERATIONS,
    *atlas.OPERATIONS,
)
_PAGE = Path(__file__).resolve().parents[1] / "page"


def make_app(site: Site, *, host: str = "127.0.0.1", token: str = "") -> ASGIApp:
    """Make the ASGI application; see `Access` for ``host`` and ``token``."""
    document = openapi(OPERATIONS)
    docs = render("docs.html", folder=Path(__file__).resolve().parent, document=document)

    async def describe(_: Request) -> Response:
        return JSONResponse(document)

    async def show(_: Request) -> Response:
        return HTMLResponse(docs)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await site.decoder.start()
        yield
        await site.close()

    routes: list[Route | Mount] = [
        Route("/api/openapi.json", describe),
        Route("/api/docs", show),
        *(
            Route(f"/api{one.path}", partial(_answer, one, site), methods=[one.method])
            for one in OPERATIONS
        ),
    ]
    if _PAGE.is_dir():
        routes.append(Mount("/", StaticFiles(directory=_PAGE, html=True)))
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={Problem: _of_problem, HTTPException: _of_http, Exception: _of_bug},
    )
    return Access(app, csrf=site.csrf, host=host, token=token)


async def _answer(operation: Operation, site: Site, request: Request) -> Response:
    call = await read_call(operation, site, request)
    result = operation.handler(call)
    # An upload is still to be read, which no other may do; it does the same itself.
    answer = await (result if operation.is_upload else call.while_connected(result))
    return answer if isinstance(answer, Response) else JSONResponse(answer)


async def _of_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem), "registered for these"
    return error.response()


async def _of_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for these"
    names = {404: "not_found", 405: "wrong_method"}
    code = names.get(error.status_code, "bad_request")
    headers = error.headers or {}
    return Problem(error.status_code, code, error.detail, "see /api/docs", headers).response()


async def _of_bug(_: Request, _error: Exception) -> Response:
    return Problem(500, "bug", "the server made a mistake", "see its terminal").response()
