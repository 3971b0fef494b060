"""The join by cells on the peer script's data: recall, its estimate, CPU seconds, memory, workers.

    python benchmarks/cells.py --peers ../shared/peers --sizes 100000 1000000

Per size, a process of its own trains cells on a sample, assigns all rows, joins inside the cells
and estimates the recall on sampled rows. The exponent is that of CPU seconds from the first size to
the last. True recall: share of the pairs of the exact join, up to ``--truth`` rows, and of the
planted pairs. Workers: ranges of cells joined apart by 2 and 4, as their processes would.
"""

import argparse
import json
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import load_script, print_table, run_child, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.intervals import wilson_interval
from dinoforge.neighbors.cell_join import (
    Members,
    join_cells,
    join_sample,
    members_of_cells,
    smallest_common_cell,
    split_cells,
)
from dinoforge.neighbors.cells import SAMPLE_PER_CELL, choose_num_cells, nearest_cells, train_cells
from dinoforge.neighbors.join import join_above

Rows = NDArray[np.float32]

CELLS_PER_ROW = 4  # the default of duplicates.cells_per_image
SAMPLED = 2048  # of duplicates.recall_images
BLOCK = 65536


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of bench_knn.py")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("--truth", type=int, default=100_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.sizes[0], args.threshold)
        return
    peer = load_script(args.peers / "bench_knn.py")
    figures = []
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            x, first, second, rho, _ = peer["make_data"](n, args.dim)
            np.save(Path(folder) / "rows.npy", x)
            planted = [end[rho >= args.threshold + 1e-5] for end in (first, second)]
            own = [*sys.orig_argv, "--measure", folder, "--sizes", str(n)]
            del x
            run_child(own)
            figures.append(judge(Path(folder), n, planted, args))
            print(json.dumps(figures[-1]), flush=True)
    exponent = None
    if len(figures) > 1:
        seconds = [figure["cpu_s"]["all"] for figure in (figures[0], figures[-1])]
        exponent = round(math.log(seconds[1] / seconds[0], args.sizes[-1] / args.sizes[0]), 3)
    show(figures, exponent)
    result = {"dim": args.dim, "threshold": args.threshold, "r": CELLS_PER_ROW}
    print(write_result("cells", result | {"sizes": figures, "exponent": exponent}).name)


def measure(folder: Path, n: int, threshold: float) -> None:
    """Join by cells in a process of its own: its memory is that of the join."""
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    x = np.load(folder / "rows.npy")
    marks = [time.process_time()]
    num = choose_num_cells(n, CELLS_PER_ROW)
    sample = np.sort(rng.choice(n, min(n, SAMPLE_PER_CELL * num), replace=False))
    centroids = train_cells(x[sample], num, seed=1)
    marks.append(time.process_time())
    nearest = nearest_cells(x, centroids, CELLS_PER_ROW)
    marks.append(time.process_time())
    edges = join_cells(x, nearest, num, threshold=threshold)
    marks.append(time.process_time())
    chosen = np.sort(rng.choice(n, SAMPLED, replace=False))
    hits = total = 0
    for start in range(0, n, BLOCK):
        block = Members(x[start : start + BLOCK], nearest[start : start + BLOCK])
        pairs = join_sample(Members(x[chosen], nearest[chosen]), block, threshold=threshold)
        is_other = chosen[pairs.i] != pairs.j + start
        hits += int((pairs.is_found & is_other).sum())
        total += int(is_other.sum())
    marks.append(time.process_time())
    np.savez(folder / "edges.npz", i=edges.i, j=edges.j, similarity=edges.similarity)
    np.save(folder / "nearest.npy", nearest)
    names = ("train", "assign", "join", "recall")
    report = {
        "cells": num,
        "cpu_s": dict(zip(names, np.round(np.diff(marks), 2).tolist(), strict=True)),
        "sampled": [hits, total],
        "peak_mib": peak_mib(),
    }
    (folder / "report.json").write_text(json.dumps(report))


def peak_mib() -> int:
    """Peak memory of this process; that of `getrusage` includes the one before exec."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match, "the kernel reports the peak of every process"
    return int(match[1]) >> 10


def judge(
    folder: Path, n: int, planted: list[NDArray[np.int64]], args: argparse.Namespace
) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    edges, nearest = np.load(folder / "edges.npz"), np.load(folder / "nearest.npy")
    x = np.load(folder / "rows.npy", mmap_mode="r")
    hits, total = report["sampled"]
    seconds = report["cpu_s"]
    ends = (nearest[end] for end in planted)
    figure = {
        "n": n,
        "cells": report["cells"],
        "cpu_s": seconds | {"all": round(sum(seconds.values()), 2)},
        "pairs": len(edges["i"]),
        "recall_estimate": round(hits / total, 5),
        "interval": [round(end, 5) for end in wilson_interval(hits, total)],
        "recall_planted": round(float((smallest_common_cell(*ends) >= 0).mean()), 5),
        "peak_mib": report["peak_mib"],
        "peak_per_vectors": round(report["peak_mib"] * 2**20 / x.nbytes, 2),
        "same_for_workers": same_for_workers(x, nearest, report["cells"], edges, args.threshold),
    }
    if n <= args.truth:
        true = exact_pairs(np.asarray(x), args.threshold)
        figure |= {"true_pairs": true, "recall": round(len(edges["i"]) / true, 5)}
    return figure


def same_for_workers(x: Rows, nearest: NDArray[np.int32], num: int, edges: Any, t: float) -> bool:
    """Join the cells in the shares of 2 and 4 workers, with another block each."""
    _, starts = members_of_cells(nearest, num)
    sizes = np.diff(starts)
    keys = edges["i"] * np.int64(len(x)) + edges["j"]
    for workers in (2, 4):
        limit = int((sizes**2).sum()) // workers + int((sizes**2).max())
        parts = []
        for first, stop in split_cells(sizes, max_products=limit, max_rows=nearest.size):
            of_range = (nearest >= first) & (nearest < stop)
            ids = np.flatnonzero(of_range.any(axis=1))
            # Cells of other ranges stay: they say to whom a pair belongs.
            part = join_part(x, ids, nearest, (first, stop), t)
            parts.append(part)
        if not np.array_equal(np.sort(np.concatenate(parts)), keys):
            return False
    return True


def join_part(
    x: Rows, ids: NDArray[np.int64], nearest: NDArray[np.int32], cells: tuple[int, int], t: float
) -> NDArray[np.int64]:
    """Join a range of cells and return the keys of its pairs."""
    inside = nearest[ids]
    members, starts = members_of_cells(
        np.where((inside >= cells[0]) & (inside < cells[1]), inside - cells[0], -1).astype(
            np.int32
        ),
        cells[1] - cells[0],
    )
    keys = []
    for cell in range(cells[1] - cells[0]):
        rows = ids[members[starts[cell] : starts[cell + 1]]]
        edges = join_above(x[rows], threshold=t)
        i, j = rows[edges.i], rows[edges.j]
        belongs = smallest_common_cell(nearest[i], nearest[j]) == cell + cells[0]
        keys.append(i[belongs] * np.int64(len(x)) + j[belongs])
    return np.concatenate(keys)


def exact_pairs(x: Rows, threshold: float) -> int:
    """Count the pairs of the exact join, block by block."""
    count = 0
    for a in range(0, len(x), BLOCK):
        for b in range(a, len(x), BLOCK):
            other = None if a == b else x[b : b + BLOCK]
            count += len(join_above(x[a : a + BLOCK], other, threshold=threshold))
    return count


def show(figures: list[dict[str, Any]], exponent: float | None) -> None:
    header = ["rows", "cells", "CPU s", "recall", "estimate", "planted", "peak / vectors", "same"]
    rows = [
        [
            f"{f['n']:,}",
            f["cells"],
            f["cpu_s"]["all"],
            f.get("recall", "-"),
            f"{f['recall_estimate']} {f['interval']}",
            f["recall_planted"],
            f["peak_per_vectors"],
            "yes" if f["same_for_workers"] else "no",
        ]
        for f in figures
    ]
    print_table(header, rows)
    print(f"exponent of CPU seconds: {exponent}")


if __name__ == "__main__":
    main()
