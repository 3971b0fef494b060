"""Which images are admitted: a policy on the facts of `inspect`, cheap to apply again."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation import tables
from dinoforge.curation.config import FilterConfig
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.stages import Json, Output

__all__ = ["FilterStage", "first_reason", "stop_if_too_many_bad"]


class FilterStage(CurationStage):
    """Admit images or name the first rule that they break; stop if too many do not decode."""

    name = "filter"
    number = 25
    keys = ("filter", "max_bad_rate")
    needs = ("ingest", "plant", "inspect")

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
        out.write_tables("screened", blocks, tables.SCREENED_SCHEMA)
        names = ("admitted", *REASONS)
        return {n: count for n, count in zip(names, counts.tolist(), strict=True) if count}


def _screen(inputs: CurationInputs, counts: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield role and reason of blocks of images; count the reasons, the first is none."""
    for facts, index in zip(
        tables.iter_facts(inputs, ["width", "height", "std"]),
        tables.iter_index(inputs, ["role"]),
        strict=True,
    ):
        role = pc.index_in(index.column("role"), pa.array(ROLES)).to_numpy().astype(np.int8)
        width, height, std = (column.to_numpy() for column in facts.columns)
        reason = first_reason(width, height, std, role, inputs.config.filter)
        counts += np.bincount(reason + 1, minlength=len(counts))
        yield pa.table([role, reason], schema=tables.SCREENED_SCHEMA)


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
