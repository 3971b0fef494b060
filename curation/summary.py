"""What a curation did, in numbers that add up: read from the tables of a finished run."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import KEPT_REASONS, REASONS, ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.decisions import Decisions
from dinoforge.curation.policies.intervals import bootstrap_mean, share
from dinoforge.curation.policies.slots import Slots
from dinoforge.curation.recall import describe_join, join_remarks
from dinoforge.curation.remarks import (
    balance_remarks,
    base_remarks,
    hub_remarks,
    remarks,
    rule_remarks,
    side_remarks,
)
from dinoforge.curation.stored.decisions import read_slots, read_survivors
from dinoforge.curation.stored.generations import earlier_generations, first_id, of_every_generation
from dinoforge.curation.tables import CurationInputs
from dinoforge.curation.takedowns import list_exported, read_final_decisions
from dinoforge.shards.index import NOTES
from dinoforge.sources.accounting import Account
from dinoforge.tables import read_table

__all__ = [
    "CurationSummary",
    "FunnelRow",
    "describe_unlabeled",
    "make_account",
    "retrieval_quality",
    "summarize",
]


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
    not_selected: int  # images of the sources that `keys` and `limit` leave out
    # samples that img2dataset states beside its tars, but did not get: status -> number
    not_downloaded: dict[str, int]
    undecodable: dict[str, int]  # reason -> images
    notes: dict[str, int]  # what was unusual and accepted (`NOTES`) -> images
    kept: int
    exported: int  # files in the shards; more than ``kept`` only under policy multiset
    shards: int
    base: dict[str, Any] | None  # the run that this one adds to
    duplicates: dict[str, Any]
    join: dict[str, Any]  # how pairs were found, and which share: see `dinoforge.curation.recall`
    verify: dict[str, int] | None  # None: no pairs were compared on their pixels
    leaks: dict[str, Any]
    retrieval: dict[str, Any] | None  # None: no retrieval
    balance: dict[str, Any] | None  # None: not balanced
    check: dict[str, Any] | None  # None: nothing was planted
    seeds_not_exported: int  # used for retrieval only
    remarks: list[str]  # what was left out, and why: see `dinoforge.curation.remarks`

    def funnel(self) -> list[FunnelRow]:
        """From all images to the kept ones; the dropped ones are subtracted, kept ones split."""
        total = sum(map(Counter, self.roles.values()), Counter[str]())
        planted = f" (with {self.planted:,} planted copies)" if self.planted else ""
        rows = [
            *self._read(),
            (f"images in{planted}", self.images),
            ("only compared with (reference)", total["reference"]),
            *(
                (f"dropped: {reason.replace('_', ' ')}", total[reason])
                for reason in REASONS
                if reason not in {"reference", *KEPT_REASONS} and total[reason]
            ),
        ]
        if self.seeds_not_exported:
            rows.append(("used for retrieval only (seed)", self.seeds_not_exported))
        rows.append(("kept", self.kept))
        for reason in KEPT_REASONS:
            count = total[reason] - (self.seeds_not_exported if reason == "seed" else 0)
            if count:
                label = "not retrieved, kept" if reason == "kept" and self.retrieval else reason
                rows.append((f"of these: {label.replace('_', ' ')}", count))
        return [FunnelRow(*row) for row in rows]

    def _read(self) -> list[tuple[str, int]]:
        """From what the sources hold to the images in; nothing if that is all."""
        lost = {reason: n for reason, n in self.problems.items() if reason not in NOTES}
        rows = [(f"no image: {reason.replace('_', ' ')}", count) for reason, count in lost.items()]
        if self.not_selected:
            rows.append(("not selected (keys, limit)", self.not_selected))
        rows += [
            (f"no image: {status.replace('_', ' ')}", n)
            for status, n in self.not_downloaded.items()
        ]
        total = self.images - self.planted + sum(count for _, count in rows)
        return [("entries of the sources", total), *rows] if rows else []

    def as_json(self) -> dict[str, Any]:
        """All numbers, the funnel among them, as JSON values."""
        return asdict(self) | {"funnel": [asdict(row) for row in self.funnel()]}


def summarize(inputs: CurationInputs) -> CurationSummary:
    """Count what the stages of a finished run wrote."""
    decisions = read_final_decisions(inputs)
    role = tables.read_roles(inputs)
    undecodable: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for facts in inputs.facts("inspect"):
        undecodable.update(facts["undecodable"])
        notes.update(facts["notes"])
    roles = _by_role(role, decisions.reason)
    ingested = inputs.facts("ingest")[0]
    planted = sum(facts["planted"] for facts in inputs.facts("plant"))
    kept = int(np.count_nonzero(decisions.kept))
    duplicates, join = inputs.facts("components")[0], describe_join(inputs)
    base, balance = _base(inputs), next(iter(inputs.facts("balance")), None)
    retrieval = _retrieval(inputs, role, decisions.reason)
    left_out = remarks(inputs.config, roles, planted=planted, kept=kept)
    return CurationSummary(
        images=len(role),
        roles=roles,
        planted=planted,
        problems=ingested["problems"],
        not_selected=ingested["not_selected"],
        not_downloaded=ingested["not_downloaded"],
        undecodable=dict(undecodable),
        notes=dict(notes),
        kept=kept,
        exported=int(decisions.copies.sum()),
        shards=len(list_exported(inputs)),
        base=base,
        duplicates=duplicates,
        join=join,
        verify=_verify(inputs),
        leaks=_leaks(inputs, decisions),
        retrieval=retrieval,
        balance=balance,
        check=next(iter(inputs.facts("check")), None),
        seeds_not_exported=int(
            np.count_nonzero((decisions.reason == REASONS.index("seed")) & ~decisions.kept)
        ),
        remarks=[
            *(*left_out, *rule_remarks(inputs.config, retrieval)),
            *(*join_remarks(join), *hub_remarks(duplicates)),
            *base_remarks(base),
            *side_remarks(inputs.facts("side-tables")),
            *balance_remarks(balance),
        ],
    )


def make_account(inputs: CurationInputs, done: Collection[str]) -> Account:
    """Count what the sources gave, and name those that are incomplete.

    Of the stages that are ``done``, which include `ingest`.
    """
    (ingested,) = inputs.facts("ingest")
    inspected = inputs.facts("inspect") if "inspect" in done else []
    problems = read_table(inputs.file("ingest", "problems.parquet")).to_pylist()
    return Account.of(
        ingested["images"],
        problems,
        undecodable=sum(sum(facts["undecodable"].values()) for facts in inspected),
        not_selected=ingested["not_selected"],
        not_downloaded=ingested["not_downloaded"],
    )


def describe_unlabeled(inputs: CurationInputs) -> str:
    """Count the images of every source that have no label; "" if all have one, or none has."""
    index = read_table(inputs.file("ingest", "index.parquet"), ["source", "class_space"])
    unlabeled = index.filter(pc.equal(index.column("class_space"), ""))
    if unlabeled.num_rows == index.num_rows:
        return ""
    total, missing = (Counter(t.column("source").to_pylist()) for t in (index, unlabeled))
    return ", ".join(f"{n:,} of {total[name]:,} of source {name}" for name, n in missing.items())


def _base(inputs: CurationInputs) -> dict[str, Any] | None:
    """Count the earlier generations, their images, and those kept that leak a new reference."""
    earlier = earlier_generations(inputs)
    if not earlier:
        return None
    leaks = read_table(inputs.file("decontaminate", "base_leaks.parquet"), ["image_id"])
    ids = leaks.column("image_id").to_numpy()
    is_kept = of_every_generation(earlier[-1][1], lambda run: read_final_decisions(run).kept)
    ids = ids[is_kept[ids]]
    return {
        "generation": len(earlier),
        "images": len(is_kept),
        "kept": int(np.count_nonzero(is_kept)),
        "duplicates": inputs.facts("components")[0]["duplicates_of_base"],
        # run -> ids
        "leaks": {
            str(one.run_folder): ids[(one.first <= ids) & (ids < one.stop)].tolist()
            for one, _ in earlier
        },
    }


def _verify(inputs: CurationInputs) -> dict[str, int] | None:
    """Count pictures, those without enough keypoints to be compared, and the pairs compared."""
    if inputs.config.duplicates.verify.mode == "none":
        return None
    pictures, pairs = inputs.facts("keypoints"), inputs.facts("verify")
    return {
        "pictures": sum(facts["pictures"] for facts in pictures),
        "not_verifiable": sum(facts["not_verifiable"] for facts in pictures),
        "pairs_compared": sum(facts["compared"] for facts in pairs),
        "pairs_not_verifiable": sum(facts["not_verifiable"] for facts in pairs),
    }


def _by_role(role: NDArray[np.int8], reason: NDArray[np.int8]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for code, name in enumerate(ROLES):
        counts = np.bincount(reason[role == code], minlength=len(REASONS)).tolist()
        if any(counts):
            table[name] = {r: count for r, count in zip(REASONS, counts, strict=True) if count}
    return table


def _leaks(inputs: CurationInputs, decisions: Decisions) -> dict[str, Any]:
    """Add what was dropped to the facts: per set of the most similar reference, so it adds up."""
    facts = inputs.facts("decontaminate")[0]
    reference = decisions.duplicate_of[decisions.reason == REASONS.index("leak")]
    names, codes = tables.read_source_codes(inputs)
    dropped = np.bincount(codes[reference[reference >= 0]], minlength=len(names)).tolist()
    counts = dict(zip(names, dropped, strict=True))
    sets = {name: one | {"dropped": counts[name]} for name, one in facts["references"].items()}
    through_others = int(np.count_nonzero(reference < 0))
    return facts | {"references": sets, "dropped_through_others": through_others}


def _retrieval(
    inputs: CurationInputs, role: NDArray[np.int8], reason: NDArray[np.int8]
) -> dict[str, Any] | None:
    facts = inputs.facts("retrieve")
    if not facts:
        return None
    retrieval = facts[0]
    if inputs.config.retrieve.rules:
        counts = zip(retrieval["rules"], _seeds_dropped(inputs, role, reason), strict=True)
        retrieval |= {"rules": [rule | {"seeds_dropped": lost} for rule, lost in counts]}
    slots, seeds = read_slots(inputs)
    _, pool = read_survivors(inputs)
    classes = tables.read_index(inputs, ["label"]).column("label").to_numpy()
    # Another run numbers its classes otherwise: its seeds count as unlabeled.
    first, rng_seed = first_id(inputs), inputs.config.seed
    own = seeds >= first
    seed_class = np.where(own, classes[np.where(own, seeds - first, 0)], -1)
    slots = replace(slots, image_id=slots.image_id - first)
    return retrieval | {
        "quality": retrieval_quality(slots, seed_class, classes, pool - first, rng_seed=rng_seed)
    }


def _seeds_dropped(
    inputs: CurationInputs, role: NDArray[np.int8], reason: NDArray[np.int8]
) -> Iterator[dict[str, int]]:
    """Count the seeds of every rule, or its examples, that it did not use, by reason."""
    used = [REASONS.index(name) for name in ("seed", "as_is", "reference", "taken_down")]
    rows = np.flatnonzero((role != ROLES.index("pool")) & ~np.isin(reason, used))
    source = tables.read_index(inputs, ["source"]).column("source").take(pa.array(rows))
    for rule in inputs.config.retrieve.rules:
        roles = [ROLES.index(name) for name in rule.roles]
        is_of_rule = np.isin(role[rows], roles) & pc.equal(source, rule.seeds).to_numpy()
        counts = np.bincount(reason[rows[is_of_rule]], minlength=len(REASONS)).tolist()
        yield {name: count for name, count in zip(REASONS, counts, strict=True) if count}


def retrieval_quality(
    slots: Slots,
    seed_class: NDArray[np.int64],
    image_class: NDArray[np.int64],
    pool: NDArray[np.int64],
    *,
    rng_seed: int,
) -> dict[str, Any] | None:
    """Measure where labels are known whether seeds retrieve their own class.

    Precision is over the neighbors that seeds were given (bootstrap over seeds, keyed by
    ``rng_seed``), recall over the surviving pool images of the seeds' classes (Wilson); chance is
    what random pool images would give. None when no class is known. Labels are used here only,
    never for a decision.

    ``slots`` are the granted ones; their ``seed`` numbers the rows of ``seed_class``.
    ``image_class`` has the class of every image by id, -1 if unknown; ``pool`` are the ids of the
    images that could be retrieved.
    """
    known = seed_class >= 0
    pool_class = image_class[pool]
    if not known.any() or not (pool_class >= 0).any():
        return None
    classes, seeds_of = np.unique(seed_class[known], return_counts=True)
    of_known = known[slots.seed]
    image_id, seed, rank = (column[of_known] for column in (slots.image_id, slots.seed, slots.rank))
    right = image_class[image_id] == seed_class[seed]
    depth = int(rank.max(initial=-1)) + 1
    depths = sorted({1, *(d for d in (5, 10, 20, 50, 100) if d < depth), depth} - {0})
    per_class = np.array([np.count_nonzero(pool_class == c) for c in classes])
    relevant = int(np.isin(pool_class, classes).sum())
    return {
        "classes": len(classes),
        "seeds": int(known.sum()),
        "precision": _per_seed(right, seed, rng_seed, "precision"),
        "precision_at": {
            str(d): _per_seed(right[rank < d], seed[rank < d], rng_seed, f"precision@{d}")
            for d in depths
        },
        "precision_chance": round(float(seeds_of @ per_class / seeds_of.sum() / len(pool)), 6),
        "recall": share(len(np.unique(image_id[right])), relevant),
        "recall_chance": round(len(np.unique(image_id)) / max(len(pool), 1), 6),
    }


def _per_seed(
    right: NDArray[np.bool_], seed: NDArray[np.int64], rng_seed: int, purpose: str
) -> dict[str, Any]:
    """Return the mean over seeds of the share of right neighbors; seeds are resampled."""
    total = np.bincount(seed)
    hits = np.bincount(seed, weights=right, minlength=len(total))
    has_any = total > 0
    return bootstrap_mean(hits[has_any] / total[has_any], seed=rng_seed, purpose=purpose)
