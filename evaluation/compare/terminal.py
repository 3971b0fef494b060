"""A comparison on a terminal: the orientation that fits, differences as a second table."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dinoforge.evaluation.compare.comparison import Comparison
from dinoforge.evaluation.compare.texts import TextCell, TextTable, legend, text_tables

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_comparison"]

_NAMES = 28  # characters of the first column; longer names are folded
_HEADER = 9  # narrowest column whose header is folded
_PADDING = 2  # between two columns


def print_comparison(comparison: Comparison, console: "Console") -> None:
    """Print tables of scores and differences, then what the marks mean, then the notes.

    Bold numbers also have a star, for terminals and files that are not bold.
    """
    for table in text_tables(comparison):
        for part in _fitting(table, console.width):
            _print(part, console)
    for line in legend(comparison):
        console.print(line.replace("bold", "*", 1), markup=False)
    for line in comparison.notes:
        console.print(f"- {line}", markup=False)


def _fitting(table: TextTable, width: int) -> Iterator[TextTable]:
    """Yield the table as it fits: benchmarks as rows, models as rows, or some models at a time."""
    turned = table.turned()
    if _width(turned) <= width or _width(table) > width:
        wide = turned
    else:
        wide = table
    start = 0
    while start < len(wide.columns):
        stop = len(wide.columns)
        while stop > start + 1 and _width(_part(wide, start, stop)) > width:
            stop -= 1
        yield _part(wide, start, stop)
        start = stop


def _part(table: TextTable, start: int, stop: int) -> TextTable:
    body = [row[start:stop] for row in table.body]
    return TextTable(table.title, table.rows, table.columns[start:stop], body)


def _width(table: TextTable) -> int:
    names = min(_NAMES, max(map(len, table.rows)))
    columns = [
        max(min(_HEADER, len(name)), *(len(line) for row in table.body for line in _lines(row[at])))
        for at, name in enumerate(table.columns)
    ]
    return sum(columns) + names + _PADDING * (len(columns) + 1)


def _lines(cell: TextCell) -> list[str]:
    return [cell.value + "*" * cell.is_bold, *filter(None, [cell.interval, cell.more])]


def _print(table: TextTable, console: "Console") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("", overflow="fold", max_width=_NAMES)
    for at, name in enumerate(table.columns):
        widths = [len(line) for row in table.body for line in _lines(row[at])]
        width = max(min(_HEADER, len(name)), *widths)
        shown.add_column(Text(name), justify="right", overflow="fold", width=width)
    for name, row in zip(table.rows, table.body, strict=True):
        cells = [
            Text("\n".join(_lines(cell)), style="bold" if cell.is_bold else "") for cell in row
        ]
        shown.add_row(Text(name), *cells)
    console.print(shown)
