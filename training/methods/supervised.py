"""A classifier of the labeled images, trained with the backbone: the fine-tuning of PAWS.

From weights of PAWS (`start.weights`) it is the fine-tuning of Assran et al. 2021, section 4;
without any, what training on the few labels alone gives. No unlabeled images, no teacher.
Shapes: S labeled views, C classes.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dinoforge.models.init import assign
from dinoforge.training.methods.method import Backbone, Losses, Method, Views
from dinoforge.training.precision import at_least_float32

__all__ = ["Supervised"]


class Supervised(Method):
    """Backbone and one linear layer, which starts at zero; cross-entropy."""

    def __init__(self, backbone: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = name != "mask_token"
        linear = nn.Linear(width, num_classes)
        self.student = nn.ModuleDict({"backbone": backbone, "linear": linear})
        self.teacher = nn.ModuleDict()

    def zero_classifier(self) -> None:
        """Set weights and bias of the classifier to zero, as published."""
        for parameter in self.student["linear"].parameters():
            assign(parameter, torch.zeros(parameter.shape))

    @property
    def exported_heads(self) -> nn.ModuleDict:
        """The classifier: ``linear.weight`` and ``linear.bias``, as DINO (2021) names them."""
        return nn.ModuleDict({"linear": self.student["linear"]})

    def targets(self, parts: Sequence[Views], temperature: float) -> list[None]:  # noqa: ARG002 - labels are in the views
        """Return nothing: images have labels."""
        return [None] * len(parts)

    def forward(self, views: Views, targets: None) -> Losses:  # noqa: ARG002
        """Compute the loss of the labeled images of a micro-batch."""
        assert views.support is not None
        assert views.support_classes is not None
        backbone = cast("Backbone", self.student["backbone"])
        (outputs,) = backbone.forward_features_list([views.support], [None])
        scores_SC: Tensor = self.student["linear"](outputs["x_norm_clstoken"])
        loss = nn.functional.cross_entropy(at_least_float32(scores_SC), views.support_classes)
        right = (scores_SC.detach().argmax(dim=1) == views.support_classes).to(loss.dtype).mean()
        return Losses(loss, {"right": right})

    def metrics(self, losses: Sequence[Losses], targets: Sequence[object]) -> dict[str, float]:
        """Return the loss (nats), and the share of labeled images that were named right."""
        row = super().metrics(losses, targets)
        row["predictions/accuracy"] = row.pop("loss/right")
        return row
