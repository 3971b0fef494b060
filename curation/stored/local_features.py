"""Stored local features: partitions of pictures of one side, images or references.

Pictures are numbered by position: first the images that are compared, then the references, each in
the order of their ids.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.stored.generations import every_generation
from dinoforge.curation.tables import CurationInputs
from dinoforge.stages import Json
from dinoforge.verification.features import LocalFeatures, pack_features, unpack_features

__all__ = ["FeatureReader", "Pictures", "plan_pictures", "read_packed"]

# Pictures kept in memory: pairs are sorted, so one of each pair is read once; about 200 kB each.
_KEPT = 512


class Pictures(NamedTuple):
    """Ids of the contents that are compared, ascending."""

    images: NDArray[np.int64]
    references: NDArray[np.int64]

    @classmethod
    def read(cls, inputs: CurationInputs) -> "Pictures":
        """Read the lists of `exact`."""
        return cls(*(np.load(inputs.file("exact", f"{side}.npy")) for side in cls._fields))

    def ids(self) -> NDArray[np.int64]:
        """Return the id of every picture by its number."""
        return np.concatenate(self)


def plan_pictures(inputs: CurationInputs) -> list[Json]:
    """Plan ranges of pictures, each of one side: payloads ``side``, ``first``, ``stop``."""
    facts, size = inputs.facts("exact")[0], inputs.config.partition_images
    return [
        {"side": side, "first": first, "stop": stop}
        for side in Pictures._fields
        for first, stop in tables.split_range(facts[f"joined_{side}"], size)
    ]


def read_packed(inputs: CurationInputs, partition: int) -> Mapping[str, NDArray[Any]]:
    """Open the arrays of `pack_features` that a partition of `keypoints` stored."""
    return {
        name: np.load(inputs.file("keypoints", f"{name}.npy", partition), mmap_mode="r")
        for name in pack_features([])
    }


class FeatureReader:
    """Read the features of one picture after the other, earlier generations included."""

    def __init__(self, inputs: CurationInputs) -> None:
        self._runs = [(run, Pictures.read(run)) for run in every_generation(inputs)]
        self._open = lru_cache(maxsize=64)(lambda run, at: read_packed(self._runs[run][0], at))
        self.read = lru_cache(maxsize=_KEPT)(self._read)

    def _read(self, content: int) -> LocalFeatures:
        for number, (run, pictures) in enumerate(self._runs):
            first, size = 0, run.config.partition_images
            for side in pictures:
                at = int(np.searchsorted(side, content))
                if at < len(side) and side[at] == content:
                    return unpack_features(self._open(number, first + at // size), at % size)
                first += -(-len(side) // size)
        raise KeyError(content)
