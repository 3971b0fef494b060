"""Plan a stage: which partitions there are, what each must prove, and which are missing."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoforge.config import Config, pick_keys, to_plain
from dinoforge.files import hash_json, write_json
from dinoforge.stages.marker import discard, is_done, marker_path, read_marker
from dinoforge.stages.stage import Inputs, Stage, stage_folder
from dinoforge.stages.task import Task

__all__ = [
    "StagePlan",
    "is_proved",
    "make_inputs",
    "plan_in_order",
    "plan_stage",
    "remove_temporary_files",
]


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
    payloads: list[dict[str, Any]]  # one per partition
    stage_fingerprint: str  # hash of what all partitions depend on: version, keys, needs

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
        fingerprint = hash_json([self.stage_fingerprint, index, payload])
        return Task(self.stage, index, payload, fingerprint, self.folder, self.inputs)

    def missing(self) -> list[Task]:
        """Partitions that no marker proves done; reads every marker."""
        return [task for task in self.tasks if not is_proved(task)]

    def prepare(self, missing: Sequence[Task], reopen: Callable[[], None]) -> None:
        """Remove stale files and write the plan, so that ``missing`` can run.

        ``reopen`` is called first if anything will change: from then on, even after a kill, the
        run must not look finished.
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
    stage: Stage[Any], inputs: Inputs[Any], fingerprints: Mapping[str, Sequence[str]]
) -> StagePlan:
    """Plan one stage.

    Parameters
    ----------
    stage : Stage
        The stages that it needs must be done: plans may read their outputs.
    inputs : Inputs
        Unrestricted; the stage gets what it declares.
    fingerprints : mapping
        Stage name -> fingerprints of its partitions, for every stage in ``needs``.
    """
    payloads = stage.plan(inputs.scoped(stage))
    shared = {
        "stage": stage.name,
        "version": stage.version,
        "keys": pick_keys(to_plain(inputs.whole_config), stage.keys),
        "needs": {need: list(fingerprints[need]) for need in stage.needs},
        "partitions": len(payloads),
    }
    return StagePlan(stage, inputs, payloads, hash_json(shared))


def plan_in_order(
    stages: Sequence[Stage[Any]], inputs: Inputs[Any]
) -> Iterator[tuple[StagePlan, list[Task]]]:
    """Plan one stage after the other; yields each plan and its missing partitions.

    The caller must complete them before it takes the next plan, which may read their outputs.
    """
    fingerprints: dict[str, list[str]] = {}
    for stage in stages:
        plan = plan_stage(stage, inputs, fingerprints)
        yield plan, plan.missing()
        fingerprints[stage.name] = [task.fingerprint for task in plan.tasks]


def remove_temporary_files(run_folder: Path) -> None:
    """Remove the temporary files that a kill left behind.

    Only while nobody writes to the run.
    """
    for path in sorted(run_folder.rglob(".*.tmp-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_proved(task: Task) -> bool:
    """Return whether a marker proves this very partition done."""
    marker = read_marker(marker_path(task.folder, task.index))
    return is_done(marker, task.fingerprint, task.inputs.run_folder)
