"""Weighted k-NN of the test images in the bank."""

import logging
from typing import Any

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.knn import find_neighbors, knn_classify, usable_ks
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import grade, test_rows
from dinoforge.evaluation.stages.protocol import VectorStage
from dinoforge.evaluation.tables import Items

__all__ = ["KnnStage"]

_log = logging.getLogger(__name__)


class KnnStage(VectorStage):
    """Weighted k-NN for every kind of features and k; also of earlier checkpoints."""

    name = "knn"
    number = 30
    keys = ("knn", "device")

    def suits(self, model: Model, items: Items) -> bool:  # noqa: ARG002
        """Whether the images have classes."""
        return items.is_labeled

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features and k."""
        bank, test = measured.labeled().bank, measured.test
        ks = usable_ks(config.knn.k, len(bank), leave_one_out=measured.leave_one_out)
        if not measured.gradings or ks[-1] < 1:
            _log.warning("%s: k-NN skipped: too few labeled images", measured.model.name)
            return []
        shared: dict[str, Any] = {"temperature": config.knn.temperature, "bank": len(bank)}
        if left_out := sorted({k for k in config.knn.k if k not in ks}):
            shared["k_left_out"] = left_out
        if measured.leave_one_out:
            shared["leave_one_out"] = True
        outcomes = []
        for kind, features in bank.features.items():
            for grading in measured.gradings:
                asked = test.features[kind][test_rows(test, grading)]
                queries = None if measured.leave_one_out else asked
                neighbors = find_neighbors(features, queries, k=ks[-1], device=measured.device)
                predicted = knn_classify(
                    neighbors,
                    bank.labels,
                    ks=ks,
                    temperature=config.knn.temperature,
                    kept=grading.kept,
                )
                outcomes += [
                    grade(measured, self.name, grading, predicted[k], features=kind, k=k, **shared)
                    for k in ks
                ]
        return outcomes
