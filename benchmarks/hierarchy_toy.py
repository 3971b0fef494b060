"""Balanced sampling on the toy of Vo et al. 2024, and the objective of k-means against FAISS.

    python benchmarks/hierarchy_toy.py --peers ../shared/peers

The toy is that of the README of ssl-data-curation: five rings with 200 to 20,000 points, of which
1,000 are chosen. How even a choice is: the Kullback-Leibler divergence from the uniform density on
the rings, over cells of 0.2 x 0.2 (the paper estimates the density by kernels). The least that
1,000 points allow is that of uniform draws. k-means: the rows of the peer script, one level.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import interleave, load_script, print_table, ratios, spread, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.clusters.blocks import Points
from dinoforge.clusters.hierarchy import LevelPolicy, cluster_levels
from dinoforge.clusters.lloyd import KMeans
from dinoforge.clusters.nearest import assign_rows
from dinoforge.clusters.sampling import choose_rows, share_over_levels
from dinoforge.neighbors.products import require_faiss

Rows = NDArray[np.float64]

RINGS = ((20_000, -2.2, 1.0), (200, 0.0, 1.0), (1000, 2.2, 1.0), (500, -1.2, 0.2), (8000, 1.2, 0.2))
INNER, OUTER = 0.7, 1.0
TARGET, SEEDS, CELL = 1000, 3, 0.2
OURS, PEER = "dinoforge", "FAISS"


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of bench_knn.py")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    figures = {"toy": toy(), "kmeans": against_faiss(args)}
    print(write_result("hierarchy_toy", figures).name)


def toy() -> dict[str, Any]:
    contestants: dict[str, Callable[[Rows, int], Rows]] = {
        "uniform draws": lambda _, seed: uniform(np.random.default_rng(100 + seed), TARGET),
        "random images": lambda rows, seed: np.random.default_rng(seed).choice(rows, TARGET),
        "flat, 300 clusters": lambda rows, seed: balanced(rows, [300], 0, seed),
        "flat, 1,000 clusters": lambda rows, seed: balanced(rows, [1000], 0, seed),
        "levels 1,000, 300": lambda rows, seed: balanced(rows, [1000, 300], 0, seed),
        "levels 1,000, 300, resampled 10 times": lambda rows, seed: balanced(
            rows, [1000, 300], 10, seed
        ),
    }
    figures = {}
    for name, choose in contestants.items():
        values = [divergence(choose(draw_rings(seed), seed)) for seed in range(SEEDS)]
        figures[name] = spread(values)
    header = ("1,000 points of the rings", "KL to uniform, median", "min", "max")
    print_table(header, [(name, *row.values()) for name, row in figures.items()])
    return figures


def draw_rings(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return np.concatenate([ring(rng, n) + np.array([x, y]) for n, x, y in RINGS])


def ring(rng: np.random.Generator, n: int) -> Rows:
    radius, angle = rng.uniform(INNER, OUTER, n), rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def uniform(rng: np.random.Generator, n: int) -> Rows:
    """Draw points on the union of the rings."""
    points = rng.uniform([-3.2, -0.8], [3.2, 2.0], (20 * n, 2))
    apart = np.stack([np.hypot(*(points - [x, y]).T) for _, x, y in RINGS])
    return points[((apart >= INNER) & (apart <= OUTER)).any(axis=0)][:n]


def balanced(rows: Rows, levels: list[int], resampling: int, seed: int) -> Rows:
    points = Points(rows.astype(np.float32).__getitem__, np.arange(len(rows)))
    policies = [LevelPolicy(num, resampling) for num in levels]
    first, *above = cluster_levels(points, policies, KMeans(seed=seed)).levels
    sizes = np.bincount(first.labels)
    shares = share_over_levels(sizes, [level.labels for level in above], TARGET, seed=seed)
    chosen = choose_rows(
        first.labels,
        shares[0],
        points.positions,
        distances=first.distances,
        rule="random",
        seed=seed,
    )
    assert chosen.sum() == TARGET
    return rows[chosen]


def divergence(points: Rows) -> float:
    """Kullback-Leibler divergence of the points from the uniform density on the rings, nats."""
    reference = cells(uniform(np.random.default_rng(0), 1_000_000))
    chosen = cells(points)
    used = chosen > 0
    return float((chosen[used] * np.log(chosen[used] / np.maximum(reference[used], 1e-6))).sum())


def cells(points: Rows) -> Rows:
    edges = [np.arange(low, high + CELL, CELL) for low, high in ((-3.4, 3.4), (-1.0, 2.2))]
    counts, *_ = np.histogram2d(*points.T, bins=edges)
    return counts / counts.sum()


def against_faiss(args: argparse.Namespace) -> dict[str, Any]:
    rows = load_script(args.peers / "bench_knn.py")["make_data"](args.rows, 256)[0]
    rows = np.ascontiguousarray(rows, np.float32)
    points = Points(rows.__getitem__, np.arange(len(rows)))
    faiss = require_faiss()

    def fit_peer() -> NDArray[np.float32]:
        kmeans = faiss.Kmeans(256, args.clusters, niter=args.iterations, seed=1)
        kmeans.cp.max_points_per_centroid = len(rows)
        kmeans.train(rows)
        kmeans.index.search(rows, 1)  # distances and labels, which a `Clustering` has, too
        return np.asarray(kmeans.centroids)

    def fit() -> NDArray[np.float32]:
        return KMeans(iterations=args.iterations).fit(points, args.clusters, "level1").centroids

    seconds, centroids = interleave({OURS: fit, PEER: fit_peer}, args.rounds)
    objective = {name: float(assign_rows(rows, c)[1].sum()) for name, c in centroids.items()}
    figures = {
        "shape": [len(rows), 256, args.clusters, args.iterations],
        "cpu_seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": ratios(seconds[PEER], seconds[OURS]),
        "objective": objective,
        "objective_ratio": round(objective[OURS] / objective[PEER], 4),
    }
    print_table(
        ("k-means", "CPU s", "objective"),
        [(n, statistics.median(seconds[n]), round(objective[n], 1)) for n in (OURS, PEER)],
    )
    return figures


if __name__ == "__main__":
    main()
