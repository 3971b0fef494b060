"""A pipeline: its stages in order, the plan of each, and how to run what is missing."""

import importlib
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoforge.config import Config, pick_keys, to_plain
from dinoforge.device import resolve_device
from dinoforge.files import hash_json, is_temporary, read_object, write_json
from dinoforge.progress import Progress, as_duration
from dinoforge.stages.executor import Executor
from dinoforge.stages.pieces import remove_other_pieces
from dinoforge.stages.stage import Inputs, Json, Stage, stage_device, stage_folder
from dinoforge.stages.task import Marker, Task, discard, is_proved, read_marker

__all__ = [
    "Pipeline",
    "StagePlan",
    "StageResult",
    "changed_partitions",
    "find_pipeline",
    "make_inputs",
    "plan_in_order",
    "plan_stage",
    "remove_temporary_files",
    "run_pipeline",
    "run_stages",
]

_log = logging.getLogger(__name__)

# Beside these a run writes temporary files.
_OWN = ("run.json", "config.yaml", "records.jsonl", "problems.csv", "published")


@dataclass(frozen=True)
class Pipeline:
    """Everything that a driver needs, in this process or on a cluster.

    A plan file names it by its import path.
    """

    name: str  # folder inside the run, e.g. ``curation``
    stages: tuple[Stage[Any], ...]  # in order; ``needs`` name earlier ones
    config: type[Config]  # dataclass of the recipe
    # (config) before anything is read, on any machine: raises what the user can fix. It must not
    # try the device, which is checked where a stage runs.
    check: Callable[[Any], None]
    reopen: Callable[[Path], None]  # (run folder) before a stage changes: no longer finished
    finish: Callable[[Path, Any], Any]  # (run folder, config) after the last stage: the summary
    # (run folder, config, names of the stages that are done) if it stops before: what it has read
    account: Callable[[Path, Any, Collection[str]], None] = lambda *_: None


def find_pipeline(path: str) -> Pipeline:
    """Import the pipeline that ``module:NAME`` names."""
    module, _, name = path.partition(":")
    pipeline = getattr(importlib.import_module(module), name)
    assert isinstance(pipeline, Pipeline), f"{path} is no pipeline"
    return pipeline


def make_inputs(
    pipeline: str, stages: Sequence[Stage[Any]], run_folder: Path, config: Config
) -> Inputs[Any]:
    """Return unrestricted inputs that know the folder of every stage of a pipeline."""
    folders = {s.name: stage_folder(run_folder, pipeline, s.number, s.name) for s in stages}
    return Inputs(run_folder, config, folders)


@dataclass(frozen=True)
class StagePlan:
    """The work of one stage under one recipe; making it writes nothing."""

    stage: Stage[Any]
    inputs: Inputs[Any]  # unrestricted
    payloads: list[Json]  # one per partition
    stage_fingerprint: str  # hash of what all partitions depend on: version, keys, needs

    @property
    def folder(self) -> Path:
        """Folder of the stage."""
        return self.inputs.folder(self.stage.name)

    @cached_property
    def tasks(self) -> list[Task]:
        """Every partition, in order."""
        return [self.task(index, payload) for index, payload in enumerate(self.payloads)]

    def task(self, index: int, payload: Json) -> Task:
        """One partition, with the fingerprint that its marker must hold."""
        fingerprint = hash_json([self.stage_fingerprint, index, payload])
        return Task(self.stage, index, payload, fingerprint, self.folder, self.inputs)

    def prepare(self, missing: Sequence[Task], reopen: Callable[[], None]) -> None:
        """Remove stale files and write the plan, so that ``missing`` can run.

        ``reopen`` is called first if anything will change: from then on, even after a kill, the
        run must not look finished.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        done = {task.marker for task in self.tasks} - {task.marker for task in missing}
        stale = sorted(set(self.folder.glob("part-*.done")) - done)
        if stale or missing:
            reopen()
        for marker_file in stale:
            discard(marker_file, self.inputs.run_folder)
        remove_other_pieces(self.folder, [(task.index, task.fingerprint) for task in missing])
        self.write()

    def write(self) -> None:
        """Write the plan, which readers of the outputs need."""
        plan = {"stage": self.stage.name, "payloads": self.payloads}
        write_json(self.folder / "plan.json", plan)


def plan_in_order(
    stages: Sequence[Stage[Any]], inputs: Inputs[Any]
) -> Iterator[tuple[StagePlan, list[Task]]]:
    """Plan one stage after the other; yields each plan and its missing partitions.

    The caller must complete them before it takes the next plan, which may read their outputs.
    ``inputs`` are unrestricted; a stage gets what it declares.
    """
    fingerprints: dict[str, list[str]] = {}  # stage -> of its partitions
    for stage in stages:
        plan = plan_stage(stage, inputs, fingerprints)
        yield plan, [task for task in plan.tasks if not is_proved(task)]
        fingerprints[stage.name] = [task.fingerprint for task in plan.tasks]


def plan_stage(
    stage: Stage[Any], inputs: Inputs[Any], fingerprints: Mapping[str, list[str]]
) -> StagePlan:
    """Plan one stage, given the fingerprints of the partitions of the stages that it needs."""
    return _plan_of(stage, inputs, fingerprints, stage.plan(inputs.scoped(stage)))


def changed_partitions(stages: Sequence[Stage[Any]], inputs: Inputs[Any]) -> Iterator[Task]:
    """Yield the partitions of a finished run that this version would make again.

    Plans are those on disk: neither sources nor networks are read, which may be gone.
    """
    fingerprints: dict[str, list[str]] = {}
    for stage in stages:
        recorded = read_object(inputs.folder(stage.name) / "plan.json")
        # Without a plan, a partition that no marker proves.
        plan = _plan_of(stage, inputs, fingerprints, recorded.get("payloads", [None]))
        yield from (task for task in plan.tasks if not is_proved(task))
        fingerprints[stage.name] = [task.fingerprint for task in plan.tasks]


def _plan_of(
    stage: Stage[Any],
    inputs: Inputs[Any],
    fingerprints: Mapping[str, list[str]],
    payloads: list[Json],
) -> StagePlan:
    shared = {
        "stage": stage.name,
        "version": stage.version,
        "keys": pick_keys(to_plain(inputs.whole_config), stage.keys),
        "needs": {need: fingerprints[need] for need in stage.needs},
        "partitions": None if stage.grows else len(payloads),
    }
    return StagePlan(stage, inputs, payloads, hash_json(shared))


def remove_temporary_files(run_folder: Path, stage_folders: Iterable[Path]) -> None:
    """Remove the temporary files of stages that a kill left behind, while no stage runs.

    Other folders are not entered: the run folder may be one of the user's, or have runs below it.
    """
    _remove(path for folder in stage_folders for path in folder.rglob(".*.tmp-*"))
    _remove((run_folder / "shards").glob(".*.tmp-*"))


def _remove(paths: Iterable[Path]) -> None:
    for path in filter(is_temporary, sorted(paths)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def run_pipeline(pipeline: Pipeline, run_folder: Path, config: Config, executor: Executor) -> Any:
    """Run a pipeline on this machine to its end; returns what ``finish`` returns.

    Raises
    ------
    UsageError
        At the start: what ``check`` reports, or a device that this machine does not have.
    """
    pipeline.check(config)
    if any(stage_device(stage, config) != "cpu" for stage in pipeline.stages):
        resolve_device(str(getattr(config, "device", "cpu")))
    run_stages(
        pipeline.name,
        pipeline.stages,
        run_folder,
        config,
        executor,
        reopen=lambda: pipeline.reopen(run_folder),
        stopped=lambda done: pipeline.account(run_folder, config, done),
    )
    return pipeline.finish(run_folder, config)


@dataclass(frozen=True)
class StageResult:
    """What a stage did."""

    num_run: int  # partitions; the others were done before
    facts: list[dict[str, Any]]  # one per partition
    fingerprints: list[str]


def run_stages(
    pipeline: str,
    stages: Sequence[Stage[Any]],
    run_folder: Path,
    config: Config,
    executor: Executor,
    *,
    reopen: Callable[[], None] = lambda: None,
    stopped: Callable[[Collection[str]], None] = lambda _: None,
) -> dict[str, StageResult]:
    """Run stages in order: plan each, skip what is proved done, run the rest.

    ``pipeline`` is the name of the folder inside the run, whose lock the caller holds. Outputs do
    not depend on the executor. ``reopen`` is called before a stage changes anything: see
    `StagePlan.prepare`; ``stopped`` with the stages that are done if another is not. Returns the
    result of each stage by name.

    Raises
    ------
    DinoforgeError
        The first error of a partition, after the running ones have ended.
    """
    inputs = make_inputs(pipeline, stages, run_folder, config)
    remove_temporary_files(run_folder, inputs.folders.values())
    _remove(path for name in _OWN for path in run_folder.glob(f".{name}.tmp-*"))
    results: dict[str, StageResult] = {}
    started = time.monotonic()
    try:
        for plan, missing in plan_in_order(stages, inputs):
            plan.prepare(missing, reopen)
            results[plan.stage.name] = _run_stage(plan, missing, executor)
            _log_stage(plan, missing, time.monotonic() - started)
            started = time.monotonic()
    except BaseException:
        stopped(results)
        raise
    # Of workers that died while this process went on.
    remove_temporary_files(run_folder, inputs.folders.values())
    return results


def _run_stage(plan: StagePlan, missing: list[Task], executor: Executor) -> StageResult:
    name, num = plan.stage.name, len(plan.tasks)
    with Progress(num, unit="partitions", label=name, done=num - len(missing)) as progress:

        def done(_: Marker) -> None:
            progress.advance()

        if missing:
            executor.run(missing, done)
    markers = [read_marker(task.marker) for task in plan.tasks]
    proofs = [marker for marker in markers if marker is not None]
    assert len(proofs) == num, f"stage {name} ended without all of its markers"
    facts, fingerprints = [m.facts for m in proofs], [m.fingerprint for m in proofs]
    return StageResult(len(missing), facts, fingerprints)


def _log_stage(plan: StagePlan, run: Sequence[Task], seconds: float) -> None:
    name, num, num_run = plan.stage.name, len(plan.tasks), len(run)
    count = f"{num_run or num} partition{'' if (num_run or num) == 1 else 's'}"
    if not num:
        _log.debug("%s: nothing to do under this recipe", name)
    elif not num_run:
        _log.info("%s: done before (%s)", name, count)
    else:
        before = f", {num - num_run} done before" if num_run < num else ""
        markers = [read_marker(task.marker) for task in run]
        text = plan.stage.describe_measured([marker.measured for marker in markers if marker])
        speed = f", {text}" if text else ""
        _log.info("%s: %s in %s%s%s", name, count, as_duration(seconds), speed, before)
