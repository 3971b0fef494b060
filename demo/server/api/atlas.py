"""The map of the collection, and lists of images to take away from it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import PlainTextResponse, Response

from dinoforge.demo.server.api.fields import MODEL, ROW, check_row
from dinoforge.demo.server.operations import Call, Operation, array_of, object_of

__all__ = ["OPERATIONS"]

_DOTS = 20_000  # of more images, as many, evenly spaced


async def _map(call: Call) -> dict[str, Any]:
    side = call.site.side(call.query["model"])

    def read() -> dict[str, Any]:
        places, clusters, names = side.index.map()
        layout, laid_out = side.index.layout()
        rows = _dots(len(places))
        x, y = places[rows].astype(float).round(5).T.tolist()
        cluster = clusters[rows].tolist()
        answer = {"rows": rows.tolist(), "x": x, "y": y, "cluster": cluster, "names": names}
        note = _describe(layout, laid_out, len(rows), side.index.num_images)
        return answer | {"layout": layout, "laid_out": laid_out, "note": note}

    return await call.site.compute.run(read)


def _describe(layout: str, laid_out: int, drawn: int, num: int) -> str:
    """Describe how dots got their places, and of which images they are."""
    note = "Places are the two principal components."
    if layout != "pca":
        note = "Places are by t-SNE."
        if laid_out < num:
            note = f"t-SNE has placed {laid_out:,} images; others lie between 3 of these."
    if drawn < num:
        note += f" {drawn:,} of {num:,} images are drawn, evenly spaced; selections have no others."
    return note


def _dots(num: int) -> NDArray[np.int64]:
    """Return the rows that are drawn, of as many."""
    return np.linspace(0, num - 1, min(num, _DOTS)).round().astype(np.int64)


async def _classes(call: Call) -> dict[str, Any]:
    side = call.site.side(call.query["model"])

    def read() -> dict[str, Any]:
        tree = side.index.class_tree()
        rows = _dots(side.index.num_images)
        return {
            "names": tree.names,
            "images": tree.images,
            "of_rows": tree.of_rows[rows].tolist(),
            "merges": [[int(a), int(b), round(far, 5)] for a, b, far, _ in tree.merges.tolist()],
            "cophenetic": tree.cophenetic,
        }

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
        f"Places in the plane of all images, or of {_DOTS:,} evenly spaced; clusters, their names",
        _map,
        query={"model": MODEL},
    ),
    Operation(
        "GET",
        "/map/classes",
        "The dendrogram of class means: merges as SciPy's linkage, classes of the rows of /map",
        _classes,
        query={"model": MODEL},
    ),
    Operation(
        "POST",
        "/selection",
        "Keys of images, one per line: filter.where=\"key in lines('keys.txt')\" of a curation",
        _selection,
        body=object_of({"rows": array_of(ROW, 0, _DOTS), "model": MODEL}, ("rows",)),
        media=("text/plain",),
    ),
)
