"""Duplicates on photographs: how many planted copies are joined, and how many strangers.

    python benchmarks/duplicates.py --data ../shared/data --seed 1
    python benchmarks/duplicates.py --data ../shared/data --seed 1 --distractors
    python benchmarks/duplicates.py --data ../shared/data --seed 1 --recipe precise --out FOLDER

The pool (`duplicate_pool.py`): 1,300 photographs, of which 400 have 600 edited copies; with
``--distractors`` also all others of the shared data. Candidates without a network: votes of local
descriptors (top 5) and the pixel descriptor (top 3). Every candidate is verified; the accepted
pairs join. By default in one loop, with the cost of every step; with ``--recipe`` by `dinoforge
curate`, whose components are read from its ledger.

*Joined*: a copy in one component with its original. *Wrong*: an image in a component whose most
frequent picture is another one (components of distractors alone do not count: frames of one video
are near-duplicates). CPU seconds of one thread.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from duplicate_pool import KINDS, PooledImage, make_pool, write_pool
from measuring import print_table, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.curated import ledger_path
from dinoforge.encoders.pixels import PixelsEncoder
from dinoforge.images import decode
from dinoforge.neighbors.search import top_k
from dinoforge.tables import read_table
from dinoforge.verification.compare import compare_pictures, is_copy
from dinoforge.verification.features import (
    LocalFeatures,
    extract_features,
    is_verifiable,
    pack_features,
)
from dinoforge.verification.votes import (
    add_to_index,
    choose_training_pictures,
    combine_votes,
    count_votes,
    strongest_descriptors,
    train_index,
)

TOP_VOTES, TOP_PIXELS = 5, 3
_RANGE = 500  # pictures whose votes are counted at once
_ORIGINAL, _DISTRACTOR = "", "distractor"

Pair = tuple[int, int]


class Stopwatch:
    """CPU seconds per step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, step: str) -> None:
        now = time.process_time()
        self.seconds[step] = now - self._last
        self._last = now


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--seed", type=int, action="append", help="of the pool; may be repeated")
    parser.add_argument("--distractors", action="store_true")
    parser.add_argument("--recipe", help="of `dinoforge curate`; needs --out")
    parser.add_argument("--out", type=Path, help="folder of pools and runs of the recipe")
    args = parser.parse_args()
    if args.recipe and not args.out:
        parser.error("--recipe needs --out")
    figures = []
    for seed in args.seed or [1]:
        pool = make_pool(args.data, rng_seed=seed, distractors=args.distractors)
        if args.recipe:
            labels, costs = find_by_recipe(pool, args.recipe, args.out / f"seed-{seed}")
        else:
            labels, costs = find_copies(pool, Stopwatch())
        figures.append({"seed": seed, **score(pool, labels), **costs})
        show(figures[-1])
    parts = ["duplicates", args.recipe, "distractors" if args.distractors else None]
    print(write_result("-".join(part for part in parts if part), figures).name)


def find_by_recipe(
    pool: Sequence[PooledImage], recipe: str, folder: Path
) -> tuple[list[int], dict[str, Any]]:
    """Curate the pool; return the component of every image, and CPU seconds."""
    write_pool(pool, folder / "pool")
    source = f"sources=[{{role: pool, paths: ['{(folder / 'pool').resolve()}']}}]"
    before = _cpu_of_children()
    command = [sys.executable, "-m", "dinoforge", "curate", recipe, source, f"out={folder / 'run'}"]
    subprocess.run(command, check=True)
    seconds = _cpu_of_children() - before
    ledger = read_table(ledger_path(folder / "run"), ["key", "component"]).to_pydict()
    component = {int(k): c for k, c in zip(ledger["key"], ledger["component"], strict=True)}
    # An image that was dropped before has none.
    labels = [component[at] for at in range(len(pool))]
    labels = [-1 - at if label in (None, -1) else label for at, label in enumerate(labels)]
    alone = sum(label < 0 for label in labels)
    each = round(1000 * seconds / len(pool), 1)
    return labels, {"images": len(pool), "not_admitted": alone, "cpu_ms_per_image_all": each}


def find_copies(pool: Sequence[PooledImage], watch: Stopwatch) -> tuple[list[int], dict[str, Any]]:
    """Return the component of every image, and what each step cost."""
    pictures = [decode(image.data) for image in pool]
    watch.lap("decode")
    features = [extract_features(picture) for picture in pictures]
    watch.lap("features")
    pairs = vote(features)
    watch.lap("votes")
    vectors = PixelsEncoder().encode(pictures)
    pairs = sorted(pairs | nearest_pixels(vectors))
    watch.lap("pixels")
    edges = [
        (a, b)
        for a, b in pairs
        if is_verifiable(features[a])
        and is_verifiable(features[b])
        and is_copy(compare_pictures(features[a], features[b]))
    ]
    watch.lap("verify")
    costs = {
        "images": len(pool),
        "not_verifiable": sum(not is_verifiable(part) for part in features),
        "candidates_per_image": round(len(pairs) / len(pool), 2),
        "candidate_recall": len({pair for _, pair in planted_pairs(pool)} & set(pairs)),
        "pairs_per_core_second": round(len(pairs) / watch.seconds["verify"]),
        "cpu_ms_per_image": {
            step: round(1000 * seconds / len(pool), 1) for step, seconds in watch.seconds.items()
        },
        "cpu_ms_per_image_all": round(1000 * sum(watch.seconds.values()) / len(pool), 1),
    }
    return components(len(pool), edges), costs


def vote(features: Sequence[LocalFeatures]) -> set[Pair]:
    arrays = pack_features(features)
    chosen = choose_training_pictures(len(features))
    index = train_index(strongest_descriptors(arrays, chosen)[0], len(features))
    add_to_index(index, arrays, 0)
    parts = [
        count_votes(index, pack_features(features[start : start + _RANGE]), start)
        for start in range(0, len(features), _RANGE)
    ]
    votes = combine_votes(parts, top=TOP_VOTES)
    return set(zip(votes.pictures.tolist(), votes.others.tolist(), strict=True))


def nearest_pixels(vectors: NDArray[np.float32]) -> set[Pair]:
    lists = top_k(vectors, vectors, k=TOP_PIXELS + 1).ids
    return {
        (min(a, b), max(a, b))
        for a, others in enumerate(lists.tolist())
        for b in [other for other in others if other not in (a, -1)][:TOP_PIXELS]
    }


def components(num: int, edges: Sequence[Pair]) -> list[int]:
    """Label every image by the smallest number of its component."""
    parents = list(range(num))

    def root(image: int) -> int:
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parents[high] = low
    return [root(image) for image in range(num)]


def score(pool: Sequence[PooledImage], labels: Sequence[int]) -> dict[str, Any]:
    """Compare components, given by a label per image, with the truth."""
    label_of = {
        image.picture: label
        for image, label in zip(pool, labels, strict=True)
        if image.kind in (_ORIGINAL, _DISTRACTOR)
    }
    joined: Counter[str] = Counter()
    groups: dict[int, list[PooledImage]] = defaultdict(list)
    for image, label in zip(pool, labels, strict=True):
        groups[label].append(image)
        joined[image.kind] += label == label_of[image.picture]
    planted = Counter(image.kind for image in pool)
    of_pool = [g for g in groups.values() if any(i.kind != _DISTRACTOR for i in g)]
    wrong = {}
    for group in of_pool:
        (most, _), *_ = Counter(image.picture for image in group).most_common(1)
        wrong |= {image.name: most for image in group if image.picture != most}
    return {
        "planted": sum(planted[kind] for kind in KINDS),
        "joined": sum(joined[kind] for kind in KINDS),
        "wrong": len(wrong),
        "wrong_images": wrong,
        "largest_component": max(len(group) for group in of_pool),
        "joined_by_kind": {kind: f"{joined[kind]}/{planted[kind]}" for kind in KINDS},
    }


def planted_pairs(pool: Sequence[PooledImage]) -> list[tuple[str, Pair]]:
    """Return the kind of every copy, and its position and that of its original, in order."""
    original = {image.picture: at for at, image in enumerate(pool) if image.kind == _ORIGINAL}
    ends = [
        (image.kind, at, original[image.picture])
        for at, image in enumerate(pool)
        if image.kind in KINDS
    ]
    return [(kind, (min(a, b), max(a, b))) for kind, a, b in ends]


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(figures: dict[str, Any]) -> None:
    rows = [[kind, *share.split("/")] for kind, share in figures["joined_by_kind"].items()]
    print_table(["kind", "joined", "planted"], rows)
    for name, value in figures.items():
        if name != "joined_by_kind":
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
