"""Settings of the protocols on masks and depth maps; see `evaluation.settings`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from dinoforge.config.ranges import (
    Allowed,
    NonEmpty,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Range,
    one_of,
)
from dinoforge.evaluation.methods.dense.depth_inputs import DEPTH_HEADS

__all__ = ["DepthConfig", "HeadConfig", "InContextConfig", "SegmentationConfig"]

Share = Annotated[float, Range(0, 1, exclude=(0, 1))]
Size = Annotated[list[PositiveInt], Allowed(lambda size: len(size) == 2, "two numbers")]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Training of a dense head: AdamW, linear warm-up, cosine to 0; several seeds, one mean."""

    steps: PositiveInt = 300  # of the optimizer
    batch_size: PositiveInt = 16  # images
    lr: PositiveFloat = 0.01  # short trainings of batch norm and linear layer need 1e-2
    weight_decay: NonNegativeFloat = 0.001  # of AdamW
    warmup: Annotated[float, Range(0, 1, exclude=(1,))] = 0.05  # share of the steps
    # of initial weights and batches; the score is the mean over them
    seeds: Annotated[list[int], NonEmpty] = field(default_factory=lambda: [0])


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """Linear segmentation: batch norm and 1 x 1 convolution (DINOv2, section 7.4)."""

    # height and width of images in the network, rounded down to whole patches
    size: Size = field(default_factory=lambda: [518, 518])
    # patch tokens of how many last blocks, a head each
    blocks: Annotated[list[PositiveInt], NonEmpty] = field(default_factory=lambda: [1, 4])
    head: HeadConfig = field(default_factory=HeadConfig)
    # labels per side of a patch in the loss; 20,000 masks of 37 x 37 patches take 0.7 GB of memory
    loss_scale: PositiveInt = 5
    # whole: test images at `size`, from cached features; sliding: windows of that size over images
    # of that shorter side; multi_scale: sliding at six scales, mirrored, too
    test: Literal["whole", "sliding", "multi_scale"] = "whole"
    stride: Share = 0.66  # of sliding windows, in windows


@dataclass(frozen=True, kw_only=True)
class InContextConfig:
    """Segmentation by the nearest labeled patches (HummingBird, Balazevic et al. 2023)."""

    size: Size = field(default_factory=lambda: [518, 518])  # as `segmentation.size`
    # labeled patches to compare with, a keyed choice (HummingBird: 10,240,000); at most twice as
    # many are in memory
    memory: PositiveInt = 20_000
    # share of its pixels that must have a label, at least
    min_labeled: Annotated[float, Range(0, 1, exclude=(1,))] = 0.5
    k: PositiveInt = 30  # neighbors that vote
    temperature: PositiveFloat = 0.02  # weights: softmax(cosine / temperature) over the k
    # of the choice of patches; the score is the mean over them
    seeds: Annotated[list[int], NonEmpty] = field(default_factory=lambda: [0])


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Linear depth by votes for bins, trained with SigLoss (DINOv2, section 7.4; DINOv3)."""

    # height and width of images in the network, rounded down to whole patches; empty: 480 x 640,
    # of KITTI 352 x 1216
    size: Annotated[
        list[PositiveInt], Allowed(lambda size: len(size) in {0, 2}, "two numbers, or none")
    ] = field(default_factory=list)
    # lin1: one block, lin4: four. v2: raw tokens beside the class token, four quarters of the
    # network; v3: normed tokens of the last blocks, batch norm
    heads: Annotated[list[Annotated[str, one_of(DEPTH_HEADS)]], NonEmpty] = field(
        default_factory=lambda: ["v3-lin1", "v3-lin4"]
    )
    head: HeadConfig = field(default_factory=lambda: HeadConfig(batch_size=8, lr=0.001))
    bins: Annotated[int, Range(2)] = 256  # depths to vote for, from 1 mm to that of the data set
    spacing: Literal["linear", "log"] = "linear"  # of the bins
    # votes to shares; linear: relu + 0.1, divided by the sum
    votes: Literal["linear", "softmax", "sigmoid"] = "linear"
    upsample: PositiveInt = 4  # of the votes, before they become depths
    # depths per side of a patch in the loss; 20,000 maps of 34 x 45 patches take 3 GB of memory
    loss_scale: PositiveInt = 5
    loss_warmup: Share = 0.1  # share of the steps in which SigLoss has no variance
    gradient_weight: NonNegativeFloat = 0.0  # of the gradient loss (DINOv2's DPT heads: 0.5)
    flip: bool = True  # average with the depth of the mirrored image
