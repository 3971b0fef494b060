"""The losses and the ways to balance the teacher, one module each."""

from dinoforge.training.losses.centering import Center
from dinoforge.training.losses.cross_entropy import dino_loss, ibot_loss
from dinoforge.training.losses.koleo import koleo_loss
from dinoforge.training.losses.sinkhorn import sinkhorn_knopp

__all__ = ["Center", "dino_loss", "ibot_loss", "koleo_loss", "sinkhorn_knopp"]
