"""Copy detection: the pairs of queries and references of all queries are one list."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Vectors, unit_rows
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.layouts.searches.copies import Copies
from dinoforge.evaluation.methods.descriptors import learn_whitening
from dinoforge.evaluation.methods.retrieval import rank_database
from dinoforge.evaluation.metrics.copies import found_within, pack_pairs, pairs_of_lists
from dinoforge.evaluation.metrics.ranking import Judgment, average_precisions
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.settings import WhiteningConfig
from dinoforge.evaluation.stages.searching import Searched, SearchStage
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import top_k

__all__ = ["CopiesStage"]


class CopiesStage(SearchStage):
    """Micro-AP, recall at a precision of 90 %, recall@1; Copydays also mean average precision."""

    name = "copies"
    number = 72
    keys = ("copies", "device")

    def measure(self, searched: Searched, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features, as they are and whitened."""
        truth: Copies = searched.truth
        bank, test = searched.items.bank, searched.items.test
        outcomes = []
        for kind, references, queries, facts in _descriptors(searched, config.copies.whitening):
            protocol = f"{self.name}_whitened" if facts else self.name
            length = min(config.copies.list_length, len(bank))
            lists = top_k(
                queries,
                references,
                k=length,
                backend=backend_for(searched.device),
                device=searched.device,
            )
            pairs = pairs_of_lists(lists.ids, lists.scores, truth.matches, list_length=length)
            packed, retrieved = pack_pairs(pairs), found_within(pairs, 1)
            settings = {"features": kind, "list_length": length, "database": len(bank), **facts}
            missed = {"edits_missed": _edits_missed(retrieved, truth)} if truth.kinds else {}
            of_queries = np.stack([retrieved, pairs.num_true], axis=1)
            outcomes += [
                searched.outcome(protocol, "micro_ap", packed, test, rule="micro_ap", **settings),
                searched.outcome(
                    protocol, "recall_at_p90", packed, test, rule="recall_at_p90", **settings
                ),
                searched.outcome(
                    protocol, "recall_at_1", of_queries, test, rule="ratio", **settings, **missed
                ),
            ]
            if searched.items.layout == "copydays":
                outcomes.append(
                    searched.outcome(
                        protocol,
                        "map",
                        _average_precisions(queries, references, truth),
                        test,
                        average_precision="trapezoid",
                        **settings,
                    )
                )
        return outcomes


def _descriptors(
    searched: Searched, whitening: WhiteningConfig
) -> Iterator[tuple[str, Vectors, Vectors, dict[str, Any]]]:
    """Yield kind of features, unit rows of references and queries, settings of the whitening."""
    learned_on = searched.vectors_of(whitening.set) if whitening.set else None
    for kind in searched.vectors.features:
        references, queries = (
            unit_rows(searched.of_rows(kind, rows))
            for rows in (searched.items.bank, searched.items.test)
        )
        yield kind, references, queries, {}
        if learned_on is None:
            continue
        rows = unit_rows(learned_on.features[kind])
        dim = min(whitening.dim, rows.shape[1]) if whitening.dim else None
        learned = learn_whitening(rows, learned_on=whitening.set, form=whitening.form, dim=dim)
        facts = {
            "learned_on": whitening.set,
            "images": learned.num_images,
            "form": learned.form,
            "dim": learned.projection.shape[1],
        }
        yield kind, learned.apply(references), learned.apply(queries), {"whitening": facts}


def _edits_missed(retrieved: NDArray[np.int64], truth: Copies) -> list[str]:
    """Name the edits of which fewer than half of the copies are found at the first place."""
    kinds = np.array(truth.kinds)
    has_match = np.array([len(rows) > 0 for rows in truth.matches])
    return [
        str(kind)
        for kind in np.unique(kinds[has_match])
        if retrieved[has_match & (kinds == kind)].mean() < 0.5
    ]


def _average_precisions(
    queries: Vectors, references: Vectors, truth: Copies
) -> NDArray[np.float64]:
    judgments = (Judgment(rows, np.zeros(0, np.int64)) for rows in truth.matches)
    blocks = rank_database(queries, references, judgments)
    return np.concatenate([average_precisions(ranks, rule="trapezoid") for ranks in blocks])
