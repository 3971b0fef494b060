"""The recipe of a curation: what each key means, its unit and where its default comes from.

Sections are read by as few stages as possible, so that a changed threshold runs little again:
`filter`, `duplicates.threshold`, `decontaminate` and `retrieve` are policies applied to stored
facts, similarities and embeddings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from dinoforge.config import (
    Allowed,
    Fraction,
    NonEmpty,
    NonNegativeInt,
    PositiveInt,
    Range,
    one_of,
)
from dinoforge.curation.edits import EDIT_KINDS
from dinoforge.errors import Fault
from dinoforge.images import DecodePolicy

__all__ = [
    "EDITS",
    "CurationConfig",
    "DecontaminateConfig",
    "DuplicatesConfig",
    "ExportConfig",
    "FilterConfig",
    "PlantConfig",
    "RetrieveConfig",
    "SourceConfig",
]

# Edits that `plant` knows; `exact` copies the bytes.
EDITS = ("exact", *EDIT_KINDS)

Cosine = Annotated[float, Range(-1, 1)]
Device = Annotated[str, Allowed(re.compile(r"cpu|cuda(:\d+)?").fullmatch, "cpu, cuda or cuda:N")]
FileName = Annotated[str, Allowed(re.compile(r"[\w-]+").fullmatch, "letters, digits, - and _")]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Images that enter the curation with one role."""

    # pool: to curate; seed: what to be like; reference: must not leak; as_is: kept untouched
    role: Literal["pool", "seed", "reference", "as_is"] = "pool"
    # folders, images, tars, globs, `x-{000000..000004}.tar`, curation runs; relative to the
    # working folder
    paths: Annotated[list[str], NonEmpty] = field(default_factory=list)
    name: str = ""  # shown in tables and the report; "" takes the role's name
    keys: str = ""  # shell pattern on sample keys, e.g. "*_cat_*"; "" takes all
    limit: NonNegativeInt = 0  # take at most this many images; 0 takes all
    # which ones under a limit: the first in order, or a random choice keyed by `seed`
    pick: Literal["first", "random"] = "first"


@dataclass(frozen=True, kw_only=True)
class PlantConfig:
    """Edited copies of pool images put among them: duplicates whose truth is known."""

    count: NonNegativeInt = 0  # copies; 0 plants none
    # kinds of edit, dealt in turn; by default all but text
    kinds: list[Annotated[str, one_of(EDITS)]] = field(
        default_factory=lambda: [kind for kind in EDITS if kind != "text"]
    )

    def faults(self, at: str) -> Iterator[Fault]:
        """Find copies without a kind of edit."""
        if self.count and not self.kinds:
            yield Fault(f"`{at}.kinds` is empty", "recipe", f"choose from {', '.join(EDITS)}")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which decodable images are admitted; applied late, to stored facts."""

    min_side: PositiveInt = 16  # shorter side, pixels, upright
    # longer side / shorter side; 0 admits all
    max_aspect: Annotated[float, Allowed(lambda x: x == 0 or x >= 1, "0, or 1 or more")] = 10.0
    # standard deviation of the gray values 0..255; below it: flat
    min_std: Annotated[float, Range(0, 127.5)] = 2.0


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """Near-duplicates: pairs above a floor are stored, the threshold is applied late."""

    # encoder whose cosine says "same picture"; `dinoforge embed --help` names them
    encoder: str = "pixels"
    # cosine above which a pair is stored; evidence and nearest misses
    floor: Annotated[float, Range(-1, 1, exclude=(1,))] = 0.85
    # cosine above which a pair is near-duplicate; calibrate per encoder with `plant`
    # (DINOv2 takes 0.6 on SSCD embeddings, section A.3)
    threshold: Cosine = 0.95
    # component: one image of each connected component stays (DINOv2 section A.3);
    # direct: an image goes only if it is above the threshold to one that stays
    rule: Literal["component", "direct"] = "component"
    # components of more distinct pictures are split at higher thresholds; 0 never splits
    max_component: Annotated[int, Range(0, exclude=(1,))] = 1000
    # images below this gray standard deviation (0..255) are compared by hash only: they would
    # all be alike
    flat_std: float = 1.0
    block_images: PositiveInt = 4096  # images in a block of the join; memory is 2 blocks + pairs
    blocks_per_partition: PositiveInt = 64  # pairs of blocks that one partition joins

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a threshold below the floor."""
        if self.threshold < self.floor:
            yield Fault(
                f"`{at}.threshold` is {self.threshold}",
                "recipe",
                f"give {at}.floor ({self.floor}) to 1: pairs below the floor are not stored",
            )


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Keep images out that show what a reference set (a benchmark) shows."""

    threshold: Cosine = 0.95  # cosine to a reference image above which an image is a leak
    # direct: the image itself is above the threshold; component: it hangs together with a
    # reference image over such edges (DINOv2 section A.3 in its own words: "entirely")
    reading: Literal["direct", "component"] = "direct"


@dataclass(frozen=True, kw_only=True)
class RetrieveConfig:
    """Ask the surviving pool for what the seeds show."""

    mode: Literal["none", "seeds"] = "none"  # none keeps every survivor; seeds asks per seed
    # encoder whose cosine says "alike in meaning"; "" takes the one of `duplicates`
    encoder: str = ""
    k: PositiveInt = 4  # neighbors per seed (DINOv2 section A.4: 4, or 32 for ImageNet-1k)
    # multiset: a pool image counts once per seed that asked; distinct: once; fill: a seed whose
    # neighbor is taken gets the next one, best scores served first
    policy: Literal["multiset", "distinct", "fill"] = "distinct"
    candidates: NonNegativeInt = 0  # neighbors stored per seed; 0: k, or 8 k for `fill`
    # retrieved: only what a seed asked for stays; all: every survivor stays, who asked is noted
    keep: Literal["retrieved", "all"] = "retrieved"
    # seeds are exported too, stand for their duplicates in the pool, and must not leak
    keep_seeds: bool = True

    @property
    def num_candidates(self) -> int:
        """Neighbors stored per seed."""
        return self.candidates or (8 * self.k if self.policy == "fill" else self.k)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find fewer candidates than neighbors."""
        if 0 < self.candidates < self.k:
            text = f"`{at}.candidates` is {self.candidates}"
            yield Fault(text, "recipe", f"give 0, or {at}.k ({self.k}) or more")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Shards of the curated set: copies of bytes, never re-encoded."""

    name: FileName = "pool"  # shards are called NAME-000000.tar
    shard_images: PositiveInt = 10_000  # images in a shard (img2dataset's convention)
    shard_mib: PositiveInt = 512  # a shard is closed before it grows beyond this, MiB
    # random: a permutation keyed by `seed`, so that no shard is one source; id: input order
    order: Literal["random", "id"] = "random"


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Everything that decides the result of ``dinoforge curate``."""

    out: str = "runs/curated"  # run folder
    seed: int = 0  # keys every random choice: limits, planted copies, order of the export
    # what comes in; an image listed twice belongs to the first source that lists it
    sources: list[SourceConfig] = field(default_factory=list)
    partition_images: PositiveInt = 4096  # images that one partition of filter and embed handles
    max_bad_rate: Fraction = 0.5  # share of undecodable images above which the run stops
    device: Device = "cpu"  # where encoders and the joins run
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    plant: PlantConfig = field(default_factory=PlantConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the root has no name
        """Find what no single section can see."""
        roles = {source.role for source in self.sources}
        if not self.sources:
            yield Fault("no sources", "`sources`", "add sources=[{role: pool, paths: [FOLDER]}]")
        elif not roles & {"pool", "as_is"}:
            yield Fault("no images to curate", "`sources`", "add a source with role pool")
        if self.retrieve.mode == "seeds" and self.sources and "seed" not in roles:
            yield Fault(
                "no seeds", "`sources`", "add a source with role seed, or set retrieve.mode=none"
            )
        if "reference" in roles and self.decontaminate.threshold < self.duplicates.floor:
            yield Fault(
                f"`decontaminate.threshold` is {self.decontaminate.threshold}",
                "recipe",
                f"give duplicates.floor ({self.duplicates.floor}) or more: pairs below are "
                "not stored",
            )
