"""Run the stages of a pipeline in order: plan, skip what is proved done, run the rest."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge.progress import Progress, as_duration
from dinoforge.stages.executor import Executor
from dinoforge.stages.marker import Marker, marker_path, read_marker
from dinoforge.stages.planning import StagePlan, make_inputs, plan_in_order, remove_temporary_files
from dinoforge.stages.stage import Stage
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
    pipeline: str,
    stages: Sequence[Stage[Any]],
    run_folder: Path,
    config: Any,
    executor: Executor,
    *,
    reopen: Callable[[], None] = lambda: None,
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
    reopen : callable
        Called before a stage changes anything: see `StagePlan.prepare`.

    Returns
    -------
    dict
        Stage name -> what became of it.

    Raises
    ------
    DinoforgeError
        The first error of a partition, after the running ones have ended.
    """
    remove_temporary_files(run_folder)
    inputs = make_inputs(pipeline, stages, run_folder, config)
    results: dict[str, StageResult] = {}
    started = time.monotonic()
    for plan, pending in plan_in_order(stages, inputs):
        plan.prepare(pending, reopen)
        results[plan.stage.name] = _run_stage(plan, pending, started, executor)
        started = time.monotonic()
    remove_temporary_files(run_folder)  # of workers that died while this process went on
    return results


def _run_stage(
    plan: StagePlan, pending: list[Task], started: float, executor: Executor
) -> StageResult:
    stage, tasks = plan.stage, plan.tasks
    with Progress(
        len(tasks), unit="partitions", label=stage.name, done=len(tasks) - len(pending)
    ) as progress:

        def done(_: Marker) -> None:
            progress.advance()

        if pending:
            executor.run(pending, done)
    markers = [read_marker(marker_path(plan.folder, task.index)) for task in tasks]
    found = [marker for marker in markers if marker is not None]
    assert len(found) == len(tasks), f"stage {stage.name} ended without all of its markers"
    seconds = time.monotonic() - started
    _say(stage, tasks, pending, seconds)
    return StageResult(
        name=stage.name,
        folder=plan.folder,
        num_partitions=len(tasks),
        num_run=len(pending),
        seconds=seconds,
        facts=[marker.facts for marker in found],
        fingerprints=[marker.fingerprint for marker in found],
    )


def _say(stage: Stage[Any], tasks: Sequence[Task], pending: Sequence[Task], seconds: float) -> None:
    if not tasks:
        _log.debug("%s: nothing to do under this recipe", stage.name)
        return
    if not pending:
        _log.info("%s: done before (%d partitions)", stage.name, len(tasks))
        return
    before = f", {len(tasks) - len(pending)} done before" if len(pending) < len(tasks) else ""
    count = f"{len(pending)} partition{'s' if len(pending) > 1 else ''}"
    _log.info("%s: %s in %s%s", stage.name, count, as_duration(seconds), before)
