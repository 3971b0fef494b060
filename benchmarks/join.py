"""The exact thresholded self-join against NumPy tiles and FAISS.

    python benchmarks/join.py --peers ../shared/peers --n 20000 --rounds 5
    dinoforge embed ../shared/data/cifar10/*.tar.gz --encoder onnx:sscd_distilled.onnx#112 \\
        --out sscd
    python benchmarks/join.py --peers ../shared/peers --vectors sscd/embeddings.npy \\
        --name sscd-distilled --threshold 0.75 --rounds 3 --methods "dinoforge, without int8"

``dinoforge`` joins as ``curation.graph`` does: partitions of 64 pairs of blocks of 4,096 rows, each
of which chooses its filter; it also scores each pair in float64 and sorts, which its peers do not.
"without int8" is its choice on a processor without VNNI. "NumPy tiles" is the upper triangle of
products compared with the threshold. FAISS compares each row with all: ``range_search`` finds every
pair, the top 64 does not. Gain: CPU seconds of NumPy tiles / those of the method, round by round.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import torch
from measuring import blas, interleave, load_script, print_table, ratios, spread, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.neighbors import filter_choice
from dinoforge.neighbors.filters import PairFilter
from dinoforge.neighbors.join import JoinRows, join_rows, prepare_rows

Rows = NDArray[np.float32]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

BLOCK = 4096  # of curation.graph and of the peer's tiles
PAIRS_OF_BLOCKS = 64  # per partition of curation.graph
TILES = "NumPy tiles"
METHODS = ("dinoforge", "without int8", "plain", "FAISS range_search", "FAISS top-64")


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of bench_knn.py")
    parser.add_argument("--vectors", type=Path, help="unit rows, .npy, instead of the peer's data")
    parser.add_argument("--name", default="isotropic", help="of the vectors, for the result's file")
    parser.add_argument("--n", type=int, default=20000, help="of the peer's data")
    parser.add_argument("--dim", type=int, default=512, help="of the peer's data")
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", default=", ".join(METHODS), help=f"besides {TILES}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    peer = load_script(args.peers / "bench_knn.py")
    x = np.load(args.vectors) if args.vectors else peer["make_data"](args.n, args.dim)[0]
    (n, dim), t = x.shape, args.threshold
    filters: dict[str, set[str]] = {"dinoforge": set(), "without int8": set(), "plain": set()}
    contestants: dict[str, Callable[[], Pairs]] = {
        "dinoforge": lambda: blockwise(x, t, filters["dinoforge"]),
        "without int8": lambda: without_int8(x, t, filters["without int8"]),
        "plain": lambda: blockwise(x, t, filters["plain"], is_plain=True),
        "FAISS range_search": lambda: faiss_range(x, t),
        "FAISS top-64": lambda: faiss_top(x, t),
        TILES: lambda: numpy_tiles(x, t),
    }
    wanted = [*(name.strip() for name in args.methods.split(",")), TILES]
    contestants = {name: contestants[name] for name in wanted}
    seconds, result = interleave(contestants, args.rounds)
    edges = {name: peer["keys"](*pairs, n) for name, pairs in result.items()}
    figures = {
        "n": n,
        "dim": dim,
        "threshold": t,
        "rounds": args.rounds,
        "gflops_of_one_product": round(peer["np_rate"](k=dim), 1),
        "blas": blas() | {"faiss": faiss.__version__},
        "methods": {
            name: {
                "cpu_s": spread(seconds[name]),
                "gain": ratios(seconds[TILES], seconds[name]),
                "pairs": len(edges[name]),
                "same_pairs": bool(np.array_equal(edges[name], edges[TILES])),
                "filters": sorted(filters.get(name, ())),
            }
            for name in contestants
        },
    }
    show(figures)
    print(write_result(f"join-{args.name}-{n}x{dim}-{t}", figures).name)


def blockwise(x: Rows, threshold: float, filters: set[str], *, is_plain: bool = False) -> Pairs:
    """Join as `curation.graph` does: pairs of blocks of the rows, partition by partition."""
    blocks = [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
    pairs = list(itertools.combinations_with_replacement(range(len(blocks)), 2))
    result = []
    for first in range(0, len(pairs), PAIRS_OF_BLOCKS):
        partition = pairs[first : first + PAIRS_OF_BLOCKS]
        sample = np.concatenate([blocks[partition[0][0]], blocks[partition[-1][1]]])
        pair_filter = filter_choice.choose_filter(
            sample,
            threshold=threshold,
            num_products=0 if is_plain else len(partition) * BLOCK**2,
            backend="numpy",
            device="cpu",
        )
        filters.add(str(pair_filter))

        @lru_cache(maxsize=2)
        def block(number: int, pair_filter: PairFilter = pair_filter) -> JoinRows:
            return prepare_rows(blocks[number], pair_filter)

        for a, b in partition:
            edges = join_rows(block(a), None if a == b else block(b), threshold=threshold)
            result.append((edges.i + a * BLOCK, edges.j + b * BLOCK))
    return concatenated(result)


def without_int8(x: Rows, threshold: float, filters: set[str]) -> Pairs:
    with mock.patch.object(filter_choice, "multiplies_int8", return_value=False):
        return blockwise(x, threshold, filters)


def numpy_tiles(x: Rows, threshold: float) -> Pairs:
    result = []
    for a in range(0, len(x), BLOCK):
        for b in range(a, len(x), BLOCK):
            above = x[a : a + BLOCK] @ x[b : b + BLOCK].T >= threshold
            i, j = np.divmod(np.flatnonzero(above), above.shape[1])
            result.append((i + a, j + b))
    return concatenated(result)


def faiss_range(x: Rows, threshold: float) -> Pairs:
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    limits, _, ids = index.range_search(x, threshold)
    return np.repeat(np.arange(len(x)), np.diff(limits.astype(np.int64))), ids


def faiss_top(x: Rows, threshold: float) -> Pairs:
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    scores, ids = index.search(x, 65)  # the first is the row itself
    above = scores > threshold
    return np.repeat(np.arange(len(x)), above.sum(axis=1)), ids[above]


def concatenated(result: list[Pairs]) -> Pairs:
    i, j = zip(*result, strict=True)
    return np.concatenate(i), np.concatenate(j)


def show(figures: dict[str, Any]) -> None:
    rows = []
    for name, method in figures["methods"].items():
        cpu, gain = method["cpu_s"], method["gain"]
        rows.append(
            [
                name,
                f"{cpu['median']:.2f} [{cpu['min']:.2f}..{cpu['max']:.2f}]",
                f"{gain['median']:.2f} [{gain['min']:.2f}..{gain['max']:.2f}]",
                f"{method['pairs']:,}",
                "yes" if method["same_pairs"] else "no",
                "; ".join(method["filters"]),
            ]
        )
    print(f"{figures['n']:,} x {figures['dim']}, cosine > {figures['threshold']}")
    print_table(["method", "CPU s", "gain", "pairs", "same pairs", "filters"], rows)


if __name__ == "__main__":
    main()
