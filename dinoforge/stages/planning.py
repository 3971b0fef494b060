"""Plan a stage: which partitions there are, what each must prove, and which are missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoforge.atomic_file import write_json
from dinoforge.config import pick_keys, to_plain
from dinoforge.hashing import hash_json
from dinoforge.stages.marker import discard, is_done, marker_path, read_marker
from dinoforge.stages.stage import Inputs, Stage, stage_folder
from dinoforge.stages.task import Task

__all__ = ["StagePlan", "clear_halves", "is_proved", "make_inputs", "plan_in_order", "plan_stage"]


def make_inputs(pipeline: str, stages: Sequence[Stage], run_folder: Path, config: Any) -> Inputs:
    """Name the folder of every stage of a pipeline."""
    folders = {s.name: stage_folder(run_folder, pipeline, s.number, s.name) for s in stages}
    return Inputs(run_folder, config, folders)


@dataclass(frozen=True)
class StagePlan:
    """The work of one stage under one recipe; making it writes nothing."""

    stage: Stage
    inputs: Inputs
    payloads: list[dict[str, Any]]  # one a partition
    stage_print: str  # hash of what all partitions depend on: version, keys, needs

    @property
    def folder(self) -> Path:
        """Folder of the stage."""
        return self.inputs.folder(self.stage.name)

    @cached_property
    def tasks(self) -> list[Task]:
        """Every partition, in order."""
        return [self.task(index, payload) for index, payload in enumerate(self.payloads)]

    def task(self, index: int, payload: dict[str, Any]) -> Task:
        """One partition, with the fingerprint that its marker must hold."""
        fingerprint = hash_json([self.stage_print, index, payload])
        return Task(self.stage, index, payload, fingerprint, self.folder, self.inputs)

    def missing(self) -> list[Task]:
        """Partitions that no marker proves done; reads every marker."""
        return [task for task in self.tasks if not is_proved(task)]

    def prepare(self, missing: Sequence[Task], reopen: Callable[[], None]) -> None:
        """Make the folder ready for ``missing`` to run: stale files go, the plan is written.

        ``reopen`` is called first if anything will change: who reads the run from then on, also
        after a kill, must not take half a result for the whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        done = {marker_path(self.folder, task.index) for task in self.tasks}
        done -= {marker_path(self.folder, task.index) for task in missing}
        stale = [path for path in sorted(self.folder.glob("part-*.done")) if path not in done]
        if stale or missing:
            reopen()
        for marker_file in stale:
            discard(self.folder, marker_file, self.inputs.run_folder)
        plan = {"stage": self.stage.name, "payloads": self.payloads}
        write_json(self.folder / "plan.json", plan)


def plan_stage(
    stage: Stage, inputs: Inputs, fingerprints: Mapping[str, Sequence[str]]
) -> StagePlan:
    """Plan one stage.

    Parameters
    ----------
    stage : Stage
        The stages that it needs must be done: plans may read their outputs.
    inputs : Inputs
        What it may read.
    fingerprints : mapping
        Stage name -> fingerprints of its partitions, for every stage in ``needs``.
    """
    payloads = stage.plan(inputs)
    shared = {
        "stage": stage.name,
        "version": stage.version,
        "keys": pick_keys(to_plain(inputs.config), stage.keys),
        "needs": {need: list(fingerprints[need]) for need in stage.needs},
        "partitions": len(payloads),
    }
    return StagePlan(stage, inputs, payloads, hash_json(shared))


def plan_in_order(
    stages: Sequence[Stage], inputs: Inputs
) -> Iterator[tuple[StagePlan, list[Task]]]:
    """Plan stage after stage; yields each plan and what is missing of it.

    Who takes the next one has done what was missing: a plan may read outputs of earlier stages.
    """
    fingerprints: dict[str, list[str]] = {}
    for stage in stages:
        plan = plan_stage(stage, inputs, fingerprints)
        yield plan, plan.missing()
        fingerprints[stage.name] = [task.fingerprint for task in plan.tasks]


def clear_halves(run_folder: Path) -> None:
    """Remove the temporary files that a kill left behind, in folders of stages and of outputs.

    Only while nobody writes to the run.
    """
    for half in run_folder.rglob(".*.tmp-*"):
        half.unlink(missing_ok=True)


def is_proved(task: Task) -> bool:
    """Tell whether a marker proves this very partition done."""
    marker = read_marker(marker_path(task.folder, task.index))
    return is_done(marker, task.fingerprint, task.inputs.run_folder)
