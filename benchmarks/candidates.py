"""Candidate pairs by an encoder: how many planted copies are among the nearest pictures.

    python benchmarks/candidates.py --data ../shared/data --encoder sscd_distilled --seed 1

The pool of `duplicate_pool.py`. Cosine of whole pictures, and the largest of these and of a window
of one picture with the whole of the other, as with `duplicates.verify.windows`. *Recall*: planted
pairs among the k nearest of either picture; candidates per image are distinct pairs over images.
With *descriptor*, the 3 nearest by `pixels` are candidates, too.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from duplicate_pool import KINDS, PooledImage, make_pool
from duplicates import Pair, nearest_pixels, planted_pairs
from measuring import print_table, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.curation.stages.embed import EmbedWindowsStage
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.pixels import PixelsEncoder
from dinoforge.images import decode


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--encoder", default="pixels")
    parser.add_argument("--seed", type=int, default=1, help="of the pool")
    args = parser.parse_args()
    pool = make_pool(args.data, rng_seed=args.seed, distractors=False)
    pictures = [decode(image.data) for image in pool]
    near_pixels = nearest_pixels(PixelsEncoder().encode(pictures))
    cosines = measure_cosines(pictures, args.encoder)
    rows, figures = [], []
    for views, cosine in cosines.items():
        for k in (5, 10):
            for also, other in (("", set()), ("descriptor", near_pixels)):
                figure = describe(pool, nearest(cosine, k) | other)
                figures.append({"views": views, "top": k, "also": also, **figure})
                rows.append([views, k, also, figure["recall"], figure["per_image"], figure["lost"]])
    print_table(["views", "top", "also", "recall", "candidates per image", "lost"], rows)
    print(
        write_result(f"candidates-{args.encoder}", {"seed": args.seed, "candidates": figures}).name
    )


def measure_cosines(pictures: list[NDArray[np.uint8]], spec: str) -> dict[str, NDArray[np.float32]]:
    """Return the cosine of every two pictures, of the whole and with windows."""
    encoder, views_of = make_encoder(spec), EmbedWindowsStage().views_of
    whole = encoder.encode(pictures)
    views = [view for picture in pictures for view in views_of(picture)]
    windows = encoder.encode(views).reshape(len(pictures), -1, encoder.dim)
    across = np.stack([(windows[:, at] @ whole.T) for at in range(windows.shape[1])]).max(axis=0)
    plain = whole @ whole.T
    return {"whole": plain, "whole + 5 windows": np.maximum(plain, np.maximum(across, across.T))}


def nearest(cosine: NDArray[np.float32], k: int) -> set[Pair]:
    """Return the k nearest of every picture as pairs, the smaller position first."""
    cosine = cosine.copy()
    np.fill_diagonal(cosine, -2)
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return {(min(a, b), max(a, b)) for a, row in enumerate(best.tolist()) for b in row}


def describe(pool: list[PooledImage], pairs: set[Pair]) -> dict[str, Any]:
    planted = planted_pairs(pool)
    hit = Counter(kind for kind, pair in planted if pair in pairs)
    total = Counter(kind for kind, _ in planted)
    lost = [f"{kind} {hit[kind]}/{total[kind]}" for kind in KINDS if hit[kind] < 0.9 * total[kind]]
    return {
        "recall": round(hit.total() / len(planted), 3),
        "per_image": round(len(pairs) / len(pool), 2),
        "lost": ", ".join(lost),
    }


if __name__ == "__main__":
    main()
