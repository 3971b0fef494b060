"""Shards, by copying bytes, and a table beside each: one row per sample."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from dinoforge.curated import shards_folder
from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.curation.sharding.images import ENCODED_SUFFIX, image_size, shrink
from dinoforge.curation.sharding.reading import SampleReader, Scattered
from dinoforge.curation.sharding.tables import ROWS_SCHEMA, ShardingInputs, ShardingStage
from dinoforge.files import decode_text
from dinoforge.images import DECODER_VERSION, Undecodable, decode_image
from dinoforge.shards.tar import BLOCK
from dinoforge.shards.writer import ShardWriter, sample_bytes
from dinoforge.stages import Json, Output
from dinoforge.tables import read_rows, write_table

__all__ = ["WriteStage", "remove_foreign_files", "shard_name"]

_BLOCK_ROWS = 4096  # samples whose places are in memory
_MOST_LABELS = 1000  # distinct ones that are counted per shard
_METADATA = {"dinoforge": "shard rows 1"}


def shard_name(name: str, number: int) -> str:
    """Return the file name of a shard."""
    return f"{name}-{number:06d}.tar"


class WriteStage(ShardingStage):
    """Copy the samples of a range of places into a shard."""

    name = "write"
    number = 50
    version = f"1.0.0-{DECODER_VERSION}"
    keys = ("name", "order", "resize", "decode", "check", "sidecar")
    needs = ("order", "scatter")

    def plan(self, inputs: ShardingInputs) -> list[Json]:
        """Plan one partition per shard."""
        (facts,) = inputs.facts("order")
        starts = facts["shard_starts"]
        stops = [*starts[1:], facts["chosen"]]
        return [
            {"shard": number, "first": first, "stop": stop}
            for number, (first, stop) in enumerate(zip(starts, stops, strict=True))
        ]

    def run(self, payload: Json, inputs: ShardingInputs, out: Output) -> Json:
        """Write one shard, its checksum file and its table."""
        config = inputs.config
        folder, first, stop = shards_folder(inputs.run_folder), payload["first"], payload["stop"]
        rows = _Rows(config, inputs.facts("order")[0]["classes"])
        # `order` decided where a shard ends: all these samples are one.
        with ShardWriter(
            folder, config.name, stop - first, 1 << 62, first=payload["shard"]
        ) as writer:
            for row, members in _samples(inputs, first, stop):
                writer.write(row["key"], rows.add(row, members))
        (shard,) = writer.shards
        out.add(shard.path, rows=shard.facts.samples, sha256=shard.facts.sha256)
        out.add(shard.path.with_suffix(".json"))
        table_file = shard.path.with_suffix(".parquet")
        if config.sidecar:
            table = pa.Table.from_pydict(rows.columns, ROWS_SCHEMA)
            write_table(table_file, table, ROWS_SCHEMA, metadata=_METADATA)
            out.add(table_file, rows=table.num_rows)
        else:
            table_file.unlink(missing_ok=True)
        return rows.facts() | {"tar_bytes": shard.facts.num_bytes}


def _samples(
    inputs: ShardingInputs, first: int, stop: int
) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Yield the samples of a range of places: rows of `order`, and bytes by extension."""
    reader = SampleReader()
    path = inputs.file("order", "places.parquet")
    scattered = None
    if inputs.config.order == "random":
        scattered = Scattered.locate(inputs, first, stop)
    where = iter(scattered) if scattered is not None else None
    for start in range(first, stop, _BLOCK_ROWS):
        block = read_rows([path], start, min(stop, start + _BLOCK_ROWS))
        for row in block.to_pylist():
            if where is not None:
                data = reader.read_scattered(*next(where), row["sizes"])
            else:
                data = reader.read(row["files"], row["offsets"], row["sizes"])
            yield row, dict(zip(row["extensions"], data, strict=True))


class _Rows:
    """The rows of a shard's table, and what they add up to."""

    def __init__(self, config: ShardingConfig, classes: Mapping[str, str]) -> None:
        self._resize, self._decode, self._check = config.resize, config.decode, config.check
        self._side = config.resize.short_side
        self._numbers = {name: number for number, name in classes.items()}
        self.columns: dict[str, list[Any]] = {name: [] for name in ROWS_SCHEMA.names}
        self._at = 0  # bytes of the samples so far
        self._counts: dict[str, Counter[str]] = {
            name: Counter()
            for name in ("formats", "members", "status", "labels", "sides", "weights")
        }
        self._bytes = self._source_bytes = self._encoded = 0

    def add(self, row: dict[str, Any], members: dict[str, bytes]) -> dict[str, bytes]:
        """Note a sample; returns its members as they are to be written."""
        self._source_bytes += sum(map(len, members.values()))
        extensions = list(members)
        image = extensions[row["image"]] if row["image"] >= 0 else ""
        status = "ok" if image else "no_image"
        if image and (self._side or self._check):
            image, status = self._encode(members, image)
        if row["class_name"]:
            number = row["class_number"]
            label = str(number) if number >= 0 else self._numbers.get(row["class_name"], "")
            if label:
                members["cls"] = label.encode()
        self._append(row, members, image, status)
        return members

    def _encode(self, members: dict[str, bytes], image: str) -> tuple[str, str]:
        """Shrink or check an image in place; returns its extension and status."""
        data = members[image]
        try:
            if not self._side:
                decode_image(data, self._decode)
                return image, "ok"
            options = self._resize.quality, self._resize.format
            small = shrink(data, self._decode, self._side, *options)
        except Undecodable as error:
            return image, error.reason
        if small is None:
            return image, "ok"
        stem = image.rpartition(".")[0]
        suffix = ENCODED_SUFFIX[self._resize.format]
        name = f"{stem}.{suffix}" if stem else suffix
        if name != image and name in members:
            name = image  # another member has this name: the content decides how it is read
        every = {name if key == image else key: value for key, value in members.items()}
        members.clear()
        members |= every | {name: small}
        self._encoded += 1
        return name, "encoded"

    def _append(
        self, row: dict[str, Any], members: Mapping[str, bytes], image: str, status: str
    ) -> None:
        sizes = [len(data) for data in members.values()]
        data = members.get(image, b"")
        name, width, height = image_size(data, image.rpartition(".")[2]) if image else ("", 0, 0)
        if image and not width and status == "ok":
            status = "empty" if not data else "bad_header"
        label = decode_text(members["cls"][:256], "replace").strip() if "cls" in members else None
        offset = None
        for extension, size in zip(members, sizes, strict=True):
            self._at += sample_bytes(row["key"], [(extension, size)])
            if extension == image:
                offset = self._at - -(-size // BLOCK) * BLOCK
        values = (
            *(row["key"], list(members), sizes, image or None),
            *(offset, len(data) if image else None),
            hashlib.sha256(data).hexdigest() if image else None,
            *(name or None, width or None, height or None, label, status),
            *(row["files"][0], row["source_key"]),
        )
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        self._bytes += sum(sizes)
        counts = self._counts
        for extension in members:
            counts["members"][extension] += 1
        counts["status"][status] += 1
        if image:
            counts["formats"][name or "unknown"] += 1
            counts["weights"][str(len(data).bit_length())] += 1
        if width:
            counts["sides"][str(min(width, height).bit_length())] += 1
        if label is not None and (
            label in counts["labels"] or len(counts["labels"]) < _MOST_LABELS
        ):
            counts["labels"][label] += 1

    def facts(self) -> Json:
        """Return what the samples add up to."""
        return {
            "samples": len(self.columns["key"]),
            "source_bytes": self._source_bytes,
            "bytes": self._bytes,
            "encoded": self._encoded,
            **{name: dict(sorted(counts.items())) for name, counts in self._counts.items()},
        }


def remove_foreign_files(run_folder: Path, written: set[str]) -> None:
    """Remove shards that this recipe did not write: readers of the folder read all of them.

    A kill between a shard and its marker leaves a shard that no marker names; under a recipe with
    fewer shards or another name it would stay.
    """
    for tar in shards_folder(run_folder).glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if tar.name not in written:
            for suffix in (".tar", ".json", ".parquet"):
                tar.with_suffix(suffix).unlink(missing_ok=True)
