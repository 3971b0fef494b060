"""The trained network of an evaluation against its other models; its best export."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dinoforge.evaluation.compare.build import compare_records
from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison
from dinoforge.evaluation.compare.sources import TRAINED
from dinoforge.evaluation.scores import Difference, arrange, step_of
from dinoforge.records import Record

__all__ = ["Against", "Export", "against_others", "best_export", "row_of"]


@dataclass(frozen=True, kw_only=True)
class Against:
    """The trained network and another model on one benchmark."""

    column: Column
    model: str  # the other one
    trained: Cell
    other: Cell
    difference: Difference | None  # paired, of these features and k; None: it was not measured

    @property
    def is_better(self) -> bool:
        """Whether the trained network has the better number."""
        sign = -1 if self.column.direction == "lower" else 1
        return sign * self.trained.value > sign * self.other.value

    @property
    def is_close(self) -> bool:
        """Whether their intervals overlap, so that only the paired difference can decide."""
        a, b = self.trained.interval, self.other.interval
        return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]


@dataclass(frozen=True, kw_only=True)
class Export:
    """The number of one export of a training."""

    benchmark: str
    metric: str
    value: float
    step: int | None  # None: the evaluation does not know it
    features: str
    k: int | None
    test_sets: int  # of this name that were measured: numbers of others are not compared


def best_export(records: Sequence[Record], benchmark: str = "") -> Export | None:
    """Return the best export by the number that is shown of it; None if there is none.

    ``records`` are those of all evaluations of a training; ``benchmark`` is by default their first
    with k-NN. Only numbers on the same test images are compared, those that most records are
    about. Of equal numbers the earliest step is the best.
    """
    knn = (r.benchmark for r in records if r.benchmark.startswith("knn/"))
    benchmark = benchmark or next(knn, "")
    trained = [r for r in records if (r.benchmark, r.model) == (benchmark, TRAINED)]
    test_sets = Counter(record.data for record in trained).most_common()
    by_step: dict[int | None, list[Record]] = {}
    for record in trained:
        if record.data == test_sets[0][0]:
            by_step.setdefault(step_of(record), []).append(record)
    best: tuple[float, Export] | None = None
    for step, some in sorted(by_step.items(), key=lambda pair: pair[0] or 0):
        comparison = compare_records(some)
        for column, cell in zip(comparison.columns, row_of(comparison, TRAINED), strict=True):
            if cell is None or math.isnan(cell.value) or not column.direction:
                continue
            export = Export(
                benchmark=benchmark,
                metric=column.metric,
                value=cell.value,
                step=step,
                features=cell.features,
                k=cell.k,
                test_sets=len(test_sets),
            )
            rank = -cell.value if column.direction == "lower" else cell.value
            best = (rank, export) if best is None or rank > best[0] else best
    return None if best is None else best[1]


def row_of(comparison: Comparison, model: str) -> Sequence[Cell | None]:
    """Return the cells of a model; None in every column if there is no such model."""
    cells = {row.name: some for row, some in zip(comparison.rows, comparison.cells, strict=True)}
    return cells.get(model, (None,) * len(comparison.columns))


def against_others(records: Sequence[Record], comparison: Comparison) -> Iterator[Against]:
    """Yield every other model on every benchmark where both have a number, by benchmark.

    ``comparison`` is that of the ``records``, see `build.compare_records`.
    """
    paired = {
        (d.record.benchmark, d.record.metric, d.model_b, d.k, d.features_a, d.features_b): d
        for d in arrange(records).differences
        if d.model_a == TRAINED
    }
    trained = row_of(comparison, TRAINED)
    for at, (column, cell) in enumerate(zip(comparison.columns, trained, strict=True)):
        for row, cells in zip(comparison.rows, comparison.cells, strict=True):
            other = cells[at]
            if row.name == TRAINED or cell is None or other is None or not column.direction:
                continue
            key = (column.benchmark, f"{column.metric}_difference", row.name, cell.k)
            yield Against(
                column=column,
                model=row.name,
                trained=cell,
                other=other,
                # A baseline without kinds of features has null there.
                difference=paired.get((*key, cell.features, other.features or "None")),
            )
