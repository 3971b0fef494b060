"""A trained dense head on one picture: a class or a depth per patch, for the demo."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dinoforge.demo.network import Network
from dinoforge.demo.server.heads import DenseMap, Head
from dinoforge.encoders.backbone import weights_hash
from dinoforge.encoders.checkpoint import CheckpointEncoder
from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.dense.depth_head import predict_depth
from dinoforge.evaluation.methods.dense.head_files import HeadNotes, apply_head, load_head

__all__ = ["open_picture_head"]


def open_picture_head(path: Path, network: Network) -> Head:
    """Open a head that `dinoforge evaluate` has kept, for the network that it was trained on.

    Raises
    ------
    UsageError
        If it is no head, or belongs to another network.
    """
    encoder = network.encoder
    if not isinstance(encoder, CheckpointEncoder):
        do = "leave out --head, or open the demo with a ViT"
        raise UsageError(what="a network without patches has no head", where=str(path), do=do)
    backbone, architecture = weights_hash(encoder.path), encoder.model.config.name
    head, notes = load_head(path, backbone=backbone, architecture=architecture)
    logits_of: Callable[[torch.Tensor], torch.Tensor] = apply_head(encoder.model, head, notes)

    def see(pixels: NDArray[np.uint8], size: int) -> DenseMap:
        logits_1KXY = logits_of(encoder.normalized(network.fit(pixels, size)))
        if notes.bins is None:
            return DenseMap(logits_1KXY[0].argmax(dim=0).numpy(), notes.classes)
        depths = predict_depth(logits_1KXY, notes.bins, logits_1KXY.shape[-2:])
        return DenseMap(depths[0], unit="m")

    return Head(_name(path, notes), see)


def _name(path: Path, notes: HeadNotes) -> str:
    """Name a head by its task, its data and the end of the name of its file."""
    name = path.stem.rpartition("head-")[2]  # part-00000.head-NAME.safetensors
    data = notes.protocol.get("data")
    task = "segmentation" if notes.bins is None else "depth"
    return f"{task} {data} {name}" if data else name
