"""The contract of a stage: what it reads, what it runs on, how its work is split and done."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import pyarrow as pa

from dinoforge.config import Config
from dinoforge.files import sha256_file, write_array
from dinoforge.tables import write_table, write_tables

__all__ = [
    "Inputs",
    "Json",
    "Output",
    "Stage",
    "UndeclaredReadError",
    "part_name",
    "stage_device",
    "stage_folder",
]

C = TypeVar("C")
Json = dict[str, Any]  # a JSON object


def part_name(index: int) -> str:
    """Name of a partition: ``part-00012``."""
    return f"part-{index:05d}"


def stage_folder(run_folder: Path, pipeline: str, number: int, name: str) -> Path:
    """Folder of a stage: ``<run>/curation/30-embed``."""
    return run_folder / pipeline / f"{number:02d}-{name}"


class Stage(ABC, Generic[C]):
    """One named part of a pipeline whose recipe is a ``C``; instances must be picklable.

    A partition that is done stays valid as long as its fingerprint does: that of ``version``,
    the values of ``keys``, the payload and the fingerprints of the stages in ``needs``.
    """

    name: str  # in folder names and messages, e.g. ``embed``
    number: int  # orders the stage folders: 10, 20, ...
    version: str = "1.0.0"  # semantic; raise it when the same inputs give other outputs
    keys: tuple[str, ...] = ()  # dotted recipe keys that the stage reads
    # Dotted keys that it reads, too, but that cannot change its outputs: the device, or the size
    # of partitions. They are not part of the fingerprint.
    execution_keys: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # earlier stages whose outputs it reads
    # Whether partitions that are added at the end leave the others as they are.
    grows: bool = False
    # A resource, not part of the fingerprint. A `gpu` stage runs on the CPU under device=cpu.
    runs_on: Literal["cpu", "gpu"] = "cpu"

    def plan(self, inputs: "Inputs[C]") -> list[Json]:  # noqa: ARG002
        """Split the work: one JSON payload per partition; depends on inputs and recipe only.

        Runs where the pipeline is driven, which may be a machine without a GPU. One partition
        unless a stage overrides it.
        """
        return [{}]

    @abstractmethod
    def run(self, payload: Json, inputs: "Inputs[C]", out: "Output") -> Json:
        """Do one partition; returns facts (counts) that are a function of the data only."""

    def describe_measured(self, measured: Sequence[Json]) -> str:  # noqa: ARG002
        """Describe for the log what the partitions that ran put into `Output.measured`."""
        return ""


def stage_device(stage: Stage[Any], config: Config) -> str:
    """Return the device that a stage computes on: the recipe's, or the CPU."""
    return str(getattr(config, "device", "cpu")) if stage.runs_on == "gpu" else "cpu"


class UndeclaredReadError(RuntimeError):
    """A stage read a recipe key or another stage's output that it does not declare: a defect."""


@dataclass(frozen=True)
class Inputs(Generic[C]):
    """What a stage may read: the recipe keys and the earlier stages that it declares.

    Drivers hold one without ``stage``, which may read everything; `scoped` restricts it.
    """

    run_folder: Path
    whole_config: C
    folders: Mapping[str, Path]  # stage name -> folder
    stage: Stage[C] | None = None

    def scoped(self, stage: Stage[C]) -> "Inputs[C]":
        """Return what ``stage`` may read."""
        return replace(self, stage=stage)

    @property
    def config(self) -> C:
        """The recipe, restricted to the declared keys.

        Raises
        ------
        UndeclaredReadError
            On access to any other key.
        """
        if self.stage is None:
            return self.whole_config
        return cast("C", _DeclaredKeys(self, self.whole_config, ""))

    def folder(self, stage: str) -> Path:
        """Folder of an earlier stage.

        Raises
        ------
        UndeclaredReadError
            If the stage is not declared.
        """
        reader = self.stage
        if reader is not None and stage not in reader.needs:
            raise UndeclaredReadError(f"stage {reader.name} reads stage {stage}: add it to `needs`")
        self.note_read("stage", stage)
        return self.folders[stage]

    def note_read(self, kind: Literal["key", "stage"], name: str) -> None:
        """Do nothing; tests record here what a stage reads."""

    def file(self, stage: str, name: str, partition: int = 0) -> Path:
        """One output file, e.g. ``file("graph", "edges.parquet", 3)``."""
        return self.folder(stage) / f"{part_name(partition)}.{name}"

    def files(self, stage: str, name: str) -> list[Path]:
        """Return that output file of every partition, in partition order."""
        plan = json.loads((self.folder(stage) / "plan.json").read_text(encoding="utf-8"))
        return [self.file(stage, name, index) for index in range(len(plan["payloads"]))]

    def facts(self, stage: str) -> list[dict[str, Any]]:
        """Facts of every partition of an earlier stage, in partition order."""
        markers = self.files(stage, "done")
        return [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in markers]


class _DeclaredKeys:
    """A section of a recipe of which only the declared keys can be read."""

    def __init__(self, inputs: Inputs[Any], section: Any, prefix: str) -> None:
        self._inputs, self._section, self._prefix = inputs, section, prefix

    def __getattr__(self, name: str) -> Any:
        stage, key = self._inputs.stage, self._prefix + name
        if name.startswith("_") or stage is None:
            raise AttributeError(name)
        declared = (*stage.keys, *stage.execution_keys)
        if key in declared:
            self._inputs.note_read("key", key)
            return getattr(self._section, name)
        if any(other.startswith(f"{key}.") for other in declared):
            return _DeclaredKeys(self._inputs, getattr(self._section, name), f"{key}.")
        raise UndeclaredReadError(
            f"stage {stage.name} reads the recipe key {key}: add it to `keys`"
        )


@dataclass
class Output:
    """Where one partition writes; remembers each file for the marker."""

    run_folder: Path
    folder: Path  # of the stage
    index: int
    fingerprint: str = ""  # of the partition
    written: list[dict[str, Any]] = field(default_factory=list)
    # For the marker: what may differ between identical runs, as speed.
    measured: dict[str, Any] = field(default_factory=dict)

    def add(self, path: Path, *, rows: int | None = None, sha256: str = "") -> Path:
        """Register a finished file anywhere inside the run folder; its hash, if it is known."""
        entry = {
            "path": path.relative_to(self.run_folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256 or sha256_file(path),
        }
        self.written.append(entry if rows is None else entry | {"rows": rows})
        return path

    def write_table(self, name: str, columns: pa.Table | Sequence[Any], schema: pa.Schema) -> Path:
        """Write ``part-00012.NAME.parquet``, a table or columns in schema order; register it."""
        table = columns if isinstance(columns, pa.Table) else pa.table(columns, schema=schema)
        target = self.folder / f"{part_name(self.index)}.{name}.parquet"
        write_table(target, table, schema)
        return self.add(target, rows=table.num_rows)

    def write_tables(self, name: str, parts: Iterable[pa.Table], schema: pa.Schema) -> Path:
        """Write the rows of several tables as `write_table` does those of one; register it."""
        target = self.folder / f"{part_name(self.index)}.{name}.parquet"
        return self.add(target, rows=write_tables(target, parts, schema))

    def write_array(self, name: str, array: np.ndarray[Any, Any]) -> Path:
        """Write ``part-00012.NAME.npy`` and register it."""
        target = self.folder / f"{part_name(self.index)}.{name}.npy"
        write_array(target, array)
        return self.add(target, rows=len(array))
