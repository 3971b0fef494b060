"""The rules of a recipe and the seeds that each of them reads."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.retrieve_config import RetrieveConfig, RuleConfig
from dinoforge.curation.stored.decisions import read_left
from dinoforge.curation.tables import CurationInputs

__all__ = ["every_rule", "read_examples", "read_seed_set", "searched_sets"]


def every_rule(policy: RetrieveConfig) -> Sequence[RuleConfig]:
    """Return the rules, or the one of all seeds (named ""): `retrieve.k` and `retrieve.policy`."""
    return policy.rules or [RuleConfig(k=policy.k, policy=policy.policy)]


def searched_sets(policy: RetrieveConfig) -> dict[str, int]:
    """Return the seed sets whose neighbors are searched, and how many per seed."""
    widths: dict[str, int] = {}
    for rule in every_rule(policy):
        if rule.mode != "sample":
            continue
        width = rule.num_candidates(policy.candidates)
        widths[rule.seeds] = max(width, widths.get(rule.seeds, 0))
    return widths


def read_seed_set(inputs: CurationInputs, name: str, seeds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of those ``seeds``, given by id, that belong to a set; "": all."""
    if not name or not len(seeds):
        return np.arange(len(seeds))
    return np.flatnonzero(pc.equal(tables.read_sources(inputs, seeds), name).to_numpy())


def read_examples(inputs: CurationInputs, name: str) -> NDArray[np.int64]:
    """Read the ids of the admitted images of a reference set."""
    ids = read_left(inputs, "reference")
    return ids[read_seed_set(inputs, name, ids)]
