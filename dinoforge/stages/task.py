"""One partition of one stage: its task, runnable in any process, and the marker that proves it.

The marker is written last (outputs are fsynced and in place before), so a marker whose fingerprint
matches and whose files exist with their sizes is the truth.
"""

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from dinoforge.device import resolve_device
from dinoforge.files import write_json
from dinoforge.processes import forget_peak_memory, peak_memory
from dinoforge.stages.pieces import remove_pieces
from dinoforge.stages.stage import (
    Inputs,
    Json,
    Output,
    Stage,
    part_name,
    stage_device,
    stage_folder,
)

__all__ = ["Marker", "Task", "discard", "is_proved", "read_marker", "read_markers", "run_task"]


@dataclass(frozen=True)
class Marker:
    """One partition that is done; only ``measured`` may differ between identical runs."""

    stage: str
    version: str
    partition: int
    fingerprint: str
    outputs: list[Json]  # path (relative to the run), bytes, sha256, rows
    facts: Json
    measured: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a worker needs to do one partition; picklable."""

    stage: Stage[Any]
    index: int
    payload: Json
    fingerprint: str
    folder: Path
    inputs: Inputs[Any]  # unrestricted

    @property
    def marker(self) -> Path:
        """Path of its marker."""
        return self.folder / f"{part_name(self.index)}.done"


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
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    stage, config = task.stage, task.inputs.whole_config
    if stage_device(stage, config) != "cpu":
        resolve_device(config.device)
    task.folder.mkdir(parents=True, exist_ok=True)
    out = Output(task.inputs.run_folder, task.folder, task.index, task.fingerprint)
    forget_peak_memory()  # of earlier partitions in this process
    with threadpool_limits(limits=1):
        facts = stage.run(task.payload, task.inputs.scoped(stage), out)
    marker = Marker(
        stage=stage.name,
        version=stage.version,
        partition=task.index,
        fingerprint=task.fingerprint,
        outputs=sorted(out.written, key=lambda entry: entry["path"]),
        facts=facts,
        measured=out.measured
        | {
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_rss_mib": peak_memory() >> 20,
            "host": platform.node(),
            "pid": os.getpid(),
        },
    )
    write_json(task.marker, asdict(marker))
    remove_pieces(out)
    return marker


def read_marker(path: Path) -> Marker | None:
    """Read a marker; None when it is missing or damaged (then its work is to be done)."""
    try:
        return Marker(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read_markers(run_folder: Path, pipeline: str, number: int, name: str) -> list[Marker]:
    """Read the markers of a finished stage, in the order of its partitions; [] if it has none."""
    folder = stage_folder(run_folder, pipeline, number, name)
    count = len(list(folder.glob("part-*.done")))
    markers = [read_marker(folder / f"{part_name(at)}.done") for at in range(count)]
    return [marker for marker in markers if marker is not None]


def is_proved(task: Task) -> bool:
    """Return whether a marker proves this very partition done: fingerprint and file sizes match."""
    marker, run_folder = read_marker(task.marker), task.inputs.run_folder
    if marker is None or marker.fingerprint != task.fingerprint:
        return False
    try:
        sizes = [(run_folder / output["path"]).stat().st_size for output in marker.outputs]
    except OSError:
        return False
    return sizes == [output["bytes"] for output in marker.outputs]


def discard(marker_file: Path, run_folder: Path) -> None:
    """Remove a stale partition: its outputs first, its marker last."""
    marker = read_marker(marker_file)
    for output in marker.outputs if marker is not None else []:
        (run_folder / output["path"]).unlink(missing_ok=True)
    marker_file.unlink(missing_ok=True)
    for rest in marker_file.parent.glob(f"{marker_file.stem}.*"):
        rest.unlink(missing_ok=True)
