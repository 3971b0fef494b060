"""One decision per image, and the shard of every exported image; reads tables only.

Of a billion images only a block is in memory at once, and a few numbers per exported one.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import REASONS
from dinoforge.curation import tables
from dinoforge.curation.config import ExportConfig
from dinoforge.curation.policies.decisions import (
    Decisions,
    apply_balance,
    apply_exclusion,
    apply_retrieval,
    decide_rest,
)
from dinoforge.curation.stored.balance import read_balanced
from dinoforge.curation.stored.decisions import decide_before_retrieval, read_excluded, read_slots
from dinoforge.curation.stored.extras import as_json, iter_extras
from dinoforge.curation.stored.seed_sets import every_rule
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.randomness import KeyedPermutation
from dinoforge.shards.writer import cut_shards
from dinoforge.stages import Json, Output
from dinoforge.tables import iter_blocks, shuffle_rows

__all__ = ["SHUFFLED_ROWS", "SelectStage"]

# Bytes of a sample in a tar beyond the image: two headers, the JSON, padding.
_OVERHEAD_BYTES = 3 * 1024
# Exported files that are put into their order at once; the others wait on the disk.
SHUFFLED_ROWS = 1 << 21


class SelectStage(CurationStage):
    """Decide about every image and assign the kept ones to shards."""

    name = "select"
    number = 75
    version = "1.3.0"
    keys = ("retrieve", "balance.target", "export", "scores", "seed")
    execution_keys = ("base",)
    needs = (
        *("ingest", "plant", "inspect", "side", "score", "side-tables", "filter", "components"),
        *("decontaminate", "retrieve", "balance"),
    )

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Combine the results of all stages."""
        policy, files = inputs.config.export, _Files(inputs)
        decided = out.write_tables("decisions", files.note_each(), tables.DECISIONS_SCHEMA)
        sizes, part, parts = files.columns()
        order = _order(part, policy, inputs.config.seed)
        part = part[order]
        bounds = np.searchsorted(part, np.arange(len(parts) + 1))
        starts = np.concatenate(
            [a + _cut(sizes[order[a:b]], policy) for a, b in itertools.pairwise(bounds)]
        )
        del sizes
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        shuffled = shuffle_rows(_exported(inputs, decided), place, out.folder, SHUFFLED_ROWS)
        out.write_tables("places", _in_shards(shuffled, starts), tables.EXPORTS_SCHEMA)
        facts = {"kept": files.num_kept, "exported": len(order), "shard_starts": starts.tolist()}
        if policy.parts:
            facts["shard_parts"] = [parts[number] for number in part[starts]]
        return facts


def _cut(sizes: NDArray[np.int64], policy: ExportConfig) -> NDArray[np.int64]:
    num_bytes = -(-sizes // 512) * 512 + _OVERHEAD_BYTES
    return cut_shards(num_bytes, policy.shard_images, policy.shard_mib << 20)


class _Files:
    """What the cutting of shards needs of the exported files, by id: their sizes and parts."""

    def __init__(self, inputs: CurationInputs) -> None:
        self.num_kept = 0
        self._inputs = inputs
        self._sizes, self._part = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        self._numbers: dict[str, int] = {}  # of the parts, in the order in which they were met

    def note_each(self) -> Iterator[pa.Table]:
        """Yield the decisions, block by block, and note what is exported of them."""
        by_part = self._inputs.config.export.parts
        columns = ["size", "source"] if by_part else ["size"]
        blocks = zip(_decide(self._inputs), tables.iter_index(self._inputs, columns), strict=True)
        for decisions, index in blocks:
            self.num_kept += int(np.count_nonzero(decisions.kept))
            rows, _ = _rows_of_files(decisions.kept, decisions.copies)
            self._sizes.append(index.column("size").to_numpy()[rows])
            if by_part:
                self._part.append(self._parts_of(decisions, index.column("source"), rows))
            decided = [getattr(decisions, name) for name in tables.DECISIONS_SCHEMA.names]
            yield pa.table(decided, schema=tables.DECISIONS_SCHEMA)

    def _parts_of(
        self, decisions: Decisions, source: pa.ChunkedArray, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the number of the part of every file.

        It is that of the rule that retrieved it; else of its source, for seeds that of their first
        rule. Sets that are kept as they are stay apart, also if they retrieve.
        """
        rules = self._inputs.config.retrieve.rules
        number = np.where(len(rules) > 0, decisions.rule[rows], -1)
        labels = pa.array([rule.label for rule in rules], pa.string())
        by_rule = labels.take(pa.array(number, mask=number < 0))
        of_seeds = {rule.seeds: rule.label for rule in reversed(rules) if "seed" in rule.roles}
        source = source.take(pa.array(rows)).combine_chunks()
        sources = source.dictionary_encode()
        named = [of_seeds.get(name, name) for name in sources.dictionary.to_pylist()]
        is_seed = pa.array(decisions.reason[rows] == REASONS.index("seed"))
        own = pc.if_else(is_seed, pa.array(named, pa.string()).take(sources.indices), source)
        names = pc.coalesce(by_rule, own)
        encoded = pc.dictionary_encode(names)
        numbers = [
            self._numbers.setdefault(name, len(self._numbers))
            for name in encoded.dictionary.to_pylist()
        ]
        return np.array(numbers, np.int64)[encoded.indices.to_numpy()]

    def columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """Return size and part of every file, and the names of the parts in alphabetical order."""
        sizes = np.concatenate(self._sizes)
        if not self._numbers:
            return sizes, np.zeros(len(sizes), np.int64), [self._inputs.config.export.name]
        names = sorted(self._numbers)
        place = np.empty(len(names), np.int64)
        place[[self._numbers[name] for name in names]] = np.arange(len(names))
        return sizes, place[np.concatenate(self._part)], names


def _decide(inputs: CurationInputs) -> Iterator[Decisions]:
    """Yield the decisions about blocks of images."""
    policy = inputs.config.retrieve
    not_chosen = np.empty(0, np.int64)
    if balanced := read_balanced(inputs):
        not_chosen = balanced.image_id[~balanced.chosen]
    if policy.mode == "seeds":
        excluded, (slots, seeds) = read_excluded(inputs), read_slots(inputs)
        slots = slots.take(np.argsort(slots.image_id, kind="stable"))
        multiset = [rule.policy == "multiset" for rule in every_rule(policy)]
    everything = policy.mode == "none" or policy.keep == "all"
    for screened, decisions in decide_before_retrieval(inputs):
        if policy.mode == "seeds":
            rows = decisions.rows_in(excluded["image_id"])
            apply_exclusion(decisions, **{name: column[rows] for name, column in excluded.items()})
            here = slots.take(decisions.rows_in(slots.image_id))
            apply_retrieval(decisions, here, seeds, multiset=multiset)
        apply_balance(decisions, not_chosen[decisions.rows_in(not_chosen)])
        decide_rest(decisions, screened, keep_survivors=everything)
        assert (decisions.reason >= 0).all(), "an image was left without a decision"
        yield decisions


def _rows_of_files(
    kept: NDArray[np.bool_], copies: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row and the number of the copy of every file of some images."""
    rows = np.flatnonzero(kept)
    times = copies[rows].astype(np.int64)
    copy = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return np.repeat(rows, times), copy


def _order(part: NDArray[np.int64], policy: ExportConfig, seed: int) -> NDArray[np.int64]:
    """Return which file is at every place of the shards: part by part, mixed in each."""
    order = np.arange(len(part))
    if policy.order == "random" and len(part):
        order = KeyedPermutation(len(part), seed, "export")[order]
    return order[np.argsort(part[order], kind="stable")] if policy.parts else order


def _exported(inputs: CurationInputs, decided: Path) -> Iterator[pa.Table]:
    """Yield columns of the files of blocks of images, by id."""
    names = [name for name in tables.INDEX_SCHEMA.names if name in tables.EXPORTS_SCHEMA.names]
    for index, facts, decisions, extras in zip(
        tables.iter_index(inputs, names),
        tables.iter_facts(inputs, ["format", "sha256"]),
        iter_blocks([decided], ["kept", "copies", "reason", "seed_id", "rank", "score"]),
        iter_extras(inputs),
        strict=False,  # without extra columns the last never ends
    ):
        kept, copies, *rest = (column.to_numpy() for column in decisions.columns)
        at, copy = _rows_of_files(kept, copies)
        rows = pa.array(at)
        read = {
            name: table.column(name).take(rows)
            for table in (index, facts)
            for name in table.column_names
        }
        reason, seed_id, rank, score = (column[at] for column in rest)
        reasons = pa.array(REASONS).take(pa.array(reason))
        evidence = {"reason": reasons, "seed_id": seed_id, "rank": rank, "score": score}
        texts = as_json(extras.take(rows)) if extras.column_names else [None] * len(at)
        evidence["extra"] = pa.array(texts, pa.string())
        yield pa.table(read | {"copy": copy.astype(np.int32)} | evidence)


def _in_shards(parts: Iterator[pa.Table], starts: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Add the number of the shard to files in their order."""
    at = 0
    for part in parts:
        places = np.arange(at, at := at + part.num_rows)
        shard = np.searchsorted(starts, places, side="right") - 1
        yield part.append_column("out_shard", pa.array(shard.astype(np.int32)))
