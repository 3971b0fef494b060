"""Pooled networks by the names that recipes and files give them."""

import re

from dinoforge.errors import UsageError
from dinoforge.models.pooled.network import PooledNetwork
from dinoforge.models.pooled.resnet import ResNet50
from dinoforge.models.pooled.timm_network import TimmNetwork
from dinoforge.models.pooled.wide_resnet import WideResNet

__all__ = ["build_pooled"]

_WIDE_RESNET = re.compile(r"wrn(10|16|22|28|34|40)_([1-9]\d?)")  # depth, width factor


def build_pooled(name: str, where: str = "model.architecture") -> PooledNetwork:
    """Build ``resnet50``, ``wrn28_2`` and its like, or ``timm:NAME``.

    Its weights are meaningless until drawn.

    Raises
    ------
    UsageError
        If there is no such network; ``where`` is what names it.
    """
    if name.startswith("timm:"):
        return TimmNetwork(name.removeprefix("timm:"))
    if name == ResNet50.name:
        return ResNet50()
    if wide := _WIDE_RESNET.fullmatch(name):
        return WideResNet(int(wide[1]), int(wide[2]))
    do = "give resnet50, wrn28_2 (depth 10, 16, 22, 28, 34 or 40) or timm:NAME"
    raise UsageError(what=f"unknown network `{name}`", where=where, do=do)
