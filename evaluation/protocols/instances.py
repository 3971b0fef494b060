"""Recognition of instances with distractors: k-NN whose confidence ranks the queries of all."""

import numpy as np

from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.layouts.searches.opening import Recognition
from dinoforge.evaluation.methods.retrieval import choose_instance_settings, classify_instances
from dinoforge.evaluation.metrics.copies import (
    found_within,
    met_pairs,
    pack_pairs,
    pairs_of_objects,
)
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.stages.searching import Searched, SearchStage
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import Neighbors, top_k

__all__ = ["InstancesStage"]


class InstancesStage(SearchStage):
    """GAP, GAP without distractors, and accuracy; k and scale are chosen on validation queries."""

    name = "instances"
    number = 71
    keys = ("instances", "device")

    def measure(self, searched: Searched, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features."""
        truth: Recognition = searched.truth
        bank, test = searched.items.bank, searched.items.test
        num_classes = len(np.unique(truth.labels))
        ks = sorted({min(k, len(bank)) for k in config.instances.k})
        outcomes = []
        for kind in searched.vectors.features:
            database = unit_rows(searched.of_rows(kind, bank))
            val, asked = (
                top_k(
                    unit_rows(searched.of_rows(kind, rows)),
                    database,
                    k=ks[-1],
                    backend=backend_for(searched.device),
                    device=searched.device,
                )
                for rows in (truth.val, test)
            )
            chosen = choose_instance_settings(
                val,
                truth.labels,
                truth.val_labels,
                grid=(ks, config.instances.scale),
                num_classes=num_classes,
            )
            predicted, confidences = classify_instances(
                Neighbors(asked.ids[:, : chosen.k], asked.scores[:, : chosen.k]),
                truth.labels,
                scale=chosen.scale,
                num_classes=num_classes,
            )
            pairs = met_pairs(truth.query_labels, predicted, confidences)
            right = np.stack([found_within(pairs, 1), pairs.num_true], axis=1)
            settings = {
                "selection": "val",
                "features": kind,
                "neighbors": chosen.k,
                "scale": chosen.scale,
                "chosen_on": f"GAP of {len(truth.val)} validation queries",
                "database": len(bank),
                "distractors": int((truth.query_labels < 0).sum()),
            }
            outcomes += [
                searched.outcome(self.name, metric, values, test, rule=rule, **settings)
                for metric, values, rule in (
                    ("gap", pack_pairs(pairs), "micro_ap"),
                    ("gap_without_distractors", pack_pairs(pairs_of_objects(pairs)), "micro_ap"),
                    ("accuracy", right, "ratio"),
                )
            ]
        return outcomes
