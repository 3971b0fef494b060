"""The losses and the ways to balance the teacher, one module each."""

from training.losses.centering import Center
from training.losses.cross_entropy import dino_loss, ibot_loss
from training.losses.koleo import koleo_loss
from training.losses.sinkhorn import sinkhorn_knopp

__all__ = ["Center", "dino_loss", "ibot_loss", "koleo_loss", "sinkhorn_knopp"]
