"""Floating point operations of a training step; a multiply-add counts two.

Matrix products only, as `torch.utils.flop_counter` counts: 8 D^2 for the projections of attention
and 4 D F (6 D F with SwiGLU) for the feed-forward layer a token, 4 n^2 D for attention a sequence
(Kaplan et al. 2020, table 1; here every token sees every other). A backward pass costs two forward
ones. Samples that stochastic depth skips are not computed and not counted.
"""

import itertools
from dataclasses import dataclass, fields

from dinoforge.models.config import VitConfig
from dinoforge.training.config import HeadConfig, TrainingConfig
from dinoforge.training.plan.workload import Crops, Workload

__all__ = ["Flops", "step_flops"]


@dataclass(frozen=True)
class Flops:
    """Operations by part, of one micro-batch or of one image."""

    teacher_backbone: float
    teacher_heads: float
    student_backbone: float  # forward and backward
    student_heads: float  # forward and backward
    other: float  # positions on the grid of the local crops, neighbors of KoLeo
    # computed a second time in the backward pass, which the method does not ask for
    attention_again: float  # scores, by flash attention
    blocks_again: float  # with activation checkpointing

    @property
    def model(self) -> float:
        """What the method needs: the base of MFU."""
        return self.executed - self.attention_again - self.blocks_again

    @property
    def executed(self) -> float:
        """What the machine does."""
        return sum(getattr(self, field.name) for field in fields(self))

    def per_image(self, images: int) -> "Flops":
        """Divide by the images of the batch."""
        return Flops(**{f.name: getattr(self, f.name) / images for f in fields(self)})


def step_flops(config: TrainingConfig, work: Workload) -> Flops:
    """Count the operations of one micro-batch: teacher, student, backward pass.

    Parameters
    ----------
    config : TrainingConfig
    work : Workload
        Sizes of the micro-batch.
    """
    vit = config.model.vit(config.crops.global_size)
    dino = config.dino_head
    patch_head = config.ibot_head if config.separate_heads else dino
    whole = work.global_crops
    teacher = _embed(vit, whole) + vit.depth * _block(vit, whole.samples, whole.tokens)
    embeds = sum(_embed(vit, crops) for crops in work.crops)
    blocks = vit.depth * sum(_block(vit, crops.kept, crops.tokens) for crops in work.crops)
    scores = vit.depth * sum(_attention(vit, c.kept, c.tokens) / 2 for c in work.crops)
    patches = work.masked * _head_row(vit.width, patch_head)
    # Flash attention keeps no scores: its backward pass computes them again. The plain back end
    # keeps them.
    checkpointed = config.parallel.activation_checkpointing == "blocks"
    again = scores if config.model.attention != "plain" else 0.0
    return Flops(
        teacher_backbone=teacher,
        teacher_heads=work.teacher_rows * _head_row(vit.width, dino) + patches,
        # Images get no gradient: the patch embedding has one product in the backward pass.
        student_backbone=2 * embeds + 3 * blocks,
        student_heads=3 * (work.student_rows * _head_row(vit.width, dino) + patches),
        other=_positions(vit, work) + _koleo(config, vit, work),
        attention_again=again,
        blocks_again=blocks if checkpointed else 0.0,
    )


def _embed(vit: VitConfig, crops: Crops) -> float:
    return 2.0 * crops.samples * crops.patches * vit.width * 3 * vit.patch_size**2


def _block(vit: VitConfig, samples: int, tokens: int) -> float:
    """One forward pass of a block."""
    products = 3 if vit.ffn == "swiglu" else 2
    linear = 8 * vit.width**2 + 2 * products * vit.width * vit.ffn_width
    return float(samples * tokens * linear) + _attention(vit, samples, tokens)


def _attention(vit: VitConfig, samples: int, tokens: int) -> float:
    """Scores, and their product with the values."""
    return 4.0 * samples * tokens**2 * vit.width


def _head_row(width: int, head: HeadConfig) -> float:
    """One forward pass of a head for one row."""
    sizes = [width, *[head.hidden] * (head.layers - 1), head.bottleneck, head.prototypes]
    return 2.0 * sum(a * b for a, b in itertools.pairwise(sizes))


def _positions(vit: VitConfig, work: Workload) -> float:
    """Resample the native grid to that of the local crops: two products, once a batch."""
    native, side = vit.grid, work.local_crops.side
    if side == native:
        return 0.0
    forward = 2.0 * side * native * native * vit.width + 2.0 * side * side * native * vit.width
    return 2 * forward  # the matrices get no gradient


def _koleo(config: TrainingConfig, vit: VitConfig, work: Workload) -> float:
    """Similarities of the class tokens in each group, of each of the two global crops."""
    if not config.loss.koleo or work.group < 2:
        return 0.0
    return 2 * 2.0 * work.images * work.group * vit.width
