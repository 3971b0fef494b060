"""Linear heads of others: those that ``eval_linear.py`` of DINO (2021) trains and releases."""

from pathlib import Path

import torch

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.linear_grid import Head, Probe, Slots
from dinoforge.models.conversion import without_wrappers
from dinoforge.models.reading import read_tensors

__all__ = ["read_dino_head"]


def read_dino_head(
    path: Path, slots: Slots, *, blocks: int, average_patches: bool, num_classes: int
) -> Probe:
    """Read ``linear.weight`` and ``linear.bias``, also from a checkpoint with prefixes.

    The script puts each feature of the class token before the same one of the patch mean; a `Probe`
    reads all of the token, then all of the mean.

    Raises
    ------
    UsageError
        If the file has no such head, or one of other classes or features.
    """
    tensors = without_wrappers(read_tensors(path)[0])
    weight, bias = (tensors.get(f"linear.{name}") for name in ("weight", "bias"))
    if weight is None or bias is None:
        do = "give a file that eval_linear.py of DINO wrote"
        raise UsageError(what="no linear.weight or linear.bias", where=str(path), do=do)
    head = Head(0.0, blocks, average_patches)
    columns = slots.columns(head)
    wanted = [num_classes, columns.stop - columns.start]
    if list(weight.shape) != wanted:
        raise UsageError(
            what=f"the head is {list(weight.shape)}, these classes and features need {wanted}",
            where=str(path),
            do="give `blocks` and `average_patches` of the head, and images of its classes",
        )
    if average_patches:
        weight = torch.cat([weight[:, ::2], weight[:, 1::2]], dim=1)
    return Probe(head, slots, weight.float(), bias.float())
