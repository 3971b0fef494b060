"""The facts of a comparison: models x benchmarks, which every output is written from.

`build.compare` makes one; nothing here reads a file. Cells and differences are tables of the same
shape, ``cells[row][column]``; what was not measured is None. Everything that was folded, left out,
dropped or chosen on the way is a line of ``notes``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dinoforge.records import Record

__all__ = ["Cell", "Column", "Comparison", "Curve", "Difference", "Direction", "Interval", "Row"]

Interval = tuple[float, float]  # 95 %: low, high
Direction = Literal["higher", "lower", ""]  # which values are better; "": neither


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model."""

    name: str  # unique in a comparison
    sources: tuple[str, ...] = ()  # paths of its runs; of a published row the publications
    checkpoint: str = ""  # as in its records; "" if they disagree
    runs: tuple[str, ...] = ()  # names of the runs that are folded into it, or one
    step: int | None = None  # training step of the newest record
    is_baseline: bool = False  # the model that the differences are against
    is_published: bool = False  # values of a publication: never tested, never bold


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric of one benchmark."""

    benchmark: str  # "knn/imagenette144"
    metric: str  # "accuracy"
    n: int  # test images
    data: str  # fingerprint of the test data, equal in all runs; "" if unknown
    direction: Direction = "higher"
    chance: float | None = None  # what a guess scores
    is_fraction: bool = True  # 0 .. 1, shown in percent; else in the metric's own unit

    @property
    def title(self) -> str:
        """Name for people: the metric is left out where it is accuracy."""
        return self.benchmark if self.metric == "accuracy" else f"{self.benchmark} {self.metric}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The number of one model on one benchmark; of several seeds their mean."""

    value: float  # NaN if it is undefined
    interval: Interval | None = None
    deviation: float | None = None  # standard deviation (n - 1) over seeds
    seeds: int = 1  # of the training, or those that the record itself averages
    features: str = ""  # kind of features, "" if there are no kinds
    k: int | None = None  # neighbors, for k-NN
    selection: str = "none"  # on what settings and the kind of features were chosen
    without_leaked: float | None = None  # the number without units that hold a leaked test image
    units_dropped: int = 0  # how many those are
    records: tuple[Record, ...] = ()  # behind the number, one per run
    is_bold: bool = False  # best of its column, and clearly better than every other model there


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A model minus the baseline on the same benchmark."""

    value: float
    interval: Interval | None = None
    p: float | None = None  # None: not tested
    holm_p: float | None = None  # corrected for all differences of the comparison (Holm 1979)
    how: str = ""  # "paired on 500 units", "unpaired: no values per image"
    is_test_peek: bool = False  # either number was chosen on the test images: p is too small

    @property
    def is_paired(self) -> bool:
        """Whether the two models were compared on the same units."""
        return self.how.startswith("paired")

    @property
    def excludes_0(self) -> bool:
        """Whether there is a 95 % interval, without 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def is_clear(self) -> bool:
        """Paired, the 95 % interval excludes 0, and Holm's p-value is below 0.05."""
        is_significant = self.holm_p is not None and self.holm_p < 0.05
        return self.is_paired and self.excludes_0 and is_significant


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One model on one benchmark over its training steps, with the k and the features of its cell.

    Features that the protocol itself chooses may be others at other steps.
    """

    row: int
    column: int
    steps: tuple[int, ...]  # ascending, at least two
    values: tuple[float, ...]  # of several seeds their means, where all have the step
    intervals: tuple[Interval | None, ...]  # None for means over seeds
    deviations: tuple[float | None, ...]  # over seeds


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Models x benchmarks."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell | None, ...], ...]  # [row][column]
    # [row][column]; None for the baseline itself, published rows, and without a baseline
    differences: tuple[tuple[Difference | None, ...], ...]
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()  # one plain line each

    @property
    def baseline(self) -> str:
        """Name of the model that differences are against; "" for none."""
        return next((row.name for row in self.rows if row.is_baseline), "")

    @property
    def tests(self) -> int:
        """How many differences were tested: the family of Holm's correction."""
        return sum(d is not None and d.p is not None for row in self.differences for d in row)

    def with_row(
        self, row: Row, cells: Sequence[Cell | None], notes: Sequence[str] = ()
    ) -> "Comparison":
        """Return it with one more row, without differences: values of a publication."""
        nothing = (None,) * len(self.columns)
        return replace(
            self,
            rows=(*self.rows, row),
            cells=(*self.cells, tuple(cells)),
            differences=(*self.differences, nothing),
            notes=(*self.notes, *notes),
        )
