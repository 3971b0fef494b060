"""Pictures through the eyes of the network: matches, colors, attention, segments by clicks."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.server.api.fields import ID, MODEL, flat, patches_of
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.operations import (
    Call,
    Operation,
    Schema,
    array_of,
    integer,
    number,
    object_of,
)
from dinoforge.demo.server.pictures import Picture
from dinoforge.demo.server.problems import Problem, not_found
from dinoforge.demo.views import (
    Matches,
    color_features,
    draw_colors,
    follow_frames,
    keep_one_motion,
    match_patches,
    position_basis,
    remove_position,
    segment_by_clicks,
)

__all__ = ["OPERATIONS"]

_NOISE = 8  # images of noise that show what depends on the place of a patch alone
_FLAG: Schema = {"type": "boolean", "default": False}
_PLACE = array_of(integer(0), 2, 2)
_PLACES = array_of(_PLACE, 0, 200, default=[])


async def _match(call: Call) -> dict[str, Any]:
    side, body = call.site.side(call.body["model"]), call.body
    a, b = [await patches_of(call, side, {"id": body[name]}) for name in ("a", "b")]
    if body["position"]:
        a, b = [await _without_position(side, one) for one in (a, b)]

    def match() -> Matches:
        matches = match_patches(a, b, mutual=body["mutual"])
        kept = (matches.similarity >= body["min_score"]) & (matches.ratio <= body["ratio"])
        matches = matches.keep(kept)
        return keep_one_motion(matches) if body["motion"] else matches

    matches = await call.site.compute.run(match)
    pairs = np.hstack([matches.a, matches.b]).tolist()
    scores = matches.similarity.round(4).tolist()
    return {
        "a": list(a.shape[:2]),
        "b": list(b.shape[:2]),
        "pairs": [[*pair, score] for pair, score in zip(pairs, scores, strict=True)],
    }


async def _without_position(side: Side, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Remove what depends on the place of a patch alone: what images of noise share."""
    rows, columns = features.shape[:2]
    side_patch = side.network.patch_size
    noise = [
        np.random.default_rng(seed).integers(
            0, 256, (rows * side_patch, columns * side_patch, 3), np.uint8
        )
        for seed in range(_NOISE)
    ]
    seen = [await side.patches(Picture.of(one)) for one in noise]
    return remove_position(features, position_basis(seen))


async def _colors(call: Call) -> dict[str, Any]:
    side = call.site.side(call.body["model"])
    features = [await patches_of(call, side, {"id": id_}) for id_ in call.body["ids"]]

    def color() -> list[NDArray[np.uint8]]:
        model = color_features(features, threshold=call.body["threshold"])
        return [draw_colors(model.color(one)) for one in features]

    try:
        colored = await call.site.compute.run(color)
    except ValueError as error:
        raise Problem(422, "no_foreground", str(error), "lower the threshold") from error
    return {
        "images": [
            {"rows": len(one), "columns": one.shape[1], "rgb": one.ravel().tolist()}
            for one in colored
        ]
    }


async def _attention(call: Call) -> dict[str, Any]:
    side = call.site.side(call.query["model"])
    values = await side.attention(call.site.pictures.get(call.path["id"]))
    heads, rows, columns = values.shape
    return {
        "heads": list(range(heads)),
        "rows": rows,
        "columns": columns,
        "values": [[float(f"{one:.4g}") for one in head.ravel().tolist()] for head in values],
        # Of the whole attention; the class token and registers have the rest.
        "mass": [round(float(head.sum()), 4) for head in values],
    }


async def _segment(call: Call) -> dict[str, Any]:
    side, body = call.site.side(call.body["model"]), call.body
    names = [body["id"], *body["propagate"]]
    features = [await patches_of(call, side, {"id": id_}) for id_ in names]
    rows, columns = features[0].shape[:2]
    if any(x >= columns or y >= rows for x, y in body["plus"] + body["minus"]):
        raise Problem(422, "invalid", f"a click beyond {rows} x {columns} patches", "see /api/docs")
    plus, minus = [
        np.array([features[0][y, x] for x, y in body[name]]) for name in ("plus", "minus")
    ]
    segment = partial(segment_by_clicks, positive=plus, negative=minus)
    if body["frames"]:
        if len({one.shape for one in features}) > 1:
            raise Problem(422, "invalid", "frames of several sizes", "give frames of one video")
        first = await call.site.compute.run(partial(segment, features[0]))
        maps = [first, *await call.site.compute.run(partial(follow_frames, features, first))]
    else:
        maps = [await call.site.compute.run(partial(segment, one)) for one in features]
    return {
        "images": [
            {
                "rows": len(one),
                "columns": one.shape[1],
                "prob": flat(one),
                "runs": _runs(one >= body["threshold"]),
            }
            for one in maps
        ]
    }


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return run lengths in reading order, of false first: COCO's, but by rows."""
    edges = np.flatnonzero(np.diff(mask.ravel().astype(np.int8), prepend=0))
    return np.diff(edges, prepend=0, append=mask.size).tolist()


async def _dense(call: Call) -> dict[str, Any]:
    body, picture = call.body, call.site.pictures.get(call.body["id"])
    head = next((one for one in call.site.heads if one.name == body["head"]), None)
    if head is None:
        raise not_found(f"no head {body['head'][:40]!r}", "start the demo with --head FILE")
    size = call.site.side(0).size
    seen = await call.site.inference.run(lambda: head.see(picture.pixels, size))
    rows, columns = seen.values.shape
    answer = {"rows": rows, "columns": columns, "values": seen.values.ravel().round(4).tolist()}
    if seen.classes:
        return answer | {"kind": "classes", "names": list(seen.classes)}
    low, high = round(float(seen.values.min()), 4), round(float(seen.values.max()), 4)
    return answer | {"kind": "quantity", "unit": seen.unit, "low": low, "high": high}


OPERATIONS = (
    Operation(
        "POST",
        "/match",
        "Patches of two pictures that show the same: rows, columns, rows, columns, cosine",
        _match,
        body=object_of(
            {
                "a": ID,
                "b": ID,
                "min_score": number(-1, 1, default=0),
                "mutual": {"type": "boolean", "default": True},
                "ratio": number(0, 1, default=1),
                "position": _FLAG,
                "motion": _FLAG,
                "model": MODEL,
            },
            ("a", "b"),
        ),
    ),
    Operation(
        "POST",
        "/colors",
        "Principal components as colors, the same for all pictures; the background is black",
        _colors,
        body=object_of(
            {"ids": array_of(ID, 1, 8), "threshold": number(0, 1, default=0.5), "model": MODEL},
            ("ids",),
        ),
    ),
    Operation(
        "GET",
        "/attention/{id}",
        "The attention of the class token on patches, per head of the last block",
        _attention,
        query={"model": MODEL},
    ),
    Operation(
        "POST",
        "/segment",
        "The probability that a patch belongs to what was clicked, in several pictures",
        _segment,
        body=object_of(
            {
                "id": ID,
                "plus": _PLACES | {"minItems": 1},
                "minus": _PLACES,
                "propagate": array_of(ID, 0, 64, default=[]),
                "frames": _FLAG
                | {"description": "pictures of `propagate` follow the first, in this order"},
                "threshold": number(0, 1, default=0.5),
                "model": MODEL,
            },
            ("id", "plus"),
        ),
    ),
    Operation(
        "POST",
        "/dense",
        "A class or a quantity per patch, by a head of the first network",
        _dense,
        body=object_of(
            {"id": ID, "head": {"type": "string"}, "model": integer(0, 0, default=0)},
            ("id", "head"),
        ),
    ),
)
