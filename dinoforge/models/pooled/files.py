"""Pooled networks on disk: ours as safetensors, and the ResNet-50s and WRN-28-2s of others.

Reads what torchvision, DINO and PAWS write: backbones, and whole checkpoints, of which the
teacher's is taken, and the heads of PAWS. Networks of timm have their own names, with which
`timm:NAME@FILE` opens them.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD
from dinoforge.models.conversion import backbone_prefix, log_left_out, without_wrappers
from dinoforge.models.pooled.building import build_pooled
from dinoforge.models.pooled.network import PooledNetwork
from dinoforge.models.reading import read_names, read_tensors
from dinoforge.models.weights import check_match, stop_if_not_finite
from dinoforge.models.writing import write_tensors

__all__ = ["is_pooled", "load_pooled", "released_heads", "save_pooled"]

T = TypeVar("T")

_FORMAT = "pooled-1"
_ANCHOR = "layer1.0.conv1.weight"
# A tensor that only this network has -> its name.
_KNOWN = {"layer4.0.conv1.weight": "resnet50", "layer3.3.conv2.bias": "wrn28_2"}
# What others keep beside a backbone: classifiers, and the heads of PAWS.
_BESIDE = ("fc.", "pred.")
_PROJECTION = "fc.fc1.weight"  # of PAWS, not a classifier


def save_pooled(
    path: Path, model: PooledNetwork, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write the tensors of a network with the names of its origin: torchvision, PAWS or timm.

    ``metadata`` (run, step, image size, ...) is added to ``format``, ``dinoforge``,
    ``architecture``, ``image_mean`` and ``image_std``, see `save_backbone`.
    """
    notes = {
        "format": "pt",
        "dinoforge": _FORMAT,
        "architecture": model.name,
        "image_mean": json.dumps(IMAGE_MEAN),
        "image_std": json.dumps(IMAGE_STD),
        **metadata,
    }
    write_tensors(path, model.stored(dict(tensors)), notes)


def is_pooled(path: Path) -> bool:
    """Return whether a file holds a pooled network; False if it cannot be read."""
    try:
        state = path.stat()
    except OSError:
        return False
    return _is_pooled(path, state.st_mtime_ns, state.st_size) if path.is_file() else False


@lru_cache(maxsize=256)  # files that are not safetensors are read whole
def _is_pooled(path: Path, _changed_ns: int, _size: int) -> bool:
    try:
        names, metadata = read_names(path)
        known, _, _ = _network_of(dict.fromkeys(names), str(path))
    except UsageError:
        return False
    return bool(known) or metadata.get("dinoforge") == _FORMAT


def load_pooled(path: Path) -> tuple[PooledNetwork, dict[str, str]]:
    """Read a network (float32, evaluation mode, CPU) and the metadata of its file.

    Raises
    ------
    UsageError
        If the file is unreadable, holds no pooled network, or its tensors do not match.
    """
    where = str(path)
    tensors, metadata = read_tensors(path)
    name = metadata["architecture"] if metadata.get("dinoforge") == _FORMAT else ""
    if not name:
        name, tensors, others = _network_of(tensors, where)
        log_left_out([] if _PROJECTION in others else list(others), where)
    if not name:
        do = "give a ResNet-50 or WRN-28-2 with the names of torchvision or PAWS"
        raise UsageError(what="no network known by its tensors", where=where, do=do)
    with torch.random.fork_rng(devices=[]):  # timm draws weights
        model = build_pooled(name, where)
    stored = model.stored(model.state_dict())
    # Counts of batches are younger than some files.
    counts = {n: tensor for n, tensor in stored.items() if n.endswith("num_batches_tracked")}
    tensors = counts | tensors
    check_match(stored, tensors, where)
    stop_if_not_finite(tensors, where)
    model.load_state_dict({f"{model.prefix}{n}": tensor for n, tensor in tensors.items()})
    return model.eval(), metadata


def released_heads(path: Path) -> dict[str, Tensor]:
    """Read the heads that PAWS saves with its backbone, with the names of `open_heads`."""
    _, _, others = _network_of(read_tensors(path)[0], str(path))
    if _PROJECTION not in others:
        return {}
    parts = {"fc": "projection", "pred": "prediction"}
    split = {name: name.partition(".") for name in others if name.startswith(_BESIDE)}
    return {f"{parts[head]}.{rest}": others[n] for n, (head, _, rest) in split.items()}


def _network_of(tensors: Mapping[str, T], where: str) -> tuple[str, dict[str, T], dict[str, T]]:
    """Return the name of the network among stored tensors, "" if none, its tensors and others."""
    plain = without_wrappers(tensors)
    prefix = backbone_prefix(plain, _ANCHOR, where)
    if prefix is None:
        return "", {}, {}
    own: dict[str, T] = {}
    others: dict[str, T] = {}
    for stored, tensor in plain.items():
        name = stored.removeprefix(prefix)
        is_own = stored.startswith(prefix) and not name.startswith(_BESIDE)
        (own if is_own else others)[name] = tensor
    return next((network for anchor, network in _KNOWN.items() if anchor in own), ""), own, others
