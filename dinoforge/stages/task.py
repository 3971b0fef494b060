"""One partition of one stage, runnable in any process."""

import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from dinoforge.stages.marker import Marker, write_marker
from dinoforge.stages.stage import Inputs, Output, Stage

__all__ = ["Task", "run_task"]


@dataclass(frozen=True)
class Task:
    """What a worker needs to do one partition; picklable."""

    stage: Stage
    index: int
    payload: dict[str, Any]
    fingerprint: str
    folder: Path
    inputs: Inputs


def run_task(task: Task) -> Marker:
    """Run one partition and write its marker.

    Numerical libraries get one thread: their last bits may depend on the thread count, and a
    partition must give the same bytes in one process, in N, and on a cluster.
    """
    started, cpu = time.monotonic(), time.process_time()
    _one_thread()
    task.folder.mkdir(parents=True, exist_ok=True)
    out = Output(task.inputs.run_folder, task.folder, task.index)
    with threadpool_limits(limits=1):
        facts = task.stage.run(task.payload, task.inputs, out)
    marker = Marker(
        stage=task.stage.name,
        version=task.stage.version,
        partition=task.index,
        fingerprint=task.fingerprint,
        outputs=sorted(out.written, key=lambda entry: entry["path"]),
        facts=facts,
        measured={
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "host": platform.node(),
            "pid": os.getpid(),
        },
    )
    write_marker(task.folder, marker)
    return marker


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
