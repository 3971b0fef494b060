"""The recipe of a curation: meaning, unit and source of the default of every key.

Few stages read each section, so that a changed threshold reruns little: `filter`,
`duplicates.threshold`, `decontaminate` and `retrieve` are policies that are applied to stored
measurements, similarities and embeddings.
"""

import itertools
import keyword
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from dinoforge.config.keys import suggest
from dinoforge.config.paths import EncoderSpec, OptionalPath, OptionalSource, PathText, SourceText
from dinoforge.config.ranges import (
    Allowed,
    Device,
    Fraction,
    NonEmpty,
    NonNegativeInt,
    PositiveInt,
    Precision,
    Range,
    Workers,
    one_of,
)
from dinoforge.curation.policies.filter_config import FilterConfig, ScoreConfig, SideConfig
from dinoforge.curation.policies.where import KNOWN_FACTS
from dinoforge.curation.retrieve_config import RetrieveConfig
from dinoforge.errors import Fault
from dinoforge.images import DecodePolicy
from dinoforge.remote import is_url
from dinoforge.remote.urls import join_path, url_fault, url_faults

__all__ = [
    "EDITS",
    "PREFERENCES",
    "BalanceConfig",
    "CurationConfig",
    "DataConfig",
    "DecontaminateConfig",
    "DuplicatesConfig",
    "ExportConfig",
    "FileName",
    "FilterConfig",
    "PlantConfig",
    "PublishConfig",
    "ScoreConfig",
    "SideConfig",
    "SourceConfig",
    "VerifyConfig",
]

# Edits of planted copies; `exact` copies the bytes, `text` adds something to the picture.
EDITS = ("exact", "jpeg", "resize", "flip", "crop", "brightness", "text")

# By what the representative of several duplicates is chosen.
PREFERENCES = ("resolution", "least_recompressed", "score", "source")

Cosine = Annotated[float, Range(-1, 1)]
_is_file_name = re.compile(r"[\w-]+").fullmatch
FileName = Annotated[str, Allowed(_is_file_name, "letters, digits, - and _")]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Images that have one role in the curation."""

    # pool: to curate; seed: examples; reference: must not leak into the result; as_is: kept.
    # An image of several sources belongs to the first reference that selects it, else to the first
    role: Literal["pool", "seed", "reference", "as_is"] = "pool"
    # folders, images, tars, tables with images, lists of files (.csv, .jsonl), globs,
    # `x-{000000..000004}.tar`, curation runs; relative to `data.root`. Or their URLs: file://,
    # s3://, gs://, hf:// (package extras s3, gs, hf). Or a tar that is read once: `pipe:COMMAND`,
    # or - for standard input
    paths: Annotated[list[SourceText], NonEmpty] = field(default_factory=list)
    name: str = ""  # shown in tables and the report; "": the role
    keys: str = ""  # shell pattern on sample keys, e.g. "*_cat_*"; "": all
    # images that it should give: `dinoforge plan` reads it, and another number is a warning;
    # 0: unknown
    images: NonNegativeInt = 0
    limit: NonNegativeInt = 0  # use at most this many images; 0: all
    # which images a limit selects: the first in order, or a random choice keyed by `seed`
    pick: Literal["first", "random"] = "first"
    # classes to rename, {FROM: TO}: a name or a number each; TO "": no class; FROM "*": all others
    classes: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of the source."""
        return self.name or self.role

    def paths_in(self, root: str) -> list[str]:
        """Return the paths, relative ones inside ``root``."""
        return [join_path(root, path) for path in self.paths]

    def faults(self, at: str) -> Iterator[Fault]:
        """Find URLs and streams that cannot be read."""
        yield from url_faults(f"{at}.paths", self.paths, streams=True)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the sources are."""

    # folder that relative `sources.paths` start in, or its URL; "": the working directory
    root: OptionalSource = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a URL that cannot be read."""
        yield from url_faults(f"{at}.root", [self.root])


@dataclass(frozen=True, kw_only=True)
class PlantConfig:
    """Edited copies of pool images, added to the pool: duplicates with known truth."""

    count: NonNegativeInt = 0  # number of copies; fewer if there are not enough images
    # at most this share of the pool images is copied, but at least one; no image is copied twice
    max_share: Fraction = 1.0
    # kinds of edit, in turn; by default all but text
    kinds: list[Annotated[str, one_of(EDITS)]] = field(default_factory=lambda: list(EDITS[:-1]))

    def num_copies(self, pool: int) -> int:
        """Return the number of copies that a pool of so many images allows."""
        # Rounded first: 0.29 of 100 images are 29, not 28.
        share = math.floor(round(self.max_share * pool, 6))
        return min(self.count, max(share, 1), pool)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find copies without a kind of edit."""
        if self.count and not self.kinds:
            yield Fault(f"`{at}.kinds` is empty", "recipe", f"choose from {', '.join(EDITS)}")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Candidate pairs are aligned and compared on their pixels (package extra `verify`)."""

    # none: the cosine alone decides about a pair; pixels: pairs are compared on their pixels, and
    # the cosine decides only about pictures without enough keypoints (with few, both decide)
    mode: Literal["none", "pixels"] = "none"
    # candidates per image by votes of its local features: finds crops, insets, borders; 0: none
    votes: NonNegativeInt = 5
    nearest: NonNegativeInt = 3  # candidates per image by cosine of `duplicates.encoder`; 0: none
    # nearest: also compare 5 windows of one picture with the whole of the other; finds crops and
    # insets by a network such as sscd, for 6 times its cost; `pixels` gains little beside votes
    windows: bool = False
    # a pair is a duplicate if so many distinct places agree on one similarity transform, ...
    min_places: PositiveInt = 6
    # ... its finest details correlate by more than this where the pictures overlap (below 12
    # places: by 0.1 more), ...
    min_correlation: Annotated[float, Range(0, 1)] = 0.55
    min_overlap: Fraction = 0.5  # ... and they overlap in more than this share of one of them
    pairs_per_partition: PositiveInt = 16_384  # candidate pairs per partition of the comparison

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a comparison without candidates."""
        if self.mode == "pixels" and not self.votes and not self.nearest:
            text = f"`{at}.votes` and `{at}.nearest` are 0"
            yield Fault(text, "recipe", "give one of them 1 or more: nothing would be compared")
        elif self.windows and not self.nearest:
            do = f"give {at}.nearest 1 or more, or set {at}.windows=false"
            yield Fault(f"`{at}.windows` is not used: `{at}.nearest` is 0", "recipe", do)


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """Near-duplicates: pairs above a floor are stored, the threshold is applied late."""

    # encoder whose cosine measures "same picture"; listed by `dinoforge embed --help`
    encoder: EncoderSpec = "pixels"
    # cosine above which a pair is stored, as evidence or as a near miss
    floor: Annotated[float, Range(-1, 1, exclude=(1,))] = 0.85
    # cosine above which a pair is a near-duplicate; calibrate it for each encoder with `plant`
    # (DINOv2 uses 0.6 on SSCD embeddings, section A.3)
    threshold: Cosine = 0.95
    # folder that `dinoforge embed` made of images that have no copies in the pool, with the same
    # encoder: every cosine is lowered by what its images have with their nearest in it (score
    # normalization of SSCD), so that pictures that resemble everything link less; floor and
    # thresholds are then on that scale, calibrate them again; "": none
    background: OptionalPath = ""
    # how much of the mean cosine with the 3 nearest background images is subtracted
    background_weight: Annotated[float, Range(0, 2)] = 1.0
    # run whose `dinoforge calibrate` gives the threshold, in place of the one above; refused for
    # another encoder or decoder; "": none
    calibrated: OptionalPath = ""
    # component: one image of each connected component is kept (DINOv2 section A.3);
    # direct: an image is dropped only if it is above the threshold to one that is kept
    rule: Literal["component", "direct"] = "component"
    # components with more distinct pictures are taken apart, see on_large; 0: never
    max_component: Annotated[int, Range(0, exclude=(1,))] = 1000
    # split: at higher thresholds, halfway to 1 each time; medoid: into stars, in which every image
    # is above the threshold to the medoid (the image with the most such pairs), so nothing chains
    on_large: Literal["split", "medoid"] = "split"
    # which of several duplicates stays: criteria, the most important first. resolution: pixels;
    # least_recompressed: a lossless format, then the JPEG with the finest quantization;
    # score: see scores; source: see prefer_sources. The role comes before them (as_is, seed,
    # pool); pixels, bytes and the smaller id settle what they leave open
    prefer: list[Annotated[str, one_of(PREFERENCES)]] = field(
        default_factory=lambda: ["resolution"]
    )
    # CSV file with the columns `key` and `score` for prefer: score; the highest stays, images
    # without a score come last; "": none
    scores: OptionalPath = ""
    # names of sources for prefer: source, the first is the best, others come last
    prefer_sources: list[str] = field(default_factory=list)
    # also keep the best image of every other source of a component, instead of one image overall
    one_per_source: bool = False
    # a picture with more near-duplicates than this is a hub (a text card, a logo): it is reported,
    # linked to the picture that it resembles most, and links no others. 0: never; off, because of
    # a picture with more true copies than the limit every copy is a hub, and all stay
    max_degree: NonNegativeInt = 0
    # images below this gray standard deviation (0 to 255) are compared only by hash: their
    # embeddings are all similar
    flat_std: float = 1.0
    # how pairs are found. exact: all images are compared; cells: those that share one of their
    # nearest k-means cells, which misses some pairs (the summary has the share that is found);
    # auto: exact up to a few million images (4 million of 512 dimensions). References are compared
    # with all images whatever this is
    join: Literal["auto", "exact", "cells"] = "auto"
    cells: NonNegativeInt = 0  # number of cells; 0: 1.5 r sqrt(n / 2), which costs least
    # nearest cells that an image is put into, r; more find more pairs, for r^2 the work
    cells_per_image: Annotated[int, Range(1, 64)] = 4
    # random images whose pairs are searched among all images, to measure what the cells miss
    recall_images: PositiveInt = 2048
    block_images: PositiveInt = 4096  # images per block of the join; memory: 2 blocks + pairs
    blocks_per_partition: PositiveInt = 64  # pairs of blocks per partition of the join
    verify: VerifyConfig = field(default_factory=VerifyConfig)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a threshold below the floor, and criteria without what they compare."""
        if self.threshold < self.floor:
            yield Fault(
                f"`{at}.threshold` is {self.threshold}",
                "recipe",
                f"give {at}.floor ({self.floor}) to 1: pairs below the floor are not stored",
            )
        if self.background and self.verify.mode == "pixels":
            what = f"`{at}.background` is not used where pairs are compared on their pixels"
            yield Fault(what, "recipe", f"remove it, or set {at}.verify.mode=none")
        for name, key, value in (
            ("score", "scores", self.scores),
            ("source", "prefer_sources", self.prefer_sources),
        ):
            if (name in self.prefer) != bool(value):
                what, do = f"`{at}.{key}` is empty", f"give it, or remove {name} from {at}.prefer"
                if value:
                    what, do = f"`{at}.{key}` is not used", f"add {name} to {at}.prefer"
                yield Fault(what, "recipe", do)


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Drop near-duplicates of a reference set (a benchmark)."""

    threshold: Cosine = 0.95  # cosine to a reference image above which an image is a leak
    # direct: the image itself is above the threshold; component: a chain of such pairs links it
    # to a reference image (DINOv2 section A.3: "entirely")
    reading: Literal["direct", "component"] = "direct"


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Keep as many pool images of every concept: clusters in levels, of which none is favored."""

    # pool images to keep, of those that no other rule drops and no seed retrieved; 0: all
    target: NonNegativeInt = 0
    # clusters of `retrieve.encoder`'s embeddings, the finest first, then clusters of their
    # centroids and so on (Vo et al. 2024; DINOv3: 200M, 8M, 800k, 100k, 25k of 17 B images)
    levels: list[PositiveInt] = field(default_factory=list)
    iterations: PositiveInt = 50  # at most, of each k-means (Vo et al.: 50)
    # times that a level is fitted again on the images nearest to its centroids, which makes their
    # density more even; one number per level, the last is that of all further ones (Vo et al.: 1,
    # then 10)
    resampling: Annotated[list[NonNegativeInt], NonEmpty] = field(default_factory=lambda: [1, 10])
    # images per centroid for that, as a share of a cluster's mean size (Vo et al.: about half)
    sample_share: Fraction = 0.5
    # per level, 1 for further ones: clusters into which each cluster of a k-means with that many
    # times fewer is divided, alone. For levels of more than 100,000 clusters: an image is compared
    # with levels / split + split centroids. Its cluster is that of the nearest centroid among those
    # of one part (Vo et al.: 100 for 10 M clusters)
    split: list[PositiveInt] = field(default_factory=lambda: [1])
    # random images per cluster that a k-means is fitted on, before all are assigned; 0: all
    fit_images: NonNegativeInt = 256
    # which images of a cluster stay: random ones, keyed by `seed`, or those nearest to its centroid
    choose: Literal["random", "nearest"] = "random"
    # images per block of the k-means, which processes share: as many can help as there are blocks
    block_images: PositiveInt = 1_048_576

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a target without clusters, clusters without a target, and levels that grow."""
        if bool(self.target) != bool(self.levels):
            key, other = ("levels", "target") if self.target else ("target", "levels")
            yield Fault(f"`{at}.{other}` without `{at}.{key}`", "recipe", f"give {at}.{key}, too")
        if any(above >= below for below, above in itertools.pairwise(self.levels)):
            what = f"`{at}.levels` is {self.levels}"
            yield Fault(what, "recipe", "give each level fewer clusters than the one before")
        if len(self.split) > max(1, len(self.levels)):
            what = f"`{at}.split` has {len(self.split)} numbers for {len(self.levels)} levels"
            yield Fault(what, "recipe", "give one per level at most")
        for num, split in zip(self.levels, self.split, strict=False):
            if num % split:
                what = f"`{at}.split` divides {num} clusters by {split}"
                yield Fault(what, "recipe", f"give a divisor of {num}")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Shards of the curated set: copies of bytes, re-encoded only where faces are blurred."""

    name: FileName = "pool"  # shards are named NAME-000000.tar
    shard_images: PositiveInt = 10_000  # images per shard (img2dataset's convention)
    shard_mib: PositiveInt = 512  # maximum size of a shard, MiB
    # random: a permutation keyed by `seed`, which mixes the sources in each shard; id: input order
    order: Literal["random", "id"] = "random"
    # shards per rule of `retrieve.rules` (with its seeds) and per other source, named after it, for
    # a mixture in training; an image is in the part of the first rule that retrieved it
    parts: bool = False
    # blur faces, as DINOv2 does: images in which the scorer faces finds any become JPEGs of quality
    # 95 in which it finds none; needs a score of that scorer
    blur_faces: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """A copy of the finished run in an object store; changes no result of the run itself."""

    # folder to upload `shards` and `published` to: s3://, gs:// or file:// (package extras
    # s3, gs); what an earlier upload of the recipe left there is replaced; "": none
    to: str = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a URL that cannot be written."""
        if not self.to:
            return
        if not is_url(self.to):
            do = "give a URL, such as s3://BUCKET/FOLDER; shards are in the run folder, too"
            yield Fault(f"`{at}.to` is no URL", "recipe", do)
        elif fault := url_fault(f"{at}.to", self.to, ("file", "s3", "gs")):
            yield fault


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """All keys of ``dinoforge curate``."""

    out: PathText = "runs/curated"  # run folder
    # finished curation run that this one adds to: new images are compared with all of its images,
    # which stay as they are, without reading these again; "": none
    base: OptionalPath = ""
    seed: int = 0  # keys every random choice: limits, planted copies, order of the export
    data: DataConfig = field(default_factory=DataConfig)
    # input images; an image listed twice belongs to the first source that lists it
    sources: list[SourceConfig] = field(default_factory=list)
    partition_images: PositiveInt = 4096  # images per partition of inspect, side, score and embed
    max_bad_rate: Fraction = 0.5  # share of undecodable images above which the run stops
    device: Device = "cpu"  # where encoders and the joins run
    # threads that decode for the encoders and, on a CPU, run them; auto: one per core
    workers: Workers = "auto"
    precision: Precision = "float32"  # of the products of encoders (autocast); other vectors
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    plant: PlantConfig = field(default_factory=PlantConfig)
    side: SideConfig = field(default_factory=SideConfig)
    # numbers per image for conditions (filter.where): measured once; add new ones at the end
    scores: list[ScoreConfig] = field(default_factory=list)
    filter: FilterConfig = field(default_factory=FilterConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)

    # May differ between two starts of a run.
    LAUNCH_KEYS: ClassVar[tuple[str, ...]] = ("out", "publish", "workers")

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the root has no name
        """Find contradictions between sections."""
        roles = {source.role for source in self.sources}
        if not self.sources:
            yield Fault("no sources", "`sources`", "add sources=[{role: pool, paths: [FOLDER]}]")
        elif not roles & {"pool", "as_is"}:
            yield Fault("no images to curate", "`sources`", "add a source with role pool")
        names = list(dict.fromkeys(source.label for source in self.sources))
        for name in self.duplicates.prefer_sources:
            if self.sources and name not in names:
                what = f"`duplicates.prefer_sources` names `{name}`, which is no source"
                yield Fault(what, "recipe", f"the sources are {', '.join(names)}")
        yield from self._score_faults()
        yield from self._rule_faults()
        rules = self.retrieve.rules  # each of which names its seeds; the base may have some
        has_seeds = "seed" in roles or self.base or rules
        if self.retrieve.mode == "seeds" and self.sources and not has_seeds:
            yield Fault(
                "no seeds", "`sources`", "add a source with role seed, or set retrieve.mode=none"
            )
        yield from self._part_faults()
        yield from self._balance_faults()
        if "reference" in roles and self.decontaminate.threshold < self.duplicates.floor:
            yield Fault(
                f"`decontaminate.threshold` is {self.decontaminate.threshold}",
                "recipe",
                f"give duplicates.floor ({self.duplicates.floor}) or more: pairs below are "
                "not stored",
            )

    def _score_faults(self) -> Iterator[Fault]:
        """Find names of scores that something else has."""
        taken = set(KNOWN_FACTS)
        for number, score in enumerate(self.scores):
            if score.name in taken or keyword.iskeyword(score.name):
                what = f"`scores[{number}].name` is `{score.name}`, which has a meaning already"
                yield Fault(what, "recipe", "give it another name")
            taken.add(score.name)
        if self.export.blur_faces and all(score.scorer != "faces" for score in self.scores):
            what, do = (
                "`export.blur_faces` without a score of faces",
                "add {name: faces, scorer: faces}",
            )
            yield Fault(what, "recipe", f"{do} to scores")

    def _rule_faults(self) -> Iterator[Fault]:
        """Find rules whose seeds are not there, or for which there is no place."""
        rules = self.retrieve.rules
        for number, rule in enumerate(rules):
            roles = rule.roles
            sets = dict.fromkeys(source.label for source in self.sources if source.role in roles)
            if self.sources and rule.seeds not in sets:
                hint = suggest(rule.seeds, sets)
                what = f"`retrieve.rules[{number}].seeds` is `{rule.seeds}`"
                what, role = f"{what}, which is no {roles[0]} set{hint}", " or ".join(roles)
                sources = f"the sources with role {role} are {', '.join(sets)}"
                yield Fault(what, "recipe", sources if sets else f"add a source with role {role}")
        sets = dict.fromkeys(source.label for source in self.sources if source.role == "seed")
        for name in self.retrieve.drop_seeds:
            if self.sources and name not in sets:
                hint = suggest(name, sets)
                what = f"`retrieve.drop_seeds` names `{name}`, which is no seed set{hint}"
                yield Fault(what, "recipe", f"the seed sets are {', '.join(sets) or 'none'}")
        if rules and self.retrieve.mode != "seeds":
            what = "`retrieve.rules` is not used: `retrieve.mode` is none"
            yield Fault(what, "recipe", "set retrieve.mode=seeds, or remove the rules")
        if rules and self.base:
            what = "`retrieve.rules` with a `base`, whose seeds no rule names"
            yield Fault(what, "recipe", "curate all images in one run, or remove the rules")

    def _part_faults(self) -> Iterator[Fault]:
        """Find parts of the export that cannot be files, or that two things would share."""
        if not self.export.parts:
            return
        used = {source.label for source in self.sources if source.role != "reference"}
        for name in sorted(used | {rule.label for rule in self.retrieve.rules}):
            if not _is_file_name(name):
                what = f"`export.parts` names shards after `{name}`"
                do = "give the source or rule a name of letters, digits, - and _"
                yield Fault(what, "recipe", do)
        for rule in self.retrieve.rules:
            if rule.name in used - {rule.seeds}:
                what = f"`export.parts` gives a rule and another source one part, `{rule.name}`"
                yield Fault(what, "recipe", "give the rule another name")

    def _balance_faults(self) -> Iterator[Fault]:
        """Find a balance of images that no rule leaves, or that another run has chosen."""
        if self.balance.target and self.retrieve.mode == "seeds" and self.retrieve.keep != "all":
            what = "`balance.target` chooses among images that no seed retrieved, which all go"
            yield Fault(what, "recipe", "set retrieve.keep=all, or balance.target=0")
        if self.balance.target and self.base:
            what = "`balance.target` with a `base`, whose choice is made"
            yield Fault(what, "recipe", "curate all images in one run, or set balance.target=0")
