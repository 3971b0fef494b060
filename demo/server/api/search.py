"""Retrieval: images like an image, and images with parts like a part."""

import time
from typing import Any

import numpy as np

from dinoforge.demo.server.api.fields import ID, MODEL, ONE_SOURCE, ROW, vector_of
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.operations import Call, Operation, integer, object_of

__all__ = ["OPERATIONS"]

_POOL = 4  # times as many candidates when results are to differ
_RELEVANCE = 0.7  # of MMR (Carbonell and Goldstein 1998); the rest is novelty
_SAME = 0.97  # cosine above which a result shows what another one shows


async def _search(call: Call) -> dict[str, Any]:
    start = time.perf_counter()
    side, body = call.site.side(call.body["model"]), call.body
    vector = await vector_of(call, side, body)
    # One more: the image itself is no answer.
    wanted = body["k"] * (_POOL if body["diverse"] else 1) + 1

    def find() -> list[dict[str, Any]]:
        scores, rows = side.index.search(vector[None], wanted, exact=body["exact"])
        hits = [
            (float(score), int(row))
            for score, row in zip(scores[0], rows[0], strict=True)
            if row >= 0 and row != body.get("row")
        ]
        if body["diverse"]:
            hits = _different(side, hits, body["k"])
        return [
            {"row": row, "score": round(score, 6), "facts": side.index.facts(row)}
            for score, row in hits[: body["k"]]
        ]

    hits = await call.site.compute.run(find)
    return {"hits": hits, "ms": round(1000 * (time.perf_counter() - start), 1)}


def _different(side: Side, hits: list[tuple[float, int]], k: int) -> list[tuple[float, int]]:
    """Choose ``k`` hits that differ, by maximal marginal relevance; near copies are left out."""
    if not hits:
        return hits
    vectors = np.stack([side.index.vector(row) for _, row in hits]).astype(np.float32)
    scores = np.array([score for score, _ in hits])
    alike = vectors @ vectors.T
    nearest = np.full(len(hits), -1.0)
    chosen: list[tuple[float, int]] = []
    value = scores.copy()
    while len(chosen) < k and np.isfinite(value).any():
        best = int(value.argmax())
        chosen.append(hits[best])
        nearest = np.maximum(nearest, alike[best])
        value = np.where(
            np.isfinite(value) & (nearest < _SAME),
            _RELEVANCE * scores - (1 - _RELEVANCE) * nearest,
            -np.inf,
        )
        value[best] = -np.inf
    return chosen


OPERATIONS = (
    Operation(
        "POST",
        "/search",
        "The nearest images of the collection",
        _search,
        body=object_of(
            {
                "id": ID,
                "row": ROW,
                "k": integer(1, 100, default=20),
                "diverse": {"type": "boolean", "default": False},
                "exact": {"type": "boolean", "default": False},
                "model": MODEL,
            },
            **ONE_SOURCE,
        ),
    ),
)
