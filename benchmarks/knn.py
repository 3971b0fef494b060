"""Neighbors of a k-NN evaluation against FAISS's flat index.

    python benchmarks/knn.py --rounds 3

Each normalizes the features, then finds the k largest cosines of every query. `find_neighbors` also
scores its neighbors in float64 and breaks ties by the index; FAISS returns float32 products. Ratio:
CPU seconds of FAISS / those of dinoforge, one thread, in the allocator settings of its commands.
"""

import argparse
from typing import Any

import faiss
import numpy as np
import torch
from measuring import blas, interleave, print_table, ratios, spread, start_clean
from recording import write_result

from dinoforge.evaluation.knn import find_neighbors
from dinoforge.processes import keep_freed_memory

# Queries, bank, dimensions, k: the usual k, and the largest of the default recipe.
SIZES = tuple((q, n, 384, k) for q, n in ((3_000, 10_000), (10_000, 50_000)) for k in (20, 200))


def main() -> None:
    start_clean()
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    figures: dict[str, Any] = {"rounds": args.rounds, "blas": blas(), "sizes": []}
    for size in SIZES:
        figures["sizes"].append(measure(*size, args.rounds))
    rows = [
        [s["queries"], s["bank"], s["k"], *(s[n]["median"] for n in ("ours_s", "faiss_s", "ratio"))]
        for s in figures["sizes"]
    ]
    print_table(["queries", "bank", "k", "dinoforge, CPU s", "FAISS", "ratio"], rows)
    print(write_result("knn", figures).name)


def measure(num_queries: int, num_bank: int, dim: int, k: int, rounds: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(50, dim))
    queries, bank = (
        (centers[generator.integers(0, 50, n)] + generator.normal(size=(n, dim))).astype(np.float32)
        for n in (num_queries, num_bank)
    )

    def flat() -> np.ndarray:
        rows, asks = bank.copy(), queries.copy()
        faiss.normalize_L2(rows)
        faiss.normalize_L2(asks)
        index = faiss.IndexFlatIP(dim)
        index.add(rows)
        return index.search(asks, k)[1]

    contestants = {"ours": lambda: find_neighbors(bank, queries, k=k).ids, "faiss": flat}
    seconds, ids = interleave(contestants, rounds)
    return {
        "queries": num_queries,
        "bank": num_bank,
        "dim": dim,
        "k": k,
        "ours_s": spread(seconds["ours"]),
        "faiss_s": spread(seconds["faiss"]),
        "ratio": ratios(seconds["faiss"], seconds["ours"]),
        "equal_ids": round(float((ids["ours"] == ids["faiss"]).mean()), 6),
    }


if __name__ == "__main__":
    main()
