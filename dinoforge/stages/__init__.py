"""Stages, partitions, markers and executors: how work is split, proved done and resumed.

A stage knows nothing of processes, jobs or other stages' code; an executor knows nothing of
what a stage does. They meet in `Stage`, payloads that are JSON, and markers on disk.
"""

from dinoforge.stages.executor import Executor, InProcess, LocalProcesses, make_executor
from dinoforge.stages.marker import Marker, read_marker
from dinoforge.stages.runner import StageResult, run_stages
from dinoforge.stages.stage import Inputs, Output, Stage, stage_folder
from dinoforge.stages.task import Task

__all__ = [
    "Executor",
    "InProcess",
    "Inputs",
    "LocalProcesses",
    "Marker",
    "Output",
    "Stage",
    "StageResult",
    "Task",
    "make_executor",
    "read_marker",
    "run_stages",
    "stage_folder",
]
