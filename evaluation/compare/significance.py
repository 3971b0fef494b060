"""Which differences of a comparison are clear: against the baseline, and of the best to all others.

Two kinds of families are corrected (`paired.holm`): all differences against the baseline, and in
every column those of its best model to each other model. Only the latter make a number bold.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from dinoforge.evaluation.compare.cells import Numbers, Place
from dinoforge.evaluation.compare.comparison import Cell, Difference
from dinoforge.evaluation.compare.paired import (
    Sample,
    Tested,
    bootstrap,
    holm,
    smallest_p,
    unpaired_interval,
)
from dinoforge.evaluation.config import BootstrapConfig

__all__ = ["find_differences"]

_Cells = tuple[tuple[Cell | None, ...], ...]
_Differences = tuple[tuple[Difference | None, ...], ...]
_Tests = Mapping[tuple[Place, Place | None], Tested]  # a number minus another one, or alone


def find_differences(
    numbers: Numbers, baseline: int | None, note: Callable[[str], None]
) -> tuple[_Cells, _Differences]:
    """Return the cells of a comparison, and their differences against a row (None: no row)."""
    pairs = list(dict.fromkeys(_pairs(numbers, baseline)))
    samples: list[tuple[Sample, Sample | None]] = [
        (numbers.samples[a], None if b is None else numbers.samples[b]) for a, b in pairs
    ]
    config = numbers.bootstrap_config(note)
    tested = bootstrap(samples, config)
    tests = dict(zip(pairs, tested, strict=True))
    rows, columns = range(len(numbers.models)), range(len(numbers.columns))
    cells = [
        [numbers.cell((row, at), tests.get(((row, at), None)), note) for at in columns]
        for row in rows
    ]
    for at in columns:
        best = _best(numbers, at)
        if best is not None and _is_clearly_best(numbers, (best, at), tests):
            cell = cells[best][at]
            cells[best][at] = None if cell is None else replace(cell, is_bold=True)
    differences = [[_difference(cells, (r, at), baseline, tests) for at in columns] for r in rows]
    return tuple(map(tuple, cells)), _corrected(differences, config, note)


def _pairs(numbers: Numbers, baseline: int | None) -> Iterator[tuple[Place, Place | None]]:
    """Yield what is resampled: means over seeds, differences to the baseline and of the best."""
    for place, one in numbers.places():
        row, column = place
        if len(one.measurements) > 1 and place in numbers.samples:
            yield place, None
        best = _best(numbers, column)
        if baseline not in {None, row} and _are_paired(numbers, place, (baseline, column)):
            yield place, (baseline, column)
        if best not in {None, row} and _are_paired(numbers, (best, column), place):
            yield (best, column), place


def _are_paired(numbers: Numbers, a: Place, b: Place) -> bool:
    of_a, of_b = numbers.samples.get(a), numbers.samples.get(b)
    return of_a is not None and of_b is not None and of_a[0].is_like(of_b[0])


def _best(numbers: Numbers, column: int) -> int | None:
    """Return the row of the best of several numbers; None where two are."""
    direction = numbers.columns[column].direction
    values = {
        row: one.value
        for row, one in enumerate(numbers.chosen[column])
        if one is not None and math.isfinite(one.value)
    }
    if len(values) < 2 or not direction:
        return None
    best = max(values.values()) if direction == "higher" else min(values.values())
    rows = [row for row, value in values.items() if value == best]
    return rows[0] if len(rows) == 1 else None


def _is_clearly_best(numbers: Numbers, best: Place, tests: _Tests) -> bool:
    others = [
        (row, best[1])
        for row, one in enumerate(numbers.chosen[best[1]])
        if one is not None and row != best[0]
    ]
    tested = [tests.get((best, other)) for other in others]
    ps = holm([None if test is None else test.p for test in tested])
    return all(
        test is not None and _as_difference(test, p).is_clear
        for test, p in zip(tested, ps, strict=True)
    )


def _as_difference(test: Tested, holm_p: float | None) -> Difference:
    how = f"paired on {test.units} units"
    return Difference(value=test.value, interval=test.interval, p=test.p, holm_p=holm_p, how=how)


def _difference(
    cells: list[list[Cell | None]], place: Place, baseline: int | None, tests: _Tests
) -> Difference | None:
    row, column = place
    if baseline is None or row == baseline:
        return None
    a, b = cells[row][column], cells[baseline][column]
    if a is None or b is None or not math.isfinite(a.value - b.value):
        return None
    is_test_peek = "test-peek" in a.selection + b.selection
    if (test := tests.get((place, (baseline, column)))) is not None:
        return replace(_as_difference(test, None), is_test_peek=is_test_peek)
    interval = None
    if a.interval is not None and b.interval is not None:
        interval = unpaired_interval(a.value, a.interval, b.value, b.interval)
    how = "unpaired: no values on the same units"
    return Difference(
        value=a.value - b.value, interval=interval, how=how, is_test_peek=is_test_peek
    )


def _corrected(
    differences: list[list[Difference | None]], config: BootstrapConfig, note: Callable[[str], None]
) -> _Differences:
    flat = [d for row in differences for d in row]
    ps = iter(holm([None if d is None else d.p for d in flat]))
    corrected = []
    for row in differences:
        each = [(d, next(ps)) for d in row]
        corrected.append(tuple(None if d is None else replace(d, holm_p=p) for d, p in each))
    known = [d for row in corrected for d in row if d is not None]
    tested = sum(d.p is not None for d in known)
    unclear = [d for d in known if d.p is not None and not d.is_clear and d.excludes_0]
    if unclear:
        note(
            f"{len(unclear)} of {tested} differences have an interval without 0 that is not clear "
            "after Holm's correction"
        )
    smallest = {smallest_p(config.resamples), smallest_p(config.pooled_resamples)}
    if any(d.p in smallest for d in unclear):
        note(
            "some of these have the smallest p-value that so few resamples can give: raise "
            "`bootstrap.resamples` or `bootstrap.pooled_resamples` of the first run"
        )
    if unpaired := len(known) - tested:
        note(
            f"{unpaired} of {len(known)} differences are unpaired, never clear: the values per "
            "unit are gone, or on other units; their interval is that of independent samples, "
            "d -+ the root of the sum of both squared half-widths (Newcombe 1998, method 10)"
        )
    return tuple(corrected)
