"""The contract of a stage: what it is asked for, what it may read, where it writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from dinoforge.atomic_file import write_array
from dinoforge.hashing import sha256_file
from dinoforge.tables import write_table

__all__ = ["Inputs", "Output", "Stage", "part_name", "stage_folder"]


def part_name(index: int) -> str:
    """Name of a partition: ``part-00012``."""
    return f"part-{index:05d}"


def stage_folder(run_folder: Path, pipeline: str, number: int, name: str) -> Path:
    """Folder of a stage: ``<run>/curation/30-embed``."""
    return run_folder / pipeline / f"{number:02d}-{name}"


class Stage(Protocol):
    """One named part of a pipeline; instances must be picklable.

    ``keys`` are the dotted recipe keys that the stage reads: with ``version``, the payload and
    the fingerprints of ``needs`` they decide whether a partition that is done is still right.
    """

    @property
    def name(self) -> str:
        """Name in folder names and messages, e.g. ``embed``."""

    @property
    def number(self) -> int:
        """Orders the stage folders: 10, 20, ..."""

    @property
    def version(self) -> str:
        """Semantic version; raise it when the same inputs give other outputs."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted recipe keys read by the stage."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the earlier stages whose outputs it reads."""

    def plan(self, inputs: "Inputs") -> list[dict[str, Any]]:
        """Split the work: one JSON payload a partition; depends on inputs and recipe only."""

    def run(self, payload: dict[str, Any], inputs: "Inputs", out: "Output") -> dict[str, Any]:
        """Do one partition; returns facts (counts) that are a function of the data only."""


@dataclass(frozen=True)
class Inputs:
    """What a stage may read: the recipe and the outputs of earlier stages."""

    run_folder: Path
    config: Any
    folders: Mapping[str, Path]  # stage name -> folder

    def folder(self, stage: str) -> Path:
        """Folder of an earlier stage."""
        return self.folders[stage]

    def num_partitions(self, stage: str) -> int:
        """Count the partitions of an earlier stage by its plan."""
        plan = json.loads((self.folder(stage) / "plan.json").read_text(encoding="utf-8"))
        return len(plan["payloads"])

    def payloads(self, stage: str) -> list[dict[str, Any]]:
        """Payloads of an earlier stage, in partition order."""
        plan = json.loads((self.folder(stage) / "plan.json").read_text(encoding="utf-8"))
        payloads: list[dict[str, Any]] = plan["payloads"]
        return payloads

    def file(self, stage: str, name: str, partition: int = 0) -> Path:
        """One output file, e.g. ``file("graph", "edges.parquet", 3)``."""
        return self.folder(stage) / f"{part_name(partition)}.{name}"

    def files(self, stage: str, name: str) -> list[Path]:
        """Return that output file of every partition, in partition order."""
        return [self.file(stage, name, index) for index in range(self.num_partitions(stage))]

    def facts(self, stage: str) -> list[dict[str, Any]]:
        """Facts of every partition of an earlier stage, in partition order."""
        folder = self.folder(stage)
        return [
            json.loads((folder / f"{part_name(i)}.done").read_text(encoding="utf-8"))["facts"]
            for i in range(self.num_partitions(stage))
        ]


@dataclass
class Output:
    """Where one partition writes; remembers each file for the marker."""

    run_folder: Path
    folder: Path
    index: int
    written: list[dict[str, Any]] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Path for an output of this partition; call `add` once it is written whole."""
        return self.folder / f"{part_name(self.index)}.{name}"

    def add(self, path: Path, *, rows: int | None = None) -> Path:
        """Register a finished file anywhere inside the run folder."""
        entry = {
            "path": path.relative_to(self.run_folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        self.written.append(entry if rows is None else entry | {"rows": rows})
        return path

    def write_table(
        self, name: str, table: pa.Table, schema: pa.Schema, *, path: Path | None = None
    ) -> Path:
        """Write ``part-00012.NAME.parquet`` (or ``path``) and register it."""
        target = path if path is not None else self.path(f"{name}.parquet")
        write_table(target, table, schema)
        return self.add(target, rows=table.num_rows)

    def write_array(self, name: str, array: np.ndarray[Any, Any]) -> Path:
        """Write ``part-00012.NAME.npy`` and register it."""
        target = self.path(f"{name}.npy")
        write_array(target, array)
        return self.add(target, rows=len(array))
