"""k-NN with few labeled images per class: the mean over several draws of them."""

from typing import Any

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import can_train, grade, test_rows
from dinoforge.evaluation.stages.protocol import VectorStage

__all__ = ["FewShotStage"]


class FewShotStage(VectorStage):
    """Weighted k-NN in n images of each class, for every n, kind of features and k up to n."""

    name = "few_shot"
    number = 32
    keys = ("few_shot", "knn", "device")

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features; the value of a test image is its share of right draws."""
        from dinoforge.evaluation.methods.low_shot import draw_few, few_shot_knn, few_shot_ks

        if not can_train(measured, "few-shot k-NN"):
            return []
        bank, temperature = measured.labeled().bank, config.knn.temperature
        outcomes = []
        for per_class in config.few_shot.per_class:
            draws = [draw_few(bank.labels, per_class, t) for t in range(config.few_shot.tries)]
            ks = few_shot_ks(config.knn.k, per_class)
            for kind, rows in bank.features.items():
                for grading in measured.gradings:
                    predicted = few_shot_knn(
                        rows,
                        bank.labels,
                        measured.test.features[kind][test_rows(measured.test, grading)],
                        draws,
                        ks=ks,
                        temperature=temperature,
                        kept=grading.kept,
                        device=measured.device,
                    )
                    facts: dict[str, Any] = {
                        "features": kind,
                        "temperature": temperature,
                        "bank": len(draws[0]),
                    }
                    name = f"few_shot_{per_class}"
                    outcomes += [
                        grade(measured, name, grading, each, runs="tries", k=k, **facts)
                        for k, each in predicted.items()
                    ]
        return outcomes
