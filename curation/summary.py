"""What a curation did, in numbers that add up: read from the tables of a finished run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import KEPT_REASONS, REASONS, ROLES
from dinoforge.curation.index import read_index, read_roles
from dinoforge.curation.quality import retrieval_quality
from dinoforge.curation.stages.retrieve import read_slots
from dinoforge.curation.stages.select import read_decisions
from dinoforge.curation.survivors import survivors
from dinoforge.curation.tables import CurationInputs

__all__ = ["CurationSummary", "FunnelRow", "summarize"]


@dataclass(frozen=True)
class FunnelRow:
    """One line of the funnel."""

    label: str
    count: int


@dataclass(frozen=True, kw_only=True)
class CurationSummary:
    """Everything counted; the same bytes for the same run wherever it ran."""

    images: int  # rows of the ledger
    roles: dict[str, dict[str, int]]  # role -> reason -> images; sums to ``images``
    planted: int  # of the pool images: copies that the run planted itself
    problems: dict[str, int]  # reason -> shards, members or files that gave no image
    undecodable: dict[str, int]  # reason -> images
    notes: dict[str, int]  # what was unusual and accepted (`NOTES`) -> images
    kept: int
    exported: int  # files in the shards; more than ``kept`` only under policy multiset
    shards: int
    duplicates: dict[str, Any]
    leaks: dict[str, Any]
    retrieval: dict[str, Any] | None  # None: no seeds were asked
    check: dict[str, Any] | None  # None: nothing was planted
    keeps_seeds: bool  # seeds are exported, not only asked

    def funnel(self) -> list[FunnelRow]:
        """From all images to the kept ones; the dropped ones are subtracted, kept ones split."""
        return list(self._funnel())

    def _funnel(self) -> Iterator[FunnelRow]:
        total = dict.fromkeys(REASONS, 0)
        for counts in self.roles.values():
            for reason, count in counts.items():
                total[reason] += count
        planted = f" (with {self.planted:,} planted copies)" if self.planted else ""
        yield FunnelRow(f"images in{planted}", self.images)
        yield FunnelRow("only compared with (reference)", total["reference"])
        for reason in REASONS:
            if reason not in {"reference", *KEPT_REASONS} and total[reason]:
                yield FunnelRow(f"dropped: {reason.replace('_', ' ')}", total[reason])
        asked_only = self.roles.get("seed", {}).get("seed", 0) if not self.keeps_seeds else 0
        if asked_only:
            yield FunnelRow("only asked (seed)", asked_only)
        yield FunnelRow("kept", self.kept)
        for reason in KEPT_REASONS:
            count = total[reason] - (asked_only if reason == "seed" else 0)
            if count:
                label = "not asked for, kept" if reason == "kept" and self.retrieval else reason
                yield FunnelRow(f"of these: {label.replace('_', ' ')}", count)

    def as_json(self) -> dict[str, Any]:
        """All numbers, the funnel among them, as JSON values."""
        return asdict(self) | {"funnel": [asdict(row) for row in self.funnel()]}


def summarize(inputs: CurationInputs) -> CurationSummary:
    """Count what the stages of a finished run wrote."""
    decisions = read_decisions(inputs)
    role = read_roles(inputs)
    select = inputs.facts("select")[0]
    undecodable: dict[str, int] = {}
    notes: dict[str, int] = {}
    for facts in inputs.facts("filter"):
        _add(undecodable, facts["undecodable"])
        _add(notes, facts["notes"])
    check = inputs.facts("check")
    return CurationSummary(
        images=len(role),
        roles=_by_role(role, decisions.reason),
        planted=sum(facts["planted"] for facts in inputs.facts("plant")),
        problems=inputs.facts("ingest")[0]["problems"],
        undecodable=undecodable,
        notes=notes,
        kept=int(np.count_nonzero(decisions.kept)),
        exported=select["exported"],
        shards=len(select["shard_starts"]),
        duplicates=inputs.facts("components")[0],
        leaks=inputs.facts("decontaminate")[0],
        retrieval=_retrieval(inputs),
        check=check[0] if check else None,
        keeps_seeds=inputs.config.retrieve.keep_seeds,
    )


def _add(total: dict[str, int], counts: dict[str, int]) -> None:
    for reason, count in counts.items():
        total[reason] = total.get(reason, 0) + count


def _by_role(role: NDArray[np.int8], reason: NDArray[np.int8]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for code, name in enumerate(ROLES):
        counts = np.bincount(reason[role == code], minlength=len(REASONS)).tolist()
        named = {r: count for r, count in zip(REASONS, counts, strict=True) if count}
        if named:
            table[name] = named
    return table


def _retrieval(inputs: CurationInputs) -> dict[str, Any] | None:
    facts = inputs.facts("retrieve")
    if not facts:
        return None
    slots, granted_seeds = read_slots(inputs)
    _, pool = survivors(inputs)
    image_class = _classes(inputs)
    quality = retrieval_quality(
        slots, image_class[granted_seeds], image_class, pool, rng_seed=inputs.config.seed
    )
    return facts[0] | {"quality": quality}


def _classes(inputs: CurationInputs) -> NDArray[np.int64]:
    """Class number of every image: by class name where there is one, else by label."""
    table = read_index(inputs, ["label", "class_name"])
    label = table.column("label").cast(pa.string())
    unknown = pc.equal(label, "-1")
    name = pc.if_else(pc.equal(table.column("class_name"), ""), label, table.column("class_name"))
    name = pc.if_else(pc.and_(unknown, pc.equal(table.column("class_name"), "")), None, name)
    encoded = name.combine_chunks().dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
