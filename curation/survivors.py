"""What is decided once duplicates and leaks are known, read from the tables of their stages."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation.policies.decisions import (
    Decisions,
    Screened,
    apply_duplicates,
    apply_leaks,
    start_decisions,
)
from dinoforge.curation.stages.components import read_groups
from dinoforge.curation.stages.filter import read_screened
from dinoforge.curation.tables import CurationInputs
from dinoforge.tables import read_table

__all__ = ["decide_before_retrieval", "survivors"]


def decide_before_retrieval(inputs: CurationInputs, screened: Screened) -> Decisions:
    """Apply filter, duplicates and leaks, in this order."""
    decisions = start_decisions(screened, keep_seeds=inputs.config.retrieve.keep_seeds)
    apply_duplicates(decisions, *read_groups(inputs))
    leaks = read_table(inputs.file("decontaminate", "leaks.parquet"))
    image_id, reference, similarity = (column.to_numpy() for column in leaks.columns)
    apply_leaks(
        decisions,
        image_id,
        reference,
        similarity,
        exempt=screened.role == ROLES.index("as_is"),
    )
    return decisions


def survivors(inputs: CurationInputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids of the seeds that may ask and of the pool images that are left, ascending."""
    screened = read_screened(inputs)
    decisions = decide_before_retrieval(inputs, screened)
    undecided = decisions.is_open()
    # Seeds that are not exported are decided already, with their role as the reason.
    asks = undecided | (decisions.reason == REASONS.index("seed"))
    return (
        np.flatnonzero((screened.role == ROLES.index("seed")) & asks),
        np.flatnonzero((screened.role == ROLES.index("pool")) & undecided),
    )
