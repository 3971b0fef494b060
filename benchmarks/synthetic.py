"""A training step on crops of noise: what `training.loop` does in one, without data."""

from typing import Any

__all__ = ["Step", "count_flops", "noise"]


class Step:
    """What `training.loop.Trainer.run_step` does, with crops that are given."""

    def __init__(self, config: Any, method: Any, optimizer: Any, device: str = "cpu") -> None:
        from training.build import Schedules

        self.config, self.method, self.optimizer = config, method, optimizer
        self.device = device
        self.schedules = Schedules.of(config)

    def __call__(self, number: int, global_crops: Any, local_crops: Any) -> Any:
        """Do one update; returns the losses."""
        from training.clipping import clip_gradients
        from training.ema import update_teacher
        from training.guards import check_finite

        hyper = self.schedules.apply(self.optimizer, number)
        losses = self.forward(
            number, global_crops, local_crops, hyper["schedule/teacher_temperature"]
        )
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        norms = clip_gradients(dict(self.method.student.items()), self.config.optimizer.clip)
        check_finite(number, [losses], norms, [])
        self.optimizer.step()
        update_teacher(self.method.teacher, self.method.student, hyper["schedule/momentum"])
        return losses

    def forward(self, number: int, global_crops: Any, local_crops: Any, temperature: float) -> Any:
        """Compute the losses, with the masks and subsets that a training would draw."""
        import numpy as np
        import torch

        from training.data import Batch
        from training.precision import autocast
        from training.ranks import Seat
        from training.views import StepViews

        device = torch.device(self.device)
        images = np.arange(self.config.batch_size)
        batch = Batch(number, global_crops, local_crops, images, table=None)
        ((views, rows),) = StepViews(self.config, Seat(), device)(batch)
        with autocast(self.config, device):
            (targets,) = self.method.targets([views], temperature)
            return self.method(views, targets, rows)


def noise(config: Any, device: str) -> tuple[Any, Any]:
    """Draw crops of noise: those of all images, global and local."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    crops = config.crops
    batches = ((2, crops.global_size), (crops.num_local, crops.local_size))
    whole, local = (
        torch.randn(count * config.batch_size, 3, side, side, generator=generator, device=device)
        for count, side in batches
    )
    return whole, local


def count_flops(step: Step, global_crops: Any, local_crops: Any) -> float:
    """Count the floating-point operations of one step, a multiply-add as two; it is used up by it.

    What is executed once: samples that stochastic depth skips do not count, nor does what flash
    attention or activation checkpointing computes again. Attention is run by `plain`, as products:
    torch has no formula for every kernel of attention, none for those of CPUs. Optimizer and
    teacher update have no products.
    """
    from torch.utils.flop_counter import FlopCounterMode

    for networks in (step.method.student, step.method.teacher):
        networks["backbone"].set_attention("plain")
    counter = FlopCounterMode(display=False)
    with counter:
        step.forward(0, global_crops, local_crops, 0.07).total.backward()
    return float(counter.get_total_flops())
