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

from dinoforge.device import resolve_device
from dinoforge.stages.marker import Marker, write_marker
from dinoforge.stages.stage import Inputs, Output, Stage, stage_kind

__all__ = ["Task", "run_task"]


@dataclass(frozen=True)
class Task:
    """What a worker needs to do one partition; picklable."""

    stage: Stage[Any]
    index: int
    payload: dict[str, Any]
    fingerprint: str
    folder: Path
    inputs: Inputs[Any]  # unrestricted


def run_task(task: Task) -> Marker:
    """Run one partition and write its marker.

    Numerical libraries get one thread: their last bits may depend on the thread count, and a
    partition must give the same bytes in one process, in N, and on a cluster.

    Raises
    ------
    UsageError
        If the stage runs on a GPU under this recipe and this machine has none.
    """
    started, cpu = time.monotonic(), time.process_time()
    _one_thread()
    stage, config = task.stage, task.inputs.whole_config
    if stage_kind(stage, config) == "gpu":
        resolve_device(config.device)
    task.folder.mkdir(parents=True, exist_ok=True)
    out = Output(task.inputs.run_folder, task.folder, task.index)
    with threadpool_limits(limits=1):
        facts = stage.run(task.payload, task.inputs.scoped(stage), out)
    marker = Marker(
        stage=stage.name,
        version=stage.version,
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
