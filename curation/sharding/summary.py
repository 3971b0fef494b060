"""What a sharding did, in numbers that add up."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from dinoforge.curated import PUBLISHED
from dinoforge.curation.sharding.tables import ShardingInputs
from dinoforge.curation.sharding.write import shard_name
from dinoforge.shards.index import Problem
from dinoforge.tables import read_table

__all__ = ["ShardingSummary", "count_failed", "read_problems", "summarize", "summary_file"]


@dataclass(frozen=True, kw_only=True)
class ShardingSummary:
    """Everything counted; the same bytes for the same run wherever it ran."""

    samples_in: int  # of the sources
    samples: int  # in the shards
    not_chosen: int  # by the list of ids
    ids: dict[str, int]  # listed, repeated, unmatched, samples_without; empty without a list
    renamed: int  # samples whose key an earlier one has
    source_bytes: int  # of all members of the samples that were chosen
    bytes: int  # of all members in the shards: less if encoded again, more with added classes
    encoded: int  # images that were encoded again
    shards: list[dict[str, Any]]  # name, samples, bytes
    problems: dict[str, int]  # reason -> files and members
    # samples that img2dataset states beside the sources, but did not get: status -> number
    not_downloaded: dict[str, int]
    status: dict[str, int]  # reason -> samples: ok, encoded, or why not decoded
    formats: dict[str, int]  # of the images
    members: dict[str, int]  # extension -> members
    labels: dict[str, int]  # text of the `.cls` -> samples; the first 1,000 of each shard
    classes: dict[str, str]  # number -> name
    sides: dict[str, int]  # bits of the shorter side in pixels -> images
    weights: dict[str, int]  # bits of the bytes -> images
    verified: int  # shards that were read again

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def summary_file(run_folder: Path) -> Path:
    """Return the path of the summary; a run without one is not finished."""
    return run_folder / PUBLISHED / "summary.json"


def summarize(inputs: ShardingInputs) -> ShardingSummary:
    """Add up what the stages counted."""
    (order,) = inputs.facts("order")
    written = inputs.facts("write")
    name = inputs.config.name
    return ShardingSummary(
        samples_in=order["samples"],
        samples=sum(facts["samples"] for facts in written),
        not_chosen=order["samples"] - order["chosen"],
        ids=order["ids"],
        renamed=order["renamed"],
        source_bytes=sum(facts["source_bytes"] for facts in written),
        bytes=sum(facts["bytes"] for facts in written),
        encoded=sum(facts["encoded"] for facts in written),
        shards=[
            {
                "shard": shard_name(name, number),
                "samples": facts["samples"],
                "bytes": facts["tar_bytes"],
            }
            for number, facts in enumerate(written)
        ],
        problems=dict(sorted(Counter(p["reason"] for p in read_problems(inputs)).items())),
        not_downloaded=count_failed(inputs),
        classes=order["classes"],
        verified=len(inputs.facts("verify")),
        **{
            key: _added(facts[key] for facts in written)
            for key in ("status", "formats", "members", "labels", "sides", "weights")
        },
    )


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    return dict(sorted(sum(map(Counter, counts), Counter[str]()).items()))


def count_failed(inputs: ShardingInputs) -> dict[str, int]:
    """Count by status the samples that were never downloaded."""
    listed = (*inputs.facts("discover"), *inputs.facts("index"))
    return _added(facts["not_downloaded"] for facts in listed)


def read_problems(inputs: ShardingInputs) -> list[Problem]:
    """Read everything that gave no sample, or that was unusual."""
    tables = [
        read_table(path)
        for stage in ("discover", "index")
        for path in inputs.files(stage, "problems.parquet")
    ]
    problems: list[Problem] = pa.concat_tables(tables).to_pylist()
    return problems
