"""Backbones on disk: safetensors with the tensor names of the released checkpoints.

Reads what others write too: ``.pth`` files (never executing code), teacher checkpoints with
prefixes, chunked blocks, names of timm and transformers (`conversion`). A partial match is an
error that names what differs.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.files import write_bytes
from dinoforge.models.config import (
    ARCHITECTURES,
    IMAGE_MEAN,
    IMAGE_STD,
    PositionMode,
    VitConfig,
)
from dinoforge.models.conversion import released_names
from dinoforge.models.vit import VisionTransformer

__all__ = ["infer_config", "load_backbone", "read_tensors", "save_backbone"]

_log = logging.getLogger(__name__)

FORMAT = "backbone-1"

_HEADS_OF_WIDTH = {192: 3} | {size.width: size.heads for size in ARCHITECTURES.values()}


def save_backbone(
    path: Path, model: VisionTransformer, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights and what is needed to build the model again.

    The metadata say: ``format`` (``pt``, which other readers ask for), ``dinoforge``,
    ``architecture`` (a name), ``config`` (JSON of `VitConfig`), ``image_mean`` and ``image_std``
    (JSON), ``image_size``, ``patch_size``, ``registers``, ``positions``.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file; written atomically. Equal weights and metadata, equal bytes.
    model : VisionTransformer
        Its tensors are stored in float32.
    metadata : mapping of str, optional
        Added to the file's metadata (run, step, data, license, ...); must not hold times.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    config = model.config
    notes = {
        "format": "pt",
        "dinoforge": FORMAT,
        "architecture": config.name,
        "config": json.dumps(asdict(config), sort_keys=True),
        "image_mean": json.dumps(IMAGE_MEAN),
        "image_std": json.dumps(IMAGE_STD),
        **{k: str(getattr(config, k)) for k in ("image_size", "patch_size", "registers")},
        "positions": config.positions,
        **dict(metadata or {}),
    }
    write_bytes(path, _with_metadata(tensors, notes))


def _with_metadata(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    # The library writes metadata in the order of a hash map, another one in every process.
    from safetensors.torch import save

    data = save(dict(tensors))
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[end:]))


def load_backbone(
    path: Path, *, heads: int | None = None, positions: PositionMode | None = None
) -> tuple[VisionTransformer, VitConfig, dict[str, str]]:
    """Read a backbone and build its model (float32, evaluation mode, CPU).

    What to build is in the metadata of our files; of others it is read off the tensors' shapes.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or ``.pth`` / ``.pt`` with a state dict, at the top or under ``teacher``,
        ``model`` or ``state_dict``.
    heads : int, optional
        Attention heads of a file without metadata; needed for other widths than the released.
    positions : str, optional
        Another way to resample positions than the file's; see `VitConfig`. Of files without
        metadata it is not known: ``size_antialias`` with registers and for timm's names, ``size``
        for transformers', ``offset`` for released names.

    Returns
    -------
    model, config, metadata
        Metadata of the safetensors file; empty for others.

    Raises
    ------
    UsageError
        If the file is unreadable or its tensors do not fit: missing, unexpected and misshapen
        ones are named.
    """
    where = str(path)
    stored, metadata = read_tensors(path)
    tensors, origin = released_names(stored, where)
    config = _stored_config(metadata, where)
    if config is None:
        config = infer_config(tensors, where, heads=heads, origin=origin)
    if positions is not None:
        config = replace(config, positions=positions)
    with torch.device("meta"):
        model = VisionTransformer(config)
    _check_fit(model.state_dict(), tensors, where)
    ready = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    # Converters drop it: it is used in training only.
    ready.setdefault("mask_token", torch.zeros(1, config.width))
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
            return _read_safetensors(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has its own tree of errors for a bad file
        reason = "no such file" if not path.is_file() else str(error).splitlines()[0]
        raise UsageError(
            what=f"weights unreadable: {reason.rstrip('.')}",
            where=str(path),
            do="name a .safetensors or .pth file with the tensors of a ViT",
        ) from error
    for key in ("teacher", "model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise UsageError(
            what="the file holds no state dict", where=str(path), do="save model.state_dict()"
        )
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}, {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})


def infer_config(
    tensors: Mapping[str, Tensor], where: str, *, heads: int | None = None, origin: str = "released"
) -> VitConfig:
    """Read sizes off the shapes of tensors with released names.

    Parameters
    ----------
    tensors : mapping
        See `released_names`, which also gives ``origin``.
    where : str
        The file, for errors.
    heads : int, optional
        Not in the shapes: by default as in the released model of that width.

    Raises
    ------
    UsageError
        If these are not the tensors of a ViT, or the heads are not known.
    """
    _check_is_vit(tensors, where)
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    heads = heads or _HEADS_OF_WIDTH.get(width)
    if heads is None:
        raise UsageError(
            what=f"no released ViT is {width} wide: the number of attention heads is not known",
            where=where,
            do="load it in Python with load_backbone(path, heads=...), save it with save_backbone",
        )
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    fc1 = tensors.get("blocks.0.mlp.fc1.weight")
    positions: dict[str, PositionMode] = {"timm": "size_antialias", "transformers": "size"}
    config = VitConfig(
        width=width,
        depth=1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks.")),
        heads=heads,
        patch_size=patch,
        ffn="swiglu" if fc1 is None else "mlp",
        ffn_ratio=4.0 if fc1 is None else fc1.shape[0] / width,
        registers=registers,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in tensors else 0.0,
        bias="blocks.0.attn.qkv.bias" in tensors,
        image_size=patch * math.isqrt(tensors["pos_embed"].shape[1] - 1),
        positions="size_antialias" if registers else positions.get(origin, "offset"),
    )
    _log.info("%s: %s, %s names, positions=%s", where, config.name, origin, config.positions)
    return config


def _check_is_vit(tensors: Mapping[str, Tensor], where: str) -> None:
    needed = {
        "cls_token": 3,
        "pos_embed": 3,
        "patch_embed.proj.weight": 4,
        "blocks.0.norm1.weight": 1,
    }
    missing = [n for n, ndim in needed.items() if n not in tensors or tensors[n].ndim != ndim]
    if missing:
        raise UsageError(
            what=f"not a ViT with a class token and learnt positions: no {', '.join(missing)}",
            where=where,
            do="name a checkpoint of the DINOv2 family",
        )


def _stored_config(metadata: Mapping[str, str], where: str) -> VitConfig | None:
    if "dinoforge" not in metadata:
        return None
    known = {field.name for field in fields(VitConfig)}
    stored: dict[str, Any] = json.loads(metadata["config"])
    if metadata["dinoforge"] != FORMAT or not stored.keys() <= known:
        new = ", ".join(sorted(stored.keys() - known)) or metadata["dinoforge"]
        raise UsageError(
            what=f"written by another version of dinoforge, with {new}",
            where=where,
            do="pip install --upgrade dinoforge",
        )
    return VitConfig(**stored)


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    differences = {
        "missing": sorted(wanted.keys() - found.keys() - {"mask_token"}),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": misshapen,
    }
    parts = [
        f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for label, names in differences.items()
        if names
    ]
    if parts:
        raise UsageError(
            what=f"weights do not fit the model: {'; '.join(parts)}",
            where=where,
            do="name a complete checkpoint of this architecture",
        )
