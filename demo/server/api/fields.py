"""What several endpoints read: models, rows, pictures and their features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.network import patch_grid
from dinoforge.demo.server.decoding import MAX_SIDE
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.operations import Call, Schema, array_of, integer
from dinoforge.demo.server.problems import Problem, not_found
from dinoforge.demo.views import Box
from dinoforge.errors import UsageError
from dinoforge.images import Undecodable, resize

__all__ = [
    "BOXES",
    "ID",
    "MODEL",
    "ONE_SOURCE",
    "ROW",
    "boxes_of",
    "check_row",
    "decode_row",
    "flat",
    "grid_of",
    "patches_of",
    "vector_of",
]

MODEL: Schema = integer(0, 1, default=0)
ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{16}$"}
ROW: Schema = integer(0, 2**62)
# A picture of the client, or an image of the collection.
ONE_SOURCE: dict[str, Any] = {"oneOf": [{"required": ["id"]}, {"required": ["row"]}]}
# Left, top, right, bottom in patches; the last column and row belong to it.
_BOX = array_of(integer(0, 2**31), 4, 4)
BOXES = array_of(_BOX, 0, 100, default=[])


def boxes_of(boxes: list[list[int]], features: NDArray[np.floating]) -> list[Box]:
    """Return boxes of a request as those of the views, after checking that they fit: 422."""
    rows, columns = features.shape[:2]
    for left, top, right, bottom in boxes:
        if not (left <= right < columns and top <= bottom < rows):
            what = f"box {[left, top, right, bottom]} on {columns} columns and {rows} rows"
            raise Problem(422, "invalid", what, "give left, top, right, bottom in patches")
    return [Box(top, left, bottom, right) for left, top, right, bottom in boxes]


def flat(values: NDArray[np.floating]) -> list[float]:
    """Return a map as JSON numbers, row by row."""
    return values.ravel().round(4).tolist()


def grid_of(side: Side, pixels: NDArray[np.uint8]) -> dict[str, int]:
    """Return the rows and columns of patches of a picture; 0 of a network without patches."""
    (height, width), patch = pixels.shape[:2], side.network.patch_size
    rows, columns = patch_grid(height, width, side.size, patch) if patch else (0, 0)
    return {"rows": rows, "columns": columns}


def check_row(side: Side, row: int) -> None:
    """Refuse a row that the index does not have: 404."""
    if row >= side.index.num_images:
        raise not_found(f"no row {row}", f"rows are 0 to {side.index.num_images - 1}")


def decode_row(call: Call, side: Side, row: int) -> NDArray[np.uint8]:
    """Return the picture of a row, longer side at most 1,036 pixels, as it may be shown.

    Raises
    ------
    Problem
        404, if there is no such row, or its source is gone.
    """
    check_row(side, row)
    try:
        pixels = side.index.decode(row)
    except (Undecodable, UsageError) as error:
        hint = "restore the sources of the index: only thumbnails are in it"
        raise not_found(f"the image of row {row} cannot be read", hint) from error
    height, width = pixels.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale < 1:
        pixels = resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return call.site.collection_gate.admit(pixels, blurring=True)[0]


async def vector_of(call: Call, side: Side, source: dict[str, Any]) -> NDArray[np.floating]:
    """Return the vector of a picture (``id``) or of an image of the collection (``row``)."""
    if "row" in source:
        check_row(side, source["row"])
        return side.index.vector(source["row"])
    return await side.vector(call.site.pictures.get(source["id"]))


async def patches_of(call: Call, side: Side, source: dict[str, Any]) -> NDArray[np.floating]:
    """Return the features of patches, as `vector_of`."""
    if "row" in source:
        check_row(side, source["row"])
        return side.index.patches(source["row"])
    return await side.patches(call.site.pictures.get(source["id"]))
