"""Signs of collapse in the features of the test images, without labels."""

import logging

import numpy as np

from dinoforge.evaluation.collapse import signs_of_collapse
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.stages.protocol import VectorStage
from dinoforge.evaluation.tables import Items
from dinoforge.randomness import KeyedPermutation

__all__ = ["CollapseStage"]

_log = logging.getLogger(__name__)


class CollapseStage(VectorStage):
    """Signs of collapse of networks, on the test images or a keyed choice of them."""

    name = "collapse"
    number = 39
    keys = ("collapse", "seed", "device")

    def suits(self, model: Model, items: Items) -> bool:  # noqa: ARG002
        """Whether the model is a network."""
        return model.is_newest and not model.is_pixels

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every sign for every kind of features."""
        n = min(len(measured.test), config.collapse.max_images)
        if n < 2:
            _log.info("signs of collapse skipped: need at least 2 test images, got %d", n)
            return []
        order = KeyedPermutation(len(measured.test), config.seed, "evaluation/collapse")
        rows = np.sort(order[np.arange(n)])
        return [
            Outcome(measured.record("collapse", metric, value, n, features=kind))
            for kind, features in measured.test.features.items()
            for metric, value in signs_of_collapse(features[rows]).items()
        ]
