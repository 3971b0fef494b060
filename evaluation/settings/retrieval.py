"""Settings of retrieval, recognition of instances and copy detection."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from dinoforge.config.paths import SourceText
from dinoforge.config.ranges import (
    NonEmpty,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    one_of,
)
from dinoforge.errors import Fault
from dinoforge.remote.urls import url_faults

__all__ = [
    "LEAKAGE_THRESHOLDS",
    "CopiesConfig",
    "InstancesConfig",
    "LeakageConfig",
    "RankingConfig",
    "WhiteningConfig",
]


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """Ranked lists (Radenovic et al. 2018 for Oxford and Paris)."""

    # what a query of Oxford and Paris shows: its box, as in the protocol, or the whole image, as in
    # DINO's script
    query: Literal["box", "whole"] = "box"
    # of Oxford and Paris: mean precision at how many images
    precision_at: list[PositiveInt] = field(default_factory=lambda: [1, 5, 10])


@dataclass(frozen=True, kw_only=True)
class InstancesConfig:
    """k-NN of the Met benchmark (Ypsilantis et al. 2021); both are chosen on validation queries."""

    # numbers of neighbors to try
    k: Annotated[list[PositiveInt], NonEmpty] = field(
        default_factory=lambda: [1, 2, 3, 5, 10, 15, 20, 50]
    )
    # factors of similarities, before the exponential, to try
    scale: Annotated[list[PositiveFloat], NonEmpty] = field(
        default_factory=lambda: [0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 40, 50, 70, 100, 500]
    )


@dataclass(frozen=True, kw_only=True)
class WhiteningConfig:
    """Whitening of descriptors."""

    # name of the set of the recipe that it is learned on, images without a layout; "": none
    set: str = ""
    # uncentered: eigenvectors of the second moment (DINO's code); centered: of the covariance
    form: Literal["uncentered", "centered"] = "centered"
    dim: NonNegativeInt = 0  # directions that are kept, at most all; 0: all


@dataclass(frozen=True, kw_only=True)
class CopiesConfig:
    """Copy detection (DISC21, Douze et al. 2021; Copydays)."""

    # references per query whose pairs count; micro-AP depends on it
    list_length: PositiveInt = 100
    whitening: WhiteningConfig = field(default_factory=WhiteningConfig)


# Encoder -> similarity from which an image counts as a copy: of pixels that without a false hit in
# benchmarks/leakage.py, of SSCD its authors' high-precision threshold.
LEAKAGE_THRESHOLDS = {"pixels": 0.925, "sscd": 0.75, "sscd_distilled": 0.75}


@dataclass(frozen=True, kw_only=True)
class LeakageConfig:
    """Test images that a model was trained on, found by a copy descriptor."""

    # what it was trained on: curation runs (the images that they kept), folders or tars of images,
    # or their URLs; empty: nothing is looked up
    curation: list[SourceText] = field(default_factory=list)
    # copy descriptor: pixels tolerates slight crops, sscd also others
    encoder: Annotated[str, one_of(tuple(LEAKAGE_THRESHOLDS))] = "pixels"
    # cosine from which a test image counts as leaked; 0: 0.925 for pixels, 0.75 for sscd
    threshold: Annotated[float, Range(0, 1)] = 0.0

    def faults(self, at: str) -> Iterator[Fault]:
        """Find URLs that cannot be read."""
        yield from url_faults(f"{at}.curation", self.curation)
