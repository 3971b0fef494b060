"""Run the stages of a pipeline in order: plan, skip what is proved done, run the rest."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge.atomic_file import write_json
from dinoforge.config import pick_keys, to_plain
from dinoforge.hashing import hash_json
from dinoforge.progress import Progress, as_duration
from dinoforge.stages.executor import Executor
from dinoforge.stages.marker import Marker, discard, is_done, marker_path, read_marker
from dinoforge.stages.stage import Inputs, Stage, stage_folder
from dinoforge.stages.task import Task

__all__ = ["StageResult", "run_stages"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What became of one stage."""

    name: str
    folder: Path
    num_partitions: int
    num_run: int  # the others were proved done before
    seconds: float
    facts: list[dict[str, Any]]
    fingerprints: list[str]


def run_stages(
    pipeline: str, stages: Sequence[Stage], run_folder: Path, config: Any, executor: Executor
) -> dict[str, StageResult]:
    """Bring every stage of a pipeline to its end.

    Parameters
    ----------
    pipeline : str
        Name of the folder inside the run, e.g. ``curation``.
    stages : sequence of Stage
        In order; ``needs`` name earlier ones.
    run_folder : Path
        The open run's folder; the caller holds its lock.
    config : dataclass
        The resolved recipe.
    executor : Executor
        Who runs the partitions; the outputs do not depend on it.
    """
    _clear_halves(run_folder)
    folders = {s.name: stage_folder(run_folder, pipeline, s.number, s.name) for s in stages}
    inputs = Inputs(run_folder, config, folders)
    results: dict[str, StageResult] = {}
    for stage in stages:
        results[stage.name] = _run_stage(stage, inputs, results, executor)
    _clear_halves(run_folder)  # of workers that died while this process went on
    return results


def _run_stage(
    stage: Stage, inputs: Inputs, results: dict[str, StageResult], executor: Executor
) -> StageResult:
    started = time.monotonic()
    folder = inputs.folder(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    payloads = stage.plan(inputs)
    tasks = _tasks(stage, payloads, inputs, results)
    pending = [task for task in tasks if not _proved(task)]
    _clear_stale(folder, tasks, pending, inputs.run_folder)
    write_json(folder / "plan.json", {"stage": stage.name, "payloads": payloads})
    with Progress(
        len(tasks), unit="partitions", label=stage.name, done=len(tasks) - len(pending)
    ) as progress:

        def done(_: Marker) -> None:
            progress.advance()

        if pending:
            executor.run(pending, done)
    markers = [read_marker(marker_path(folder, task.index)) for task in tasks]
    found = [marker for marker in markers if marker is not None]
    assert len(found) == len(tasks), f"stage {stage.name} ended without all of its markers"
    seconds = time.monotonic() - started
    _say(stage, tasks, pending, seconds)
    return StageResult(
        name=stage.name,
        folder=folder,
        num_partitions=len(tasks),
        num_run=len(pending),
        seconds=seconds,
        facts=[marker.facts for marker in found],
        fingerprints=[marker.fingerprint for marker in found],
    )


def _tasks(
    stage: Stage,
    payloads: list[dict[str, Any]],
    inputs: Inputs,
    results: dict[str, StageResult],
) -> list[Task]:
    shared = {
        "stage": stage.name,
        "version": stage.version,
        "keys": pick_keys(to_plain(inputs.config), stage.keys),
        "needs": {need: results[need].fingerprints for need in stage.needs},
        "partitions": len(payloads),
    }
    print_of_stage = hash_json(shared)
    folder = inputs.folder(stage.name)
    return [
        Task(
            stage=stage,
            index=index,
            payload=payload,
            fingerprint=hash_json([print_of_stage, index, payload]),
            folder=folder,
            inputs=inputs,
        )
        for index, payload in enumerate(payloads)
    ]


def _proved(task: Task) -> bool:
    marker = read_marker(marker_path(task.folder, task.index))
    return is_done(marker, task.fingerprint, task.inputs.run_folder)


def _clear_stale(
    folder: Path, tasks: Sequence[Task], pending: Sequence[Task], run_folder: Path
) -> None:
    """Remove what no plan asks for any more."""
    done = {marker_path(folder, task.index) for task in tasks}
    done -= {marker_path(folder, task.index) for task in pending}
    for marker_file in sorted(folder.glob("part-*.done")):
        if marker_file not in done:
            discard(folder, marker_file, run_folder)


def _clear_halves(run_folder: Path) -> None:
    """Remove the temporary files that a kill left behind, in folders of stages and of outputs."""
    for half in run_folder.rglob(".*.tmp-*"):
        half.unlink(missing_ok=True)


def _say(stage: Stage, tasks: Sequence[Task], pending: Sequence[Task], seconds: float) -> None:
    if not tasks:
        _log.debug("%s: nothing to do under this recipe", stage.name)
        return
    if not pending:
        _log.info("%s: done before (%d partitions)", stage.name, len(tasks))
        return
    before = f", {len(tasks) - len(pending)} done before" if len(pending) < len(tasks) else ""
    count = f"{len(pending)} partition{'s' if len(pending) > 1 else ''}"
    _log.info("%s: %s in %s%s", stage.name, count, as_duration(seconds), before)
