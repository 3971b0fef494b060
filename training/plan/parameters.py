"""Parameters of backbone and heads from their sizes: counts, and what a rank holds of them.

The shapes are those of `dinoforge.models.vit` and `training.heads`; a *unit* is what FSDP2 gathers
and frees together: every block, every head, and the rest of the backbone.
"""

import itertools
import math
from collections.abc import Iterator, Mapping

from dinoforge.models.config import VitConfig
from dinoforge.training.config import HeadConfig, TrainingConfig

__all__ = [
    "Shapes",
    "backbone_units",
    "count",
    "head_shapes",
    "largest_part",
    "student_parameters",
    "student_units",
]

Shapes = Mapping[str, tuple[int, ...]]


def count(shapes: Shapes) -> int:
    """Count the parameters."""
    return sum(math.prod(shape) for shape in shapes.values())


def largest_part(shapes: Shapes, shards: int) -> int:
    """Count the parameters of the rank that holds most: rank 0.

    FSDP2 cuts every parameter along its first axis into parts of ``ceil(n / shards)`` rows, so that
    a parameter with one row lies on rank 0 as a whole.
    """
    return sum(-(-shape[0] // shards) * math.prod(shape[1:]) for shape in shapes.values())


def student_units(config: TrainingConfig) -> dict[str, Shapes]:
    """Parameters of the student, unit by unit; the teacher has the same.

    Returns
    -------
    dict
        ``backbone`` (all but the blocks), ``backbone.blocks.N``, ``dino_head`` and, if the recipe
        has one, ``ibot_head``: names inside the sub-network -> shapes.
    """
    vit = config.model.vit(config.crops.global_size)
    units = backbone_units(vit) | {"dino_head": head_shapes(vit.width, config.dino_head)}
    if config.separate_heads:
        units["ibot_head"] = head_shapes(vit.width, config.ibot_head)
    return units


def student_parameters(config: TrainingConfig) -> int:
    """Count the parameters of the student, heads included."""
    return sum(map(count, student_units(config).values()))


def backbone_units(vit: VitConfig) -> dict[str, Shapes]:
    """Parameters of the backbone, unit by unit."""
    width = vit.width
    root: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + vit.grid**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, vit.patch_size, vit.patch_size),
        "patch_embed.proj.bias": (width,),
        **_norm("norm", width),
    }
    if vit.registers:
        root["register_tokens"] = (1, vit.registers, width)
    block: Shapes = dict(_block(vit))
    return {"backbone": root, **{f"backbone.blocks.{n}": block for n in range(vit.depth)}}


def head_shapes(width: int, head: HeadConfig) -> Shapes:
    """Parameters of a projection head: linear layers, then g and v of the prototypes."""
    sizes = [width, *[head.hidden] * (head.layers - 1), head.bottleneck]
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        # A single layer is no sequence; in a sequence a GELU stands between two layers.
        name = "mlp" if head.layers == 1 else f"mlp.{2 * index}"
        shapes |= {f"{name}.weight": (after, before), f"{name}.bias": (after,)}
    shapes["last_layer.weight_g"] = (head.prototypes, 1)
    shapes["last_layer.weight_v"] = (head.prototypes, head.bottleneck)
    return shapes


def _block(vit: VitConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden = vit.width, vit.ffn_width
    if vit.ffn == "swiglu":
        ffn = (("mlp.w12", 2 * hidden, width), ("mlp.w3", width, hidden))
    else:
        ffn = (("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden))
    for name, rows, columns in (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        *ffn,
    ):
        yield f"{name}.weight", (rows, columns)
        if vit.bias:
            yield f"{name}.bias", (rows,)
    yield from _norm("norm1", width).items()
    yield from _norm("norm2", width).items()
    if vit.layer_scale:
        yield from (("ls1.gamma", (width,)), ("ls2.gamma", (width,)))


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
