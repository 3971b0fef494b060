"""A comparison as files: CSV and JSON at full precision, a page, all formats in one folder."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dinoforge.evaluation.compare.comparison import Cell, Comparison, Difference
from dinoforge.evaluation.compare.documents import as_latex, as_markdown
from dinoforge.evaluation.compare.mieb import mieb_files
from dinoforge.evaluation.compare.page import as_page, read_provenance
from dinoforge.evaluation.report.facts import plain
from dinoforge.files import write_text

__all__ = ["FORMATS", "as_csv", "as_json", "write_comparison"]

_CELL = (
    *("deviation", "seeds", "features", "k", "selection", "without_leaked", "units_dropped"),
    "is_bold",
)
_DIFFERENCE = ("p", "holm_p", "is_clear", "is_test_peek", "how")
_COLUMNS = (
    *("kind", "model", "baseline", "benchmark", "metric", "value", "low", "high"),
    *_CELL,
    *_DIFFERENCE,
    *("n", "chance", "direction", "data", "checkpoint", "step", "runs", "source"),
    *("is_published",),
)


def as_csv(comparison: Comparison) -> str:
    """Return one line per score and per difference; fractions are fractions."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(comparison))
    return text.getvalue()


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    tables: tuple[tuple[str, Any], ...] = (
        ("score", comparison.cells),
        ("difference", comparison.differences),
    )
    for kind, table in tables:
        for row, of_row in zip(comparison.rows, table, strict=True):
            for column, entry in zip(comparison.columns, of_row, strict=True):
                if entry is None:
                    continue
                low, high = entry.interval or (None, None)
                names = ("benchmark", "metric", "n", "chance", "direction", "data")
                yield {
                    "kind": kind,
                    "model": row.name,
                    "baseline": comparison.baseline if kind == "difference" else "",
                    "value": entry.value,
                    "low": low,
                    "high": high,
                    **{name: getattr(column, name) for name in names},
                    **{name: getattr(entry, name) for name in _names_of(entry)},
                    "checkpoint": row.checkpoint,
                    "step": row.step,
                    "runs": ", ".join(row.runs),
                    "source": "; ".join(row.sources),
                    "is_published": row.is_published,
                }


def _names_of(entry: Cell | Difference) -> tuple[str, ...]:
    return _CELL if isinstance(entry, Cell) else _DIFFERENCE


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything, `Comparison` by its own names, as JSON values."""
    facts: dict[str, Any] = plain(comparison)
    for of_row, plain_differences in zip(comparison.differences, facts["differences"], strict=True):
        for difference, row in zip(of_row, plain_differences, strict=True):
            if difference is not None:
                row["is_clear"] = difference.is_clear
    return facts | {"baseline": comparison.baseline, "tests": comparison.tests}


# Format -> text of a file, those of --format but for the terminal and mieb.
FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": lambda comparison: json.dumps(as_json(comparison), indent=1, allow_nan=False) + "\n",
    "html": lambda comparison: as_page(comparison, read_provenance(comparison)),
}

_SUFFIXES = {"markdown": "md", "latex": "tex", "csv": "csv", "json": "json", "html": "html"}


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``compare.md``, ``.tex``, ``.csv``, ``.json``, ``.html`` and ``mieb/``; return them."""
    texts = {f"compare.{_SUFFIXES[name]}": write(comparison) for name, write in FORMATS.items()}
    for name, content in mieb_files(comparison).items():
        texts[f"mieb/{name}"] = json.dumps(content, indent=2, allow_nan=False) + "\n"
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
