"""Logistic regression on few labeled images per class: the mean over several splits."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import can_train, grade, test_rows
from dinoforge.evaluation.stages.protocol import VectorStage

__all__ = ["LowShotStage"]


class LowShotStage(VectorStage):
    """MSN's protocol (Assran et al. 2022) for every number of images and kind of features."""

    name = "low_shot"
    number = 35
    keys = ("low_shot", "device")

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure networks; the value of a test image is its share of right splits."""
        from dinoforge.evaluation.methods.low_shot import center_rows, draw_few, msn_low_shot

        settings = config.low_shot
        if measured.model.is_pixels or not can_train(measured, "low-shot"):
            return []
        bank = measured.labeled().bank
        splits_of: dict[int, list[NDArray[np.int64]]] = {}
        for listed in measured.subsets:
            split = np.flatnonzero(np.isin(bank.rows, listed))
            per_class = round(len(split) / len(np.unique(bank.labels[split])))
            splits_of.setdefault(per_class, []).append(split)
        if not measured.subsets:
            splits_of = {
                count: [draw_few(bank.labels, count, seed) for seed in range(settings.splits)]
                for count in settings.per_class
            }
        outcomes = []
        for per_class, splits in splits_of.items():
            for kind, rows in bank.features.items():
                fits = msn_low_shot(
                    rows, bank.labels, splits, penalty=settings.penalty, device=measured.device
                )
                test = center_rows(measured.test.features[kind])
                for grading in measured.gradings:
                    asked = test[test_rows(measured.test, grading)]
                    predicted = np.stack([fit.predict(asked, grading.kept) for fit in fits])
                    outcomes.append(
                        grade(
                            measured,
                            f"low_shot_{per_class}",
                            grading,
                            predicted,
                            runs="splits",
                            features=kind,
                            penalty=settings.penalty,
                            bank=len(splits[0]),
                            images="listed" if measured.subsets else "drawn",
                        )
                    )
        return outcomes
