"""Values that change over the run: learning rate, weight decay, EMA momentum, temperature.

Each is a function of the step (0-based): nothing is accumulated, so a resume needs no state.
"""

import math
from dataclasses import dataclass, replace

from torch.optim import Optimizer

from dinoforge.training.config import TrainingConfig

__all__ = ["Cosine", "apply_schedules", "scaled_lr", "scheduled_values"]


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then a cosine from ``base`` to ``final`` (Loshchilov and Hutter 2017).

    The warm-up includes both ends, as published for DINO: steps ``warmup - 1`` and ``warmup`` both
    give ``base``. The last step does not quite reach ``final``; every later step gives it.
    """

    base: float
    final: float
    total: int  # steps
    warmup: int = 0  # steps, of the total
    start: float = 0.0  # at step 0 if there is a warm-up
    frozen: int = 0  # the value is 0 for this many steps
    hold: int = 1  # steps for which a value is held during the warm-up
    # the warm-up ends with `base` at its last step, as in DINO; False: one step later, as in PAWS
    inclusive: bool = True

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step < self.frozen:
            return 0.0
        if step >= self.total:
            return self.final
        if step < self.warmup:
            last = -(-self.warmup // self.hold) - self.inclusive
            share = step // self.hold / last if last > 0 else 0.0
            return self.start + (self.base - self.start) * share
        angle = math.pi * (step - self.warmup) / (self.total - self.warmup)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(angle))


def scaled_lr(base_lr: float, global_batch: int, rule: str = "sqrt_1024") -> float:
    """Return the learning rate of a global batch.

    ``sqrt_1024``: ``base_lr * sqrt(batch / 1024)`` (DINOv2). ``linear_256``: ``base_lr * batch /
    256`` (DINO v1, Goyal et al. 2017). ``none``: as given. DINOv3's rule has
    another factor 4: its 1e-3 is DINOv2's 4e-3.
    """
    scales: dict[str, float] = {
        "sqrt_1024": math.sqrt(global_batch / 1024),
        "linear_256": global_batch / 256,
        "none": 1.0,
    }
    return base_lr * scales[rule]


def scheduled_values(config: TrainingConfig, step: int) -> dict[str, float]:
    """Return all values of a step, named as metrics."""
    optimizer, teacher, total = config.optimizer, config.teacher, config.steps
    base = scaled_lr(optimizer.lr, config.batch_size, optimizer.lr_rule)
    start = scaled_lr(optimizer.lr_start, config.batch_size, optimizer.lr_rule)
    inclusive = not config.has_support
    lr = Cosine(*(base, optimizer.lr_end, total, config.warmup), start=start, inclusive=inclusive)
    warmup, target = config.temperature_warmup, teacher.temperature
    frozen = config.freeze_last_layer if optimizer.freeze_by == "rate" else 0
    schedules = {
        "lr": lr,
        "last_layer_lr": replace(lr, frozen=frozen),
        "weight_decay": Cosine(optimizer.weight_decay_start, optimizer.weight_decay_end, total),
        "momentum": Cosine(teacher.momentum_start, teacher.momentum_end, total),
        # Constant after its warm-up.
        "teacher_temperature": Cosine(
            *(target, target, total, warmup),
            start=teacher.temperature_start,
            hold=teacher.temperature_hold,
        ),
    }
    return {f"schedule/{name}": schedule(step) for name, schedule in schedules.items()}


def apply_schedules(config: TrainingConfig, optimizer: Optimizer, step: int) -> dict[str, float]:
    """Set the optimizer's values for a step; returns `scheduled_values`."""
    values = scheduled_values(config, step)
    for group in optimizer.param_groups:
        lr = values["schedule/last_layer_lr" if group["is_last_layer"] else "schedule/lr"]
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = values["schedule/weight_decay"] * group["weight_decay_multiplier"]
    return values
