"""The protocols of the suite: from the features of one model to outcomes and records."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinoforge.evaluation.collapse import signs_of_collapse
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import Rows
from dinoforge.evaluation.knn import find_neighbors, knn_classify, usable_ks
from dinoforge.evaluation.logistic import choose_and_fit
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.randomness import KeyedPermutation
from dinoforge.records import Record

__all__ = ["Measured", "measure_collapse", "measure_knn", "measure_logistic"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """One model with its features of the bank and of the test images."""

    model: Model
    bank: Rows
    test: Rows
    facts: dict[str, Any]  # fields that all its records share
    device: str
    leave_one_out: bool = False

    def labeled(self) -> "Measured":
        """Keep the images whose class is known."""
        return Measured(
            self.model,
            self.bank.labeled(),
            self.test.labeled(),
            self.facts,
            self.device,
            self.leave_one_out,
        )

    def settings(self, kind: str, **more: Any) -> dict[str, Any]:
        """Make the settings of a record, with the training step of an exported backbone."""
        step = {} if self.model.step is None else {"step": self.model.step}
        return {"features": kind, **more, **step}


def measure_knn(measured: Measured, config: EvaluationConfig) -> list[Outcome]:
    """Measure weighted k-NN for every kind of features and k."""
    mine = measured.labeled()
    alone = mine.leave_one_out
    ks = usable_ks(config.knn.k, len(mine.bank), leave_one_out=alone)
    if not len(mine.test) or ks[-1] < 1:
        _log.warning("%s: no k-NN, too few labeled images", mine.model.name)
        return []
    outcomes = []
    for kind, bank in mine.bank.features.items():
        found = find_neighbors(
            bank, None if alone else mine.test.features[kind], k=ks[-1], device=mine.device
        )
        predicted = knn_classify(found, mine.bank.labels, ks=ks, temperature=config.knn.temperature)
        shared = {"temperature": config.knn.temperature, "bank": len(mine.bank)}
        if ks[-1] < max(config.knn.k):
            shared["k_asked"] = max(config.knn.k)
        if alone:
            shared["leave_one_out"] = True
        outcomes += [
            Outcome.of(
                predicted[k] == mine.test.labels,
                benchmark=f"knn/{config.data_name}",
                settings=mine.settings(kind, k=k, **shared),
                **mine.facts,
            )
            for k in ks
        ]
    return outcomes


def measure_logistic(measured: Measured, config: EvaluationConfig) -> list[Outcome]:
    """Measure logistic regression for every kind of features."""
    if measured.model.is_pixels and not config.logistic.pixels:
        return []
    mine = measured.labeled()
    if mine.leave_one_out or not len(mine.test) or len(np.unique(mine.bank.labels)) < 2:
        _log.warning(
            "%s: no logistic regression, it needs test images and two classes", mine.model.name
        )
        return []
    outcomes = []
    for kind, bank in mine.bank.features.items():
        chosen = choose_and_fit(
            bank, mine.bank.labels, config=config.logistic, seed=config.seed, device=mine.device
        )
        right = chosen.model.predict(mine.test.features[kind]) == mine.test.labels
        settings = mine.settings(kind, C=float(f"{chosen.c:.6g}"), bank=len(mine.bank))
        outcomes.append(
            Outcome.of(
                right,
                benchmark=f"logistic/{config.data_name}",
                settings=settings,
                selection="val",
                **mine.facts,
            )
        )
    return outcomes


def measure_collapse(measured: Measured, config: EvaluationConfig) -> list[Record]:
    """Measure the signs of collapse on the test images, or a keyed choice of them."""
    n = min(len(measured.test), config.collapse.max_images)
    if n < 2:
        _log.info("signs of collapse need 2 test images, there is %d", n)
        return []
    order = KeyedPermutation(len(measured.test), config.seed, "evaluation/collapse")
    rows = np.sort(order[np.arange(n)])
    return [
        Record(
            benchmark=f"collapse/{config.data_name}",
            metric=metric,
            value=value,
            n=n,
            settings=measured.settings(kind),
            **measured.facts,
        )
        for kind, features in measured.test.features.items()
        for metric, value in signs_of_collapse(features[rows]).items()
    ]
