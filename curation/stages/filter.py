"""Which images are admitted: the filter's policy on stored facts, cheap to run again."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation.config import FilterConfig
from dinoforge.curation.facts import read_facts
from dinoforge.curation.index import read_roles
from dinoforge.curation.policies.decisions import Screened
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import UsageError
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["ScreenStage", "read_screened", "screen"]

_SCHEMA = pa.schema([("role", pa.int8()), ("reason", pa.int8())])


class ScreenStage(CurationStage):
    """Admit images or name the first rule that they break; stop when too many are broken."""

    name = "screen"
    number = 25
    keys = ("filter", "max_bad_rate")
    needs = ("ingest", "plant", "filter")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Apply the policy to every image."""
        facts = read_facts(inputs, ["width", "height", "std"])
        width, height, std = (facts.column(name).to_numpy() for name in ("width", "height", "std"))
        screened = Screened(
            read_roles(inputs),
            screen(width, height, std, read_roles(inputs), inputs.config.filter),
        )
        _stop_when_too_bad(inputs, screened)
        table = pa.table([screened.role, screened.reason], schema=_SCHEMA)
        out.write_table("screened", table, _SCHEMA)
        counts = np.bincount(screened.reason + 1, minlength=len(REASONS) + 1)
        named = zip(("admitted", *REASONS), counts.tolist(), strict=True)
        return {name: count for name, count in named if count}


def screen(
    width: NDArray[np.int32],
    height: NDArray[np.int32],
    std: NDArray[np.float32],
    role: NDArray[np.int8],
    policy: FilterConfig,
) -> NDArray[np.int8]:
    """Reason code per image, -1 where admitted.

    ``as_is`` and ``reference`` images only need to decode.
    """
    code = {reason: number for number, reason in enumerate(REASONS)}
    judged = (role == ROLES.index("pool")) | (role == ROLES.index("seed"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    aspect = policy.max_aspect or np.inf
    reason = np.full(len(width), -1, np.int8)
    # The first rule in the funnel's order wins, so the last is written first.
    reason[judged & (std < policy.min_std)] = code["flat"]
    reason[judged & (long > aspect * short.astype(np.float64))] = code["bad_aspect"]
    reason[judged & (short < policy.min_side)] = code["too_small"]
    reason[width == 0] = code["undecodable"]
    return reason


def read_screened(inputs: CurationInputs) -> Screened:
    """Read what `ScreenStage` admitted."""
    table = read_table(inputs.file("screen", "screened.parquet"))
    return Screened(table.column("role").to_numpy(), table.column("reason").to_numpy())


def _stop_when_too_bad(inputs: CurationInputs, screened: Screened) -> None:
    num = len(screened.reason)
    bad = int(np.count_nonzero(screened.reason == REASONS.index("undecodable")))
    counts: dict[str, int] = {}
    for facts in inputs.facts("filter"):
        for reason, count in facts["undecodable"].items():
            counts[reason] = counts.get(reason, 0) + count
    named = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    if bad == num:
        raise UsageError(
            what=f"none of the {num} images decodes ({named})",
            where="`sources`",
            do="check that the paths hold images",
        )
    if bad > inputs.config.max_bad_rate * num:
        raise UsageError(
            what=f"{bad} of {num} images do not decode ({named})",
            where=f"`max_bad_rate` is {inputs.config.max_bad_rate}",
            do="mend the sources or raise max_bad_rate",
        )
