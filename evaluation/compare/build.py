"""Runs to a comparison: what is shown, its intervals, differences and curves."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress

from dinoforge.config import nearest
from dinoforge.errors import UsageError, some_of
from dinoforge.evaluation.compare.cells import Numbers
from dinoforge.evaluation.compare.columns import Filters, choose, choose_columns, note_choices
from dinoforge.evaluation.compare.comparison import Comparison
from dinoforge.evaluation.compare.models import ModelRuns, find_models
from dinoforge.evaluation.compare.significance import find_differences
from dinoforge.evaluation.compare.sources import TRAINED, Run, as_run, read_runs
from dinoforge.records import Record

__all__ = ["compare", "compare_records"]


def compare(
    runs: Sequence[str],
    *,
    baseline: str = "",
    filters: Filters | None = None,
    free_keys: Sequence[str] = ("seed", "out"),
) -> Comparison:
    """Compare models x benchmarks.

    Parameters
    ----------
    runs : sequence of str
        ``[NAME=]PATH``, see `sources`; paths of one NAME are seeds of a model.
    baseline : str
        Row that differences are against; "" the first, ``none`` no differences.
    filters : Filters, optional
        What to show.
    free_keys : sequence of str
        Keys of a training's recipe in which seeds of one model may differ.

    Returns
    -------
    Comparison
        Without published rows.

    Raises
    ------
    UsageError
        If there are no records below a path, records are damaged, a filter matches nothing, the
        baseline is unknown, or one benchmark was measured on different test images.
    """
    notes: dict[str, None] = {}  # in order, each once

    def note(line: str) -> None:
        notes.setdefault(line)

    filters = filters or Filters()
    given = read_runs(runs)
    models = find_models(given, free_keys, note)
    numbers = _choose_numbers(given, models, filters, note)
    at = _find_baseline([model.name for model in numbers.models], baseline)
    cells, differences = find_differences(numbers, at, note)
    return Comparison(
        rows=tuple(numbers.rows(at, note)),
        columns=tuple(numbers.columns),
        cells=cells,
        differences=differences,
        curves=tuple(numbers.curves()),
        notes=tuple(notes),
    )


def compare_records(records: Sequence[Record]) -> Comparison:
    """Arrange the records of one evaluation as models x benchmarks, without differences.

    For a model card (`documents.as_markdown`) and the end of ``dinoforge evaluate``
    (`terminal.print_comparison`): a number per model and benchmark, that of the headline's k and
    the best kind of features, and notes of what that leaves out, without the flags of
    ``dinoforge compare`` that show it. Nothing is read from disk.
    """
    notes: dict[str, None] = {}

    def note(line: str) -> None:
        notes.setdefault(re.sub(r": add --.*| \(--\w+\)$", "", line))

    run = as_run(records)
    models = [replace(m, name=TRAINED) if m.is_trained else m for m in find_models([run], (), note)]
    numbers = _choose_numbers([run], models, Filters(), note)
    rows, columns = range(len(numbers.models)), range(len(numbers.columns))
    return Comparison(
        rows=tuple(numbers.rows(None, note)),
        columns=tuple(numbers.columns),
        cells=tuple(tuple(numbers.cell((r, at), None, note) for at in columns) for r in rows),
        differences=tuple((None,) * len(columns) for _ in rows),
        curves=tuple(numbers.curves()),
        notes=tuple(notes),
    )


def _choose_numbers(
    runs: Sequence[Run], models: Sequence[ModelRuns], filters: Filters, note: Callable[[str], None]
) -> Numbers:
    columns = choose_columns(runs, models, filters, note)
    chosen = [choose(models, column, filters, note) for column in columns]
    note_choices(models, columns, chosen, note)
    has_cells = [any(of_column[row] for of_column in chosen) for row in range(len(models))]
    if hidden := [m.name for m, has in zip(models, has_cells, strict=True) if not has]:
        note(f"no number to show of {', '.join(hidden)}")
    return Numbers(
        list(compress(models, has_cells)),
        columns,
        [list(compress(some, has_cells)) for some in chosen],
    )


def _find_baseline(names: Sequence[str], baseline: str) -> int | None:
    if baseline == "none":
        return None
    if not baseline:
        return 0
    if baseline in names:
        return names.index(baseline)
    near = nearest(baseline, names)
    raise UsageError(
        what=f"there is no model `{baseline}`" + (f" (did you mean `{near}`?)" if near else ""),
        where="--baseline",
        do=f"choose from {some_of(names, 20)}, or none",
    )
