"""Backbones on disk: safetensors with the tensor names of the released checkpoints.

Also reads the files of others (see `conversion`), including ``.pth`` files, without executing their
code. A partial match is an error that lists the differences.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from dinoforge.config import config_of
from dinoforge.config.ranges import find_faults
from dinoforge.errors import UsageError, some_of
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD, PositionMode, VitConfig
from dinoforge.models.conversion import infer_config, released_names
from dinoforge.models.reading import read_tensors
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.writing import write_tensors

__all__ = [
    "assemble",
    "check_match",
    "choose_positions",
    "damaged_metadata",
    "load_backbone",
    "save_backbone",
    "stop_if_not_finite",
]

_log = logging.getLogger(__name__)

FORMAT = "backbone-1"


def save_backbone(
    path: Path, model: VisionTransformer, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights and all that is needed to rebuild the model.

    Tensors are stored in float32 and written atomically; equal weights and metadata give equal
    bytes. ``metadata`` (run, step, data, license, ...; no times) is added to ``format`` (``pt``,
    which other readers require), ``dinoforge``, ``architecture`` (a name), ``config`` (JSON of
    `VitConfig`), ``image_mean`` and ``image_std`` (JSON), ``image_size``, ``patch_size``,
    ``registers`` and ``positions``.
    """
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
    write_tensors(path, model.state_dict(), notes)


def load_backbone(
    path: Path, *, heads: int | None = None, positions: PositionMode | None = None
) -> tuple[VisionTransformer, VitConfig, dict[str, str]]:
    """Read a backbone and build its model (float32, evaluation mode, CPU).

    The configuration is in the metadata of our files; for others it is inferred from shapes.

    Parameters
    ----------
    path : Path
        A weights file, see `read_tensors`.
    heads : int, optional
        Attention heads of a file without metadata; needed for widths that were not released.
    positions : str, optional
        How positions are resampled, for a file without metadata; see `VitConfig`. Assumed
        without it: ``size_antialias`` with registers and for timm's names, ``size`` for
        transformers', ``offset`` for those of DINO and DINOv2. The log names the mode once.

    Returns
    -------
    model, config, metadata
        Metadata of the safetensors file; empty for others.

    Raises
    ------
    UsageError
        If the file is unreadable, names other ``positions``, or its tensors do not match;
        missing, unexpected and misshapen ones are named.
    """
    where = str(path)
    stored, metadata = read_tensors(path)
    tensors, origin = released_names(stored, where)
    config, assumed_for = _stored_config(metadata, where), ""
    if config is None:
        config = infer_config(tensors, where, heads=heads, origin=origin)
        assumed_for = "" if config.positions == "rope" else origin
    config = choose_positions(config, positions, where, assumed_for=assumed_for)
    return assemble(tensors, config, where), config, metadata


def assemble(tensors: Mapping[str, Tensor], config: VitConfig, where: str) -> VisionTransformer:
    """Build a model from tensors with our names: float32, evaluation mode, CPU.

    Raises
    ------
    UsageError
        If tensors of the file ``where`` are missing, unexpected, misshapen or not finite.
    """
    with torch.device("meta"):
        model = VisionTransformer(config)
    check_match(model.state_dict(), tensors, where)
    stop_if_not_finite(tensors, where)
    ready = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    # Converters drop it: it is used in training only.
    ready.setdefault("mask_token", torch.zeros(1, config.width))
    model.load_state_dict(ready, assign=True)
    return model.eval()


def choose_positions(
    config: VitConfig, named: PositionMode | None, where: str, *, assumed_for: str = ""
) -> VitConfig:
    """Apply the mode that a user names, and log which one is used and why.

    ``assumed_for`` is the origin of a file that does not determine its mode.

    Raises
    ------
    UsageError
        If the named mode contradicts the file ``where``.
    """
    if named is None:
        reason = f"assumed for {assumed_for} files" if assumed_for else "of the file"
        _log_positions(where, config.positions, reason)
        return config
    if named != config.positions and (not assumed_for or named == "rope"):
        actual = "learned" if assumed_for else f"`{config.positions}`"
        raise UsageError(
            what=f"positions `{named}` contradict the file, whose positions are {actual}",
            where=where,
            do="name another mode, or none" if assumed_for else "name none",
        )
    _log_positions(where, named, "named by the user")
    return replace(config, positions=named)


@lru_cache(maxsize=256)  # once per process, however often a file is opened
def _log_positions(where: str, mode: str, reason: str) -> None:
    _log.info("%s: positions: %s (%s)", where, mode, reason)


def _stored_config(metadata: Mapping[str, str], where: str) -> VitConfig | None:
    if "dinoforge" not in metadata:
        return None
    known = {field.name for field in fields(VitConfig)}
    try:
        stored = dict(json.loads(metadata["config"]))
    except (KeyError, ValueError, TypeError) as error:
        raise damaged_metadata("config", where) from error
    if metadata["dinoforge"] != FORMAT or not stored.keys() <= known:
        new = ", ".join(sorted(stored.keys() - known)) or metadata["dinoforge"]
        raise UsageError(
            what=f"written by another version of dinoforge, with {new}",
            where=where,
            do="pip install --upgrade dinoforge",
        )
    try:
        config = config_of(VitConfig, stored)
    except OmegaConfBaseException as error:
        raise damaged_metadata("config", where) from error
    if any(find_faults(config)):
        raise damaged_metadata("config", where)
    return config


def damaged_metadata(key: str, where: str) -> UsageError:
    """Make the error for metadata of a backbone that make no sense."""
    do = "download or copy it again"
    return UsageError(what=f"the metadata `{key}` of the weights are damaged", where=where, do=do)


def stop_if_not_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise a `UsageError` that names weights of the file ``where`` with infinite or NaN values."""
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise UsageError(
            what=f"{len(bad)} of {len(tensors)} weights are not finite ({some_of(bad, 3)})",
            where=where,
            do="give a checkpoint from before the training diverged",
        )


def check_match(model: Mapping[str, Tensor], stored: Mapping[str, Tensor], where: str) -> None:
    """Raise a `UsageError` that names tensors missing, unexpected or misshapen in a file."""
    differences = {
        "missing": sorted(model.keys() - stored.keys() - {"mask_token"}),
        "unexpected": sorted(stored.keys() - model.keys()),
        "misshapen": [
            f"{name}: file {list(stored[name].shape)}, model {list(model[name].shape)}"
            for name in sorted(model.keys() & stored.keys())
            if stored[name].shape != model[name].shape
        ],
    }
    parts = [
        f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for label, names in differences.items()
        if names
    ]
    if parts:
        raise UsageError(
            what=f"weights do not match the model: {'; '.join(parts)}",
            where=where,
            do="give a complete checkpoint of this architecture",
        )
