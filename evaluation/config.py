"""The recipe of an evaluation: meaning, unit and source of the default of every key."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

from dinoforge.config.paths import EncoderSpec, OptionalPath, OptionalSource, PathText, SourceText
from dinoforge.config.ranges import (
    Allowed,
    NonEmpty,
    NonNegativeInt,
    PositiveInt,
    Range,
    Workers,
    one_of,
)
from dinoforge.encoders.make import FEATURES
from dinoforge.errors import Fault
from dinoforge.evaluation.settings import (
    AttentionConfig,
    ChoiceConfig,
    ClipsConfig,
    CollapseConfig,
    CopiesConfig,
    DepthConfig,
    DiscoveryConfig,
    FewShotConfig,
    InContextConfig,
    InputConfig,
    InstancesConfig,
    KnnConfig,
    LeakageConfig,
    LinearConfig,
    LogisticConfig,
    LowShotConfig,
    PropagationConfig,
    RankingConfig,
    SegmentationConfig,
    SoftNnConfig,
    SplitConfig,
    dino_v1,
)
from dinoforge.images import DecodePolicy
from dinoforge.models.config import PositionMode
from dinoforge.remote import is_url
from dinoforge.remote.urls import url_faults

__all__ = [
    "FEATURES",
    "LAYOUTS",
    "PROTOCOLS",
    "SET_KEYS",
    "TESTS",
    "BootstrapConfig",
    "DataConfig",
    "EvaluationConfig",
    "SetConfig",
    "named_sets",
    "protocols_for",
    "step_of",
]

# Protocol -> what data sets must give for it.
PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "knn": ("classes",),
    "few_shot": ("classes",),
    "linear": ("classes",),
    "linear_v1": ("classes",),
    "low_shot": ("classes",),
    "soft_nn": ("classes",),
    "logistic": ("classes", "targets"),
    "collapse": ("classes",),
    "segmentation": ("masks",),
    "in_context": ("masks",),
    "depth": ("depth",),
    "propagation": ("videos",),
    "attention": ("objects", "videos"),
    "discovery": ("boxes", "videos"),
    "clips": ("clips",),
    "ranking": ("classes", "ranking"),
    "instances": ("instances",),
    "copies": ("copies",),
}


class Layout(NamedTuple):
    """What a data set of a published layout gives, and the names of bank and test images."""

    gives: tuple[str, ...]
    splits: tuple[str, str]
    enlarges: bool = False  # whether `train` of a set adds images to the bank


# Of `layouts.fine_grained`; voc2007 has several labels per image.
_FINE_GRAINED = (
    *("food101", "sun397", "cars", "aircraft", "dtd", "pets", "caltech101", "flowers102", "cub200"),
)
# Of `layouts.robustness`: what tests a classifier of ImageNet elsewhere.
TESTS = ("real", "v2", "a", "r", "sketch", "objectnet", "c")

# Layout -> what it gives; `evaluation.published` opens them. "" are images with classes.
LAYOUTS: Mapping[str, Layout] = {
    "": Layout(("classes",), ("", "")),
    "ade20k": Layout(("masks",), ("training", "validation")),
    "voc07": Layout(("masks", "objects"), ("train", "val")),
    "voc12": Layout(("masks", "objects"), ("train", "val")),
    "cityscapes": Layout(("masks",), ("train", "val")),
    "camvid": Layout(("masks", "objects"), ("train", "test")),
    "camvid_tars": Layout(("masks", "objects"), ("train", "test")),
    "nyu_depth": Layout(("depth",), ("train", "test")),
    "nyu_40": Layout(("masks",), ("train", "test")),
    "nyu_tars": Layout(("masks", "depth"), ("train", "test")),
    "kitti": Layout(("depth",), ("train", "test")),
    "imagenet": Layout(("classes",), ("train", "val")),
    **dict.fromkeys(_FINE_GRAINED, Layout(("classes",), ("train", "test"))),
    "multi_label": Layout(("targets",), ("train", "test")),
    "voc2007": Layout(("targets",), ("train", "test")),
    "davis2016": Layout(("videos",), ("", "val")),
    "davis2017": Layout(("videos",), ("", "val")),
    "video_tars": Layout(("videos",), ("", "")),
    "voc07_boxes": Layout(("boxes",), ("", "trainval")),
    "voc12_boxes": Layout(("boxes",), ("", "trainval")),
    "coco20k": Layout(("boxes",), ("", "coco_20k_filenames.txt")),
    "clips": Layout(("clips",), ("train", "test")),
    "roxford5k": Layout(("ranking",), ("", ""), enlarges=True),
    "rparis6k": Layout(("ranking",), ("", ""), enlarges=True),
    "amstertime": Layout(("ranking",), ("", "")),
    "ukbench": Layout(("ranking",), ("", "")),
    "met": Layout(("instances",), ("database", "test")),  # or mini_database
    "disc21": Layout(("copies",), ("references", "dev_queries_25k"), enlarges=True),
    "copydays": Layout(("copies",), ("original", "strong"), enlarges=True),  # or jpegqual/5
    "ground_truth": Layout(("copies",), ("", ""), enlarges=True),
}

_SetName = Allowed(lambda name: "/" not in name, "a name without /")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where data sets are."""

    # folder that relative paths of `sets` start in, or its URL; "": the working folder
    root: OptionalSource = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a URL that cannot be read."""
        yield from url_faults(f"{at}.root", [self.root])


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """One data set: a labeled bank and its test images."""

    # images of the bank: folders, tars, globs, curation runs; relative to `data.root`; or their
    # URLs. Of layouts of retrieval distractors, of `ground_truth` the references
    train: list[SourceText] = field(default_factory=list)
    # test images; empty: taken from the bank, see `split`
    test: list[SourceText] = field(default_factory=list)
    # classes of the bank to rename, {FROM: TO}, as in `train_classes` of the recipe
    train_classes: dict[str, str] = field(default_factory=dict)
    test_classes: dict[str, str] = field(default_factory=dict)  # classes of the test images
    # at most so many images of the bank and test images, a keyed choice; empty: all
    max_images: list[PositiveInt] = field(default_factory=list)
    # instead of `train` and `test`: the published layout of a data set with a truth of its own
    layout: Annotated[str, one_of(tuple(LAYOUTS))] = ""
    root: OptionalSource = ""  # folder of that data set, relative to `data.root`; no URL
    # names of the parts for training and for the test, as the data set has them; empty: the usual
    splits: list[str] = field(default_factory=list)
    # layout imagenet: what else its classifiers are tested on, {NAME: PATH} relative to
    # `data.root`: v2, a, r, sketch, objectnet, c (all corruptions and severities: mCE), and real
    # (the file real.json)
    tests: dict[str, SourceText] = field(default_factory=dict)
    # lists of images of the bank with labels. low_shot: one for each split; empty: drawn. soft_nn:
    # their accuracies are averaged; empty: all of the bank
    subsets: list[SourceText] = field(default_factory=list)
    # what to measure here; empty: those of the recipe that suit, or else all that suit
    protocols: list[Annotated[str, one_of(tuple(PROTOCOLS))]] = field(default_factory=list)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find sets without images, renames without images, and protocols that do not suit."""
        yield from self._source_faults(at)
        for key in ("train", "test"):
            yield from url_faults(f"{at}.{key}", getattr(self, key))
        gives = LAYOUTS[self.layout].gives if self.layout in LAYOUTS else ()
        for name in self.protocols:
            if gives and not set(PROTOCOLS.get(name, gives)) & set(gives):
                what = f"`{at}.protocols` has {name}, which needs {' or '.join(PROTOCOLS[name])}"
                yield Fault(what, "recipe", f"the set gives {' and '.join(gives)}")

    def _source_faults(self, at: str) -> Iterator[Fault]:
        if bool(self.layout) != bool(self.root):
            key, other = ("root", "layout") if self.layout else ("layout", "root")
            yield Fault(f"`{at}.{other}` without `{key}`", "recipe", f"give `{at}.{key}`")
        elif not self.layout and not self.train and at:
            yield Fault(f"`{at}.train` is empty", "recipe", "give paths of images, or a `layout`")
        enlarges = self.layout in LAYOUTS and LAYOUTS[self.layout].enlarges
        if self.layout and ((self.train and not enlarges) or self.test):
            yield Fault(
                f"`{at}` has a layout and images of its own", "recipe", "give one or the other"
            )
        if len(self.max_images) not in {0, 2} or (self.max_images and not self.test):
            do = "give two numbers, for images of `train` and of `test`"
            yield Fault(f"`{at}.max_images` is {self.max_images}", "recipe", do)
        if len(self.splits) not in {0, 2} or (self.splits and not self.layout):
            do = "give two names, for training and for the test, with a layout"
            yield Fault(f"`{at}.splits` is {self.splits}", "recipe", do)
        if self.layout == "ground_truth" and not self.train:
            yield Fault(f"`{at}.train` is empty", "recipe", "give paths of the references")
        if self.tests and self.layout != "imagenet":
            do = "give the layout imagenet, whose classes they have"
            yield Fault(f"`{at}.tests` without that layout", "recipe", do)
        for name in sorted({*self.tests} - {*TESTS}):
            yield Fault(f"`{at}.tests` has {name}", "recipe", f"give {', '.join(TESTS)}")
        if self.test_classes and not self.test:
            name = f"{at}.test_classes".lstrip(".")
            do = "write `train_classes`"
            yield Fault(f"`{name}` without `test`", "recipe", do)


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """95 % intervals by resampling the test images."""

    # with 10,000 the ends move by about 1 % of the width between seeds
    resamples: Annotated[int, Range(100)] = 10_000
    # for numbers that are not means over units, such as mIoU of pooled pixels or micro-AP
    pooled_resamples: Annotated[int, Range(100)] = 1000
    seed: int = 0  # keys the resamples


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """All keys of ``dinoforge evaluate``."""

    out: PathText = "???"  # run folder
    # name of the data in benchmarks, as in "knn/cifar10"; "": the last part of a path
    name: Annotated[str, _SetName] = ""
    seed: int = 0  # keys every choice of images: hold-out, C's held-out share, collapse
    # labeled images of the bank: folders, tars, globs, curation runs; relative to the working
    # directory. Or their URLs: file://, s3://, gs://, hf://
    train: list[SourceText] = field(default_factory=list)
    # labeled test images; empty: taken from the bank, see `split`
    test: list[SourceText] = field(default_factory=list)
    # several data sets by name, as in {cifar10: {train: [...], test: [...]}}; `train` and `test`
    # of the recipe are one of their own
    sets: dict[str, SetConfig] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    # classes of the bank to rename, {FROM: TO}: a name or a number each; TO "": no class; FROM "*":
    # all others
    train_classes: dict[str, str] = field(default_factory=dict)
    # classes of the test images to rename, e.g. {car: automobile}
    test_classes: dict[str, str] = field(default_factory=dict)
    # a training run (its newest export is `trained`, that of step 0 `untrained`), or a
    # .safetensors or .pth file (`trained`)
    checkpoint: OptionalPath = ""
    # latest; all: also k-NN of every earlier export, for the curve; a step: that export instead of
    # the latest
    checkpoints: int | str = "latest"
    # how the checkpoint resamples its positions, if its file lacks it: offset (DINO, DINOv2),
    # size_antialias (DINOv2 with registers, timm), size (transformers), offset_antialias, rope
    # (DINOv3); "": of the file, else assumed from its names; a baseline is named with its own, as
    # in checkpoint:FILE#offset
    positions: Literal["", PositionMode] = ""
    # encoders to compare with, ENCODER or NAME=ENCODER; pixels_centered is named `pixels`; the mean
    # of the bank is subtracted from pixels_raw
    baselines: list[EncoderSpec] = field(default_factory=lambda: ["pixels_centered"])
    # what to measure
    protocols: Annotated[list[Annotated[str, one_of(tuple(PROTOCOLS))]], NonEmpty] = field(
        default_factory=lambda: ["knn", "logistic", "collapse"]
    )
    # of each ViT; cls_gem is the descriptor of copy detection
    features: Annotated[list[Annotated[str, one_of(FEATURES)]], NonEmpty] = field(
        default_factory=lambda: list(FEATURES[:3])
    )
    input: InputConfig = field(default_factory=InputConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if there is one
    batch_size: NonNegativeInt = 0  # images per forward pass of a ViT; 0: 4 on a CPU, 64 on a GPU
    # threads that decode for the networks and, on a CPU, run them; auto: one per core
    workers: Workers = "auto"
    cache: OptionalPath = ""  # folder of extracted features; "": `cache` in the run folder
    partition_images: PositiveInt = 1024  # images per partition of the extraction
    storage: Literal["float32", "float16"] = "float32"  # features on disk; float16 takes half
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    split: SplitConfig = field(default_factory=SplitConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    linear_v1: LinearConfig = field(default_factory=dino_v1)
    linear_choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    low_shot: LowShotConfig = field(default_factory=LowShotConfig)
    soft_nn: SoftNnConfig = field(default_factory=SoftNnConfig)
    logistic: LogisticConfig = field(default_factory=LogisticConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    in_context: InContextConfig = field(default_factory=InContextConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    instances: InstancesConfig = field(default_factory=InstancesConfig)
    copies: CopiesConfig = field(default_factory=CopiesConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    leakage: LeakageConfig = field(default_factory=LeakageConfig)
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)

    LAUNCH_KEYS: ClassVar[tuple[str, ...]] = ("out", "workers")  # see `dinoforge.runs`

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the root has no name
        """Find a recipe without models, unknown checkpoints, and renames without images."""
        if not self.checkpoint and not self.baselines:
            yield Fault("nothing to measure", "`checkpoint`", "add checkpoint=RUN or =FILE")
        if self.positions and not self.checkpoint:
            do = "write checkpoint:FILE#MODE in `baselines`"
            yield Fault("`positions` without `checkpoint`", "recipe", do)
        if self.checkpoints not in {"latest", "all"} and (step_of(self.checkpoints) or 0) < 1:
            text = f"`checkpoints` is {self.checkpoints}"
            yield Fault(text, "recipe", "give latest, all, or the number of a step")
        for key in ("train", "test"):
            yield from url_faults(key, getattr(self, key))
        if not self.train and not self.sets:
            yield Fault("`train` is empty", "recipe", "give paths of labeled images, or `sets`")
        if self.test_classes and not self.test:
            yield Fault("`test_classes` without `test`", "recipe", "write `train_classes`")
        yield from self._whitening_faults()
        yield from self._remote_faults()
        for name in self.sets:
            if not name or "/" in name:
                yield Fault(f"`sets` holds {name!r}", "recipe", "give a name without /")
        if self.train and (name := next(iter(named_sets(self)))) in self.sets:
            do = "give the recipe another `name`"
            yield Fault(f"`{name}` is in `sets` and the name of `train`", "recipe", do)

    def _remote_faults(self) -> Iterator[Fault]:
        """Find data sets in a bucket that are more than folders or tars of images."""
        for name, one in named_sets(self).items():
            paths = {"root": [one.root], "tests": [*one.tests.values()], "subsets": one.subsets}
            for key in (key for key, some in paths.items() if any(map(is_url, some))):
                do = "copy it to a disk: in a bucket only images of `train` and `test` are read"
                yield Fault(f"`sets.{name}.{key}` is in a bucket", "recipe", do)

    def _whitening_faults(self) -> Iterator[Fault]:
        if not (name := self.copies.whitening.set):
            return
        sets = named_sets(self)
        if name not in sets or sets[name].layout:
            do = "name a set of images without a layout that is not the test set"
            yield Fault(f"`copies.whitening.set` is {name}", "recipe", do)


def step_of(checkpoints: int | str) -> int | None:
    """Return the step that ``checkpoints`` names; None for latest and all."""
    return None if isinstance(checkpoints, str) else checkpoints


# What `named_sets` reads.
SET_KEYS = ("name", "train", "test", "train_classes", "test_classes", "sets", "data.root")


def named_sets(config: EvaluationConfig) -> dict[str, SetConfig]:
    """Return the data sets of a recipe by name, in order, with paths from the working folder."""
    sets: dict[str, SetConfig] = {}
    root = config.data.root
    if config.train:
        name = config.name or Path((config.test or config.train)[0]).name.partition(".")[0]
        sets[name or "data"] = SetConfig(
            train=config.train,
            test=config.test,
            train_classes=config.train_classes,
            test_classes=config.test_classes,
        )
    for name, one in config.sets.items():
        train, test = ([_under(root, path) for path in p] for p in (one.train, one.test))
        subsets = [_under(root, path) for path in one.subsets]
        tests = {of: _under(root, path) for of, path in one.tests.items()}
        where = _under(root, one.root) if one.root else ""
        sets[name] = replace(one, train=train, test=test, subsets=subsets, tests=tests, root=where)
    return sets


def _under(root: str, path: str) -> str:
    if not root or is_url(path) or Path(path).is_absolute():
        return path
    return f"{root.rstrip('/')}/{path}"


def protocols_for(config: EvaluationConfig, name: str) -> list[str]:
    """Return what to measure on the data set of a name; reads `sets` and `protocols`."""
    one = config.sets.get(name, SetConfig())
    if one.protocols:
        return one.protocols
    gives = LAYOUTS[one.layout].gives
    suited = [name for name, needs in PROTOCOLS.items() if set(needs) & set(gives)]
    return [name for name in config.protocols if name in suited] or suited
