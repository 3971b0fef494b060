"""MLPs after one vector per image: the projection and prediction of PAWS, and their file.

An export has them in ``heads.safetensors`` beside the backbone, a released checkpoint in the same
file: its embeddings are what PAWS compares.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dinoforge.models.batch_norm import BatchNorm1d
from dinoforge.models.pooled.files import is_pooled, released_heads
from dinoforge.models.reading import read_tensors
from dinoforge.models.weights import check_match
from dinoforge.models.writing import write_tensors

__all__ = ["heads_file", "open_heads", "prediction_layers", "projection_layers", "save_heads"]

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def projection_layers(
    width: int, hidden: int, out: int, *, normalized: bool, activation: str = "relu"
) -> nn.Sequential:
    """Three linear layers after the backbone, with the tensor names of the released PAWS.

    Between them batch normalization, if ``normalized``, and ``relu``, as published, or ``gelu``,
    for ViTs.
    """
    layers: dict[str, nn.Module] = {}
    for number, size in enumerate((width, hidden), start=1):
        layers[f"fc{number}"] = nn.Linear(size, hidden)
        if normalized:
            layers[f"bn{number}"] = BatchNorm1d(hidden)
        layers[f"relu{number}"] = _ACTIVATIONS[activation]()
    layers["fc3"] = nn.Linear(hidden, out)
    return nn.Sequential(OrderedDict(layers))


def prediction_layers(width: int, *, normalized: bool, activation: str = "relu") -> nn.Sequential:
    """Two linear layers after the projection, with ``relu`` a bottleneck of a quarter."""
    hidden = width // 4 if activation == "relu" else width
    layers: dict[str, nn.Module] = {"bn1": BatchNorm1d(width)} if normalized else {}
    layers["fc1"] = nn.Linear(width, hidden)
    if normalized:
        layers["bn2"] = BatchNorm1d(hidden)
    layers["relu"] = _ACTIVATIONS[activation]()
    layers["fc2"] = nn.Linear(hidden, width)
    return nn.Sequential(OrderedDict(layers))


def heads_file(backbone: Path) -> Path:
    """Path of the heads that an export has beside its backbone, if it has any."""
    return backbone.with_name("heads.safetensors")


def save_heads(backbone: Path, tensors: Mapping[str, Tensor], activation: str) -> None:
    """Write heads beside a backbone; names are ``projection.NAME`` and ``prediction.NAME``."""
    write_tensors(heads_file(backbone), tensors, {"format": "pt", "activation": activation})


def open_heads(backbone: Path) -> nn.ModuleDict:
    """Open the heads of a backbone, in evaluation mode and their order; empty without any.

    They are beside it, or in its file if it is a checkpoint of PAWS.

    Raises a `UsageError` if the file is damaged.
    """
    heads, path = nn.ModuleDict(), heads_file(backbone)
    if path.is_file():
        tensors, notes = read_tensors(path)
    else:
        path, notes = backbone, {}
        tensors = released_heads(backbone) if is_pooled(backbone) else {}
    first = tensors.get("projection.fc1.weight")
    if first is None:  # none, or a classifier
        return heads
    hidden, width = first.shape
    out = len(tensors.get("projection.fc3.weight", first))
    normalized = "projection.bn1.weight" in tensors
    activation = notes.get("activation", "relu" if normalized else "gelu")
    with torch.device("meta"):
        heads["projection"] = projection_layers(
            width, hidden, out, normalized=normalized, activation=activation
        )
        if "prediction.fc1.weight" in tensors:
            heads["prediction"] = prediction_layers(
                out, normalized=normalized, activation=activation
            )
    check_match(heads.state_dict(), tensors, str(path))
    heads.load_state_dict(tensors, assign=True)
    return heads.eval()
