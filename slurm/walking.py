"""Walk on: an element that was alone in its stage does the next small stages in the same job.

Only a head start: nothing is recorded and nothing may fail loudly. The gate behind the element
finds the markers and goes on from there; what is missing, for whatever reason, it submits as ever.
"""

import functools
import logging
import time
from typing import Any

from dinoforge.config import load_config
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.slurm.store.plans import ArrayPlan
from dinoforge.stages import (
    StagePlan,
    find_pipeline,
    make_inputs,
    plan_in_order,
    run_task,
    stage_kind,
)

__all__ = ["walk_on"]

_log = logging.getLogger(__name__)

# No new stage after this share of the time limit: what the limit kills is done again.
_SHARE_OF_TIME = 0.25


def walk_on(folder: SlurmFolder, mine: ArrayPlan) -> None:
    """Do later stages of one element as long as they fit into this job."""
    profile = load_config(Profile, folder.profile)
    if not profile.walk_on:
        return
    try:
        with hold_lease(folder.lease, wait_s=5.0):
            _walk(folder, mine, profile)
    except LeaseBusyError:
        return  # a driver is at work on the run: it goes on
    except Exception as error:  # noqa: BLE001 - the gate meets it again, where it is told
        _log.warning("stopped walking on: %s", error)


def _walk(folder: SlurmFolder, mine: ArrayPlan, profile: Profile) -> None:
    pipeline = find_pipeline(mine.pipeline)
    config: Any = load_config(pipeline.config, folder.run / "config.yaml")
    inputs = make_inputs(pipeline.name, pipeline.stages, folder.run, config)
    latest = time.monotonic() + 60 * mine.minutes * _SHARE_OF_TIME
    reopen = functools.partial(pipeline.reopen, folder.run)
    for plan, missing in plan_in_order(pipeline.stages, inputs):
        if not missing:
            plan.prepare([], reopen)
            continue
        job = profile.job(plan.stage.name, stage_kind(plan.stage, config))
        is_late = time.monotonic() > latest
        if is_late or folder.is_cancelled() or not _fits(plan, len(missing), job, mine):
            return
        plan.prepare(missing, reopen)
        for task in missing:
            run_task(task)
        _log.info("%s: %d partitions in the same job", plan.stage.name, len(missing))


def _fits(plan: StagePlan, missing: int, job: Job, mine: ArrayPlan) -> bool:
    """Tell whether a stage is one element and asks for no more than this job has."""
    untouched = missing == len(plan.tasks)  # else it has a history, which gates know
    asks = (job.memory_gb, job.minutes, job.cpus_per_task, job.gpus_per_node)
    has = (mine.memory_gb, mine.minutes, mine.cpus, mine.gpus)
    within = all(a <= h for a, h in zip(asks, has, strict=True))
    return untouched and missing <= job.partitions_per_element and within
