"""Schemas and readers of the stages' tables."""

import itertools
from typing import NamedTuple

from dinoforge.curation.config import CurationConfig
from dinoforge.stages import Inputs, Stage

__all__ = ["CurationInputs", "CurationStage", "ExportedShard", "list_shards", "shard_name"]

CurationInputs = Inputs[CurationConfig]
CurationStage = Stage[CurationConfig]


class ExportedShard(NamedTuple):
    """A shard of the export and the range of rows of the exports table in it."""

    name: str  # ``pool-000003.tar``
    first: int
    stop: int


def shard_name(name: str, number: int) -> str:
    """Name an exported shard: ``pool-000003.tar``."""
    return f"{name}-{number:06d}.tar"


def list_shards(inputs: CurationInputs) -> list[ExportedShard]:
    """Return the shards that the `select` stage decided on, in order."""
    facts = inputs.facts("select")[0]
    bounds = [*facts["shard_starts"], facts["exported"]]
    name = inputs.config.export.name
    return [
        ExportedShard(shard_name(name, number), first, stop)
        for number, (first, stop) in enumerate(itertools.pairwise(bounds))
    ]
