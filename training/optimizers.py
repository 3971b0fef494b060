"""SGD and LARS, in the two forms that were published; AdamW is torch's."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from dinoforge.training.distributed.ranks import local_part
from dinoforge.training.updates import tensor_norms

__all__ = ["Sgd"]

_EPS = 1e-8  # added to the norm of gradients, as published


class Sgd(Optimizer):
    """SGD with momentum; LARS (You et al. 2017) where groups have a trust coefficient.

    Parameters
    ----------
    groups : iterable of dict
        Parameter groups with ``lr``, ``weight_decay`` and ``trust``: LARS scales what a tensor is
        moved by to this share of its own norm; 0: it does not.
    momentum : float
        Share of the old buffer that is kept.
    buffer : str
        ``gradients``: the sum of gradients, times the present ``lr`` (torch, DINO v1).
        ``steps``: the sum of steps, each with the ``lr`` of its time (PAWS). They differ while
        ``lr`` changes. LARS divides by ``|gradient + decay|`` in the first, and by ``|gradient| +
        |decay|`` in the second.
    shard_group : ProcessGroup, optional
        Ranks that hold one copy of the weights together, all of which must call `step`.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        momentum: float = 0.9,
        buffer: Literal["gradients", "steps"] = "gradients",
        shard_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "trust": 0.0})
        self._momentum, self._of_steps = momentum, buffer == "steps"
        self._shard_group = shard_group

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if not trained:
                continue
            for parameter in trained:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            weights: list[Tensor] = [local_part(p) for p in trained]
            gradients: list[Tensor] = [local_part(p.grad) for p in trained]
            buffers = [local_part(self.state[p]["momentum_buffer"]) for p in trained]
            moves = [g + group["weight_decay"] * w for g, w in zip(gradients, weights, strict=True)]
            if group["trust"]:
                torch._foreach_mul_(moves, self._factors(weights, gradients, moves, group))
            inside, outside = (group["lr"], 1.0) if self._of_steps else (1.0, group["lr"])
            torch._foreach_mul_(buffers, self._momentum)
            torch._foreach_add_(buffers, moves, alpha=inside)
            torch._foreach_sub_(weights, buffers, alpha=outside)

    def _factors(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moves: Sequence[Tensor],
        group: dict[str, Any],
    ) -> list[Tensor]:
        """Return what each move is multiplied by: 1 for a weight of 0, 0 without a gradient."""
        norms_P = tensor_norms(weights, self._shard_group)
        if self._of_steps:
            moved_P = tensor_norms(gradients, self._shard_group)
            divisor_P = moved_P + group["weight_decay"] * norms_P + _EPS
        else:
            divisor_P = moved_P = tensor_norms(moves, self._shard_group)
        factors_P = group["trust"] * norms_P / divisor_P
        factors_P = factors_P.where(moved_P > 0, 0.0).where(norms_P > 0, 1.0)
        return list(factors_P.unbind())
