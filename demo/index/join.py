"""The vectors of all images in one array, and the regions of all in another."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np

from dinoforge.demo.index.tables import IndexInputs, IndexStage
from dinoforge.errors import UsageError
from dinoforge.files import write_atomic
from dinoforge.stages import Json, Output, part_name

__all__ = ["TABLES", "JoinStage"]

TABLES = ("vectors", "regions")  # one row per image; several per image, if it has patches


class JoinStage(IndexStage):
    """Join what was embedded."""

    name = "join"
    number = 30
    needs = ("list", "embed")

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:  # noqa: ARG002
        """Write both arrays."""
        counts = [facts["images"] for facts in inputs.facts("embed")]
        if not sum(counts):
            (listed,) = inputs.facts("list")
            raise UsageError(
                what=f"none of the {listed['images']:,} images can be decoded",
                where="`sources`",
                do="check that the paths contain images",
            )
        shapes = {name: _join(inputs, out, name) for name in TABLES}
        return {"counts": counts} | {f"{name}_shape": shape for name, shape in shapes.items()}


def _join(inputs: IndexInputs, out: Output, name: str) -> list[int]:
    """Join the arrays of all partitions without reading them at once; returns the shape."""

    def arrays() -> Iterator[np.ndarray]:
        mapped = (np.load(path, mmap_mode="r") for path in inputs.files("embed", f"{name}.npy"))
        return (array for array in mapped if len(array))

    num = sum(len(array) for array in arrays())
    dim = next((array.shape[1] for array in arrays()), 0)

    def write(file: BinaryIO) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (num, dim)}
        np.lib.format.write_array_header_1_0(SimpleNamespace(write=file.write), header)
        file.writelines(array.tobytes() for array in arrays())

    target: Path = out.folder / f"{part_name(out.index)}.{name}.npy"
    write_atomic(target, write)
    out.add(target, rows=num)
    return [num, dim]
