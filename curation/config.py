"""The recipe of a curation: what each key means, its unit and where its default comes from.

Sections are read by as few stages as possible, so that a changed threshold runs little again:
`filter`, `duplicates.threshold`, `decontaminate` and `retrieve` are policies applied to stored
facts, similarities and embeddings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

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
_TO_BE_ASKED_FOR = ("text",)  # it adds something to the picture


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Images that enter the curation with one role."""

    # pool: to curate; seed: what to be like; reference: must not leak; as_is: kept untouched
    role: Literal["pool", "seed", "reference", "as_is"] = "pool"
    # folders, images, tars, globs, `x-{000000..000004}.tar`, curation runs; relative to the
    # working folder
    paths: list[str] = field(default_factory=list)
    name: str = ""  # shown in tables and the report; "" takes the role's name
    keys: str = ""  # shell pattern on sample keys, e.g. "*_cat_*"; "" takes all
    limit: int = 0  # take at most this many images; 0 takes all
    # which ones under a limit: the first in order, or a random choice keyed by `seed`
    pick: Literal["first", "random"] = "first"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find paths that are missing and limits below 0."""
        if not self.paths:
            yield Fault(f"`{at}.paths` is empty", self.role, f"add {at}.paths=[FOLDER]")
        if self.limit < 0:
            yield Fault(f"`{at}.limit` is {self.limit}", self.role, "give 0 (all) or more")


@dataclass(frozen=True, kw_only=True)
class PlantConfig:
    """Edited copies of pool images put among them: duplicates whose truth is known."""

    count: int = 0  # copies; 0 plants none
    # kinds of edit, dealt in turn; by default all but text
    kinds: list[str] = field(
        default_factory=lambda: [kind for kind in EDITS if kind not in _TO_BE_ASKED_FOR]
    )

    def faults(self, at: str) -> Iterator[Fault]:
        """Find unknown kinds of edit."""
        if self.count < 0:
            yield Fault(f"`{at}.count` is {self.count}", "recipe", "give 0 or more")
        unknown = [kind for kind in self.kinds if kind not in EDITS]
        if unknown or (self.count and not self.kinds):
            named = ", ".join(unknown) or "nothing"
            yield Fault(f"`{at}.kinds` names {named}", "recipe", f"choose from {', '.join(EDITS)}")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which decodable images are admitted; applied late, to stored facts."""

    min_side: int = 16  # shorter side, pixels, upright
    max_aspect: float = 10.0  # longer side / shorter side; 0 admits all
    min_std: float = 2.0  # standard deviation of the gray values 0..255; below it: flat

    def faults(self, at: str) -> Iterator[Fault]:
        """Find limits that admit nothing or mean nothing."""
        if self.min_side < 1:
            yield Fault(f"`{at}.min_side` is {self.min_side}", "recipe", "give 1 or more")
        if self.max_aspect != 0 and self.max_aspect < 1:
            yield Fault(f"`{at}.max_aspect` is {self.max_aspect}", "recipe", "give 0 or >= 1")
        if not 0 <= self.min_std <= 127.5:
            yield Fault(f"`{at}.min_std` is {self.min_std}", "recipe", "give 0 to 127.5")


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """Near-duplicates: pairs above a floor are stored, the threshold is applied late."""

    # encoder whose cosine says "same picture"; `dinoforge embed --help` names them
    encoder: str = "pixels"
    floor: float = 0.85  # cosine above which a pair is stored; evidence and nearest misses
    # cosine above which a pair is near-duplicate; calibrate per encoder with `plant`
    # (DINOv2 takes 0.6 on SSCD embeddings, section A.3)
    threshold: float = 0.95
    # component: one image of each connected component stays (DINOv2 section A.3);
    # direct: an image goes only if it is above the threshold to one that stays
    rule: Literal["component", "direct"] = "component"
    # components of more distinct pictures are split at higher thresholds; 0 never splits
    max_component: int = 1000
    # images below this gray standard deviation (0..255) are compared by hash only: they would
    # all be alike
    flat_std: float = 1.0
    block_images: int = 4096  # images in a block of the join; memory is 2 blocks + pairs
    blocks_per_partition: int = 64  # pairs of blocks that one partition joins

    def faults(self, at: str) -> Iterator[Fault]:
        """Find thresholds out of range or below the floor."""
        if not -1 <= self.floor < 1:
            yield Fault(f"`{at}.floor` is {self.floor}", "recipe", "give -1 <= floor < 1")
        if not self.floor <= self.threshold <= 1:
            yield Fault(
                f"`{at}.threshold` is {self.threshold}",
                "recipe",
                f"give {at}.floor ({self.floor}) to 1: pairs below the floor are not stored",
            )
        if self.max_component < 0 or self.max_component == 1:
            yield Fault(f"`{at}.max_component` is {self.max_component}", "recipe", "0 or >= 2")
        for name in ("block_images", "blocks_per_partition"):
            if getattr(self, name) < 1:
                yield Fault(f"`{at}.{name}` is {getattr(self, name)}", "recipe", "give 1 or more")


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Keep images out that show what a reference set (a benchmark) shows."""

    threshold: float = 0.95  # cosine to a reference image above which an image is a leak
    # direct: the image itself is above the threshold; component: it hangs together with a
    # reference image over such edges (DINOv2 section A.3 in its own words: "entirely")
    reading: Literal["direct", "component"] = "direct"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find thresholds out of range."""
        if not -1 <= self.threshold <= 1:
            yield Fault(f"`{at}.threshold` is {self.threshold}", "recipe", "give -1 to 1")


@dataclass(frozen=True, kw_only=True)
class RetrieveConfig:
    """Ask the surviving pool for what the seeds show."""

    mode: Literal["none", "seeds"] = "none"  # none keeps every survivor; seeds asks per seed
    # encoder whose cosine says "alike in meaning"; "" takes the one of `duplicates`
    encoder: str = ""
    k: int = 4  # neighbors per seed (DINOv2 section A.4: 4, or 32 for ImageNet-1k)
    # multiset: a pool image counts once per seed that asked; distinct: once; fill: a seed whose
    # neighbor is taken gets the next one, best scores served first
    policy: Literal["multiset", "distinct", "fill"] = "distinct"
    candidates: int = 0  # neighbors stored per seed; 0: k, or 8 k for `fill`
    # retrieved: only what a seed asked for stays; all: every survivor stays, who asked is noted
    keep: Literal["retrieved", "all"] = "retrieved"
    # seeds are exported too, stand for their duplicates in the pool, and must not leak
    keep_seeds: bool = True

    @property
    def num_candidates(self) -> int:
        """Neighbors stored per seed."""
        return self.candidates or (8 * self.k if self.policy == "fill" else self.k)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find counts that ask for nothing."""
        if self.k < 1:
            yield Fault(f"`{at}.k` is {self.k}", "recipe", "give 1 or more")
        if self.candidates and self.candidates < self.k:
            yield Fault(f"`{at}.candidates` is {self.candidates}", "recipe", f"give >= {self.k}")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Shards of the curated set: copies of bytes, never re-encoded."""

    name: str = "pool"  # shards are called NAME-000000.tar
    shard_images: int = 10_000  # images in a shard (img2dataset's convention)
    shard_mib: int = 512  # a shard is closed before it grows beyond this, MiB
    # random: a permutation keyed by `seed`, so that no shard is one source; id: input order
    order: Literal["random", "id"] = "random"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find shard sizes below 1 and names that are no file names."""
        for name in ("shard_images", "shard_mib"):
            if getattr(self, name) < 1:
                yield Fault(f"`{at}.{name}` is {getattr(self, name)}", "recipe", "give 1 or more")
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            yield Fault(f"`{at}.name` is {self.name!r}", "recipe", "use letters, digits, - and _")


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Everything that decides the result of ``dinoforge curate``."""

    out: str = "runs/curated"  # run folder
    seed: int = 0  # keys every random choice: limits, planted copies, order of the export
    # what comes in; an image listed twice belongs to the first source that lists it
    sources: list[SourceConfig] = field(default_factory=list)
    partition_images: int = 4096  # images that one partition of filter and embed handles
    max_bad_rate: float = 0.5  # share of undecodable images above which the run stops
    device: str = "cpu"  # where encoders and the joins run: cpu, cuda
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
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            yield Fault(f"`device` is {self.device}", "recipe", "give cpu, cuda or cuda:N")
        if self.partition_images < 1:
            yield Fault(f"`partition_images` is {self.partition_images}", "recipe", "give >= 1")
        if not 0 <= self.max_bad_rate <= 1:
            yield Fault(f"`max_bad_rate` is {self.max_bad_rate}", "recipe", "give 0 to 1")
