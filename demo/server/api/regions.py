"""Parts of images: where else they are, in one image and in the whole collection."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.server.api.fields import (
    BOXES,
    ID,
    MODEL,
    ONE_SOURCE,
    ROW,
    boxes_of,
    flat,
    patches_of,
)
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.operations import Call, Operation, integer, object_of
from dinoforge.demo.server.problems import Problem
from dinoforge.demo.views import object_vector, region_vector, similarity_map

__all__ = ["OPERATIONS"]

_TARGET = object_of({"id": ID, "row": ROW}, **ONE_SOURCE)
_REGION = {
    "id": ID,
    "boxes": BOXES | {"minItems": 1},
    "minus": BOXES,
    "rest": {
        "type": "boolean",
        "default": False,
        "description": "without `minus`: subtract all that is not in `boxes`",
    },
    "model": MODEL,
}


async def _query(call: Call, side: Side) -> NDArray[np.float64]:
    """Return the vector of what the request selects."""
    features = await patches_of(call, side, call.body)
    boxes, without = (boxes_of(call.body[name], features) for name in ("boxes", "minus"))
    if call.body["rest"] and not without:
        return object_vector(features, boxes)
    return region_vector(features, boxes, without=without)


async def _search(call: Call) -> dict[str, Any]:
    start = time.perf_counter()
    side = call.site.side(call.body["model"])
    if not side.index.patch_dim:
        hint = "make it again with patches.size above 0"
        raise Problem(409, "no_patches", "the index has no features of patches", hint)
    vector = await _query(call, side)

    def find() -> list[dict[str, Any]]:
        hits = side.index.search_region(vector, call.body["k"])
        return [
            {
                "row": hit.row,
                "score": round(hit.score, 6),
                "place": [hit.place[1], hit.place[0]],
                "box": [hit.box.left, hit.box.top, hit.box.right, hit.box.bottom],
                "rows": facts["rows"],
                "columns": facts["columns"],
                "facts": facts,
            }
            for hit, facts in ((hit, side.index.facts(hit.row)) for hit in hits)
        ]

    hits = await call.site.compute.run(find)
    return {"hits": hits, "ms": round(1000 * (time.perf_counter() - start), 1)}


async def _heat(call: Call) -> dict[str, Any]:
    side = call.site.side(call.body["model"])
    vector = await _query(call, side)
    features = await patches_of(call, side, call.body["target"])
    values = await call.site.compute.run(lambda: similarity_map(features, vector))
    return {"rows": len(values), "columns": values.shape[1], "values": flat(values)}


OPERATIONS = (
    Operation(
        "POST",
        "/search/region",
        "Images of the collection with a patch like the selection, and where it is",
        _search,
        body=object_of(_REGION | {"k": integer(1, 100, default=24)}, ("id", "boxes")),
    ),
    Operation(
        "POST",
        "/heat",
        "The cosine of every patch of an image to the selection",
        _heat,
        body=object_of(_REGION | {"target": _TARGET}, ("id", "boxes", "target")),
    ),
)
