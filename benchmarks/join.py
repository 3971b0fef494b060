"""The exact thresholded self-join against NumPy tiles and FAISS, on the peer script's data.

    python benchmarks/join.py --peers ../shared/peers --n 20000 --rounds 5
    python benchmarks/join.py --peers ../shared/peers --n 100000 --rounds 1

``dinoforge`` joins block by block as ``curation.graph`` does (4,096 rows); it also scores each
pair in float64 and sorts, which its peers do not. "NumPy tiles" is the upper triangle of products
compared with the threshold. FAISS compares each row with all: ``range_search`` finds every pair,
the top 64 does not. Ratio: CPU seconds of the peer / those of dinoforge, round by round.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from measuring import blas, interleave, load_script, print_table, ratios, spread, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.neighbors.join import join_above

Rows = NDArray[np.float32]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

BLOCK = 4096  # of curation.graph and of the peer's tiles
OURS = "dinoforge join_above"
ALL = "NumPy tiles, FAISS range_search, FAISS top-64"


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of bench_knn.py")
    parser.add_argument("--n", type=int, default=20000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", default=ALL, help=f"peers, of: {ALL}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    peer = load_script(args.peers / "bench_knn.py")
    x = peer["make_data"](args.n, args.dim)[0]
    contestants: dict[str, Callable[[], Pairs]] = {
        OURS: lambda: blockwise(x, args.threshold),
        "NumPy tiles": lambda: numpy_tiles(x, args.threshold),
        "FAISS range_search": lambda: faiss_range(x, args.threshold),
        "FAISS top-64": lambda: faiss_top(x, args.threshold),
    }
    wanted = [OURS, *(name.strip() for name in args.against.split(","))]
    contestants = {name: contestants[name] for name in wanted}
    seconds, result = interleave(contestants, args.rounds)
    edges = {name: peer["keys"](*pairs, args.n) for name, pairs in result.items()}
    figures = {
        "n": args.n,
        "dim": args.dim,
        "threshold": args.threshold,
        "rounds": args.rounds,
        "gflops_of_one_product": round(peer["np_rate"](k=args.dim), 1),
        "blas": blas() | {"faiss": faiss.__version__},
        "methods": {
            name: {
                "cpu_s": spread(seconds[name]),
                "ratio": ratios(seconds[name], seconds[OURS]),
                "pairs": len(edges[name]),
                "same_pairs": bool(np.array_equal(edges[name], edges[OURS])),
            }
            for name in contestants
        },
    }
    show(figures)
    print(write_result(f"join-{args.n}", figures).name)


def blockwise(x: Rows, threshold: float) -> Pairs:
    """Join as `curation.graph` does: all pairs of blocks of the rows."""
    starts = range(0, len(x), BLOCK)
    result = []
    for a in starts:
        for b in starts[a // BLOCK :]:
            other = None if a == b else x[b : b + BLOCK]
            edges = join_above(x[a : a + BLOCK], other, threshold=threshold)
            result.append((edges.i + a, edges.j + b))
    return concatenated(result)


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
        cpu, ratio = method["cpu_s"], method["ratio"]
        rows.append(
            [
                name,
                f"{cpu['median']:.2f} [{cpu['min']:.2f}..{cpu['max']:.2f}]",
                f"{ratio['median']:.2f} [{ratio['min']:.2f}..{ratio['max']:.2f}]",
                f"{method['pairs']:,}",
                "yes" if method["same_pairs"] else "no",
            ]
        )
    print(f"{figures['n']:,} x {figures['dim']}, cosine > {figures['threshold']}")
    print_table(["method", "CPU s", "ratio", "pairs", "same pairs"], rows)


if __name__ == "__main__":
    main()
