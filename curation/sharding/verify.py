"""Read shards again, and compare every checksum with what was written."""

import hashlib
import os
from pathlib import Path

from dinoforge.curated import shards_folder
from dinoforge.curation.sharding.tables import ShardingInputs, ShardingStage
from dinoforge.curation.sharding.write import shard_name
from dinoforge.errors import Fault, UsageError
from dinoforge.shards.index import index_shard, verify_shard
from dinoforge.shards.reading import RangeReader
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["VerifyStage"]

_DO = "delete it and run the command again: it is written again from the sources"


class VerifyStage(ShardingStage):
    """Compare each shard with its checksum file and its table."""

    name = "verify"
    number = 60
    keys = ("name", "sidecar")
    execution_keys = ("verify",)
    needs = ("write",)

    def plan(self, inputs: ShardingInputs) -> list[Json]:
        """Plan one partition per shard, if it is asked for; a shard that changed is read again."""
        if not inputs.config.verify:
            return []
        payloads: list[Json] = []
        for number in range(len(inputs.facts("write"))):
            name = shard_name(inputs.config.name, number)
            status = (shards_folder(inputs.run_folder) / name).stat()
            payloads.append({"shard": name, "mtime_ns": status.st_mtime_ns})
        return payloads

    def run(self, payload: Json, inputs: ShardingInputs, out: Output) -> Json:  # noqa: ARG002
        """Read one shard; raises a `UsageError` that names what differs."""
        path = shards_folder(inputs.run_folder) / payload["shard"]
        faults = [f"{entry['reason']} ({entry['detail']})" for entry in verify_shard(path)]
        index = index_shard(path)
        if not index.complete:
            faults += [entry["reason"] for entry in index.problems]
        members = sum(len(sample.members) for sample in index.samples)
        if not faults and inputs.config.sidecar:
            faults += _compare_table(path)
        if faults:
            raise UsageError(
                faults=[Fault(f"shard changed: {fault}", os.fspath(path), _DO) for fault in faults]
            )
        return {"samples": len(index.samples), "members": members}


def _compare_table(path: Path) -> list[str]:
    """Compare the samples with the rows of the table: keys, members, sizes, hashes of images."""
    samples, reader = index_shard(path).samples, RangeReader(max_open=1)
    rows = read_table(path.with_suffix(".parquet")).to_pylist()
    if len(rows) != len(samples):
        return [f"{len(samples)} samples, the table has {len(rows)}"]
    for row, sample in zip(rows, samples, strict=True):
        sizes = [member.size for member in sample.members.values()]
        if (row["key"], row["extensions"], row["sizes"]) != (sample.key, [*sample.members], sizes):
            return [f"sample {sample.key} has other members than the table, {row['key']}"]
        if row["image"] is not None:
            data = reader.read(str(path), row["offset"], row["size"])
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                return [f"image of {sample.key} has another SHA-256 than in the table"]
    return []
