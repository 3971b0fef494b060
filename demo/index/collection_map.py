"""Two coordinates and a cluster per image: the map of a collection."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.blocks import Points
from dinoforge.clusters.lloyd import KMeans
from dinoforge.demo.index.tables import IndexInputs, IndexStage
from dinoforge.encoders.encoder import unit_rows
from dinoforge.stages import Json, Output
from dinoforge.tables import read_tables

__all__ = ["MapStage"]

_BLOCK = 65_536  # rows in float64 at a time
_MOST_CLUSTERS = 64
_FITTED = 100_000  # rows on which clusters are fitted
_ITERATIONS = 20


class MapStage(IndexStage):
    """Lay images out by the two principal components of their vectors, and cluster them."""

    name = "map"
    number = 60
    keys = ("seed",)
    needs = ("embed", "join")

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:  # noqa: ARG002
        """Write coordinates and clusters."""
        rows: NDArray[np.float16] = np.load(inputs.file("join", "vectors.npy"), mmap_mode="r")
        out.write_array("xy", _project(rows))
        num = len(rows)
        every = Points(lambda at: unit_rows(rows[at]), np.arange(num))
        wanted = max(1, min(_MOST_CLUSTERS, round((num / 2) ** 0.5)))
        sample = None if num <= _FITTED else np.arange(0, num, -(-num // _FITTED))
        kmeans = KMeans(seed=inputs.config.seed, iterations=_ITERATIONS)
        labels = kmeans.fit(every, wanted, "map", sample).labels
        out.write_array("clusters", labels)
        tables = inputs.files("embed", "images.parquet")
        classes = read_tables(tables, ["class_name"]).column("class_name").to_pylist()
        return {"names": _names(labels, classes)}


def _project(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the two principal components of rows ``[n, D]``, ``[n, 2]``; signs are fixed."""
    num, dim = rows.shape
    sums_D, products_DD = np.zeros(dim), np.zeros((dim, dim))
    blocks = [slice(start, start + _BLOCK) for start in range(0, num, _BLOCK)]
    for block in blocks:
        wide = rows[block].astype(np.float64)
        sums_D += wide.sum(axis=0)
        products_DD += wide.T @ wide
    mean_D = sums_D / num
    _, vectors_DD = np.linalg.eigh(products_DD / num - np.outer(mean_D, mean_D))
    axes_D2 = vectors_DD[:, -2:][:, ::-1]  # the largest eigenvalue is the last
    axes_D2 = axes_D2 * np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
    parts = [(rows[block].astype(np.float64) - mean_D) @ axes_D2 for block in blocks]
    return np.concatenate(parts).astype(np.float32)


def _names(labels: NDArray[np.int32], classes: list[str]) -> list[str]:
    """Name each cluster after the most frequent class of its images, if they have any."""
    counts = [Counter[str]() for _ in range(int(labels.max()) + 1)]
    for cluster, name in zip(labels.tolist(), classes, strict=True):
        if name:
            counts[cluster][name] += 1
    named = [sorted(some.items(), key=lambda item: (-item[1], item[0])) for some in counts]
    return [some[0][0] if some else "" for some in named]
