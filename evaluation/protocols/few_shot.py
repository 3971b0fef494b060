"""k-NN with few labeled images per class: the mean over several draws of them."""

import logging

import numpy as np

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.stages.protocol import VectorStage

__all__ = ["FewShotStage"]

_log = logging.getLogger(__name__)


class FewShotStage(VectorStage):
    """Weighted k-NN in n images of each class, for every n, kind of features and k up to n."""

    name = "few_shot"
    number = 32
    keys = ("few_shot", "knn", "device")

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features; the value of a test image is its share of right draws."""
        from dinoforge.evaluation.methods.low_shot import draw_few, few_shot_knn, few_shot_ks

        labeled = measured.labeled()
        bank, test = labeled.bank, labeled.test
        if labeled.leave_one_out or not len(test) or not len(bank):
            _log.warning("%s: few-shot k-NN skipped: needs test images", labeled.model.name)
            return []
        outcomes = []
        for per_class in config.few_shot.per_class:
            draws = [draw_few(bank.labels, per_class, t) for t in range(config.few_shot.tries)]
            ks = few_shot_ks(config.knn.k, per_class)
            for kind, rows in bank.features.items():
                predicted = few_shot_knn(
                    rows,
                    bank.labels,
                    test.features[kind],
                    draws,
                    ks=ks,
                    temperature=config.knn.temperature,
                    device=labeled.device,
                )
                for k in ks:
                    shares = (predicted[k] == test.labels).mean(axis=0)
                    by_try = (predicted[k] == test.labels).mean(axis=1)
                    record = labeled.record(
                        f"few_shot_{per_class}",
                        "accuracy",
                        float(shares.mean()),
                        len(shares),
                        features=kind,
                        k=k,
                        temperature=config.knn.temperature,
                        bank=len(draws[0]),
                        tries=len(draws),
                        deviation=float(np.std(by_try, ddof=1)) if len(draws) > 1 else 0.0,
                    )
                    outcomes.append(Outcome(record, shares))
        return outcomes
