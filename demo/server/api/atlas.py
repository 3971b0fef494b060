"""The map of the collection, and lists of images to take away from it."""

from typing import Any

import numpy as np
from starlette.responses import PlainTextResponse, Response

from dinoforge.demo.server.api.fields import MODEL, ROW, check_row
from dinoforge.demo.server.operations import Call, Operation, object_of

__all__ = ["OPERATIONS"]

_DOTS = 20_000  # of more images, as many, evenly spaced


async def _map(call: Call) -> dict[str, Any]:
    side = call.site.side(call.query["model"])

    def read() -> dict[str, Any]:
        places, clusters, names = side.index.map()
        rows = np.arange(len(places))
        if len(rows) > _DOTS:
            rows = np.linspace(0, len(rows) - 1, _DOTS).round().astype(int)
        x, y = places[rows].astype(float).round(5).T.tolist()
        cluster = clusters[rows].tolist()
        return {"rows": rows.tolist(), "x": x, "y": y, "cluster": cluster, "names": names}

    return await call.site.compute.run(read)


async def _selection(call: Call) -> Response:
    side = call.site.side(call.body["model"])
    for row in call.body["rows"]:
        check_row(side, row)

    def read() -> str:
        return "".join(f"{side.index.facts(row)['key']}\n" for row in call.body["rows"])

    return PlainTextResponse(await call.site.compute.run(read))


OPERATIONS = (
    Operation(
        "GET",
        "/map",
        "Places of images in the plane, near ones alike, and clusters with their names",
        _map,
        query={"model": MODEL},
    ),
    Operation(
        "POST",
        "/selection",
        "Keys of images, one per line: filter.where=\"key in lines('keys.txt')\" of a curation",
        _selection,
        body=object_of(
            {"rows": {"type": "array", "items": ROW, "maxItems": _DOTS}, "model": MODEL}, ("rows",)
        ),
        media=("text/plain",),
    ),
)
