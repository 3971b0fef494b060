"""The exact k nearest rows against FAISS and against the two searches that it replaced.

    python benchmarks/top_k.py --rounds 5

Commit 70ed5bc had two: `top_k`, which raised a bar from tile to tile of the base, and `nearest`,
which took ``torch.topk`` of the float32 products and scored k and a few more again. FAISS returns
float32 scores and decides ties by chance. Ratio: CPU seconds of the method / those of dinoforge.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import faiss
import numpy as np
import torch
from measuring import blas, interleave, print_table, ratios, spread, start_clean
from recording import write_result

from dinoforge.encoders.encoder import unit_rows
from dinoforge.neighbors.search import top_k

NEW = "dinoforge top_k"
BEFORE = "70ed5bc"
# Queries, base rows, dimensions, k: a k-NN evaluation, a retrieval with refills, a small one.
SIZES = ((500, 50_000, 384, 200), (500, 65_536, 256, 64), (500, 65_536, 256, 8))


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    figures: dict[str, Any] = {"rounds": args.rounds, "blas": blas(), "sizes": []}
    for size in SIZES:
        figures["sizes"].append(measure(*size, args.rounds))
        show(figures["sizes"][-1])
    print(write_result("top_k", figures).name)


def measure(num_queries: int, num_base: int, dim: int, k: int, rounds: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(50, dim))
    queries, base = (
        unit_rows(centers[generator.integers(0, 50, n)] + generator.normal(size=(n, dim)))
        for n in (num_queries, num_base)
    )
    index = faiss.IndexFlatIP(dim)
    index.add(base)
    products = {"dinoforge.neighbors.products": at_commit("dinoforge/neighbors/products.py", {})}
    rising = at_commit("dinoforge/neighbors/search.py", products).top_k
    nearest = at_commit("evaluation/nearest.py", products).nearest
    contestants: dict[str, Callable[[], Any]] = {
        NEW: lambda: top_k(queries, base, k=k).ids,
        f"top_k of {BEFORE}": lambda: rising(queries, base, k=k).ids,
        f"nearest of {BEFORE}": lambda: nearest(queries, base, k=k).ids,
        "FAISS IndexFlatIP": lambda: index.search(queries, k)[1],
    }
    seconds, ids = interleave(contestants, rounds)
    return {
        "queries": num_queries,
        "base": num_base,
        "dim": dim,
        "k": k,
        "methods": {
            name: {
                "cpu_s": spread(seconds[name]),
                "ratio": ratios(seconds[name], seconds[NEW]),
                "same_ids": bool(np.array_equal(ids[name], ids[NEW])),
            }
            for name in contestants
        },
    }


def at_commit(path: str, imports: dict[str, ModuleType]) -> ModuleType:
    """Run a module as it was in commit `BEFORE`, with some of its imports replaced."""
    source = subprocess.check_output(["git", "show", f"{BEFORE}:{path}"], text=True)
    module = ModuleType(path)
    with mock.patch.dict(sys.modules, imports):
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def show(size: dict[str, Any]) -> None:
    print(f"{size['queries']:,} of {size['base']:,} x {size['dim']}, k = {size['k']}")
    rows = [
        [
            name,
            f"{m['cpu_s']['median']:.2f} [{m['cpu_s']['min']:.2f}..{m['cpu_s']['max']:.2f}]",
            f"{m['ratio']['median']:.2f} [{m['ratio']['min']:.2f}..{m['ratio']['max']:.2f}]",
            "yes" if m["same_ids"] else "no",
        ]
        for name, m in size["methods"].items()
    ]
    print_table(["method", "CPU s", "ratio", "same ids"], rows)


if __name__ == "__main__":
    main()
