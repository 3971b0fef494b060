"""Bytes that autograd keeps from the student's forward pass for its backward pass.

Counted layer by layer from `dinoforge.models.layers`, `training.heads` and `training.losses`: what
every operation of theirs saves (torch's ``derivatives.yaml``), each storage once. Parameters are
not counted, nor weights in another dtype (`training.plan.memory`).
"""

from dataclasses import dataclass
from typing import NamedTuple

from dinoforge.models.config import VitConfig
from dinoforge.training.config import HeadConfig, TrainingConfig
from dinoforge.training.plan.workload import Crops, Workload

__all__ = ["Activations", "Numerics", "branch_bytes", "saved_activations"]

_FLOAT32, _BFLOAT16, _INDEX = 4, 2, 8  # bytes; an index is an int64


@dataclass(frozen=True)
class Numerics:
    """Bytes of the numbers of a step, and how its products are run."""

    product: int  # operands of matrix products: 4, or 2 for bfloat16
    attention: int  # queries, keys and values inside attention
    stream: int = 4  # tokens between blocks, losses, statistics
    packed: bool = False  # crops of all sizes lie end to end in the linear layers

    @classmethod
    def of(cls, config: TrainingConfig, device: str = "cuda") -> "Numerics":
        """Follow `training.precision` and `training.attention`; ``auto`` is that of a GPU.

        Attention on CPUs runs in float32.
        """
        product = _FLOAT32 if config.precision == "float32" else _BFLOAT16
        by_default = config.model.packing == "auto" and device == "cuda"
        return cls(
            product=product,
            attention=_FLOAT32 if device == "cpu" else product,
            packed=by_default or config.model.packing == "packed",
        )


class Activations(NamedTuple):
    """Saved bytes by part."""

    images: int  # crops in the dtype of the patch embedding; 0 where they are used as they came
    global_blocks: int
    local_blocks: int
    block_inputs: int  # with activation checkpointing: all that blocks keep
    backbone_ends: int  # around the blocks: masks, the final norm, its output
    heads: int
    logits: int  # log-probabilities, and the targets as they meet the class tokens

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def saved_activations(config: TrainingConfig, work: Workload, numerics: Numerics) -> Activations:
    """Count what the forward pass of one micro-batch keeps.

    Parameters
    ----------
    config : TrainingConfig
    work : Workload
    numerics : Numerics
    """
    vit = config.model.vit(config.crops.global_size)
    whole, local = (vit.depth * sum(branch_bytes(config, crops, numerics)) for crops in work.crops)
    inputs = 0
    if config.parallel.activation_checkpointing == "blocks":  # their inputs alone
        whole = local = 0
        tokens = sum(crops.all_tokens for crops in work.crops)
        inputs = vit.depth * tokens * vit.width * numerics.stream
    return Activations(
        images=_image_bytes(work, numerics),
        global_blocks=whole,
        local_blocks=local,
        block_inputs=inputs,
        backbone_ends=_ends(config, vit, work, numerics),
        heads=_heads(config, vit, work, numerics),
        logits=_logits(config, work),
    )


def _image_bytes(work: Workload, numerics: Numerics) -> int:
    """Count the crops that the patch embedding keeps in the dtype of its product."""
    if numerics.product == numerics.stream:
        return 0
    return sum(crops.samples * 3 * crops.size**2 for crops in work.crops) * numerics.product


def branch_bytes(config: TrainingConfig, crops: Crops, numerics: Numerics) -> tuple[int, int]:
    """Count what the two branches of a block keep of one size of crops: attention, feed-forward."""
    vit = config.model.vit(config.crops.global_size)
    both = _branch_token(config, vit, numerics)
    # Which samples a branch ran on: indices.
    rows = crops.kept * _INDEX if config.model.drop_path else 0
    attention = both + _attention_token(config, vit, crops, numerics)
    ffn = both + _ffn_token(vit, numerics)
    return crops.kept_tokens * attention + rows, crops.kept_tokens * ffn + rows


def _branch_token(config: TrainingConfig, vit: VitConfig, numerics: Numerics) -> int:
    """Bytes a token of what both branches have: norm, LayerScale, adding the residual."""
    stream, product = vit.width * numerics.stream, vit.width * numerics.product
    token = stream + 2 * numerics.stream + product  # input, mean, deviation; output of the norm
    if vit.layer_scale:
        token += product  # what is scaled
    if config.model.drop_path:
        token += stream  # `index_add` keeps its source
    return token


def _attention_token(
    config: TrainingConfig, vit: VitConfig, crops: Crops, numerics: Numerics
) -> int:
    """Bytes a token between qkv and the projection."""
    result = vit.width * numerics.product
    again = result if numerics.packed else 0  # the results of all crop sizes end to end
    if config.model.attention == "plain":
        # Softmax, and its copy in the dtype of the values.
        scores = numerics.stream + (numerics.product if numerics.product != numerics.stream else 0)
        return 4 * result + again + vit.heads * crops.tokens * scores
    if numerics.attention != numerics.product:
        again = result  # as the projection takes it
    # Queries, keys, values, result, and the log of the sum of exponentials.
    return 4 * vit.width * numerics.attention + again + vit.heads * numerics.stream


def _ffn_token(vit: VitConfig, numerics: Numerics) -> int:
    """Bytes a token between the two linear layers: 2 F, with a gate 4 F."""
    return (4 if vit.ffn == "swiglu" else 2) * vit.ffn_width * numerics.product


def _ends(config: TrainingConfig, vit: VitConfig, work: Workload, numerics: Numerics) -> int:
    whole = work.global_crops
    total = sum(crops.all_tokens for crops in work.crops)
    size = total * (vit.width + 2) * numerics.stream  # input and statistics of the final norm
    if config.loss.ibot:
        size += whole.samples * whole.patches + int(work.masked) * _INDEX  # masks, what is masked
    if config.loss.koleo and work.group > 1:
        # Class tokens are a view: all normed tokens of the global crops stay.
        size += whole.all_tokens * vit.width * numerics.stream
        size += 2 * work.images * ((vit.width + 4) * numerics.stream + _INDEX)
    return size


def _heads(config: TrainingConfig, vit: VitConfig, work: Workload, numerics: Numerics) -> int:
    rows, masked = work.student_rows, int(work.masked)
    if not config.separate_heads:  # one call for both
        return _head(config.dino_head, vit.width, rows + masked, numerics)
    size = _head(config.dino_head, vit.width, rows, numerics)
    if config.loss.ibot:
        size += _head(config.ibot_head, vit.width, masked, numerics)
    return size


def _head(head: HeadConfig, width: int, rows: int, numerics: Numerics) -> int:
    """Count what one call of a head keeps."""
    row = width * numerics.product + 2 * (head.layers - 1) * head.hidden * numerics.product
    row += (head.bottleneck + 2) * numerics.stream  # before it is a unit vector, and its norm
    row += head.bottleneck * numerics.product
    prototype = head.bottleneck * numerics.product + numerics.stream  # normalized; its norm
    return rows * row + head.prototypes * prototype


def _logits(config: TrainingConfig, work: Workload) -> int:
    """Count rows of prototypes, float32: two of a class token, one of a masked patch.

    Every view meets the teacher's view of another crop, or of both: a copy of class targets in the
    order of the student's rows. Those of patches are the teacher's own.
    """
    size = 2 * work.student_rows * config.dino_head.prototypes * _FLOAT32
    if config.loss.ibot:
        head = config.ibot_head if config.separate_heads else config.dino_head
        size += int(work.masked) * (head.prototypes + 1) * _FLOAT32
    return size
