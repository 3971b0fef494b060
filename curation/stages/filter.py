"""Which images are admitted: a policy on the facts of `inspect`, cheap to apply again."""

from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, FilterConfig
from dinoforge.curation.policies.where import MISSING, parse_where
from dinoforge.curation.stored.columns import describe, iter_columns, known_columns, with_side
from dinoforge.curation.stored.generations import first_id
from dinoforge.curation.stored.scores import scorer_columns, stored_columns
from dinoforge.curation.stored.side import side_schema
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.remote.copies import fingerprint_list
from dinoforge.stages import Json, Output
from dinoforge.tables import iter_blocks

__all__ = [
    "FilterStage",
    "apply_condition",
    "check_condition",
    "first_reason",
    "stop_if_too_many_bad",
]


class FilterStage(CurationStage):
    """Admit images or name the first rule that they break; stop if too many do not decode."""

    name = "filter"
    number = 25
    keys = ("filter", "scores", "max_bad_rate")
    execution_keys = ("base",)
    needs = ("ingest", "plant", "inspect", "side", "score", "side-tables")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition; lists that the condition reads are part of it."""
        where = inputs.config.filter.where
        files = parse_where(where).files if where else ()
        return [{"lists": [*map(fingerprint_list, files)]}] if files else [{}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Apply the policy to every image."""
        num = tables.num_images(inputs)
        undecodable: Counter[str] = Counter()
        for facts_of_part in inputs.facts("inspect"):
            undecodable.update(facts_of_part["undecodable"])
        # If none decodes, the other stages are quick: they lead to a ledger, then the run stops.
        if undecodable.total() < num:
            stop_if_too_many_bad(undecodable, num, inputs.config.max_bad_rate)
        counts = np.zeros(len(REASONS) + 1, np.int64)
        blocks = _screen(inputs, counts)
        screened = out.write_tables("screened", blocks, tables.SCREENED_SCHEMA)
        if inputs.config.filter.where:
            filtered = _describe_filtered(inputs, screened)
            out.write_tables("filtered", filtered, tables.FILTERED_SCHEMA)
        names = ("admitted", *REASONS)
        return {n: count for n, count in zip(names, counts.tolist(), strict=True) if count}


def _screen(inputs: CurationInputs, counts: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield role and reason of blocks of images; count the reasons, the first is none."""
    conditions = _conditions(inputs)
    for facts, index in zip(
        tables.iter_facts(inputs, ["width", "height", "std"]),
        tables.iter_index(inputs, ["role"]),
        strict=True,
    ):
        role = pc.index_in(index.column("role"), pa.array(ROLES)).to_numpy().astype(np.int8)
        width, height, std = (column.to_numpy() for column in facts.columns)
        reason = first_reason(width, height, std, role, inputs.config.filter)
        if (condition := next(conditions, None)) is not None:
            apply_condition(reason, role, condition)
        counts += np.bincount(reason + 1, minlength=len(counts))
        yield pa.table([role, reason], schema=tables.SCREENED_SCHEMA)


def check_condition(config: CurationConfig) -> None:
    """Check the columns that the condition names, and their types, before anything is read.

    Columns of side data are checked as far as `side.columns` names them: what they hold is known
    once they are read.

    Raises
    ------
    UsageError
        If there is no such column, with the nearest name, or it holds what cannot be compared so.
    """
    if not config.filter.where:
        return
    where, patterns = parse_where(config.filter.where), config.side.columns
    known = known_columns(scorer_columns(config.scores))
    names = [name.removeprefix("side.") for name in where.columns if name not in known]
    side = {name: pa.null() for name in names if any(fnmatchcase(name, p) for p in patterns)}
    side |= {name: pa.null() for name in patterns if "*" not in name}
    where.check(with_side(known, side), "`filter.where`")


def _conditions(inputs: CurationInputs) -> Iterator[NDArray[np.int8]]:
    """Yield what `Where.apply` returns of blocks of images; nothing without a condition."""
    if not inputs.config.filter.where:
        return
    where = parse_where(inputs.config.filter.where)
    known = with_side(known_columns(stored_columns(inputs)), side_schema(inputs))
    where.check(known, "`filter.where`")
    for block in iter_columns(inputs, where.columns):
        yield where.apply({name: block.column(name) for name in where.columns})


def _describe_filtered(inputs: CurationInputs, screened: Path) -> Iterator[pa.Table]:
    """Yield the values that the condition read of each image that it drops, by block."""
    where, first = parse_where(inputs.config.filter.where), first_id(inputs)
    codes = [REASONS.index(reason) for reason in ("filtered_out", "missing_value")]
    for block, decided in zip(
        iter_columns(inputs, where.columns), iter_blocks([screened], ["reason"]), strict=True
    ):
        rows = np.flatnonzero(np.isin(decided.column("reason").to_numpy(), codes))
        columns = [first + rows, describe(block.take(rows))]
        yield pa.table(columns, schema=tables.FILTERED_SCHEMA)
        first += block.num_rows


def apply_condition(
    reason: NDArray[np.int8], role: NDArray[np.int8], condition: NDArray[np.int8]
) -> None:
    """Drop pool and seed images that no limit drops and that do not meet the condition."""
    is_open = (reason < 0) & np.isin(role, [ROLES.index(name) for name in ("pool", "seed")])
    for value, name in ((0, "filtered_out"), (MISSING, "missing_value")):
        reason[is_open & (condition == value)] = REASONS.index(name)


def first_reason(
    width: NDArray[np.int32],
    height: NDArray[np.int32],
    std: NDArray[np.float32],
    role: NDArray[np.int8],
    policy: FilterConfig,
) -> NDArray[np.int8]:
    """Return the code of the first broken rule per image (index into REASONS), -1 if admitted.

    ``as_is`` and ``reference`` images only need to decode.
    """
    code = {reason: number for number, reason in enumerate(REASONS)}
    judged = (role == ROLES.index("pool")) | (role == ROLES.index("seed"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    aspect = policy.max_aspect or np.inf
    reason = np.full(len(width), -1, np.int8)
    # The first rule in the funnel's order wins, so the last is written first.
    reason[judged & (std < policy.min_std)] = code["flat"]
    # Undecodable images have no side; infinity times 0 would warn.
    is_narrow = long > aspect * np.maximum(short, 1).astype(np.float64)
    reason[judged & is_narrow] = code["bad_aspect"]
    reason[judged & (short < policy.min_side)] = code["too_small"]
    reason[width == 0] = code["undecodable"]
    return reason


def stop_if_too_many_bad(undecodable: Mapping[str, int], num: int, max_bad_rate: float) -> None:
    """Raise a `UsageError` if too many of ``num`` images do not decode, counted by reason."""
    bad = sum(undecodable.values())
    if bad <= max_bad_rate * num:
        return
    listed = ", ".join(f"{count} {name}" for name, count in sorted(undecodable.items()))
    if bad == num:
        raise UsageError(
            what=f"none of the {num} images decodes ({listed})",
            where="`sources`",
            do="check that the paths hold images",
        )
    raise UsageError(
        what=f"{bad} of {num} images do not decode ({listed})",
        where=f"`max_bad_rate` is {max_bad_rate}",
        do="fix the sources or raise max_bad_rate",
    )
