"""First pass of a random order: every source is read once, in order, and sorted by place.

The samples of a range of sources go into one file, sorted by their places, so that what a shard
needs of it lies together. The second pass, `write`, reads one piece of each of these files.
"""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.sharding.reading import SampleReader, scattered_file
from dinoforge.curation.sharding.tables import ShardingInputs, ShardingStage, samples_files
from dinoforge.errors import cannot_write
from dinoforge.files import temporary_name
from dinoforge.stages import Json, Output, part_name
from dinoforge.tables import iter_row_groups

__all__ = ["ScatterStage", "remove_scattered"]

_BLOCK_ROWS = 4096  # samples that are Python objects at once
_COLUMNS = ("files", "offsets", "sizes")


class ScatterStage(ShardingStage):
    """Copy the samples of a range of sources into one file, sorted by place."""

    name = "scatter"
    number = 40
    keys = ("order",)
    needs = ("index", "order")

    def plan(self, inputs: ShardingInputs) -> list[Json]:
        """Plan a partition per partition of the index; none if the order is that of the sources."""
        if inputs.config.order == "listed":
            return []
        payloads, first = [], 0
        for facts in inputs.facts("index"):
            payloads.append({"first": first, "stop": first + facts["samples"]})
            first += facts["samples"]
        return payloads

    def run(self, payload: Json, inputs: ShardingInputs, out: Output) -> Json:
        """Copy in the order of the sources, each sample to where its place sorts it."""
        every = np.load(inputs.file("order", "place.npy"), mmap_mode="r")
        place = np.array(every[payload["first"] : payload["stop"]])
        samples = samples_files(inputs)[out.index]
        sizes = np.concatenate(
            [
                np.empty(0, np.int64),
                *(_totals(group) for group in iter_row_groups(samples, ["sizes"])),
            ]
        )
        order = np.argsort(place, kind="stable")
        order = order[np.searchsorted(place[order], 0) :]  # without samples that have no place
        offset = np.full(len(place), -1, np.int64)
        offset[order] = np.cumsum(sizes[order]) - sizes[order]
        path = scattered_file(out.folder / f"{part_name(out.index)}.places.npy")
        temporary, reader, at = temporary_name(path), SampleReader(), 0
        try:
            with temporary.open("wb") as file:
                for members in _members(iter_row_groups(samples, _COLUMNS)):
                    if offset[at] >= 0:
                        _write_at(file.fileno(), b"".join(reader.read(*members)), int(offset[at]))
                    at += 1
                os.fsync(file.fileno())  # its marker must not outlive it
            temporary.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        out.write_array("places", np.stack([place[order], offset[order]]))
        return {"samples": len(order), "bytes": int(sizes[order].sum())}


def _totals(group: pa.Table) -> NDArray[np.int64]:
    column = group.column("sizes").combine_chunks()
    ends = np.concatenate([[0], np.cumsum(column.flatten().to_numpy())])
    bounds = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())])
    totals: NDArray[np.int64] = np.diff(ends[bounds])
    return totals


def _members(groups: Iterator[pa.Table]) -> Iterator[tuple[list[str], list[int], list[int]]]:
    for group in groups:
        for start in range(0, group.num_rows, _BLOCK_ROWS):
            block = group.slice(start, _BLOCK_ROWS)
            columns = [block.column(name).to_pylist() for name in _COLUMNS]
            yield from zip(*columns, strict=True)


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def remove_scattered(inputs: ShardingInputs) -> None:
    """Remove the copies that `scatter` made: the shards have them."""
    for path in inputs.folder("scatter").glob("part-*.bytes"):
        path.unlink()
