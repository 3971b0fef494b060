"""Networks of timm (extra `timm`) by their names, without weights and without a classifier.

Shapes: B images, D width, X and Y pixels.
"""

import difflib
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinoforge.errors import UsageError, first_line
from dinoforge.models.batch_norm import BatchNorm1d, BatchNorm2d
from dinoforge.models.init import assign
from dinoforge.models.pooled.network import PooledNetwork
from dinoforge.packages import import_extra

__all__ = ["TimmNetwork", "check_sides", "create_timm"]

_NOTE = ", with a torchvision built for the installed torch"


class TimmNetwork(PooledNetwork):
    """What a network of timm pools: the mean of its features, or its class token.

    Batch normalization takes its statistics over all ranks. Dropout and stochastic depth are off,
    timm's defaults: their draws would depend on the number of ranks.

    Parameters
    ----------
    name : str
        As in ``timm.list_models()``.

    Raises
    ------
    UsageError
        If timm or the network is missing, or its normalization cannot be shared by ranks.
    """

    prefix = "network."

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = f"timm:{name}"
        self.network = self._create()
        self.width = int(getattr(self.network, "head_hidden_size", self.network.num_features))
        for module in self.network.modules():
            _share_statistics(module, self.name)

    def forward(self, images_B3XY: Tensor) -> Tensor:
        """Return what timm gives without a classifier, ``[B, D]``."""
        pooled_BD: Tensor = self.network(images_B3XY)
        return pooled_BD

    def init_weights(self, seed: int) -> None:
        """Draw the weights by timm's own rules, from `seed` alone, in place."""
        # timm draws from the global generator, and fills tables that are no parameters.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            drawn = self._create()
        for own, other in (
            (self.network.parameters(), drawn.parameters()),
            (self.network.buffers(), drawn.buffers()),
        ):
            for tensor, values in zip(own, other, strict=True):
                assign(tensor, values)

    def _create(self) -> Any:
        name = self.name.removeprefix("timm:")
        try:  # by default ViTs of timm take images of one size
            return create_timm(name, self.name, dynamic_img_size=True)
        except TypeError:
            return create_timm(name, self.name)


def check_sides(network: TimmNetwork, sides: Mapping[str, int]) -> None:
    """Raise a `UsageError` if a network fails on images of one of the sides, in pixels.

    ``sides`` are named by their recipe keys.
    """
    for key, side in sides.items():
        if reason := _failure(network.name, side):
            own = network.network.pretrained_cfg["input_size"][-1]
            what = f"{network.name} fails on images of {side} x {side}: {reason}"
            do = f"give {key}={own}, the size of its images, or another network"
            raise UsageError(what=what, where=f"`{key}`", do=do)


@lru_cache(maxsize=64)  # every export builds the network again
def _failure(name: str, side: int) -> str:
    """Return why a network fails on images of a side, "" if it does not."""
    reason = ""
    for device in ("meta", "cpu"):  # a network may need values that meta lacks
        with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
            network = TimmNetwork(name.removeprefix("timm:")).eval()
            try:
                network(torch.zeros(1, 3, side, side))
            except Exception as error:  # noqa: BLE001 - each network has its own
                reason = first_line(error)
            else:
                return ""
    return reason


def create_timm(name: str, where: str, *, is_folder: bool = False, **options: Any) -> Any:
    """Build a model of timm, or that of a folder written by it, without a classifier.

    Raises
    ------
    UsageError
        If timm is missing, or has no such model; ``where`` is what names it.
    TypeError
        If the model does not take the ``options``.
    """
    timm = import_extra("timm", extra="timm", where=where, note=_NOTE)
    try:
        # Of `hf-hub:...` timm would download the settings.
        if is_folder or (":" not in name and timm.is_model(name)):
            full_name = f"local-dir:{name}" if is_folder else name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that timm has replaced
                return timm.create_model(full_name, pretrained=False, num_classes=0, **options)
        reason = ""
    except (RuntimeError, ValueError, TypeError) as error:  # a tag, or an argument of a folder
        if isinstance(error, TypeError) and options:
            raise
        reason = f": {first_line(error)}"
    near = difflib.get_close_matches(name, timm.list_models(), n=1)
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    what = f"timm has no model `{name}`{hint}{reason}"
    raise UsageError(what=what, where=where, do="choose from timm.list_models()")


class _ActivatedBatchNorm2d(BatchNorm2d):
    """timm's normalization with an activation in it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated


def _share_statistics(module: nn.Module, where: str) -> None:
    """Turn a layer of batch normalization into that of `batch_norm`, in place; tensors stay."""
    if not isinstance(module, _BatchNorm):
        return
    kind = type(module).__name__
    shared: dict[str, type[_BatchNorm]] = {
        "BatchNorm1d": BatchNorm1d,
        "BatchNorm2d": BatchNorm2d,
        "BatchNormAct2d": _ActivatedBatchNorm2d,
    }
    if kind not in shared:
        what = f"its normalization {kind} cannot take statistics over several ranks"
        raise UsageError(what=what, where=where, do="choose another network of timm")
    module.__class__ = shared[kind]
