"""Stages, partitions, markers and executors: how work is split, proved done and resumed.

A stage knows nothing of processes, jobs or other stages' code; an executor knows nothing of
what a stage does. They meet in `Stage`, payloads that are JSON, and markers on disk.
"""

from dinoforge.stages.executor import Executor, InProcess, LocalProcesses, make_executor
from dinoforge.stages.pipeline import Pipeline, StageResult, find_pipeline, run_pipeline, run_stages
from dinoforge.stages.planning import StagePlan, make_inputs, plan_in_order, remove_temporary_files
from dinoforge.stages.stage import (
    Inputs,
    Json,
    Output,
    Stage,
    UndeclaredReadError,
    part_name,
    stage_folder,
    stage_kind,
)
from dinoforge.stages.task import Marker, Task, is_proved, read_marker, run_task

__all__ = [
    "Executor",
    "InProcess",
    "Inputs",
    "Json",
    "LocalProcesses",
    "Marker",
    "Output",
    "Pipeline",
    "Stage",
    "StagePlan",
    "StageResult",
    "Task",
    "UndeclaredReadError",
    "find_pipeline",
    "is_proved",
    "make_executor",
    "make_inputs",
    "part_name",
    "plan_in_order",
    "read_marker",
    "remove_temporary_files",
    "run_pipeline",
    "run_stages",
    "run_task",
    "stage_folder",
    "stage_kind",
]
