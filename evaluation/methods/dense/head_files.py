"""Trained dense heads on disk: safetensors with all that applying them takes.

The backbone is not in the file: its hash is, and a head is only loaded for that backbone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.dense.depth_head import DepthBins
from dinoforge.evaluation.methods.dense.linear_head import LinearHead
from dinoforge.evaluation.methods.dense.sliding import LogitsOf
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD
from dinoforge.models.reading import read_tensors
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.writing import write_tensors

__all__ = ["HeadNotes", "apply_head", "load_head", "save_head"]

FORMAT = "dense-head-1"


@dataclass(frozen=True, kw_only=True)
class HeadNotes:
    """What a head was trained on and sees; ``bins`` for depth, ``classes`` for segmentation."""

    backbone: str  # SHA-256 of the weights file, or the fingerprint of another encoder
    architecture: str  # of the backbone, e.g. vit_small_patch14
    positions: str = ""  # how the backbone resampled its positions, see `VitConfig`
    blocks: tuple[int, ...]  # whose patch tokens are concatenated
    final_norm: bool = True  # the backbone's last LayerNorm on each of them
    class_token: bool = False  # repeated beside every patch
    input_size: tuple[int, int]  # height and width of the training images, pixels
    image_mean: tuple[float, ...] = IMAGE_MEAN  # of RGB in [0, 1]
    image_std: tuple[float, ...] = IMAGE_STD
    classes: tuple[str, ...] = ()
    bins: DepthBins | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)  # data, steps, rate, ...; JSON values


def save_head(path: Path, head: LinearHead, notes: HeadNotes) -> None:
    """Write a head atomically; equal heads and notes give equal bytes.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    assert len(notes.classes) == len(head.bias) or notes.bins is not None, "one name per class"
    metadata = {
        "dinoforge": FORMAT,
        "format": "pt",
        "task": "segmentation" if notes.bins is None else "depth",
        "backbone": notes.backbone,
        "architecture": notes.architecture,
        "notes": json.dumps(asdict(notes), sort_keys=True),
    }
    write_tensors(path, head.state_dict(), metadata)


def load_head(path: Path, *, backbone: str, architecture: str = "") -> tuple[LinearHead, HeadNotes]:
    """Read a head for a backbone, in evaluation mode.

    ``backbone`` is the hash that `HeadNotes` has, ``architecture`` a name for the message.

    Raises
    ------
    UsageError
        If the file is unreadable, is no head, or belongs to another backbone.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("dinoforge") != FORMAT:
        raise UsageError(
            what="not a dense head of this version of dinoforge",
            where=str(path),
            do="give a head that `dinoforge evaluate` wrote, or train it again",
        )
    notes = _notes(json.loads(metadata["notes"]))
    if notes.backbone != backbone:
        named = f"{architecture} " if architecture else ""
        raise UsageError(
            what=f"the head was trained on {notes.architecture} {notes.backbone[:12]}, "
            f"not on {named}{backbone[:12]}",
            where=str(path),
            do="give that backbone, or train a head for this one",
        )
    outputs, dim = tensors["weight"].shape
    with torch.device("meta"):
        head = LinearHead(dim, outputs, batch_norm="norm_weight" in tensors)
    head.load_state_dict(tensors, assign=True)
    return head.eval().requires_grad_(False), notes


def apply_head(model: VisionTransformer, head: LinearHead, notes: HeadNotes) -> LogitsOf:
    """Return the function from normalized images ``[B, 3, H, W]`` to logits ``[B, K, X, Y]``.

    H and W are multiples of the patch size; see `padded` for other sizes.
    """

    @torch.no_grad()
    def logits_of(images_B3HW: torch.Tensor) -> torch.Tensor:
        outputs = model.get_intermediate_layers(
            images_B3HW, notes.blocks, norm=notes.final_norm, reshape=True
        )
        parts = []
        for patches_BDXY, cls_BD in outputs:
            parts.append(patches_BDXY)
            if notes.class_token:
                parts.append(cls_BD[..., None, None].expand_as(patches_BDXY))
        return head(torch.cat(parts, dim=1).permute(0, 2, 3, 1))

    return logits_of


def _notes(stored: dict[str, Any]) -> HeadNotes:
    """Make notes of JSON, in which tuples are lists."""
    known = {each.name for each in fields(HeadNotes)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
        if name in known
    }
    if values["bins"] is not None:
        values["bins"] = DepthBins(**values["bins"])
    return HeadNotes(**values)
