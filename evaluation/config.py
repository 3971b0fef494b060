"""The recipe of an evaluation: what each key means, its unit and where its default comes from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dinoforge.errors import Fault
from dinoforge.images import DecodePolicy

__all__ = [
    "FEATURES",
    "PROTOCOLS",
    "BootstrapConfig",
    "CollapseConfig",
    "EvaluationConfig",
    "KnnConfig",
    "LogisticConfig",
    "SplitConfig",
]

# Kinds of features of a ViT; `both` joins the other two, each of norm 1.
FEATURES = ("cls", "patch_mean", "both")
PROTOCOLS = ("knn", "logistic", "collapse")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How test images are found when ``test`` names none."""

    # hold_out: a share of every class leaves the bank; leave_one_out: every image is asked of all
    # the others (k-NN only)
    mode: Literal["hold_out", "leave_one_out"] = "hold_out"
    share: float = 0.2  # of the images of each class, under hold_out

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a share that leaves nothing."""
        if not 0 < self.share < 1:
            yield Fault(f"`{at}.share` is {self.share}", "recipe", "give 0 < share < 1")


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Weighted k-NN as published (DINOv2, section 7.1; Wu et al. 2018)."""

    k: list[int] = field(default_factory=lambda: [10, 20, 100, 200])  # neighbors that vote
    temperature: float = 0.07  # weights are softmax(cosine / temperature) over the largest k

    def faults(self, at: str) -> Iterator[Fault]:
        """Find numbers of neighbors below 1."""
        if not self.k or min(self.k) < 1:
            yield Fault(f"`{at}.k` is {self.k}", "recipe", "give numbers of 1 or more")
        if self.temperature <= 0:
            yield Fault(f"`{at}.temperature` is {self.temperature}", "recipe", "give more than 0")


@dataclass(frozen=True, kw_only=True)
class LogisticConfig:
    """Logistic regression on frozen features; C is the weight of the data against the penalty."""

    c_min: float = 1e-6  # smallest C of the grid, which is even in log10 (DINOv2: 1e-6)
    c_max: float = 1e5  # largest C of the grid (DINOv2: 1e5)
    c_count: int = 45  # values of C in the grid (DINOv2: 45)
    # the search ends when this many larger C in a row were worse than the best on the held-out
    # share (12 are three decades); 0 tries all
    patience: int = 12
    held_out: float = 0.1  # share of the bank on which C is chosen
    max_iterations: int = 1000  # of L-BFGS, for each C
    # also of raw pixels; their 3,072 dimensions cost ten times those of a small ViT
    pixels: bool = False

    def faults(self, at: str) -> Iterator[Fault]:
        """Find an empty grid and shares that leave nothing."""
        if not 0 < self.c_min <= self.c_max:
            yield Fault(f"`{at}.c_min` is {self.c_min}", "recipe", "give 0 < c_min <= c_max")
        for name in ("c_count", "max_iterations"):
            if getattr(self, name) < 1:
                yield Fault(f"`{at}.{name}` is {getattr(self, name)}", "recipe", "give 1 or more")
        if self.patience < 0:
            yield Fault(f"`{at}.patience` is {self.patience}", "recipe", "give 0 or more")
        if not 0 < self.held_out < 1:
            yield Fault(f"`{at}.held_out` is {self.held_out}", "recipe", "give 0 < share < 1")


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """Signs of collapse, without labels."""

    max_images: int = 4096  # a keyed choice of this many; RankMe's paper takes 25,600

    def faults(self, at: str) -> Iterator[Fault]:
        """Find too few images for a spread."""
        if self.max_images < 2:
            yield Fault(f"`{at}.max_images` is {self.max_images}", "recipe", "give 2 or more")


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """95 % intervals by resampling the test images."""

    resamples: int = 10_000  # with 10,000 the ends move by about 1 % of the width between seeds
    seed: int = 0  # keys the resamples

    def faults(self, at: str) -> Iterator[Fault]:
        """Find too few resamples for a 2.5th percentile."""
        if self.resamples < 100:
            yield Fault(f"`{at}.resamples` is {self.resamples}", "recipe", "give 100 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Everything that decides the result of ``dinoforge evaluate``."""

    out: str = "???"  # run folder
    # name of the data in benchmarks, as in "knn/cifar10"; "" takes the last part of a path
    name: str = ""
    seed: int = 0  # keys every choice of images: hold-out, C's held-out share, collapse
    # labeled images that answer (the bank): folders, tars, globs, curation runs; relative to the
    # working folder
    train: list[str] = field(default_factory=list)
    # images that ask; empty splits them off the bank, see `split`
    test: list[str] = field(default_factory=list)
    # a training run (its newest export is `trained`, that of step 0 `untrained`), or a
    # .safetensors or .pth file (`trained`)
    checkpoint: str = ""
    # latest; all: also k-NN of every earlier exported step, for the curve; or a step: that export
    # as if it were the newest
    checkpoints: int | str = "latest"
    # encoders to compare with, ENCODER or NAME=ENCODER; pixels_centered is called `pixels`;
    # pixels_raw is taken less the mean of the bank
    baselines: list[str] = field(default_factory=lambda: ["pixels_centered"])
    protocols: list[str] = field(default_factory=lambda: list(PROTOCOLS))  # what is measured
    features: list[str] = field(default_factory=lambda: list(FEATURES))  # of each ViT
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if there is one
    batch_size: int = 0  # images of one forward pass of a ViT; 0: 4 on a CPU, 64 on a GPU
    cache: str = ""  # folder of extracted features; "" takes `cache` in the run folder
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    split: SplitConfig = field(default_factory=SplitConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    logistic: LogisticConfig = field(default_factory=LogisticConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)

    @property
    def data_name(self) -> str:
        """Name of the data in the names of benchmarks."""
        return self.name or Path((self.test or self.train)[0]).name.partition(".")[0] or "data"

    @property
    def step(self) -> int | None:
        """The step that ``checkpoints`` names; None of a word."""
        return None if isinstance(self.checkpoints, str) else self.checkpoints

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the root has no name
        """Find what is missing, and words that mean nothing."""
        if not self.train:
            yield Fault("`train` is empty", "recipe", "add train=[FOLDER]")
        if not self.checkpoint and not self.baselines:
            yield Fault("nothing to measure", "`checkpoint`", "add checkpoint=RUN or =FILE")
        if "/" in self.name:
            yield Fault(f"`name` is {self.name!r}", "recipe", "leave out the /")
        if self.checkpoints not in {"latest", "all"} and (self.step is None or self.step < 1):
            text = f"`checkpoints` is {self.checkpoints}"
            yield Fault(text, "recipe", "give latest, all, or the number of a step")
        if self.batch_size < 0:
            yield Fault(f"`batch_size` is {self.batch_size}", "recipe", "give 0 or more")
        for key, known in (("features", FEATURES), ("protocols", PROTOCOLS)):
            given = getattr(self, key)
            unknown = [word for word in given if word not in known]
            if unknown or not given:
                named = ", ".join(unknown) or "nothing"
                yield Fault(f"`{key}` names {named}", "recipe", f"choose from {', '.join(known)}")
