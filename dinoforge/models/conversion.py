"""Backbones of others: tensor names brought to the released ones, sizes inferred from shapes.

Of DINO, DINOv2 and DINOv3 (see `dinov3`). Understands the prefixes of training checkpoints
(``teacher.backbone.``) and of wrappers (``module.``), blocks numbered inside chunks
(``blocks.0.5.``), timm and transformers.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from dinoforge.errors import UsageError, first_line, some_of
from dinoforge.models import dinov3
from dinoforge.models.config import ARCHITECTURES, PositionMode, VitConfig

__all__ = ["backbone_prefix", "infer_config", "log_left_out", "released_names", "without_wrappers"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_PATCH_EMBED = "patch_embed.proj.weight"
_TRANSFORMERS_PATCH_EMBED = "embeddings.patch_embeddings.projection.weight"
_HEADS = ("dino_head.", "ibot_head.")
_OPTIMIZERS = ("opt.", "optimizer.")

_TRANSFORMERS = (
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)

# 1280 and 4096: DINOv3 H+ and 7B.
_HEADS_OF_WIDTH = {192: 3, 1280: 20, 4096: 32} | {
    size.width: size.heads for size in ARCHITECTURES.values()
}
_SIDE = 224  # of images of a model without a table of positions, pixels
# How positions are resampled, by the origin of the names; with registers always size_antialias.
_POSITIONS: Mapping[str, PositionMode] = {
    "DINO": "offset",
    "DINOv2": "offset",
    "DINOv3": "rope",
    "timm": "size_antialias",
    "transformers": "size",
}
# Tensor -> number of its dimensions.
_EVERY_VIT = {"cls_token": 3, _PATCH_EMBED: 4, "blocks.0.norm1.weight": 1}
_SOME_VITS = {"register_tokens": 3, "blocks.0.mlp.fc1.weight": 2, "blocks.0.mlp.w12.weight": 2}


def released_names(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], str]:
    """Select the backbone among stored tensors and give it the released names.

    Of several backbones, the teacher's is taken; the heads of a training checkpoint are left out.
    ``where`` is the file, for errors. Also returns the origin of the names, and so of the way
    positions are resampled: ``DINO``, ``DINOv2``, ``DINOv3`` (of Meta or transformers), ``timm`` or
    ``transformers``. DINO's files are those without mask token, LayerScale and registers: timm
    gives some models the same names.

    Raises
    ------
    UsageError
        If there is no backbone, several and none is the teacher's, or one with shapes that do not
        belong together.
    """
    plain = without_wrappers(tensors)
    prefix, anchor = _find_backbone(plain, where)
    backbone = {
        name.removeprefix(prefix): tensor
        for name, tensor in plain.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_HEADS)
    }
    log_left_out([name for name in plain if name.removeprefix(prefix) not in backbone], where)
    try:
        return _converted(backbone, anchor, where)
    except RuntimeError as error:  # projections that cannot be joined
        raise UsageError(
            what=f"not the tensors of a ViT: {first_line(error)}",
            where=where,
            do="give a complete checkpoint of this architecture",
        ) from error


def _converted(
    backbone: dict[str, Tensor], anchor: str, where: str
) -> tuple[dict[str, Tensor], str]:
    if anchor == dinov3.TRANSFORMERS_PATCH_EMBED:
        return dinov3.from_transformers(backbone), "DINOv3"
    if anchor == _TRANSFORMERS_PATCH_EMBED:
        return _from_transformers(backbone), "transformers"
    backbone = {_CHUNKED_BLOCK.sub(r"blocks.\1.", n): tensor for n, tensor in backbone.items()}
    if dinov3.is_meta(backbone):
        return dinov3.from_meta(backbone, where), "DINOv3"
    if "mask_token" in backbone:
        return backbone, "DINOv2"
    if "blocks.0.ls1.gamma" not in backbone and "reg_token" not in backbone:
        return backbone, "DINO"
    return _from_timm(backbone), "timm"


def without_wrappers(tensors: Mapping[str, T]) -> dict[str, T]:
    """Remove what wrappers add to names, such as ``module.``."""
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): tensor
        for name, tensor in tensors.items()
    }


def log_left_out(names: Collection[str], where: str) -> None:
    """Log tensors of networks in a file that are not read, such as heads; once per process."""
    if left_out := [name for name in names if not name.startswith(_OPTIMIZERS)]:
        _log_left_out(where, len(left_out), some_of(left_out, 3))


@lru_cache(maxsize=256)
def _log_left_out(where: str, count: int, names: str) -> None:
    _log.info("%s: %d tensors beside the backbone are left out: %s", where, count, names)


def backbone_prefix(tensors: Collection[str], anchor: str, where: str) -> str | None:
    """Return what is before ``anchor``, a name in every backbone of a kind; None if it is missing.

    Raises
    ------
    UsageError
        If there are several backbones and none, or more than one, is a teacher's.
    """
    prefixes = sorted(n.removesuffix(anchor) for n in tensors if f".{n}".endswith(f".{anchor}"))
    teachers = [prefix for prefix in prefixes if "teacher" in prefix]
    if len(prefixes) > 1 and len(teachers) == 1:
        _log.info("%s: took the teacher of %s", where, ", ".join(prefixes))
        prefixes = teachers
    if len(prefixes) > 1:
        raise UsageError(
            what=f"the file contains several backbones: {', '.join(prefixes)}",
            where=where,
            do="save the state dict of one of them",
        )
    return prefixes[0] if prefixes else None


def _find_backbone(tensors: Mapping[str, Tensor], where: str) -> tuple[str, str]:
    """Return the prefix of the backbone, and the name of its patch embedding."""
    for anchor in (_PATCH_EMBED, _TRANSFORMERS_PATCH_EMBED, dinov3.TRANSFORMERS_PATCH_EMBED):
        prefix = backbone_prefix(tensors, anchor, where)
        if prefix is not None:
            return prefix, anchor
    first = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise UsageError(
        what=f"no ViT among {len(tensors)} tensors: no {_PATCH_EMBED}, but {first}, ...",
        where=where,
        do="give a checkpoint of a ViT with names of Meta, timm or transformers",
    )


def _from_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo the changes of timm's converter to released weights; no effect on others."""
    first, second = (tensors.get(f"blocks.0.mlp.fc{i}.weight") for i in (1, 2))
    ready = dict(tensors)
    if first is not None and second is not None and first.shape[0] == 2 * second.shape[1]:
        for old, new in ((".mlp.fc1.", ".mlp.w12."), (".mlp.fc2.", ".mlp.w3.")):
            ready = {name.replace(old, new): tensor for name, tensor in ready.items()}
    if "reg_token" in ready:
        ready["register_tokens"] = ready.pop("reg_token")
    positions = ready.get("pos_embed")
    if positions is not None and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        # With registers timm adds the class token's position to the token itself.
        ready["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return ready


def _from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ready = {}
    for stored, tensor in tensors.items():
        name = stored
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        ready[name] = tensor
    for query in [name for name in ready if ".attn.query." in name]:
        names = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(name in ready for name in names):
            three = [ready.pop(name) for name in names]
            ready[query.replace(".query.", ".qkv.")] = torch.cat(three)
    return ready


def infer_config(
    tensors: Mapping[str, Tensor], where: str, *, heads: int | None = None, origin: str = "DINOv2"
) -> VitConfig:
    """Infer sizes from the shapes of tensors with released names; see `released_names`.

    The number of heads is not in the shapes: by default as in the released model of the same width.

    Raises
    ------
    UsageError
        If these are not the tensors of a ViT, or the number of heads is unknown.
    """
    has_rope = origin == "DINOv3"
    expected = _EVERY_VIT | ({} if has_rope else {"pos_embed": 3})
    expected |= {name: ndim for name, ndim in _SOME_VITS.items() if name in tensors}
    missing = [n for n, ndim in expected.items() if n not in tensors or tensors[n].ndim != ndim]
    if missing:
        raise UsageError(
            what=f"not a ViT with a class token and positions: no {', '.join(missing)}",
            where=where,
            do="give a checkpoint of the DINO family",
        )
    width, _, patch, _ = tensors[_PATCH_EMBED].shape
    side = _SIDE // patch if has_rope else math.isqrt(max(tensors["pos_embed"].shape[1] - 1, 0))
    heads = heads or _HEADS_OF_WIDTH.get(width)
    if heads is None:
        raise UsageError(
            what=f"number of attention heads unknown: no released ViT has width {width}",
            where=where,
            do="load it in Python with load_backbone(path, heads=...), save it with save_backbone",
        )
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    fc1 = tensors.get("blocks.0.mlp.fc1.weight")
    config = VitConfig(
        width=width,
        depth=1 + max(int(match[1]) for n in tensors if (match := _BLOCK.match(n))),
        heads=heads,
        patch_size=patch,
        ffn="swiglu" if fc1 is None else "mlp",
        ffn_ratio=_ffn_ratio(tensors, width),
        registers=registers,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in tensors else 0.0,
        bias="blocks.0.attn.qkv.bias" in tensors,
        image_size=patch * max(side, 1),
        positions="size_antialias" if registers and not has_rope else _POSITIONS[origin],
        norm_eps=1e-5 if has_rope else 1e-6,
    )
    _log.info("%s: %s, %s names", where, config.name, origin)
    return config


def _ffn_ratio(tensors: Mapping[str, Tensor], width: int) -> float:
    """Return hidden width over width; of SwiGLU the usual 4 if it explains the rounded width."""
    if (fc1 := tensors.get("blocks.0.mlp.fc1.weight")) is not None:
        return fc1.shape[0] / width
    gate = tensors.get("blocks.0.mlp.w12.weight")
    hidden = 0 if gate is None else gate.shape[0] // 2
    usual = VitConfig(width=width, ffn="swiglu").ffn_width
    return 4.0 if hidden in {0, usual} else 1.5 * hidden / width
