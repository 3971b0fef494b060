"""Settings of the protocols: meaning, unit and source of the default of every key."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from dinoforge.config.paths import OptionalPath
from dinoforge.config.ranges import NonEmpty, NonNegativeInt, PositiveFloat, PositiveInt, Range
from dinoforge.errors import Fault
from dinoforge.evaluation.settings.dense import (
    DepthConfig,
    HeadConfig,
    InContextConfig,
    SegmentationConfig,
)
from dinoforge.evaluation.settings.retrieval import (
    LEAKAGE_THRESHOLDS,
    CopiesConfig,
    InstancesConfig,
    LeakageConfig,
    RankingConfig,
    WhiteningConfig,
)
from dinoforge.evaluation.settings.video import (
    AttentionConfig,
    ClipsConfig,
    DiscoveryConfig,
    FeatureKind,
    LostConfig,
    PropagationConfig,
    TokenCutConfig,
)

__all__ = [
    "DINOV2_RATES",
    "LEAKAGE_THRESHOLDS",
    "AttentionConfig",
    "ChoiceConfig",
    "ClipsConfig",
    "CollapseConfig",
    "CopiesConfig",
    "DepthConfig",
    "DiscoveryConfig",
    "FeatureKind",
    "FewShotConfig",
    "HeadConfig",
    "InContextConfig",
    "InputConfig",
    "InstancesConfig",
    "KnnConfig",
    "LeakageConfig",
    "LinearConfig",
    "LogisticConfig",
    "LostConfig",
    "LowShotConfig",
    "PropagationConfig",
    "RankingConfig",
    "SegmentationConfig",
    "SoftNnConfig",
    "SplitConfig",
    "TokenCutConfig",
    "WhiteningConfig",
    "dino_v1",
]

DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)

Share = Annotated[float, Range(0, 1, exclude=(0, 1))]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How test images are chosen when ``test`` is empty."""

    # hold_out: a share of every class is removed from the bank; leave_one_out: every image is
    # compared with all others (k-NN, ranking); auto: hold_out, or leave_one_out if hold_out leaves
    # fewer than 30 test images
    mode: Literal["hold_out", "leave_one_out", "auto"] = "hold_out"
    share: Share = 0.2  # of the images of each class, under hold_out


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How whole images enter a ViT; other encoders have an input of their own."""

    side: NonNegativeInt = 0  # pixels, rounded down to whole patches; 0: the file's, at most 224
    # center: the shorter side to `side`, then the center square; stretch: the whole image, squashed
    fit: Literal["center", "stretch"] = "center"


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Weighted k-NN as published (DINOv2, section 7.1; Wu et al. 2018)."""

    # neighbors that vote
    k: Annotated[list[PositiveInt], NonEmpty] = field(default_factory=lambda: [10, 20, 100, 200])
    temperature: PositiveFloat = 0.07  # weights: softmax(cosine / temperature) over the largest k


@dataclass(frozen=True, kw_only=True)
class LogisticConfig:
    """Logistic regression on frozen features; C is the weight of the data against the penalty."""

    c_min: PositiveFloat = 1e-6  # smallest C of the grid, which is even in log10 (DINOv2: 1e-6)
    c_max: PositiveFloat = 1e5  # largest C of the grid (DINOv2: 1e5)
    c_count: PositiveInt = 45  # values of C in the grid (DINOv2: 45)
    # stop after this many larger C in a row that are worse than the best on the held-out share
    # (12 are three decades); 0: try all
    patience: NonNegativeInt = 12
    held_out: Share = 0.1  # share of the bank on which C is chosen
    max_iterations: PositiveInt = 1000  # of L-BFGS, for each C
    # also on raw pixels; 3,072 dimensions take ten times as long as those of a small ViT
    pixels: bool = False

    def faults(self, at: str) -> Iterator[Fault]:
        """Find an empty grid."""
        if self.c_min > self.c_max:
            text = f"`{at}.c_min` is {self.c_min}"
            yield Fault(text, "recipe", f"give at most {at}.c_max ({self.c_max})")


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """Signs of collapse, without labels."""

    # a keyed choice of this many; RankMe's paper takes 25,600
    max_images: Annotated[int, Range(2)] = 4096


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Heads and schedule; the defaults are DINOv2's grid of 52."""

    # learning rates, each times batch_size / 256
    rates: Annotated[list[PositiveFloat], NonEmpty] = field(
        default_factory=lambda: list(DINOV2_RATES)
    )
    # class tokens of how many last blocks
    blocks: Annotated[list[PositiveInt], NonEmpty] = field(default_factory=lambda: [1, 4])
    # without and with the mean of the last block's patch tokens
    average_patches: Annotated[list[bool], NonEmpty] = field(default_factory=lambda: [False, True])
    epochs: PositiveInt = 10  # parts of the schedule; DINO v1 lowers the rate after each
    epoch_steps: Annotated[int, Range(0)] = 1250  # steps per epoch; 0: one pass over the images
    batch_size: PositiveInt = 1024  # images per step (DINOv2: 8 GPUs x 128)
    momentum: Annotated[float, Range(0, 1, exclude=(1,))] = 0.9  # of SGD, without weight decay
    decay: Literal["step", "epoch"] = "step"  # how often the cosine to 0 lowers the rate
    # after which epochs the heads are candidates: the last, or every one (DINO v1)
    candidates: Literal["last", "every_epoch"] = "last"
    # augmented views (random resized crop, mirrored or not) of every training image, extracted
    # once; passes take them in turn; 0: the image itself in every pass
    views: NonNegativeInt = 0
    # of initial weights, batches and held-out images; the score is the mean over them
    seeds: Annotated[list[int], NonEmpty] = field(default_factory=lambda: [0])
    # a head that eval_linear.py of DINO wrote: it is measured and none is trained; "": train
    weights: OptionalPath = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a given head without its only input."""
        if self.weights and len(self.inputs) > 1:
            what = f"`{at}.weights` is one head, and {at} has {len(self.inputs)} inputs"
            do = f"give one value to {at}.blocks and to {at}.average_patches"
            yield Fault(what, "recipe", do)

    @property
    def inputs(self) -> list[tuple[int, bool]]:
        """Pairs of blocks and average_patches, so ordered that readers of a slot are adjacent."""
        order = sorted({*self.blocks})
        plain = [(blocks, False) for blocks in order if False in self.average_patches]
        return plain + [(blocks, True) for blocks in order[::-1] if True in self.average_patches]

    def steps_per_epoch(self, num_images: int) -> int:
        """Return the steps per epoch for this many training images."""
        return self.epoch_steps or math.ceil(num_images / self.batch_size)


def dino_v1(*, blocks: int = 4, average_patches: bool = False, epochs: int = 100) -> LinearConfig:
    """Return the linear protocol of DINO (v1), ``eval_linear.py``: one head, best of all epochs.

    ViT-S reads 4 blocks, ViT-B 1 block and the mean of its patch tokens. The published passes end
    with a smaller batch; here the next pass fills it.
    """
    return LinearConfig(
        rates=[1e-3],
        blocks=[blocks],
        average_patches=[average_patches],
        epochs=epochs,
        epoch_steps=0,
        decay="epoch",
        candidates="every_epoch",
    )


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """What the head is chosen on."""

    # paper: the test images themselves; val-selected: images held out of train
    select: Literal["paper", "val-selected"] = "val-selected"
    held_out: Annotated[float, Range(0, 1, exclude=(0, 1))] = 0.1  # share of each class
    # below this many images of train, cross-validation instead of one share: on 140 held-out
    # images the choice can be 12 points worse than the best head
    cross_validate_below: NonNegativeInt = 1000
    folds: Annotated[int, Range(2)] = 5  # of the cross-validation
    retrain: bool = True  # on all of train with the chosen head; always after cross-validation


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """k-NN with few labeled images per class (DINOv2's code, ``eval/knn.py``)."""

    # images of each class
    per_class: Annotated[list[PositiveInt], NonEmpty] = field(default_factory=lambda: [1, 2, 5, 10])
    tries: PositiveInt = 5  # draws; the accuracy is their mean


@dataclass(frozen=True, kw_only=True)
class LowShotConfig:
    """Logistic regression on few labeled images per class (MSN, Assran et al. 2022)."""

    # images of each class
    per_class: Annotated[list[PositiveInt], NonEmpty] = field(default_factory=lambda: [1, 2, 5])
    splits: PositiveInt = 3  # draws; the accuracy is their mean
    penalty: PositiveFloat = 0.0025  # of the squared weights, divided by the number of images


@dataclass(frozen=True, kw_only=True)
class SoftNnConfig:
    """Soft nearest neighbors of labeled images (PAWS, Assran et al. 2021)."""

    temperature: PositiveFloat = 0.1  # of the softmax of the cosines with them
