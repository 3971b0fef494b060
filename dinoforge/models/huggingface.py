"""Folders that transformers' `save_pretrained` writes: their settings, weights and normalization.

DINOv2, DINOv2 with registers and DINOv3 become our ViT, without the package transformers. Nothing
is downloaded.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dinoforge.config.ranges import find_faults
from dinoforge.errors import UsageError
from dinoforge.models.config import PositionMode, VitConfig
from dinoforge.models.conversion import infer_config, released_names
from dinoforge.models.reading import read_tensors
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import assemble, choose_positions, damaged_metadata

__all__ = [
    "folder_files",
    "folder_settings",
    "is_vit_folder",
    "load_folder",
    "normalization_notes",
    "processor_settings",
]

# `model_type` -> how transformers resamples positions.
_VITS: Mapping[str, PositionMode] = {
    "dinov2": "size",
    "dinov2_with_registers": "size_antialias",
    "dinov3_vit": "rope",
}
_ROPE_BASE = 100.0
_SETTINGS, _PROCESSOR = "config.json", "preprocessor_config.json"
# In the order of preference of transformers.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_vit_folder(folder: Path) -> bool:
    """Return whether `load_folder` reads a folder; False without readable settings."""
    return (folder / _SETTINGS).is_file() and _model_type(folder_settings(folder)) in _VITS


def folder_settings(folder: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises
    ------
    UsageError
        If there is no such folder or file, or it is damaged.
    """
    if not folder.is_dir():
        what = "no such folder" if not folder.exists() else "not a folder"
        do = "give a local folder written by save_pretrained; nothing is downloaded"
        raise UsageError(what=what, where=str(folder), do=do)
    if not (folder / _SETTINGS).is_file():
        do = "give a folder written by save_pretrained"
        raise UsageError(what=f"the folder has no {_SETTINGS}", where=str(folder), do=do)
    return _read_json(folder / _SETTINGS)


def folder_files(folder: Path) -> list[Path]:
    """List the files of the weights, one or several shards.

    Raises
    ------
    UsageError
        If there are none, or a shard is missing.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict):
                raise damaged_metadata("weight_map", str(index))
            files = [folder / shard for shard in sorted({*map(str, shards.values())})]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                do = "download or copy the folder again"
                raise UsageError(what=f"no {', '.join(missing)}", where=str(folder), do=do)
            return files
    do = "download or copy the folder again"
    raise UsageError(what=f"no {' or '.join(_WEIGHTS)}", where=str(folder), do=do)


def processor_settings(folder: Path) -> dict[str, Any]:
    """Read ``preprocessor_config.json``; empty without one."""
    path = folder / _PROCESSOR
    return _read_json(path) if path.is_file() else {}


def normalization_notes(folder: Path) -> dict[str, str]:
    """Return ``image_mean`` and ``image_std`` as metadata of a backbone, if the folder has them."""
    facts = processor_settings(folder)
    if facts.get("do_normalize") is False:
        facts |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return {name: json.dumps(facts[name]) for name in ("image_mean", "image_std") if name in facts}


def load_folder(
    folder: Path, *, positions: PositionMode | None = None
) -> tuple[VisionTransformer, VitConfig, dict[str, str]]:
    """Read a backbone and build its model; see `load_backbone`, of which this is the sibling.

    Raises
    ------
    UsageError
        If the folder is incomplete, holds another architecture or other settings than the released
        models, or other ``positions``.
    """
    where = str(folder)
    settings = folder_settings(folder)
    kind = _model_type(settings)
    if kind not in _VITS:
        do = f"give one of {', '.join(_VITS)}"
        raise UsageError(what=f"the folder holds a `{kind}`, not a ViT of DINO", where=where, do=do)
    stored: dict[str, Tensor] = {}
    for file in folder_files(folder):
        stored |= read_tensors(file)[0]
    tensors, origin = released_names(stored, where)
    try:
        heads = int(settings["num_attention_heads"])
        config = infer_config(tensors, where, heads=heads, origin=origin)
        config = _with_settings(config, settings, kind)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged_metadata(_SETTINGS, where) from error
    _check_settings(config, settings, where)
    if any(find_faults(config)):
        raise damaged_metadata(_SETTINGS, where)
    config = choose_positions(config, positions, where)
    return assemble(tensors, config, where), config, normalization_notes(folder)


def _model_type(settings: Mapping[str, Any]) -> str:
    return str(settings.get("model_type"))


def _with_settings(config: VitConfig, settings: Mapping[str, Any], kind: str) -> VitConfig:
    # transformers writes only what differs from its defaults.
    usual = 1e-5 if kind == "dinov3_vit" else 1e-6
    config = replace(
        config, positions=_VITS[kind], norm_eps=float(settings.get("layer_norm_eps", usual))
    )
    if kind == "dinov3_vit" and isinstance(side := settings.get("image_size", 224), int):
        config = replace(config, image_size=max(side // config.patch_size, 1) * config.patch_size)
    return config


def _check_settings(config: VitConfig, settings: Mapping[str, Any], where: str) -> None:
    """Refuse settings that transformers has and our ViT lacks, and those of other weights."""
    sizes = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch_size,
        "num_register_tokens": config.registers,
    }
    for name, size in sizes.items():
        if (stated := settings.get(name, size)) != size:
            raise UsageError(
                what=f"`{name}` is {stated}, but the weights have {size}",
                where=f"{where}/{_SETTINGS}",
                do="download or copy the folder again",
            )
    gated = config.positions == "rope" and config.ffn == "swiglu"
    activation = "silu" if gated else "gelu"
    usual = {"hidden_act": "gelu", "rope_theta": _ROPE_BASE}  # what transformers leaves out
    for name, value in {"hidden_act": activation, "rope_theta": _ROPE_BASE}.items():
        if (actual := settings.get(name, usual[name])) != value:
            raise UsageError(
                what=f"`{name}` is {actual}",
                where=f"{where}/{_SETTINGS}",
                do=f"give a model with {value}, as released",
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        do = "download or copy it again"
        raise UsageError(what="damaged, or not JSON", where=str(path), do=do) from error
    if not isinstance(content, dict):
        do = "download or copy it again"
        raise UsageError(what="not a JSON object", where=str(path), do=do)
    return content
