"""A comparison on a terminal: the orientation that fits, differences as a second table."""

from typing import TYPE_CHECKING

from dinoforge.evaluation.compare.comparison import Comparison
from dinoforge.evaluation.compare.texts import TextCell, TextTable, legend, text_tables

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_comparison"]

# Characters of a column's header, and of names in the first column, before they are folded: tried
# in order.
_FOLDS = ((20, 28), (9, 28), (9, 18))
_PADDING = 2  # between two columns


def print_comparison(comparison: Comparison, console: "Console") -> None:
    """Print tables of scores and differences, then what the marks mean, then the notes.

    Bold numbers also have a star, for terminals and files that are not bold.
    """
    for table in text_tables(comparison):
        parts, folds = _fitting(table, console.width)
        for part in parts:
            _print(part, folds, console)
    for line in legend(comparison):
        console.print(line.replace("bold", "*", 1), markup=False)
    for line in comparison.notes:
        console.print(f"- {line}", markup=False)


def _fitting(table: TextTable, width: int) -> tuple[list[TextTable], tuple[int, int]]:
    """Return the table as it fits, in parts if it does not, and which of the folds it needs.

    Benchmarks are rows if all models fit beside each other, else models if all benchmarks do.
    """
    turned = table.turned()
    for folds in _FOLDS:
        for one in (turned, table):
            if _width(one, folds) <= width:
                return [one], folds
    parts, start = [], 0
    while start < len(turned.columns):
        stop = len(turned.columns)
        while stop > start + 1 and _width(_part(turned, start, stop), _FOLDS[-1]) > width:
            stop -= 1
        parts.append(_part(turned, start, stop))
        start = stop
    return parts, _FOLDS[-1]


def _part(table: TextTable, start: int, stop: int) -> TextTable:
    body = [row[start:stop] for row in table.body]
    return TextTable(table.title, table.rows, table.columns[start:stop], body)


def _widths(table: TextTable, header: int) -> list[int]:
    return [
        max(min(header, len(name)), *(len(line) for row in table.body for line in _lines(row[at])))
        for at, name in enumerate(table.columns)
    ]


def _width(table: TextTable, folds: tuple[int, int]) -> int:
    columns = _widths(table, folds[0])
    names = min(folds[1], max(map(len, table.rows)))
    return sum(columns) + names + _PADDING * (len(columns) + 1)


def _lines(cell: TextCell) -> list[str]:
    return [cell.value + "*" * cell.is_bold, *filter(None, [cell.interval, cell.more])]


def _print(table: TextTable, folds: tuple[int, int], console: "Console") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(table.title)
    padding = (0, 1, 0, 0)  # and one of the box: `_PADDING`
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=padding)
    shown.add_column("", overflow="fold", max_width=folds[1])
    for name, width in zip(table.columns, _widths(table, folds[0]), strict=True):
        shown.add_column(Text(name), justify="right", overflow="fold", width=width)
    for name, row in zip(table.rows, table.body, strict=True):
        cells = [
            Text("\n".join(_lines(cell)), style="bold" if cell.is_bold else "") for cell in row
        ]
        shown.add_row(Text(name), *cells)
    console.print(shown)
