"""One description per endpoint: it checks requests, and it is the OpenAPI document.

Bodies and queries are JSON Schema (draft 2020-12). What a handler gets has passed its schema, with
defaults filled in, so handlers check only what depends on the state of the server.
"""

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jsonschema
from starlette.requests import Request
from starlette.responses import Response

from dinoforge import __version__
from dinoforge.demo.server.problems import Problem
from dinoforge.demo.server.site import Site
from dinoforge.demo.server.uploads import read_body

__all__ = [
    "Call",
    "Operation",
    "Schema",
    "array_of",
    "integer",
    "number",
    "object_of",
    "openapi",
    "read_call",
]

Schema = dict[str, Any]

T = TypeVar("T")

_is_decimal = re.compile(r"-?\d{1,9}(\.\d{1,18})?", re.ASCII).fullmatch
_MAX_JSON = 1_000_000  # bytes
# Statuses that any operation may answer with.
_PROBLEMS = {
    "400": "not readable as a request",
    "401": "the token is missing",
    "403": "from another site, or without the CSRF token",
    "404": "nothing has this name",
    "408": "the request did not arrive in time",
    "409": "this network or index cannot do that",
    "413": "the request is too large",
    "415": "not a kind of image that is accepted",
    "422": "the values do not fit, or the image shows a face",
    "429": "too many requests, or the queue is full; see Retry-After",
}


def integer(low: int, high: int | None = None, **more: Any) -> Schema:
    """Describe an integer in a range."""
    return (
        {"type": "integer", "minimum": low} | ({"maximum": high} if high is not None else {}) | more
    )


def number(low: float, high: float, **more: Any) -> Schema:
    """Describe a number in a range."""
    return {"type": "number", "minimum": low, "maximum": high} | more


def array_of(items: Schema, low: int, high: int, **more: Any) -> Schema:
    """Describe an array of as many values. The length is first: it is checked before them."""
    return {"type": "array", "minItems": low, "maxItems": high, "items": items} | more


def object_of(
    properties: Mapping[str, Schema], required: tuple[str, ...] = (), **more: Any
) -> Schema:
    """Describe an object of exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    } | more


@dataclass
class Call:
    """A request that has passed the description of its operation."""

    site: Site
    request: Request
    path: dict[str, Any]
    query: dict[str, Any]
    body: dict[str, Any] = field(default_factory=dict)

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work; drop it when the client leaves. Only after the body has been read."""
        task = asyncio.create_task(work)
        leaving = asyncio.create_task(self._left())
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Problem(499, "gone", "the client left", "send it again")
            return task.result()
        finally:
            task.cancel()
            leaving.cancel()

    async def _left(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True)
class Operation:
    """An endpoint; ``path`` is that of OpenAPI, below ``/api``."""

    method: str
    path: str
    summary: str
    handler: Callable[[Call], Coroutine[Any, Any, Response | dict[str, Any]]]
    body: Schema | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    media: tuple[str, ...] = ("application/json",)  # of the answer
    is_upload: bool = False  # the body is a form with a part `file`
    is_kept: bool = False  # by browsers, which ask whether it has changed: 304


_PATH = {"id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16}$"}, "row": integer(0, 2**62)}


async def read_call(operation: Operation, site: Site, request: Request) -> Call:
    """Read and check a request, except for the file of an upload.

    Raises
    ------
    Problem
        404 for a malformed name in the path, 400 or 422 for the rest.
    """
    path = {name: _typed(value, _PATH[name]) for name, value in request.path_params.items()}
    for name, value in path.items():
        if _fault(value, _PATH[name]):
            raise Problem(404, "not_found", f"no {name} {str(value)[:40]!r}", "see /api/docs")
    query = {
        name: _typed(request.query_params[name], schema)
        for name, schema in operation.query.items()
        if name in request.query_params
    }
    schema = object_of(operation.query)
    _check({**dict(request.query_params), **query}, schema, "the query")
    call = Call(site, request, path, _with_defaults(query, schema))
    if operation.body is not None:
        pieces = [piece async for piece in read_body(request, _MAX_JSON)]
        try:
            body = json.loads(b"".join(pieces), parse_float=_read_float, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise Problem(400, "bad_request", "the body is not JSON", "see /api/docs") from error
        _check(body, operation.body, "the body")
        call.body = _with_defaults(body, operation.body)
    return call


def _read_float(text: str) -> float:
    """Read ``3.0`` as the integer that JSON Schema takes it for."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _typed(text: str, schema: Schema) -> Any:
    """Read the text of a path or query as its schema has it; as it is, if it is something else."""
    if schema.get("type") == "integer" and text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    if schema.get("type") == "number" and _is_decimal(text):
        return float(text)
    if schema.get("type") == "boolean" and text in ("true", "false"):
        return text == "true"
    return text


def _fault(value: Any, schema: Schema) -> str | None:
    validator = jsonschema.Draft202012Validator(schema)
    # Of the first: a body may have a hundred thousand.
    error = jsonschema.exceptions.best_match(itertools.islice(validator.iter_errors(value), 1))
    if error is None:
        return None
    what = error.message  # quotes the value, then has what is wrong with it
    if len(what) > 200:
        what = f"{what[:80]} ... {what[-100:]}"
    return f"{error.json_path}: {what}"


def _check(value: Any, schema: Schema, where: str) -> None:
    if fault := _fault(value, schema):
        raise Problem(422, "invalid", f"{where} does not fit: {fault}", "see /api/docs")


def _with_defaults(values: dict[str, Any], schema: Schema) -> dict[str, Any]:
    defaults = {
        name: one["default"] for name, one in schema["properties"].items() if "default" in one
    }
    return defaults | values


def openapi(operations: tuple[Operation, ...]) -> dict[str, Any]:
    """Return the OpenAPI document of the operations."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(f"/api{operation.path}", {})[operation.method.lower()] = _described(
            operation
        )
    texts = ("code", "message", "hint")
    problem = object_of({name: {"type": "string"} for name in texts}, texts)
    return {
        "openapi": "3.1.0",
        "info": {"title": "dinoforge demo", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Problem": problem}},
    }


def _described(operation: Operation) -> dict[str, Any]:
    places = {"query": operation.query, "path": {}}
    places["path"] = {name: _PATH[name] for name in _PATH if f"{{{name}}}" in operation.path}
    parameters = [
        {"name": name, "in": place, "required": place == "path", "schema": schema}
        for place, schemas in places.items()
        for name, schema in schemas.items()
    ]
    answer: dict[str, Any] = {
        media: {"schema": {"type": "object"} if media == "application/json" else {}}
        for media in operation.media
    }
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {"200": {"description": "done", "content": answer}}
        | {status: {"description": text, "content": problem} for status, text in _PROBLEMS.items()},
    }
    if operation.is_kept:
        described["responses"]["304"] = {"description": "not changed since the ETag that was sent"}
    if operation.method == "POST":
        described["parameters"].append(
            {
                "name": "X-CSRF-Token",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "`csrf` of /api/health; not needed with a bearer token",
            }
        )
    if operation.is_upload:
        file = {"type": "string", "contentMediaType": "application/octet-stream"}
        form = {"multipart/form-data": {"schema": object_of({"file": file}, ("file",))}}
        described["requestBody"] = {"required": True, "content": form}
    elif operation.body is not None:
        body = {"application/json": {"schema": operation.body}}
        described["requestBody"] = {"required": True, "content": body}
    return described
