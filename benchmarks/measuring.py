"""What the benchmarks share: a clean process, rounds that interleave, ratios, peers by path.

CPU seconds of one thread, because machines are shared: wall time measures the neighbors.
"""

import os
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "blas",
    "declare_torchvision_operators",
    "interleave",
    "load_script",
    "print_table",
    "ratios",
    "run_child",
    "run_first",
    "spread",
    "start_clean",
]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Somebody's choice for another machine: slows NumPy's products.
_FOREIGN = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_CLEANED = "BENCHMARK_UNSET"


def start_clean() -> None:
    """Start this very command again with one thread and NumPy's own choice of kernels."""
    foreign = [name for name in _FOREIGN if name in os.environ]
    if not foreign and all(os.environ.get(name) == "1" for name in _THREADS):
        return
    clean = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    clean |= dict.fromkeys(_THREADS, "1") | {_CLEANED: " ".join(foreign)}
    os.execve(sys.executable, sys.orig_argv, clean)


def blas() -> dict[str, Any]:
    """Say which kernels NumPy's products run on, and what `start_clean` took away."""
    import numpy as np  # noqa: F401 - its library has to be loaded to be seen
    from threadpoolctl import threadpool_info

    result = [info for info in threadpool_info() if info["user_api"] == "blas"]
    return {
        "library": [f"{i['internal_api']} {i['version']} {i['architecture']}" for i in result],
        "threads": max((info["num_threads"] for info in result), default=1),
        "unset": os.environ.get(_CLEANED, ""),
    }


def interleave(
    contestants: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run all contestants once a round, the first one another each time.

    Returns
    -------
    tuple of dict
        CPU seconds of every round, and what each returned last.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    names = list(contestants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            results[name] = contestants[name]()
            seconds[name].append(time.process_time() - started)
            print(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} CPU s", file=sys.stderr)
    return seconds, results


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, least and largest."""
    result = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in result.items()}


def ratios(reference: Sequence[float], actual: Sequence[float]) -> dict[str, float]:
    """Spread of peer / dinoforge round by round: above 1, dinoforge needs less."""
    return spread([a / b for a, b in zip(reference, actual, strict=True)])


def load_script(path: Path) -> dict[str, Any]:
    """Run the top level of a peer's script and return its names.

    torchvision has no CPU build for every torch: its compiled operators are then missing and its
    import fails on two of them, which no transform uses. They are declared (not implemented).
    """
    declare_torchvision_operators()
    return runpy.run_path(str(path), run_name="peer")


def declare_torchvision_operators() -> None:
    import torch

    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def run_child(command: Sequence[str], *, stdout: str = "") -> tuple[float, float]:
    """Run a process to its end: its CPU seconds and its peak memory in MiB."""
    to_file = [(os.POSIX_SPAWN_OPEN, 1, stdout, os.O_WRONLY, 0)] if stdout else []
    process = os.posix_spawn(command[0], list(command), os.environ, file_actions=to_file)
    _, status, usage = os.wait4(process, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def run_first() -> None:
    """Be scheduled before all ordinary processes, with threads and children; needs root.

    For wall times on a shared machine. Others wait meanwhile: keep it to seconds.
    """
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        first, *rest = zip(line, widths, strict=True)
        print(first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest), sep="  ")
