"""Logistic regression on the bank, C chosen on a held-out share of it."""

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import can_train, grade, test_rows
from dinoforge.evaluation.stages.protocol import VectorStage

__all__ = ["LogisticStage"]


class LogisticStage(VectorStage):
    """Logistic regression for every kind of features."""

    name = "logistic"
    number = 31
    keys = ("logistic", "seed", "device")

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features."""
        from dinoforge.evaluation.logistic import choose_and_fit

        if measured.model.is_pixels and not config.logistic.pixels:
            return []
        if not can_train(measured, "logistic regression"):
            return []
        bank, test = measured.labeled().bank, measured.test
        outcomes = []
        for kind, rows in bank.features.items():
            chosen = choose_and_fit(
                rows, bank.labels, config=config.logistic, seed=config.seed, device=measured.device
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
