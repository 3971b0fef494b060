"""What stages decided about the images of a run, and where the kept ones are exported."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.decisions import (
    Decisions,
    Screened,
    apply_duplicates,
    apply_leaks,
    start_decisions,
)
from dinoforge.curation.policies.duplicates import Groups
from dinoforge.curation.policies.slots import Slots
from dinoforge.curation.retrieve_config import RuleConfig
from dinoforge.curation.stored.generations import every_generation, first_id
from dinoforge.curation.tables import CurationInputs
from dinoforge.tables import SortedRows, iter_blocks, read_table

__all__ = [
    "ExportedShard",
    "Retrievable",
    "decide_before_retrieval",
    "decisions_file",
    "export_key",
    "exports_file",
    "iter_decisions",
    "list_shards",
    "read_decisions",
    "read_excluded",
    "read_left",
    "read_retrievable",
    "read_slots",
    "read_survivors",
]


def decide_before_retrieval(inputs: CurationInputs) -> Iterator[tuple[Screened, Decisions]]:
    """Apply the filter, duplicates and leaks to the images of this run, in this order.

    Yields blocks of images, by id, that the caller may go on with.
    """
    first = first_id(inputs)
    groups = SortedRows(inputs.file("components", "groups.parquet"))
    leaks = SortedRows(inputs.file("decontaminate", "leaks.parquet"))
    num_split = inputs.facts("components")[0]["components_split"]
    for block in iter_blocks([inputs.file("filter", "screened.parquet")]):
        screened, stop = Screened(**tables.columns_of(block)), first + block.num_rows
        columns = tables.columns_of(groups.below(stop))
        ids = columns.pop("image_id")
        # All that is to be exported takes part in the comparison.
        exported = np.zeros(block.num_rows, np.bool_)
        exported[ids - first] = True
        decisions = start_decisions(screened, exported=exported, first=first)
        apply_duplicates(decisions, ids, Groups(**columns, num_split=num_split))
        exempt = screened.role == ROLES.index("as_is")
        apply_leaks(decisions, *tables.columns_of(leaks.below(stop)).values(), exempt=exempt)
        first = stop
        yield screened, decisions


def read_survivors(
    inputs: CurationInputs, rules: Sequence[RuleConfig] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of usable seeds and of the pool images left, of this run, ascending.

    Both are mapped from their files. Images of role as_is are seeds, too, if one of the ``rules``
    names their source.
    """
    seeds, pool = (read_left(inputs, role) for role in ("seed", "pool"))
    as_is = read_left(inputs, "as_is") if rules else seeds[:0]
    if len(as_is):
        names = pa.array([rule.seeds for rule in rules], pa.string())
        source = tables.read_sources(inputs, as_is)
        seeds = np.union1d(seeds, as_is[pc.is_in(source, names).to_numpy(zero_copy_only=False)])
    return seeds, pool


def read_left(inputs: CurationInputs, role: str) -> NDArray[np.int64]:
    """Map the ids of the images of a role, of this run, that no stage up to leaks has dropped."""
    ids: NDArray[np.int64] = np.load(inputs.file("survivors", f"{role}.npy"), mmap_mode="r")
    return ids


class Retrievable(NamedTuple):
    """Ids of usable seeds and of what they may retrieve, by generation; the last is the run's."""

    seeds: list[NDArray[np.int64]]
    pool: list[NDArray[np.int64]]

    def pool_range(self, first: int, stop: int) -> NDArray[np.int64]:
        """Return a range of the pools, numbered one after the other."""
        parts, at = [], 0
        for part in self.pool:
            parts.append(part[max(first - at, 0) : max(stop - at, 0)])
            at += len(part)
        return np.concatenate(parts)


def read_retrievable(inputs: CurationInputs) -> Retrievable:
    """Read the seeds and the pools that are left, earlier generations included."""
    *earlier, own = every_generation(inputs)
    runs = [*map(read_survivors, earlier), read_survivors(own, own.config.retrieve.rules)]
    seeds, pool = zip(*runs, strict=True)
    return Retrievable(list(seeds), list(pool))


def read_slots(inputs: CurationInputs) -> tuple[Slots, NDArray[np.int64]]:
    """Read the granted slots of images of this run.

    Also returns the ids of the seeds that their ``seed`` column numbers.
    """
    table = read_table(inputs.file("retrieve", "slots.parquet"))
    is_own = pc.greater_equal(table.column("image_id"), first_id(inputs))
    columns = tables.columns_of(table.filter(pc.and_(table.column("granted"), is_own)))
    seeds, seed = np.unique(columns["seed_id"], return_inverse=True)
    rest = (columns[name] for name in ("rank", "image_id", "score", "rule"))
    return Slots(seed.reshape(-1), *rest), seeds


def read_excluded(inputs: CurationInputs) -> dict[str, NDArray[Any]]:
    """Read what rules exclude, columns of `tables.EXCLUDED_SCHEMA`; empty without such a rule."""
    facts = inputs.facts("retrieve")
    if not any(rule["mode"] == "exclude" for one in facts for rule in one.get("rules", ())):
        return tables.columns_of(tables.EXCLUDED_SCHEMA.empty_table())
    return tables.columns_of(read_table(inputs.file("retrieve", "excluded.parquet")))


def read_decisions(inputs: CurationInputs) -> Decisions:
    """Read the decision about every image of this run."""
    columns = tables.columns_of(read_table(decisions_file(inputs)))
    return Decisions(**columns, first=first_id(inputs))


def iter_decisions(inputs: CurationInputs) -> Iterator[Decisions]:
    """Yield the decisions about blocks of images of this run, by id."""
    first = first_id(inputs)
    for block in iter_blocks([decisions_file(inputs)]):
        yield Decisions(**tables.columns_of(block), first=first)
        first += block.num_rows


def decisions_file(inputs: CurationInputs) -> Path:
    """Return the table of the decisions."""
    return inputs.file("select", "decisions.parquet")


def exports_file(inputs: CurationInputs) -> Path:
    """Return the table of the exported files."""
    return inputs.file("select", "places.parquet")


def export_key(image_id: int, copy: int = 0) -> str:
    """Return the key of an image in the exported shards: its id, so that it can be traced back."""
    return f"{image_id:09d}-{copy}" if copy else f"{image_id:09d}"


class ExportedShard(NamedTuple):
    """A shard of the export and the range of rows of the exports table in it."""

    number: int
    part: str  # how its name begins: ``pool``
    name: str  # ``pool-000003.tar``
    first: int
    stop: int


def list_shards(inputs: CurationInputs) -> list[ExportedShard]:
    """Return the shards that `select` decided on, in order.

    They are numbered after those of earlier generations: all fit into one folder.
    """
    *earlier, facts = (of_run.facts("select")[0] for of_run in every_generation(inputs))
    bounds = [*facts["shard_starts"], facts["exported"]]
    start = sum(len(other["shard_starts"]) for other in earlier)
    parts = facts.get("shard_parts", [inputs.config.export.name] * len(facts["shard_starts"]))
    return [
        ExportedShard(number, part, f"{part}-{number:06d}.tar", first, stop)
        for number, (part, (first, stop)) in enumerate(
            zip(parts, itertools.pairwise(bounds), strict=True), start
        )
    ]
