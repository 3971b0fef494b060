"""Search by parts: an object of one video frame, looked for in other frames among photographs.

    S="DAVIS IMAGENET_SAMPLE ANIMALS4"
    dinoforge index $S --encoder vits14.pth --out runs/trained precision=bfloat16
    dinoforge index $S --encoder untrained.safetensors --out runs/untrained precision=bfloat16
    python benchmarks/demo_patches.py DAVIS runs/trained runs/untrained

The query is the box of the object's mask in one of 100 frames, 25 per video. Frames of the video at
least 20 frames away are relevant; nearer ones, and the masks, which are images in the tars, are
left out. ``found``: a relevant frame is among the first 10; ``inside``: the center of the best
patch of the first such frame is in the object's mask, of those with one. ``color``: the same by
histograms of colors per patch, all images compared. A query is described by `object_vector`, and by
the mean of its box (`region_vector`). Indexes must list DAVIS first; distractors may differ.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_table
from numpy.typing import NDArray
from recording import write_result

from dinoforge.demo.index.reader import Index, open_index
from dinoforge.demo.views import Box, object_vector, region_vector
from dinoforge.demo.views.regions import unit
from dinoforge.evaluation.layouts.video import open_video_tars
from dinoforge.images import resize
from dinoforge.randomness import uniforms

QUERIES, AWAY, FIRST = 100, 20, 10
LEVELS = 4  # of each color in a histogram

Describe = Callable[[NDArray[Any], list[Box]], NDArray[np.float64]]
Hits = list[tuple[int, tuple[int, int]]]  # rows and their best patches, best first


@dataclass(frozen=True)
class Query:
    """A frame with an object."""

    row: int
    box: Box  # of patches
    left_out: frozenset[int]
    masks: dict[int, NDArray[np.bool_]]  # of the relevant rows
    grid: tuple[int, int]  # rows and columns of patches of every frame of the video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("davis", type=Path, help="folder of the tars")
    parser.add_argument("indexes", nargs="+", help="the same images, one index per network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    opened = {Path(folder).name: open_index(folder) for folder in args.indexes}
    first = next(iter(opened.values()))
    queries = make_queries(first, args.davis)
    figures: dict[str, Any] = {
        "images": first.num_images - len(every_mask(first)),
        "queries": len(queries),
        "chance": chance(first, queries),
    }
    colors = functools.cache(functools.partial(histograms, first))
    results = {"color": by_all(colors, first.num_images, queries)}
    for name, index in opened.items():
        results[name] = by_index(index, queries, object_vector)
        results[f"{name}, mean of the box"] = by_index(index, queries, region_vector)
    figures |= {name: measure(hits, queries) for name, hits in results.items()}
    rows = [[name, *figures[name].values()] for name in ("chance", *results)]
    print_table(["search", "found", "inside", "inside, of all"], rows)
    print(write_result("demo_patches", figures).name)


def every_mask(index: Index) -> set[int]:
    return {row for row in range(index.num_images) if index.facts(row)["member"].endswith(".png")}


def make_queries(index: Index, davis: Path) -> list[Query]:
    rows = {index.facts(row)["member"]: row for row in range(index.num_images)}
    masks_of_frames = every_mask(index)
    queries = []
    sequences = open_video_tars(sorted(davis.glob("*.tar")))
    for number, video in enumerate(sequences):
        masks = video.read_annotations() > 0
        at = [rows[f"{video.name}_{frame:05d}.jpg"] for frame in range(len(masks))]
        shown = np.flatnonzero(masks.any(axis=(1, 2)))
        draws = uniforms(number, "benchmark/demo_patches", np.arange(len(shown))).ravel()
        for frame in sorted(shown[np.argsort(draws)[: QUERIES // len(sequences)]].tolist()):
            far = [other for other in range(len(masks)) if abs(other - frame) >= AWAY]
            near = {at[other] for other in range(len(masks))} - {at[other] for other in far}
            grid = index.patches(at[frame]).shape[:2]
            queries.append(
                Query(
                    row=at[frame],
                    grid=grid,
                    box=box_of(masks[frame], *grid),
                    left_out=frozenset(near | masks_of_frames),
                    masks={at[other]: masks[other] for other in far},
                )
            )
    return queries


def box_of(mask: NDArray[np.bool_], rows: int, columns: int) -> Box:
    places = np.argwhere(mask)
    (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0)
    height, width = mask.shape
    return Box(
        int(top * rows // height),
        int(left * columns // width),
        int(bottom * rows // height),
        int(right * columns // width),
    )


def by_index(index: Index, queries: Sequence[Query], describe: Describe) -> list[Hits]:
    def search(query: Query) -> Hits:
        vector = describe(index.patches(query.row), [query.box])
        hits = index.search_region(vector, FIRST + len(query.left_out))
        return [(hit.row, hit.place) for hit in hits]

    return [search(query) for query in queries]


def by_all(
    features_of: Callable[[int], NDArray[Any]], num: int, queries: Sequence[Query]
) -> list[Hits]:
    """Compare the patches of all images, given by row ``[X, Y, D]``."""
    vectors = np.stack([object_vector(features_of(one.row), [one.box]) for one in queries])
    scores = np.empty((num, len(queries)))
    places: list[list[tuple[int, int]]] = []
    for row in range(num):
        features = features_of(row)
        similar = unit(features).reshape(-1, features.shape[2]) @ vectors.T
        best = similar.argmax(axis=0)
        scores[row] = similar[best, np.arange(len(queries))]
        places.append([divmod(int(at), features.shape[1]) for at in best])
    orders = np.argsort(-scores, axis=0, kind="stable")
    return [[(row, places[row][q]) for row in orders[:, q].tolist()] for q in range(len(queries))]


def histograms(index: Index, row: int, side: int = 14) -> NDArray[np.float32]:
    """Count the colors of every patch, ``[X, Y, 64]``."""
    rows, columns = index.patches(row).shape[:2]
    pixels = resize(index.decode(row), columns * side, rows * side)
    bins = (pixels.astype(np.int64) * LEVELS // 256) @ [LEVELS**2, LEVELS, 1]
    patches = bins.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, -1)
    numbers = patches + LEVELS**3 * np.arange(rows * columns).reshape(rows, columns, 1)
    counts = np.bincount(numbers.ravel(), minlength=rows * columns * LEVELS**3)
    return counts.reshape(rows, columns, -1).astype(np.float32)


def measure(results: Sequence[Hits], queries: Sequence[Query]) -> dict[str, float]:
    retrieved, inside = [], []
    for query, every in zip(queries, results, strict=True):
        hits = [hit for hit in every if hit[0] not in query.left_out][:FIRST]
        relevant = [hit for hit in hits if hit[0] in query.masks]
        retrieved.append(bool(relevant))
        inside.append(bool(relevant) and is_inside(query, *relevant[0]))
    return {
        "found": round(float(np.mean(retrieved)), 3),
        "inside": round(sum(inside) / max(1, sum(retrieved)), 3),
        "inside_of_all": round(float(np.mean(inside)), 3),
    }


def is_inside(query: Query, row: int, place: tuple[int, int]) -> bool:
    mask = query.masks[row]
    sides = zip(place, mask.shape, query.grid, strict=True)
    y, x = (int((at + 0.5) * side / count) for at, side, count in sides)
    return bool(mask[y, x])


def chance(index: Index, queries: Sequence[Query]) -> dict[str, float]:
    """Chance of 10 images and of a patch drawn at random."""
    retrieved, inside = [], []
    for query in queries:
        num, relevant = index.num_images - len(query.left_out), len(query.masks)
        misses = [(num - relevant - drawn) / (num - drawn) for drawn in range(FIRST)]
        retrieved.append(1 - np.prod(misses))
        inside.append(np.mean([mask.mean() for mask in query.masks.values()]))
    return {
        "found": round(float(np.mean(retrieved)), 3),
        "inside": round(float(np.mean(inside)), 3),
        "inside_of_all": round(float(np.mean(np.multiply(retrieved, inside))), 3),
    }


if __name__ == "__main__":
    main()
