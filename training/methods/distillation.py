"""Distillation: a larger network that was trained before makes the targets, and stays as it is.

DINOv2 (Oquab et al. 2023, section 5): the losses of the method with a frozen teacher in place of
the moving average, no masks and no stochastic depth, iBOT on all patches of the global crops. The
moving average of the student is kept beside it, and is what is exported.
"""

from typing import Any

from torch import Tensor, nn

from dinoforge.training.heads import ProjectionHead
from dinoforge.training.methods.dino import Dino

__all__ = ["Distillation"]


class Distillation(Dino):
    """`Dino` with a frozen teacher.

    Parameters
    ----------
    frozen : nn.ModuleDict
        Backbone and heads of the frozen teacher; as many prototypes and patches as the student's.
    backbone, dino_head, ibot_head, **settings
        See `Dino`; ``teacher`` is the moving average.
    """

    def __init__(
        self,
        frozen: nn.ModuleDict,
        backbone: nn.Module,
        dino_head: ProjectionHead,
        ibot_head: ProjectionHead | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, dino_head, ibot_head, **settings)
        self.frozen = frozen.requires_grad_(requires_grad=False)

    @property
    def guide(self) -> nn.ModuleDict:
        """The frozen teacher."""
        return self.frozen

    @property
    def networks(self) -> list[nn.ModuleDict]:
        """Student, frozen teacher, moving average."""
        return [self.student, self.frozen, self.teacher]

    def saved(self) -> dict[str, Tensor]:
        """Leave out the frozen teacher, which is read from its own checkpoint."""
        tensors = super().saved()
        return {n: tensor for n, tensor in tensors.items() if not n.startswith("frozen.")}

    def train(self, mode: bool = True) -> "Distillation":
        """Switch the student; the frozen teacher stays in evaluation mode throughout."""
        super().train(mode)
        self.frozen.eval()
        return self
