"""Values that change over the run: learning rate, weight decay, EMA momentum, temperature.

Each is a function of the step (0-based): nothing is accumulated, so a resume needs no state.
"""

import math
from dataclasses import dataclass

__all__ = ["Cosine", "Linear", "scaled_lr"]


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then a cosine from ``base`` to ``final`` (Loshchilov and Hutter 2017).

    The warm-up includes both ends, as published: steps ``warmup - 1`` and ``warmup`` both give
    ``base``. The last step does not quite reach ``final``; every later step gives it.

    Parameters
    ----------
    base, final : float
        Value after the warm-up and at the end.
    total, warmup : int
        Number of steps, and how many of them are warm-up.
    start : float
        Value at step 0 if there is a warm-up.
    frozen : int
        The value is 0 for the first ``frozen`` steps.
    """

    base: float
    final: float
    total: int
    warmup: int = 0
    start: float = 0.0
    frozen: int = 0

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step < self.frozen:
            return 0.0
        if step >= self.total:
            return self.final
        if step < self.warmup:
            share = step / (self.warmup - 1) if self.warmup > 1 else 0.0
            return self.start + (self.base - self.start) * share
        angle = math.pi * (step - self.warmup) / (self.total - self.warmup)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(angle))


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` over ``warmup`` steps, both included, then constant."""

    start: float
    end: float
    warmup: int

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step >= self.warmup:
            return self.end
        share = step / (self.warmup - 1) if self.warmup > 1 else 0.0
        return self.start + (self.end - self.start) * share


def scaled_lr(base_lr: float, global_batch: int, rule: str = "sqrt_1024") -> float:
    """Return the learning rate of a global batch.

    ``sqrt_1024``: ``base_lr * sqrt(batch / 1024)`` (DINOv2). ``none``: as given. DINOv3's rule has
    another factor 4: its 1e-3 is DINOv2's 4e-3.
    """
    scales: dict[str, float] = {"sqrt_1024": math.sqrt(global_batch / 1024), "none": 1.0}
    return base_lr * scales[rule]
