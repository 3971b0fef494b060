"""Stages, partitions, markers and executors: how work is split, proved done and resumed.

A stage knows nothing of processes, jobs or other stages' code; an executor knows nothing of
what a stage does. They meet in `Stage`, payloads that are JSON, and markers on disk.
"""

from dinoforge.stages.executor import Executor, make_executor
from dinoforge.stages.pipeline import (
    Pipeline,
    StagePlan,
    changed_partitions,
    find_pipeline,
    make_inputs,
    plan_in_order,
    remove_temporary_files,
    run_pipeline,
)
from dinoforge.stages.stage import (
    Inputs,
    Json,
    Output,
    Stage,
    part_name,
    stage_device,
    stage_folder,
)
from dinoforge.stages.task import Task, is_proved, read_markers, run_task

__all__ = [
    "Executor",
    "Inputs",
    "Json",
    "Output",
    "Pipeline",
    "Stage",
    "StagePlan",
    "Task",
    "changed_partitions",
    "find_pipeline",
    "is_proved",
    "make_executor",
    "make_inputs",
    "part_name",
    "plan_in_order",
    "read_markers",
    "remove_temporary_files",
    "run_pipeline",
    "run_task",
    "stage_device",
    "stage_folder",
]
