"""Tensor names of one ViT in the files of others, brought to those of the released checkpoints.

Understood: the prefixes of training checkpoints (``teacher.backbone.``) and of wrappers
(``module.``), blocks numbered inside chunks (``blocks.0.5.``), timm and transformers.
"""

import logging
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dinoforge.errors import UsageError

__all__ = ["released_names"]

_log = logging.getLogger(__name__)

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_PATCH_EMBED = "patch_embed.proj.weight"
_TRANSFORMERS_PATCH_EMBED = "embeddings.patch_embeddings.projection.weight"
_HEADS = ("dino_head.", "ibot_head.")

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


def released_names(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], str]:
    """Find the one backbone among tensors and give it the released names.

    Parameters
    ----------
    tensors : mapping
        As stored. If there are several backbones, the teacher's is taken.
    where : str
        The file, for the error.

    Returns
    -------
    tensors : dict
        Released names; heads of a training checkpoint are left out.
    origin : str
        ``released``, ``timm`` or ``transformers``: whose names, and whose way with positions.

    Raises
    ------
    UsageError
        If there is no backbone, or several of which none is the teacher's.
    """
    plain = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
    prefix, is_transformers = _find_backbone(plain, where)
    backbone = {
        name.removeprefix(prefix): tensor
        for name, tensor in plain.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_HEADS)
    }
    if is_transformers:
        return _from_transformers(backbone), "transformers"
    backbone = {_CHUNKED_BLOCK.sub(r"blocks.\1.", n): tensor for n, tensor in backbone.items()}
    if "mask_token" in backbone:
        return backbone, "released"
    return _from_timm(backbone), "timm"


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _find_backbone(tensors: Mapping[str, Tensor], where: str) -> tuple[str, bool]:
    for anchor in (_PATCH_EMBED, _TRANSFORMERS_PATCH_EMBED):
        prefixes = sorted(n.removesuffix(anchor) for n in tensors if f".{n}".endswith(f".{anchor}"))
        teachers = [prefix for prefix in prefixes if "teacher" in prefix]
        if len(prefixes) > 1 and len(teachers) == 1:
            _log.info("%s: took the teacher of %s", where, ", ".join(prefixes))
            prefixes = teachers
        if len(prefixes) == 1:
            return prefixes[0], anchor == _TRANSFORMERS_PATCH_EMBED
        if prefixes:
            raise UsageError(
                what=f"the file holds several backbones: {', '.join(prefixes)}",
                where=where,
                do="save the state dict of one of them",
            )
    first = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise UsageError(
        what=f"none of {len(tensors)} tensors is a ViT's: no {_PATCH_EMBED} among {first}, ...",
        where=where,
        do="name a checkpoint of a ViT with released, timm or transformers names",
    )


def _from_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo what timm's converter does to released weights; without effect on others."""
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
