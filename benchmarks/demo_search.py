"""Search of the nearest 10 among a million vectors of 384 numbers, exact and compressed.

    python benchmarks/demo_search.py --rows 1000000 --folder runs/demo_search

Synthetic unit rows in 4,000 clusters, which is hard for cells and easy for the exact comparison of
what is proposed. Per query: wall and CPU milliseconds, one thread, one query at a time, after a
first pass that reads the file. Memory: what each kind keeps, and the growth of this process
(mapped pages of the rows included). For 5 million rows: five times the figures of exact and pq,
both of which read every row or code.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from measuring import print_table, start_clean
from recording import write_result

from dinoforge.demo.index.kinds import ProposedRows, compress, kind_bytes
from dinoforge.demo.index.search import ExactRows
from dinoforge.encoders.encoder import unit_rows

DIM, CLUSTERS, K, BLOCK = 384, 4_000, 10, 50_000


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / f"rows-{args.rows}.npy"
    if not file.exists():
        write_rows(file, args.rows)
    rows = np.load(file, mmap_mode="c")
    queries = queries_near(rows, args.queries)
    before = resident()
    exact, exact_figures = measure(ExactRows(rows), queries)
    figures: dict[str, Any] = {
        "rows": args.rows,
        "dim": DIM,
        "exact": exact_figures | facts("flat", rows, before),
    }
    for kind in ("pq", "ivf"):
        started = time.process_time()
        index = compress(rows, kind, 0)  # type: ignore[arg-type]
        made = time.process_time() - started
        for probes in (0,) if kind == "pq" else (8, 32, 128):
            if probes:
                index.nprobe = probes
            near, of_kind = measure(ProposedRows(index, rows), queries)
            shares = [len(np.intersect1d(a, b)) / K for a, b in zip(exact, near, strict=True)]
            name = f"{kind}, {probes} cells" if probes else kind
            figures[name] = of_kind | facts(kind, rows, before)
            figures[name] |= {"recall_at_10": round(float(np.mean(shares)), 4)}
            figures[name] |= {"made_cpu_s": round(made, 1)}
    names = [name for name in figures if isinstance(figures[name], dict)]
    keys = ["wall_ms_p50", "wall_ms_p95", "cpu_ms_p50", "cpu_ms_p95", "memory_mb", "recall_at_10"]
    print_table(["kind", *keys], [[n, *(figures[n].get(k, 1.0) for k in keys)] for n in names])
    print(write_result("demo_search", figures).name)


def write_rows(file: Path, num: int) -> None:
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(CLUSTERS, DIM)).astype(np.float32)
    rows = np.lib.format.open_memmap(file, "w+", np.float16, (num, DIM))
    for start in range(0, num, BLOCK):
        some = rows[start : start + BLOCK]
        own = centers[draw.integers(0, CLUSTERS, len(some))]
        some[:] = unit_rows(own + 0.7 * draw.normal(size=own.shape).astype(np.float32))
    rows.flush()


def queries_near(rows: np.ndarray, num: int) -> np.ndarray:
    """Return rows with some noise: images that are not in the collection."""
    draw = np.random.default_rng(1)
    own = rows[np.sort(draw.choice(len(rows), num, replace=False))].astype(np.float32)
    return unit_rows(own + 0.02 * draw.normal(size=own.shape))


def measure(searched: Any, queries: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    searched.search(queries[:2], K)
    wall, cpu, rows = [], [], []
    for query in queries:
        walls, cpus = time.perf_counter(), time.process_time()
        rows.append(searched.search(query[None], K).rows[0])
        wall.append(1000 * (time.perf_counter() - walls))
        cpu.append(1000 * (time.process_time() - cpus))
    figures = {
        f"{name}_ms_p{share}": round(float(np.percentile(values, share)), 1)
        for name, values in (("wall", wall), ("cpu", cpu))
        for share in (50, 95)
    }
    return np.stack(rows), figures


def facts(kind: str, rows: np.ndarray, before: float) -> dict[str, float]:
    needed = kind_bytes(kind, rows.shape)  # type: ignore[arg-type]
    grown = resident() - before
    return {"memory_mb": round(needed / 1e6, 1), "resident_growth_mb": round(grown, 1)}


def resident() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
