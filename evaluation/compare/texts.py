"""Numbers of a comparison as text, the same in every table: rounded only here.

Fractions are in percent with one decimal, other metrics in their own unit with three.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Difference, Interval

__all__ = [
    "TextCell",
    "TextTable",
    "common_k",
    "difference_text",
    "interval_text",
    "legend",
    "number_text",
    "score_text",
    "text_tables",
    "unit_text",
]

TEST_PEEK = "†"  # after a score that was chosen on the test images
UNPAIRED = "‡"  # after a difference that was not paired
LOWER = "↓"  # after the name of a benchmark
NOTHING = "–"


@dataclass(frozen=True)
class TextCell:
    """One cell of a printed table."""

    value: str
    interval: str = ""
    more: str = ""  # a p-value, or the score without leaked images
    is_bold: bool = False


@dataclass(frozen=True)
class TextTable:
    """A printed table: models x benchmarks, or turned."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    body: Sequence[Sequence[TextCell]]

    def turned(self) -> "TextTable":
        """Return it with benchmarks as rows."""
        body = list(zip(*self.body, strict=True))
        return TextTable(self.title, self.columns, self.rows, body)


def unit_text(column: Column) -> str:
    """Return the unit of a column as it is shown; "" for none."""
    return "%" if column.is_fraction else {"rmse": "m", "sq_rel": "m"}.get(column.metric, "")


def number_text(value: float | None, column: Column, *, sign: bool = False) -> str:
    """Format a number of a column; a dash if it is undefined."""
    if value is None or math.isnan(value):
        return NOTHING
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if column.is_fraction else f"{value:{plus}.3f}"


def interval_text(interval: Interval | None, column: Column, *, sign: bool = False) -> str:
    """Format an interval as ``[low, high]``; "" for none."""
    if interval is None:
        return ""
    low, high = (number_text(end, column, sign=sign) for end in interval)
    return f"[{low}, {high}]"


def score_text(cell: Cell | None, column: Column) -> TextCell:
    """Format a score: its mark, its deviation over seeds, its interval, its leaked images."""
    if cell is None:
        return TextCell(NOTHING)
    value = number_text(cell.value, column) + TEST_PEEK * ("test-peek" in cell.selection)
    if cell.deviation is not None and cell.seeds > 1:
        value += f" ± {number_text(cell.deviation, column)}"
    more = ""
    if cell.units_dropped:
        more = f"{number_text(cell.without_leaked, column)} without leaked"
    return TextCell(value, interval_text(cell.interval, column), more, cell.is_bold)


def difference_text(difference: Difference | None, column: Column) -> TextCell:
    """Format a difference: bold if it is clear, with Holm's p-value."""
    if difference is None:
        return TextCell(NOTHING)
    value = number_text(difference.value, column, sign=True)
    value += TEST_PEEK * difference.is_test_peek + UNPAIRED * (not difference.is_paired)
    interval = interval_text(difference.interval, column, sign=True)
    return TextCell(value, interval, _p_text(difference.holm_p), difference.is_clear)


def _p_text(p: float | None) -> str:
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def text_tables(comparison: Comparison) -> list[TextTable]:
    """Return the scores, and the differences if there are any; models are rows."""
    columns, titles = comparison.columns, _column_titles(comparison)
    counts = sorted({column.n for column in columns})
    images = " to ".join(f"{count:,}" for count in dict.fromkeys([counts[0], counts[-1]]))
    scores = TextTable(
        f"Scores with 95 % intervals; {images} test images per benchmark",
        [row.name for row in comparison.rows],
        titles,
        [
            [score_text(cell, column) for cell, column in zip(cells, columns, strict=True)]
            for cells in comparison.cells
        ],
    )
    compared = [row for row, of_row in enumerate(comparison.differences) if any(of_row)]
    shown = [at for at in range(len(columns)) if any(row[at] for row in comparison.differences)]
    if not compared:
        return [scores]
    title = f"Differences to {comparison.baseline} with 95 % intervals"
    if comparison.tests:
        title += f"; p-values corrected for {comparison.tests} tests (Holm)"
    differences = TextTable(
        title,
        [scores.rows[row] for row in compared],
        [titles[at] for at in shown],
        [
            [difference_text(comparison.differences[row][at], columns[at]) for at in shown]
            for row in compared
        ],
    )
    return [scores, differences]


def _column_titles(comparison: Comparison) -> list[str]:
    """Name the columns: with k where all models have the same, unit, and what is better."""
    titles = []
    for number, column in enumerate(comparison.columns):
        common = common_k(comparison, number)
        k = "" if common is None else f" k = {common}"
        unit = f" ({unit_text(column)})" if unit_text(column) else ""
        lower = f" {LOWER}" if column.direction == "lower" else ""
        titles.append(column.title + k + unit + lower)
    return titles


def common_k(comparison: Comparison, number: int) -> int | None:
    """Return the neighbors of all measured scores of a column; None if they differ or have none."""
    ks = {
        cell.k
        for row, cells in zip(comparison.rows, comparison.cells, strict=True)
        if (cell := cells[number]) is not None and not row.is_published
    }
    return ks.pop() if len(ks) == 1 else None


def legend(comparison: Comparison) -> list[str]:
    """Explain the marks that occur."""
    cells = [cell for row in comparison.cells for cell in row if cell is not None]
    differences = [d for row in comparison.differences for d in row if d is not None]
    lines = {
        "bold score: the best of its benchmark, and clearly better than every other model there "
        "(paired interval without 0, Holm p < 0.05)": any(c.is_bold for c in cells),
        "bold difference: paired, its interval excludes 0, Holm p < 0.05": any(
            d.is_clear for d in differences
        ),
        "no score is clearly better than all others of its benchmark": bool(comparison.tests)
        and not any(c.is_bold for c in cells),
        "±: standard deviation over seeds, or draws of images; intervals are over test images": any(
            c.deviation is not None and c.seeds > 1 for c in cells
        ),
        f"{TEST_PEEK} chosen on the test images": any("test-peek" in c.selection for c in cells),
        f"{UNPAIRED} unpaired": any(not d.is_paired for d in differences),
        f"{LOWER} lower is better": any(c.direction == "lower" for c in comparison.columns),
    }
    return [line for line, occurs in lines.items() if occurs]
