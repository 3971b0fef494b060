"""Ranked lists: every query ranks a database, and its relevant images should come first."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import VectorRequest
from dinoforge.evaluation.layouts.searches.opening import Rankings, Search
from dinoforge.evaluation.methods.retrieval import rank_database
from dinoforge.evaluation.metrics.ranking import (
    average_precisions,
    chance_average_precisions,
    hits_at,
    judge_by_class,
    leave_one_out,
    ns_scores,
    precisions_at,
)
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.settings import RankingConfig
from dinoforge.evaluation.stages.searching import Searched, SearchStage
from dinoforge.evaluation.tables import Items
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import top_k

__all__ = ["RankingStage"]

Values = dict[str, NDArray[np.float64]]  # metric -> value of every query


class RankingStage(SearchStage):
    """Mean average precision by kind of features; of images with classes by class."""

    name = "ranking"
    number = 70
    keys = ("ranking", "device")
    request_keys = ("ranking",)

    def request(
        self,
        config: EvaluationConfig,
        model: Model,  # noqa: ARG002
        items: Items,
    ) -> VectorRequest:
        """Ask for what queries show: their boxes, where the data set has some, or whole images."""
        return VectorRequest(boxes=config.ranking.query == "box" and items.has_boxes)

    def measure(self, searched: Searched, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features, part of the benchmark, and metric."""
        rankings = searched.truth or _by_class(searched)
        outcomes = []
        for kind in searched.vectors.features:
            for part, search in rankings.searches.items():
                settings = _facts(searched, search, config.ranking) | {"features": kind}
                values, chance = _measure(searched, search, rankings, kind, config.ranking)
                if not np.isfinite(values["map"]).any():
                    continue  # no query has a relevant image
                protocol = f"{self.name}_{part}" if part else self.name
                for metric, of_queries in values.items():
                    more: dict[str, Any] = {}
                    if metric == "map":
                        more = {"chance": chance, "average_precision": rankings.rule}
                    outcomes.append(
                        searched.outcome(
                            protocol, metric, of_queries, search.queries, **settings, **more
                        )
                    )
        return outcomes


def _by_class(searched: Searched) -> Rankings:
    """Look up test images in the bank; without test images, each in all others."""
    items, decoded = searched.items, searched.vectors.rows
    bank, test = (rows[np.isin(rows, decoded)] for rows in (items.bank, items.test))
    labels, asked = items.labels[bank], items.labels[test]
    judgments = (
        partial(leave_one_out, labels)
        if items.leave_one_out
        else partial(judge_by_class, labels, asked)
    )
    return Rankings({"": Search(test, bank, judgments)}, "step")


def _measure(
    searched: Searched, search: Search, rankings: Rankings, kind: str, settings: RankingConfig
) -> tuple[Values, float]:
    """Return the metrics of every query, and the mean average precision of a random order."""
    database, queries = (searched.of_rows(kind, r) for r in (search.database, search.queries))
    blocks: dict[str, list[NDArray[np.float64]]] = {}
    for ranks in rank_database(queries, database, search.judgments()):
        of_block = {
            "map": average_precisions(ranks, rule=rankings.rule),
            "top_1": hits_at(ranks, 1),
            "chance": chance_average_precisions(ranks.num_positives, ranks.num_ranked),
        }
        for k in settings.precision_at if rankings.has_precisions else ():
            of_block[f"precision_at_{k}"] = precisions_at(ranks, k)
        for metric, of_queries in of_block.items():
            blocks.setdefault(metric, []).append(of_queries)
    values = {metric: np.concatenate(parts) for metric, parts in blocks.items()}
    chance = values.pop("chance")
    if rankings.groups is not None:
        rows = unit_rows(database)
        backend = backend_for(searched.device)
        nearest = top_k(rows, rows, k=4, backend=backend, device=searched.device)
        values["ns_score"] = ns_scores(nearest.ids, rankings.groups)
    known = np.isfinite(chance)
    return values, float(chance[known].mean()) if known.any() else 0.0


def _facts(searched: Searched, search: Search, settings: RankingConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {"database": len(search.database)}
    if searched.items.has_boxes:
        facts["query_region"] = settings.query
    if searched.items.leave_one_out:
        facts["leave_one_out"] = True
    return facts
