"""What a step updates: gradients clipped per network, and the teacher, an EMA of the student."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinoforge.training.distributed.ranks import local_part

__all__ = ["clip_gradients", "update_teacher"]


@torch.no_grad()
def clip_gradients(
    networks: Mapping[str, nn.Module],
    max_norm: float,
    shard_group: dist.ProcessGroup | None = None,
) -> dict[str, Tensor]:
    """Scale each sub-network's gradient to a norm of at most ``max_norm``, in place.

    Parameters
    ----------
    networks : mapping
        Name -> module; each is clipped by its own norm, as published.
    max_norm : float
        0 clips nothing and only measures.
    shard_group : ProcessGroup, optional
        Ranks that hold the gradients together (all of them must call this); None: each rank
        holds them whole.

    Returns
    -------
    dict
        Name -> norm before clipping, a scalar tensor; not finite if any gradient is not.
    """
    norms: dict[str, Tensor] = {}
    for name, network in networks.items():
        gradients = [local_part(p.grad) for p in network.parameters() if p.grad is not None]
        if not gradients:
            continue
        each = torch._foreach_norm(gradients)  # noqa: SLF001 - one kernel for all
        norm = torch.linalg.vector_norm(torch.stack(each))
        if shard_group is not None:
            norm = norm.square()
            dist.all_reduce(norm, group=shard_group)
            norm = norm.sqrt()
        norms[name] = norm
        if max_norm > 0:
            scale = (max_norm / (norms[name] + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale)
    return norms


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
