"""What protocols on vectors share in which images are looked up in a database."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.device import resolve_device
from dinoforge.evaluation.combining import as_known, combine
from dinoforge.evaluation.config import LAYOUTS, PROTOCOLS, SET_KEYS, EvaluationConfig, named_sets
from dinoforge.evaluation.features import Rows, VectorRequest, every_row
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.published import open_published
from dinoforge.evaluation.stages.protocol import PROTOCOL_KEYS, ProtocolStage, Units
from dinoforge.evaluation.tables import (
    EvaluationInputs,
    Items,
    cache_folder,
    read_features,
    read_items,
    read_models,
    stop_if_none_decodes,
)
from dinoforge.stages import Json, Output

__all__ = ["SearchStage", "Searched"]


@dataclass(frozen=True, kw_only=True)
class Searched(Subject):
    """One model with the vectors of all images of a set that decode."""

    items: Items
    vectors: Rows
    truth: Any  # what the layout gives; None of plain images with classes
    vectors_of: Callable[[str], Rows]  # of another set of the recipe

    def of_rows(self, kind: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of some images of the set, which decode, ``[n, D]``."""
        return self.vectors.features[kind][np.searchsorted(self.vectors.rows, rows)]

    def outcome(
        self,
        protocol: str,
        metric: str,
        values: NDArray[Any],
        queries: NDArray[np.int64],
        *,
        rule: str = "mean",
        **settings: Any,
    ) -> Outcome:
        """Combine the values of queries, rows of the set; of a mean NaN is no value."""
        count = len(values)
        if rule == "mean":
            count = int(np.isfinite(values).sum())
            rule, values = as_known(values)
        units = np.full(len(self.items), -1)
        units[queries] = np.arange(len(queries))
        record = self.record(protocol, metric, combine(rule, values), count, **settings)
        return Outcome(record, values, rule, units)


class SearchStage(ProtocolStage):
    """A protocol on vectors: queries are looked up in a database."""

    execution_keys = (*dict.fromkeys((*PROTOCOL_KEYS, *SET_KEYS, "decode", "cache")),)

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the checkpoint is the newest, and the set gives what the protocol needs."""
        gives = set(PROTOCOLS[self.name]) & set(LAYOUTS[items.layout].gives)
        return bool(model.is_newest and gives and (items.is_labeled or gives != {"classes"}))

    def measure_partition(
        self,
        payload: Json,
        inputs: EvaluationInputs,
        out: Output,  # noqa: ARG002
    ) -> tuple[list[Outcome], Units]:
        """Measure one model on one data set."""
        config, model = inputs.config, read_models(inputs)[payload["model"]]
        items = read_items(inputs, payload["set"])
        extracted = read_features(inputs, payload["model"], payload["set"])
        stop_if_none_decodes(items, extracted.is_decoded)
        sets = named_sets(config)
        truth = None
        if items.layout:
            opened = open_published(sets[items.name], config.decode, cache_folder(inputs))
            truth = opened.truth

        def vectors_of(name: str) -> Rows:
            at = list(sets).index(name)
            others = read_features(inputs, payload["model"], at)
            return every_row(model, read_items(inputs, at), others)

        searched = Searched(
            data=items.name,
            model=model,
            device=str(resolve_device(config.device)),
            facts=VectorRequest(**extracted.request).facts,
            items=items,
            vectors=every_row(model, items, extracted),
            truth=truth,
            vectors_of=vectors_of,
        )
        return self.measure(searched, config), np.full(len(items), -1)

    @abstractmethod
    def measure(self, searched: Searched, config: EvaluationConfig) -> list[Outcome]:
        """Measure one model on one data set; the recipe is restricted to ``keys``."""
