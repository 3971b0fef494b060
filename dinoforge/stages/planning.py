"""Plan a stage: which partitions there are, what each must prove, and which are missing."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dinoforge.config import Config, pick_keys, to_plain
from dinoforge.files import hash_json, write_json
from dinoforge.stages.stage import Inputs, Json, Stage, stage_folder
from dinoforge.stages.task import Task, discard, is_proved

__all__ = ["StagePlan", "make_inputs", "plan_in_order", "remove_temporary_files"]


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
        payloads = stage.plan(inputs.scoped(stage))
        shared = {
            "stage": stage.name,
            "version": stage.version,
            "keys": pick_keys(to_plain(inputs.whole_config), stage.keys),
            "needs": {need: fingerprints[need] for need in stage.needs},
            "partitions": len(payloads),
        }
        plan = StagePlan(stage, inputs, payloads, hash_json(shared))
        yield plan, [task for task in plan.tasks if not is_proved(task)]
        fingerprints[stage.name] = [task.fingerprint for task in plan.tasks]


def remove_temporary_files(run_folder: Path) -> None:
    """Remove the temporary files that a kill left behind, while nobody writes to the run."""
    for path in sorted(run_folder.rglob(".*.tmp-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
