"""Logistic regression on the bank, C chosen on a held-out share of it."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.metrics.classification import average_precision, average_precision_11
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import can_train, grade, grade_labels, test_rows
from dinoforge.evaluation.stages.protocol import VectorStage
from dinoforge.evaluation.tables import Items

__all__ = ["LogisticStage"]


class LogisticStage(VectorStage):
    """Logistic regression for every kind of features."""

    name = "logistic"
    number = 31
    keys = ("logistic", "seed", "device")

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the images have classes, or several labels each."""
        return model.is_newest and (items.is_labeled or items.has_targets)

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features."""
        from dinoforge.evaluation.logistic import choose_and_fit

        if measured.model.is_pixels and not config.logistic.pixels:
            return []
        if measured.targets is not None:
            return self._measure_labels(measured, measured.targets, config)
        if not can_train(measured, "logistic regression"):
            return []
        bank, test = measured.labeled().bank, measured.test
        outcomes = []
        for kind, rows in bank.features.items():
            chosen = choose_and_fit(
                rows,
                bank.labels,
                config=config.logistic,
                seed=config.seed,
                num_val=measured.num_val,
                device=measured.device,
            )
            for grading in measured.gradings:
                asked = test.features[kind][test_rows(test, grading)]
                outcomes.append(
                    grade(
                        measured,
                        self.name,
                        grading,
                        chosen.model.predict(asked, grading.kept),
                        selection="val",
                        features=kind,
                        C=float(f"{chosen.c:.6g}"),
                        bank=len(bank),
                    )
                )
        return outcomes

    def _measure_labels(
        self, measured: Measured, targets: NDArray[np.int8], config: EvaluationConfig
    ) -> list[Outcome]:
        from dinoforge.evaluation.logistic import choose_and_fit_labels

        (grading,) = measured.gradings
        metric = {"map": average_precision, "map_11": average_precision_11}[grading.metric]
        outcomes = []
        for kind, rows in measured.bank.features.items():
            chosen = choose_and_fit_labels(
                rows,
                targets,
                metric,
                config=config.logistic,
                seed=config.seed,
                num_val=measured.num_val,
                device=measured.device,
            )
            outcomes += grade_labels(
                measured,
                self.name,
                grading,
                chosen.scores(measured.test.features[kind][test_rows(measured.test, grading)]),
                selection="val",
                features=kind,
                C=float(f"{chosen.c:.6g}"),
                bank=len(rows),
            )
        return outcomes
