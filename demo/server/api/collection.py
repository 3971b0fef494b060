"""The collection: what it is, its images as a grid, thumbnails, a map, lists to take away."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from starlette.responses import Response

from dinoforge import __version__
from dinoforge.demo.server.api.fields import MODEL, check_row, decode_row
from dinoforge.demo.server.faces import FaceGate
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.operations import Call, Operation, integer
from dinoforge.demo.server.uploads import MAX_UPLOAD
from dinoforge.images import decode
from dinoforge.images.resize import encode_jpeg, encode_webp

__all__ = ["OPERATIONS"]

_SAMPLES = 24
_MODEL = {"model": MODEL}


async def _health(call: Call) -> dict[str, Any]:
    return {"status": "ok", "version": __version__, "csrf": call.site.csrf}


async def _card(call: Call) -> dict[str, Any]:
    cards = [_card_of(side) for side in call.site.sides]
    return {
        "models": cards,
        "faces": call.site.gate.mode,
        "faces_blurred": call.site.collection_gate.mode == "blur",
        "heads": [head.name for head in call.site.heads],
        "explained": call.site.explain is not None,
        "max_bytes": MAX_UPLOAD,
        "version": __version__,
    }


def _card_of(side: Side) -> dict[str, Any]:
    network, vectors = side.network, side.index.card["search"]["vectors"]
    return {
        "model": {
            "name": network.name,
            "fingerprint": network.fingerprint,
            "trained": network.trained,
            "patch_size": network.patch_size,
            "num_heads": network.num_heads,
            "dim": network.dim,
            "size": side.size,
        },
        "index": side.index.card | {"kind": vectors["kind"], "recall": vectors["recall_at_10"]},
    }


async def _samples(call: Call) -> dict[str, Any]:
    side = call.site.side(call.query["model"])
    num = side.index.num_images
    rows = np.unique(np.linspace(0, max(0, num - 1), min(num, _SAMPLES)).round().astype(int))
    return {"rows": rows.tolist()}


async def _rows(call: Call) -> dict[str, Any]:
    side, first, count = (call.site.side(call.query["model"]), *_range(call))
    stop = min(side.index.num_images, first + count)

    def read() -> list[dict[str, Any]]:
        return [{"row": row, "facts": side.index.facts(row)} for row in range(first, stop)]

    rows = await call.site.compute.run(read)
    return {"total": side.index.num_images, "rows": rows}


def _range(call: Call) -> tuple[int, int]:
    return call.query["from"], call.query["count"]


async def _thumbnail(call: Call) -> Response:
    side, row = call.site.side(call.query["model"]), call.path["row"]
    check_row(side, row)
    gate = call.site.collection_gate

    async def read() -> bytes:
        if gate.mode == "off":
            return side.index.thumbnail(row)
        return await call.site.compute.run(lambda: _blurred(side, row, gate))

    return await _kept(call, side, "image/webp", read)


async def _kept(
    call: Call, side: Side, media_type: str, read: Callable[[], Awaitable[bytes]]
) -> Response:
    """Answer with an image; 304 to a browser that has it, of this index and as it is shown now."""
    tag = f'"{side.index.version}-{call.site.collection_gate.mode}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if tag in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(await read(), media_type=media_type, headers=headers)


def _blurred(side: Side, row: int, gate: FaceGate) -> bytes:
    """Return a thumbnail without faces; looking for them takes 100 times as long as reading it."""
    key = ("thumbnail", side.index.folder, row)
    known = side.cache.get(key)
    if known is None:
        pixels, _ = gate.admit(decode(side.index.thumbnail(row)), blurring=True)
        known = np.frombuffer(encode_webp(pixels, 80), np.uint8)
        side.cache.put(key, known)
    return known.tobytes()


async def _image(call: Call) -> Response:
    side, row = call.site.side(call.query["model"]), call.path["row"]
    check_row(side, row)

    async def read() -> bytes:
        return await call.site.compute.run(lambda: encode_jpeg(decode_row(call, side, row), 90))

    return await _kept(call, side, "image/jpeg", read)


OPERATIONS = (
    Operation("GET", "/health", "Whether the server runs, and the CSRF token for POST", _health),
    Operation(
        "GET", "/card", "The models, their indexes, and what the demo does with faces", _card
    ),
    Operation("GET", "/samples", "Rows to start with", _samples, query=_MODEL),
    Operation(
        "GET",
        "/rows",
        "Images of the collection, in its order",
        _rows,
        query={"from": integer(0, 2**62, default=0), "count": integer(1, 200, default=50)} | _MODEL,
    ),
    Operation(
        "GET",
        "/rows/{row}/thumb",
        "A thumbnail, longer side 256 pixels",
        _thumbnail,
        query=_MODEL,
        media=("image/webp",),
        is_kept=True,
    ),
    Operation(
        "GET",
        "/rows/{row}/image",
        "An image, longer side at most 1,036 pixels",
        _image,
        query=_MODEL,
        media=("image/jpeg",),
        is_kept=True,
    ),
)
