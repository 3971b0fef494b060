"""Run the next small stages in the job of a stage that was one element.

Each stage that runs here saves two waits in the queue: a curation of CIFAR-10 takes 12 jobs instead
of 28. It is a head start: nothing is recorded, nothing may fail. The gate behind the element finds
the markers and goes on from there.
"""

import functools
import logging
import time
from typing import Any

from dinoforge.config import load_config
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.layout import JobPlan, SlurmFolder
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.stages import find_pipeline, make_inputs, plan_in_order, run_task, stage_kind

__all__ = ["run_next_stages"]

_log = logging.getLogger(__name__)

# No new stage after this share of the time limit: what the limit kills is lost.
_SHARE_OF_TIME = 0.25


def run_next_stages(folder: SlurmFolder, plan: JobPlan) -> None:
    """Run later stages of one element as long as they fit into this job."""
    profile = load_config(Profile, folder.profile)
    if not profile.walk_on:
        return
    try:
        with hold_lease(folder.lease, wait_s=5.0):
            _run(folder, plan, profile)
    except LeaseBusyError:
        return  # a driver is at work on the run: it goes on
    except Exception as error:  # noqa: BLE001 - the gate meets it again, where it is reported
        _log.warning("stopped packing stages: %s", error)


def _run(folder: SlurmFolder, plan: JobPlan, profile: Profile) -> None:
    pipeline = find_pipeline(plan.pipeline)
    config: Any = load_config(pipeline.config, folder.run / "config.yaml")
    inputs = make_inputs(pipeline.name, pipeline.stages, folder.run, config)
    reopen = functools.partial(pipeline.reopen, folder.run)
    latest = time.monotonic() + 60 * plan.minutes * _SHARE_OF_TIME
    for later, missing in plan_in_order(pipeline.stages, inputs):
        if missing:
            job = profile.job(later.stage.name, stage_kind(later.stage, config))
            asked = (job.memory_gb, job.minutes, job.cpus_per_task, job.gpus_per_node)
            given = (plan.memory_gb, plan.minutes, plan.cpus, plan.gpus)
            fits = (
                len(missing) == len(later.tasks)  # else it has a history, which gates read
                and len(missing) <= job.partitions_per_element
                and all(a <= g for a, g in zip(asked, given, strict=True))
            )
            if not fits or folder.is_cancelled() or time.monotonic() > latest:
                return
        later.prepare(missing, reopen)
        for task in missing:
            run_task(task)
