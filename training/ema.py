"""The teacher: an exponential moving average of the student, all parameters of it."""

import torch
from torch import Tensor, nn

from dinoforge.training.ranks import local_part

__all__ = ["update_teacher"]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher = momentum * teacher + (1 - momentum) * student, in place.

    Parameters
    ----------
    teacher, student : nn.Module
        Equal names, shapes and shards; the teacher's parameters are float32 (1 - momentum
        reaches 1e-5, which half precision cannot add).
    momentum : float
        Computed in double precision by the caller.
    """
    ours, theirs = dict(teacher.named_parameters()), dict(student.named_parameters())
    assert list(ours) == list(theirs), "teacher and student have parameters of other names"
    into: list[Tensor] = [local_part(tensor) for tensor in ours.values()]
    source: list[Tensor] = [local_part(tensor) for tensor in theirs.values()]
    assert [t.shape for t in into] == [t.shape for t in source], "shards differ"
    torch._foreach_mul_(into, momentum)
    torch._foreach_add_(into, source, alpha=1 - momentum)
