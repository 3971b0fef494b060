"""Two coordinates and a cluster per image, and the dendrogram of classes: the map of a collection.

Shapes: n images, C classes, D dimensions.
"""

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.blocks import Points
from dinoforge.clusters.class_structure import (
    class_means,
    cophenetic_correlation,
    feature_distances,
    link,
)
from dinoforge.clusters.layouts import lay_out
from dinoforge.clusters.lloyd import KMeans
from dinoforge.demo.index.search import ExactRows
from dinoforge.demo.index.tables import IndexInputs, IndexStage
from dinoforge.encoders.encoder import unit_rows
from dinoforge.stages import Json, Output
from dinoforge.tables import read_tables

__all__ = ["MapStage"]

_BLOCK = 65_536  # rows in float64 at a time
_MOST_CLUSTERS = 64
_FITTED = 100_000  # rows on which clusters are fitted
_ITERATIONS = 20
_PERPLEXITY, _STEPS = 30, 1000  # of t-SNE of images; scikit-learn's defaults
_FEWEST_IMAGES = 10  # of t-SNE
_NEAREST = 3  # images between which one lies that t-SNE has not laid out
_MOST_CLASSES = 1000  # of a dendrogram, the most frequent ones
_FEWEST_CLASSES = 3  # the centered means of two are opposite, whatever they are


class MapStage(IndexStage):
    """Lay images out in the plane by their vectors; cluster them, and their classes."""

    name = "map"
    number = 60
    version = "1.1.0"
    keys = ("seed", "map")
    needs = ("embed", "join")

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:  # noqa: ARG002
        """Write coordinates, clusters and the dendrogram of classes."""
        rows: NDArray[np.float16] = np.load(inputs.file("join", "vectors.npy"), mmap_mode="r")
        num, config = len(rows), inputs.config
        layout = config.map.layout if num >= _FEWEST_IMAGES else "pca"
        laid_out = num if layout == "pca" else min(num, config.map.sample)
        is_pca = layout == "pca"
        out.write_array("xy", _project(rows) if is_pca else _embed(rows, laid_out, config.seed))
        every = Points(lambda at: unit_rows(rows[at]), np.arange(num))
        wanted = max(1, min(_MOST_CLUSTERS, round((num / 2) ** 0.5)))
        sample = None if num <= _FITTED else np.arange(0, num, -(-num // _FITTED))
        kmeans = KMeans(seed=config.seed, iterations=_ITERATIONS)
        labels = kmeans.fit(every, wanted, "map", sample).labels
        out.write_array("clusters", labels)
        names, classes = _read_classes(inputs)
        tree = _write_tree(rows, names, classes, out)
        named = _names(labels, names, classes)
        return {"names": named, "layout": layout, "laid_out": laid_out, **tree}


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


def _embed(rows: NDArray[np.float16], num_sampled: int, seed: int) -> NDArray[np.float32]:
    """Return t-SNE of images that are evenly spaced, and the others between the nearest of these.

    These weigh by the inverse of their distance, 1 - cosine: a copy lies on its original.
    """
    num = len(rows)
    sampled = np.linspace(0, num - 1, num_sampled).round().astype(np.int64)
    known = rows[sampled]
    points_n2 = lay_out(
        unit_rows(known),
        "tsne",
        seed,
        where="map.layout=tsne",
        perplexity=_PERPLEXITY,
        steps=_STEPS,
    )
    if num_sampled == num:
        return points_n2.astype(np.float32)
    xy = np.empty((num, 2), np.float32)
    for start in range(0, num, _BLOCK):
        near = ExactRows(known).search(unit_rows(rows[start : start + _BLOCK]), _NEAREST)
        weights = 1 / np.maximum(1 - near.scores, 1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        xy[start : start + _BLOCK] = np.einsum("nk,nkd->nd", weights, points_n2[near.rows])
    xy[sampled] = points_n2
    return xy


def _read_classes(inputs: IndexInputs) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of all classes, sorted, and the class of every image; -1: none."""
    table = read_tables(inputs.files("embed", "images.parquet"), ["class_name"])
    encoded = table.column("class_name").combine_chunks().dictionary_encode()
    distinct: list[str] = encoded.dictionary.to_pylist()
    names = sorted(name for name in distinct if name)
    number = {name: at for at, name in enumerate(names)}
    return names, np.array([number.get(name, -1) for name in distinct])[encoded.indices.to_numpy()]


def _names(labels: NDArray[np.int32], names: list[str], classes: NDArray[np.int64]) -> list[str]:
    """Name each cluster after the most frequent class of its images, if they have any."""
    named = [""] * (int(labels.max()) + 1)
    keys = (labels.astype(np.int64) * len(names) + classes)[classes >= 0]
    keys, counts = np.unique(keys, return_counts=True)
    for key in keys[np.lexsort((-keys, counts))].tolist():  # the last one has the most images
        cluster, number = divmod(key, len(names))
        named[cluster] = names[number]
    return named


def _write_tree(
    rows: NDArray[np.float16], names: list[str], classes: NDArray[np.int64], out: Output
) -> Json:
    """Write the dendrogram of the most frequent classes, and the class of every image in it."""
    counts_C = np.bincount(classes[classes >= 0], minlength=len(names))
    kept = np.sort(np.argsort(-counts_C, kind="stable")[:_MOST_CLASSES])
    if len(kept) < _FEWEST_CLASSES:
        return {"classes": [], "class_images": [], "cophenetic": None}
    numbers = np.full(len(names) + 1, -1, np.int32)  # the last is that of no class
    numbers[kept] = np.arange(len(kept))
    of_rows = numbers[classes]
    distances_CC = feature_distances(class_means(rows, of_rows))
    tree = link(distances_CC)
    out.write_array("classes", of_rows)
    out.write_array("tree", tree)
    return {
        "classes": [names[at] for at in kept],
        "class_images": counts_C[kept].tolist(),
        "cophenetic": cophenetic_correlation(tree, distances_CC),
    }
