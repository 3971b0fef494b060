"""Backbones on disk: safetensors with the tensor names of the released checkpoints.

Reads what others write too: ``.pth`` files (never executing code), teacher checkpoints with
prefixes, blocks numbered by chunks. A partial match is an error that names what differs.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dinoforge.atomic_file import write_atomic
from dinoforge.errors import UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer

__all__ = ["clean_names", "infer_config", "load_backbone", "read_tensors", "save_backbone"]

FORMAT = "dinoforge-backbone-1"
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

_PREFIXES = ("teacher.", "student.", "module.", "_orig_mod.", "backbone.", "model.")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")


def save_backbone(
    path: Path, model: VisionTransformer, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights and what is needed to build the model again.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file; written atomically, deterministic bytes.
    model : VisionTransformer
        Its tensors are stored in float32.
    metadata : mapping of str, optional
        Added to the file's metadata (run, step, data, ...); must not hold times.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    notes = {
        "format": FORMAT,
        "architecture": json.dumps(asdict(model.config), sort_keys=True),
        "image_mean": json.dumps(IMAGE_MEAN),
        "image_std": json.dumps(IMAGE_STD),
        **dict(metadata or {}),
    }
    data = save(tensors, metadata=dict(sorted(notes.items())))

    def put(file: BinaryIO) -> None:
        file.write(data)

    write_atomic(path, put)


def load_backbone(
    path: Path, config: VitConfig | None = None
) -> tuple[VisionTransformer, VitConfig, dict[str, str]]:
    """Read a backbone and build its model (float32, evaluation mode, CPU).

    Parameters
    ----------
    path : Path
        ``.safetensors`` (ours or released), or ``.pth`` / ``.pt`` with a state dict, at the top
        or under ``teacher`` / ``model`` / ``state_dict``.
    config : VitConfig, optional
        What to build; by default from the file's metadata, else from the tensors' shapes.

    Raises
    ------
    UsageError
        If the file is unreadable or its tensors do not fit: missing, unexpected and misshapen
        ones are named.
    """
    tensors, metadata = read_tensors(path)
    tensors = clean_names(tensors)
    if config is None:
        config = _config_from_metadata(metadata) or infer_config(tensors, str(path))
    with torch.device("meta"):
        model = VisionTransformer(config)
    _check_fit(model.state_dict(), tensors, str(path))
    ready = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    if "mask_token" not in ready:  # converters drop it: it is used in training only
        ready["mask_token"] = torch.zeros(1, config.width)
    model.load_state_dict(ready, assign=True)
    return model.eval(), config, metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a weights file; never executes code from it.

    Raises
    ------
    UsageError
        If the file is missing or is not a weights file.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                return {n: file.get_tensor(n) for n in names}, dict(file.metadata() or {})
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has its own tree of errors for a bad file
        reason = "no such file" if not path.exists() else str(error).splitlines()[0]
        raise UsageError(
            what=f"weights unreadable: {reason}",
            where=str(path),
            do="name a .safetensors or .pth file of a ViT",
        ) from error
    for key in ("teacher", "model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        raise UsageError(
            what="the file holds no state dict", where=str(path), do="save model.state_dict()"
        )
    return {k: v for k, v in found.items() if isinstance(v, Tensor)}, {}


def clean_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip wrappers' prefixes and chunk numbers; leave heads out.

    ``teacher.backbone.blocks.0.5.norm1.weight`` becomes ``blocks.5.norm1.weight``.
    """
    cleaned: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        while prefix := next((p for p in _PREFIXES if short.startswith(p)), ""):
            short = short.removeprefix(prefix)
        if short.startswith(("dino_head.", "ibot_head.")):
            continue
        cleaned[_CHUNKED_BLOCK.sub(r"blocks.\1.", short)] = tensor
    return cleaned


def infer_config(tensors: Mapping[str, Tensor], where: str) -> VitConfig:
    """Read sizes off the tensors' shapes; heads of 64 channels, as in every released model.

    Raises
    ------
    UsageError
        If these are not the tensors of a ViT.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise UsageError(
            what=f"not a ViT of released names: no {', '.join(missing)}",
            where=where,
            do="convert the names, or name the right file",
        )
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    is_swiglu = "blocks.0.mlp.w12.weight" in tensors
    fc1 = tensors.get("blocks.0.mlp.fc1.weight")
    return VitConfig(
        width=width,
        depth=depth,
        heads=max(width // 64, 1),
        patch_size=patch,
        ffn="swiglu" if is_swiglu else "mlp",
        ffn_ratio=4.0 if fc1 is None else fc1.shape[0] / width,
        registers=registers,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in tensors else 0.0,
        bias="blocks.0.attn.qkv.bias" in tensors,
        image_size=patch * math.isqrt(tensors["pos_embed"].shape[1] - 1),
        positions="size_antialias" if registers else "offset",
    )


def _config_from_metadata(metadata: Mapping[str, str]) -> VitConfig | None:
    if metadata.get("format") != FORMAT:
        return None
    known = {field.name for field in fields(VitConfig)}
    stored: dict[str, Any] = json.loads(metadata["architecture"])
    return VitConfig(**{name: value for name, value in stored.items() if name in known})


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    missing = sorted(wanted.keys() - found.keys() - {"mask_token"})
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    parts = [
        f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if parts:
        raise UsageError(
            what=f"weights do not fit the model: {'; '.join(parts)}",
            where=where,
            do="name the checkpoint of this architecture, or its own config",
        )
