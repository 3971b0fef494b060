"""Connected components against SciPy: speed by shape of the graph, memory at scale.

    python benchmarks/components.py --peers ../shared/peers --rounds 5
    python benchmarks/components.py --nodes 100000000 --edges 100000000

The first form interleaves `dinoforge` with ``scipy.sparse.csgraph`` on 1 M nodes: the graph
"blocks" of the peer script (many small components, 5 M edges), paths, stars, random graphs. The
labels are compared. The second adds edges between members of groups of 12 nodes, ids scattered,
block by block: bytes per node are what the peak grew beyond one block, and include the labels.
"""

import argparse
import math
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import interleave, load_script, print_table, ratios, spread, start_clean
from numpy.typing import NDArray
from recording import write_result
from scipy.sparse import coo_array, csgraph

from dinoforge.neighbors.components import Components, connected_components

Ids = NDArray[np.int64]
Graph = tuple[Ids, Ids]

OURS, PEER = "dinoforge", "SciPy csgraph"
BLOCK = 1 << 22
GROUP = 12


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of bench_components.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=5_000_000)
    args = parser.parse_args()
    if args.peers:
        blocks = load_script(args.peers / "bench_components.py")["graph"](args.nodes, args.edges)
        figures = compare(graphs(args.nodes) | {"blocks": blocks}, args.nodes, args.rounds)
        print(write_result("components", figures).name)
    else:
        figures = measure_memory(args.nodes, args.edges)
        print(figures)
        print(write_result(f"components-{args.nodes}", figures).name)


def graphs(n: int) -> dict[str, Graph]:
    rng = np.random.default_rng(0)
    ids, shuffled, order = np.arange(n), rng.permutation(n), rng.permutation(n - 1)
    dense, sparse = rng.integers(0, n, (2, 5 * n)), rng.integers(0, n, (2, n // 2))
    return {
        "path, ids shuffled": (shuffled[:-1], shuffled[1:]),
        "path, edges shuffled": (order, order + 1),
        "path in order": (ids[:-1], ids[1:]),
        "path in reverse": (ids[::-1][:-1].copy(), ids[::-1][1:].copy()),
        "star, center first": (np.zeros(n, np.int64), ids),
        "star, center last": (np.full(n, n - 1), ids),
        "random, 5 n edges": (dense[0], dense[1]),
        "random, n / 2 edges": (sparse[0], sparse[1]),
    }


def by_scipy(n: int, i: Ids, j: Ids) -> Ids:
    matrix = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(n, n))
    labels: Ids = csgraph.connected_components(matrix, directed=False)[1]
    return labels


def compare(shapes: dict[str, Graph], n: int, rounds: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"nodes": n, "rounds": rounds, "graphs": {}}
    rows = []
    for name, (i, j) in shapes.items():
        seconds, labels = interleave(
            {
                OURS: lambda i=i, j=j: connected_components(n, i, j),
                PEER: lambda i=i, j=j: by_scipy(n, i, j),
            },
            rounds,
        )
        _, first = np.unique(labels[PEER], return_index=True)
        million_per_s = {who: len(i) / min(seconds[who]) / 1e6 for who in seconds}
        ratio = ratios(seconds[PEER], seconds[OURS])
        figures["graphs"][name] = {
            "edges": len(i),
            "components": len(first),
            "same_labels": bool(np.array_equal(first[labels[PEER]], labels[OURS])),
            "cpu_s": {who: spread(values) for who, values in seconds.items()},
            "million_edges_per_s_of_the_fastest_round": million_per_s,
            "ratio": ratio,
        }
        speeds = [f"{million_per_s[who]:.1f}" for who in (OURS, PEER)]
        rows.append([name, f"{len(i):,}", *speeds, f"{ratio['median']:.2f}"])
    print_table(["graph", "edges", f"M edges/s {OURS}", f"M edges/s {PEER}", "ratio"], rows)
    return figures


def measure_memory(n: int, m: int) -> dict[str, Any]:
    """Add ``m`` edges by blocks; the peak before is that of a process that has held one block."""
    step = next(s for s in range(int(n * 0.618), n) if math.gcd(s, n) == 1)  # scatters the ids
    rng = np.random.default_rng(0)

    def block(size: int) -> Graph:
        group = rng.integers(0, -(-n // GROUP), size) * GROUP
        ends = (group + rng.integers(0, GROUP, (2, size))).clip(max=n - 1)
        ends *= step
        ends %= n
        return ends[0], ends[1]

    connected_components(1000, *(end % 1000 for end in block(min(BLOCK, m))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    components, seconds = Components(n), 0.0
    for start in range(0, m, BLOCK):
        edges = block(min(BLOCK, m - start))
        started = time.process_time()
        components.add(*edges)
        seconds += time.process_time() - started
    started = time.process_time()
    labels = components.labels()
    seconds += time.process_time() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "nodes": n,
        "edges": m,
        "cpu_s": round(seconds, 2),
        "million_edges_per_s": round(m / seconds / 1e6, 2),
        "bytes_per_node": round((after - before) * 1024 / n, 2),
        "components": int(np.count_nonzero(labels == np.arange(n, dtype=labels.dtype))),
    }


if __name__ == "__main__":
    main()
