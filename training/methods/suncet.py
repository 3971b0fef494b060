"""SuNCEt: labeled images are classified by each other, alongside a contrastive loss on all images.

Assran et al. 2020, "Supervision accelerates pre-training in contrastive semi-supervised learning of
visual representations". Networks, labeled images and micro-batches are those of PAWS.
Shapes: U images, S labeled views, D width, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from dinoforge.exchange import sum_with_gradient
from dinoforge.training.distributed.ranks import world_size
from dinoforge.training.losses.contrastive import contrastive_loss
from dinoforge.training.methods.method import Losses, Method, Views
from dinoforge.training.methods.paws import Embedded, Paws

__all__ = ["Suncet"]


class Suncet(Paws):
    """Global views and labeled images; with ``settings.contrastive`` 0 labeled images alone."""

    def _embed(self, views: Views) -> Embedded:
        seen = len(views.global_crops) if self.settings.contrastive else 0
        return super()._embed(
            replace(
                views, global_crops=views.global_crops[:seen], local_crops=views.local_crops[:0]
            )
        )

    def _losses(self, parts: Sequence[Embedded]) -> Losses:
        supervised = self._labels_by_each_other(parts)
        pairs = [part.z_views.chunk(2) for part in parts]
        z_MD = torch.cat([*(pair[0] for pair in pairs), *(pair[-1] for pair in pairs)])
        temperature = self.settings.temperature
        contrastive = contrastive_loss(z_MD, temperature) if len(z_MD) else z_MD.sum()
        with torch.no_grad():
            own_SD = torch.cat([part.z_support for part in parts])
            unit_SD = nn.functional.normalize(own_SD.to(supervised.dtype), dim=-1)
            mean_D = sum_with_gradient(unit_SD.mean(dim=0)) / world_size()
            std = (1 - mean_D.square().sum()).clamp(min=0).sqrt()
        values = {"supervised": supervised, "contrastive": contrastive, "spread": std}
        return Losses(supervised + self.settings.contrastive * contrastive, values)

    def metrics(self, losses: Sequence[Losses], targets: Sequence[object]) -> dict[str, float]:
        """Return loss terms (nats) and ``features/std``, that of labeled images; see `Paws`."""
        row = Method.metrics(self, losses, targets)
        row["features/std"] = row.pop("loss/spread")
        return row

    def diagnose(self, row: Mapping[str, float]) -> str:
        """Describe what is wrong with a run, "" if nothing."""
        collapsed = row["features/std"] < 0.2
        return "embeddings collapse: all labeled images have almost the same one" * collapsed
