"""Soft nearest neighbors of labeled images, as PAWS classifies (Assran et al. 2021)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import Rows
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import can_train, grade, test_rows
from dinoforge.evaluation.stages.protocol import VectorStage

__all__ = ["SoftNnStage", "soft_nn_classify"]

_QUERIES_AT_ONCE = 1024  # a table of cosines is this times the bank


class SoftNnStage(VectorStage):
    """All images of the bank vote, or those of each list (`subsets`), for every kind of features.

    Of an export of PAWS also the embeddings after its heads, which is what it trains.
    """

    name = "soft_nn"
    number = 36
    keys = ("soft_nn", "device")

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure every kind of features; the value of a test image is its share of right lists."""
        if not can_train(measured, "soft nearest neighbors"):
            return []
        bank, temperature = measured.labeled().bank, config.soft_nn.temperature
        embedded, asked_of = (_with_heads(measured.model, rows) for rows in (bank, measured.test))
        lists_of: dict[str, list[NDArray[np.int64]]] = {}
        for listed in measured.subsets:
            rows = np.flatnonzero(np.isin(bank.rows, listed))
            per_class = round(len(rows) / len(np.unique(bank.labels[rows])))
            lists_of.setdefault(f"soft_nn_{per_class}", []).append(rows)
        if not measured.subsets:
            lists_of["soft_nn"] = [np.arange(len(bank))]
        outcomes = []
        for kind, vectors in embedded.items():
            for grading in measured.gradings:
                asked = asked_of[kind][test_rows(measured.test, grading)]
                for name, lists in lists_of.items():
                    predicted = [
                        soft_nn_classify(
                            *(vectors[rows], bank.labels[rows], asked),
                            temperature=temperature,
                            kept=grading.kept,
                            device=measured.device,
                        )
                        for rows in lists
                    ]
                    outcomes.append(
                        grade(
                            *(measured, name, grading, np.stack(predicted)),
                            runs="lists" if measured.subsets else "",
                            features=kind,
                            temperature=temperature,
                            bank=len(lists[0]),
                        )
                    )
        return outcomes


def _with_heads(model: Model, rows: Rows) -> dict[str, NDArray[np.float32]]:
    """Add the embeddings after each head of an export to the features; it reads class tokens."""
    features = dict(rows.features)
    if model.file is None or rows.slots is None:
        return features
    import torch

    from dinoforge.models.pooled.heads import open_heads

    x = torch.from_numpy(np.ascontiguousarray(rows.slots[:, -2]))
    with torch.inference_mode():
        for name, head in open_heads(model.file).items():
            x = head(x)
            features[name] = x.numpy()
    return features


def soft_nn_classify(
    bank: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    *,
    temperature: float = 0.1,
    kept: Sequence[int] | None = None,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """Name the class of most votes of each query, ``[q]``; with ``kept`` among these classes.

    ``bank`` is ``[n, d]`` with classes ``[n]``, ``queries`` ``[q, d]``.
    """
    import torch

    from dinoforge.neighbors.soft import soft_neighbors

    is_kept = np.isin(labels, labels if kept is None else kept)
    classes, columns = np.unique(labels[is_kept], return_inverse=True)
    rows = torch.from_numpy(bank[is_kept]).to(device)
    of_rows = torch.from_numpy(columns).to(device)
    named = [
        soft_neighbors(
            torch.from_numpy(queries[start : start + _QUERIES_AT_ONCE]).to(device),
            *(rows, of_rows, len(classes)),
            temperature=temperature,
        ).argmax(dim=1)
        for start in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    best: NDArray[np.int64] = classes[torch.cat(named).cpu().numpy()]
    return best
