"""Numbers of publications, for reference beside what was measured here: ``published.csv``.

The file holds what its authors state in a README or a model card and what was read there. Each
line names the benchmark as the recipe ``full`` does, the size of the test set, and settings
without which the number is of another protocol. Left out: numbers of DINOv3 by other protocols
than those here (its linear probes and videos), and data sets that no recipe has.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Row
from dinoforge.records import Record

__all__ = ["PublishedNumber", "read_published", "with_published"]

_FILE = Path(__file__).resolve().parent / "published.csv"
# Other names of data sets -> that of the recipe `full`.
_SYNONYMS = {
    **dict.fromkeys(("imagenet1k", "imagenet-1k", "in1k", "ilsvrc2012"), "imagenet"),
    **dict.fromkeys(("ade", "ADE20K"), "ade20k"),
    **dict.fromkeys(("nyu_depth", "nyud", "nyuv2"), "nyu"),
    **dict.fromkeys(("roxford", "oxford"), "roxford5k"),
    "voc07": "voc07_boxes",
    "voc12": "voc12_boxes",
}
_TOLERANCE = 0.05  # of the size of the test set: some images may not decode


@dataclass(frozen=True, kw_only=True)
class PublishedNumber:
    """One line of the file; ``value`` in the unit of a record of that metric."""

    model: str
    benchmark: str
    metric: str
    value: float
    n: int  # test images, or queries
    settings: Mapping[str, str]  # what the settings of a record must be
    selection: str  # as in records
    remark: str  # on the protocol
    source: str

    def fits(self, record: Record) -> bool:
        """Whether a measured number has the settings of this one."""
        return all(str(record.settings.get(k)) == v for k, v in self.settings.items())

    def as_record(self) -> Record:
        """Return it as a record, with remark and source among the settings."""
        return Record(
            benchmark=self.benchmark,
            model=self.model,
            metric=self.metric,
            value=self.value,
            n=self.n,
            settings={**self.settings, "remark": self.remark, "source": self.source},
            selection=self.selection,
        )


@cache
def read_published() -> tuple[PublishedNumber, ...]:
    """Read the numbers, in the order of the file."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(map(_as_number, csv.DictReader(file)))


def _as_number(line: Mapping[str, str]) -> PublishedNumber:
    texts = ("model", "benchmark", "metric", "selection", "remark", "source")
    return PublishedNumber(
        value=float(line["value"]),
        n=int(line["n"]),
        settings=dict(setting.split("=") for setting in line["settings"].split(";") if setting),
        **{name: line[name] for name in texts},
    )


def with_published(comparison: Comparison) -> Comparison:
    """Add a row for every model of which a publication states a number of one of the columns.

    Protocol, data set, metric and the settings of the protocol must be the same, and the test sets
    of about the same size; a note names what is left out for its settings or its size, and one the
    sources. The rows have no differences and are never bold.
    """
    shown: dict[str, dict[int, PublishedNumber]] = {}
    notes: dict[str, list[str]] = {}
    for at, column in enumerate(comparison.columns):
        measured = [
            record
            for cells in comparison.cells
            if (cell := cells[at]) is not None
            for record in cell.records
        ]
        for number in read_published():
            if (number.benchmark, number.metric) != (_known_name(column.benchmark), column.metric):
                continue
            if reason := _unlike(number, column, measured):
                notes.setdefault(f"{column.title}: {reason}", []).append(number.model)
            else:
                shown.setdefault(number.model, {})[at] = number
    sources: dict[str, list[str]] = {}
    for model, numbers in shown.items():
        row, cells = _row(model, numbers, len(comparison.columns))
        comparison = comparison.with_row(row, cells)
        sources.setdefault("; ".join(row.sources), []).append(model)
    lines = [f"{reason}: {_listed(models)}" for reason, models in notes.items()]
    lines += [
        f"published, not measured here: {_listed(models)}: {source}"
        for source, models in sources.items()
    ]
    return replace(comparison, notes=(*comparison.notes, *lines))


def _known_name(benchmark: str) -> str:
    protocol, *names = benchmark.split("/")
    return "/".join([protocol, *(_SYNONYMS.get(name, name) for name in names)])


def _unlike(number: PublishedNumber, column: Column, measured: Sequence[Record]) -> str:
    """Say why a number cannot stand in a column; "" if it can."""
    if abs(column.n - number.n) > _TOLERANCE * number.n:
        return (
            f"published numbers are not shown, their test set has {number.n:,} units, not "
            f"{column.n:,}"
        )
    if not any(map(number.fits, measured)):
        needs = ", ".join(f"{name} = {value}" for name, value in number.settings.items())
        return f"published numbers are not shown, they are for {needs}"
    return ""


def _listed(models: Sequence[str]) -> str:
    return models[0] if len(models) == 1 else f"{models[0]} and {len(models) - 1} more"


def _row(
    model: str, numbers: Mapping[int, PublishedNumber], num_columns: int
) -> tuple[Row, list[Cell | None]]:
    row = Row(
        name=f"{model} (published)",
        sources=tuple(dict.fromkeys(number.source for number in numbers.values())),
        is_published=True,
    )
    cells: list[Cell | None] = [None] * num_columns
    for at, number in numbers.items():
        record = number.as_record()
        cells[at] = Cell(value=number.value, selection=number.selection, records=(record,))
    return row, cells
