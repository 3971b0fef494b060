"""Logistic regression on the bank, C chosen on a held-out share of it."""

import logging

import numpy as np

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.stages.protocol import VectorStage

__all__ = ["LogisticStage"]

_log = logging.getLogger(__name__)


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
        labeled = measured.labeled()
        bank, test = labeled.bank, labeled.test
        if labeled.leave_one_out or not len(test) or len(np.unique(bank.labels)) < 2:
            name = labeled.model.name
            _log.warning("%s: logistic regression skipped: needs test images and two classes", name)
            return []
        outcomes = []
        for kind, rows in bank.features.items():
            chosen = choose_and_fit(
                rows, bank.labels, config=config.logistic, seed=config.seed, device=labeled.device
            )
            outcomes.append(
                labeled.accuracy(
                    "logistic",
                    chosen.model.predict(test.features[kind]) == test.labels,
                    selection="val",
                    features=kind,
                    C=float(f"{chosen.c:.6g}"),
                    bank=len(bank),
                )
            )
        return outcomes
