"""Which numbers a comparison shows: filters, columns, and one number per model and column."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from dinoforge.config import nearest
from dinoforge.errors import UsageError, some_of
from dinoforge.evaluation.compare.comparison import Column, Direction
from dinoforge.evaluation.compare.models import ModelRuns
from dinoforge.evaluation.compare.sources import Measurement, Run
from dinoforge.evaluation.compare.values import protocol_keys
from dinoforge.evaluation.scores import headline_k, k_and_bank
from dinoforge.evaluation.stages.guards import LOWER_IS_BETTER
from dinoforge.records import Record
from dinoforge.runs import read_recipe

__all__ = ["Chosen", "Filters", "choose", "choose_columns", "note_choices"]

_LOWER = LOWER_IS_BETTER | {"abs_rel", "sq_rel", "log10", "rmse_log", "silog", "J_decay", "F_decay"}
_IN_UNITS = {"rmse", "abs_rel", "sq_rel", "log10", "rmse_log", "silog", "ns_score"}
_COUNTS = "leakage/"  # records of the leakage gate: no score of a model
_SIGNS = "collapse/"  # need no truth: neither higher nor lower is better

# Settings that differ between models without a difference of protocol: what was chosen or found.
_FOUND = {
    *("features", "k", "step", "deviation", "seeds", "rate", "epoch", "C", "chosen_on", "head"),
    *("neighbors", "scale", "chance", "baseline", "without_leaked", "units_left", "units_dropped"),
    *("undefined_resamples", "degenerate", "share_linked", "heads", "patch_size"),
}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What to show; empty: everything, or what is usual. Names may be patterns (``knn/*``)."""

    benchmarks: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    ks: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()

    def accept(self, record: Record) -> bool:
        """Whether a number may be shown; pixels and the like have no kinds of features."""
        features, k = str(record.settings.get("features") or ""), record.settings.get("k")
        has_kinds = features not in {"", record.model}
        return (
            _matches(record.benchmark, self.benchmarks)
            and _matches(record.metric, self.metrics)
            and (not has_kinds or _matches(features, self.features))
            and (k is None or not self.ks or k in self.ks)
        )

    def check(self, runs: Sequence[Run]) -> None:
        """Raise a `UsageError` for a filter that matches nothing, naming what there is."""
        records = [m.record for run in runs for m in run.measurements]
        there: Mapping[str, Iterable[Any]] = {
            "benchmark": (r.benchmark for r in records),
            "features": (str(r.settings.get("features") or "") for r in records),
            "k": (r.settings["k"] for r in records if "k" in r.settings),
            "metric": (r.metric for r in records),
        }
        asked = (self.benchmarks, self.features, self.ks, self.metrics)
        for (flag, values), patterns in zip(there.items(), asked, strict=True):
            names = [str(value) for value in dict.fromkeys(values) if value != ""]
            for pattern in map(str, patterns):
                if not any(fnmatchcase(name, pattern) for name in names):
                    near = nearest(pattern, names)
                    hint = f"did you mean {near}? " if near else ""
                    raise UsageError(
                        what="nothing matches",
                        where=f"--{flag} {pattern}",
                        do=f"{hint}there are {some_of(names, 20)}",
                    )
        if not any(map(self.accept, records)):
            raise UsageError(
                what="no record matches all filters", where="command line", do="remove one of them"
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _direction_of(record: Record) -> Direction:
    """Return which values of a metric are better."""
    if record.benchmark.startswith((_SIGNS, _COUNTS)):
        return ""
    return "lower" if record.metric in _LOWER else "higher"


def _is_fraction(record: Record) -> bool:
    """Whether a metric is a share, from 0 to 1, that is shown in percent."""
    return record.metric not in _IN_UNITS and _direction_of(record) != ""


def choose_columns(
    runs: Sequence[Run], models: Sequence[ModelRuns], filters: Filters, note: Callable[[str], None]
) -> list[Column]:
    """List the columns in the order of the records.

    Without a filter of metrics, the first metric of every benchmark; signs of collapse only where
    a filter of benchmarks asks for them.

    Raises
    ------
    UsageError
        If runs measured a benchmark of one name on different test images.
    """
    filters.check(runs)
    measured = [m for run in runs for m in run.measurements if filters.accept(m.record)]
    wanted = measured
    if not (filters.benchmarks or filters.metrics):
        scores = [m for m in measured if _direction_of(m.record)]
        wanted = scores or measured
        if scores and any(m.record.benchmark.startswith(_SIGNS) for m in measured):
            note("signs of collapse are left out: add --benchmark 'collapse/*'")
    _note_leaks(measured, note)
    _note_filtered(runs, measured, filters, note)
    metrics: dict[str, list[str]] = {}
    for m in wanted:
        of_benchmark = metrics.setdefault(m.record.benchmark, [])
        if m.record.metric not in of_benchmark:
            of_benchmark.append(m.record.metric)
    columns = []
    for benchmark, names in metrics.items():
        is_sign = benchmark.startswith(_SIGNS)
        shown = names if filters.metrics or is_sign else names[:1]
        if left := names[len(shown) :]:
            note(f"{benchmark}: {shown[0]} is shown; also measured: {', '.join(left)} (--metric)")
        columns += [_column(benchmark, metric, wanted) for metric in shown]
    keys = {key[:2] for model in models for member in model.members for key in member.newest}
    return [column for column in columns if (column.benchmark, column.metric) in keys]


def _note_filtered(
    runs: Sequence[Run],
    measured: Sequence[Measurement],
    filters: Filters,
    note: Callable[[str], None],
) -> None:
    """Name the benchmarks of which the filters of features and k leave nothing."""
    asked = replace(filters, features=(), ks=())
    some = [m.record for run in runs for m in run.measurements if asked.accept(m.record)]
    shown = {m.record.benchmark for m in measured}
    left = dict.fromkeys(r.benchmark for r in some if r.benchmark not in shown)
    if left:
        note(f"nothing has the features and k that were asked for in {', '.join(left)}")


def _note_leaks(measurements: Sequence[Measurement], note: Callable[[str], None]) -> None:
    for m in measurements:
        if m.record.benchmark.startswith(_COUNTS) and m.record.value:
            data, count = m.record.benchmark.removeprefix(_COUNTS), int(m.record.value)
            note(f"{data}: {count} of {m.record.n} test images of {m.run} leaked into the training")


def _column(benchmark: str, metric: str, measurements: Sequence[Measurement]) -> Column:
    some = [m for m in measurements if (m.record.benchmark, m.record.metric) == (benchmark, metric)]
    first = some[0]
    known = [m for m in some if m.record.data]
    for m in known:
        if m.record.data != known[0].record.data:
            raise UsageError(
                what=f"{benchmark} has other test images in {known[0].run} "
                f"({known[0].record.data[:12]}) than in {m.run} ({m.record.data[:12]})",
                where=str(m.folder),
                do="choose others with --benchmark, or evaluate them under names of their own",
            )
    chances = {c for m in some if (c := m.record.settings.get("chance")) is not None}
    return Column(
        benchmark=benchmark,
        metric=metric,
        n=max(m.record.n for m in some),
        data=known[0].record.data if known else "",
        direction=_direction_of(first.record),
        chance=chances.pop() if len(chances) == 1 else None,
        is_fraction=_is_fraction(first.record),
    )


@dataclass(frozen=True)
class Chosen:
    """The number of one model in one column."""

    measurements: list[Measurement]  # one per member that has it
    members: list[int]  # which those are
    kinds: int  # among how many kinds of features it was chosen

    @property
    def value(self) -> float:
        """Mean over the members."""
        return math.fsum(m.record.value for m in self.measurements) / len(self.measurements)


def choose(
    models: Sequence[ModelRuns], column: Column, filters: Filters, note: Callable[[str], None]
) -> list[Chosen | None]:
    """Choose the number of every model in a column: the headline's k, the best kind of features."""
    candidates = [_candidates(model, column, filters) for model in models]
    records = [m.record for some in candidates for chosen in some for m in chosen.measurements]
    ks = [{chosen.measurements[0].key[3] for chosen in some} for some in candidates if some]
    shared = set.intersection(*ks) if ks else set()
    k = headline_k(k_and_bank(r) for r in records if r.settings.get("k") in (shared or {None}))
    result: list[Chosen | None] = []
    for model, some in zip(models, candidates, strict=True):
        of_model = k
        if some and not any(c.measurements[0].key[3] == k for c in some):
            of_model = headline_k(k_and_bank(c.measurements[0].record) for c in some)
            note(f"{column.title}: {model.name} is at k = {of_model}, which not all models have")
        one = _best([c for c in some if c.measurements[0].key[3] == of_model], column)
        if one is not None and len(one.members) < len(model.members):
            seeds = f"{len(one.members)} of {len(model.members)}"
            note(f"{column.title}: {model.name} was measured with {seeds} seeds")
        result.append(one)
    return result


def _candidates(model: ModelRuns, column: Column, filters: Filters) -> list[Chosen]:
    """List a model's numbers of a column, one per kind of features and k, over its members."""
    by_kind: dict[tuple[str, int | None], dict[int, Measurement]] = {}
    for number, member in enumerate(model.members):
        for key, m in member.newest.items():
            is_here = key[:2] == (column.benchmark, column.metric)
            if is_here and filters.accept(m.record):
                by_kind.setdefault((key[2], key[3]), {})[number] = m
    have_any = {number for of_kind in by_kind.values() for number in of_kind}
    whole = {kind: some for kind, some in by_kind.items() if len(some) == len(have_any)}
    if by_kind and not whole and sum(map(len, by_kind.values())) == len(have_any):
        # Each chose its own, as the linear grid does.
        whole = {("", None): {n: m for some in by_kind.values() for n, m in some.items()}}
    kinds = {kind[0] for kind in (whole or by_kind)}
    return [
        Chosen([some[n] for n in sorted(some)], sorted(some), len(kinds))
        for some in (whole or by_kind).values()
    ]


def _best(candidates: Sequence[Chosen], column: Column) -> Chosen | None:
    """Return the best, the first of equals; where nothing is better, the first."""
    known = [c for c in candidates if math.isfinite(c.value)]
    if not known or not column.direction:
        return candidates[0] if candidates else None
    sign = -1 if column.direction == "lower" else 1
    return max(known, key=lambda chosen: sign * chosen.value)


def note_choices(
    models: Sequence[ModelRuns],
    columns: Sequence[Column],
    chosen: Sequence[Sequence[Chosen | None]],
    note: Callable[[str], None],
) -> None:
    """Name features that were chosen by the scores that are shown, and protocols that differ."""
    for row, model in enumerate(models):
        by_kind: dict[str, list[str]] = {}
        for column, of_column in zip(columns, chosen, strict=True):
            one = of_column[row]
            if one is not None and one.kinds > 1 and column.direction:
                kind = one.measurements[0].key[2]
                by_kind.setdefault(kind, []).append(column.title)
        if by_kind:
            each = "; ".join(f"{kind} of {_in_short(names)}" for kind, names in by_kind.items())
            note(f"{model.name}: the best kind of features, chosen on the test images: {each}")
    alike: dict[str, list[str]] = {}
    recipes = cache(read_recipe)
    for column, of_column in zip(columns, chosen, strict=True):
        for line in _unlike_protocols(models, of_column, recipes):
            alike.setdefault(line, []).append(column.title)
    for line, titles in alike.items():
        note(f"{_in_short(titles)}: measured with different {line}")


def _in_short(titles: Sequence[str]) -> str:
    return f"{len(titles)} benchmarks" if len(titles) > 4 else ", ".join(titles)


def _unlike_protocols(
    models: Sequence[ModelRuns],
    chosen: Sequence[Chosen | None],
    recipe_of: Callable[[Path], Mapping[str, Any]],
) -> Iterator[str]:
    """Say in what the numbers of a column were not measured in the same way."""
    some = [
        (model.name, m)
        for model, one in zip(models, chosen, strict=True)
        for m in ([] if one is None else one.measurements)
    ]
    are_apart = len({m.folder for _, m in some}) > 1  # else they have one recipe
    by_name: dict[str, dict[str, list[str]]] = {}

    def add(facts: Mapping[str, Any], of: str) -> None:
        for name, value in facts.items():
            by_name.setdefault(name, {}).setdefault(str(value), []).append(of)

    for model, m in some:
        settings = {k: v for k, v in m.record.settings.items() if k not in _FOUND}
        add({k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)}, model)
        add({"number of test images": m.record.n}, model)
        if are_apart:
            add(protocol_keys(m.record, recipe_of(m.folder)), m.run)
            add({"test images": m.record.data[:12] or "unknown"}, m.run)
    for name, by_value in by_name.items():
        if len(by_value) > 1:
            each = (
                f"{value} of {some_of(dict.fromkeys(names))}" for value, names in by_value.items()
            )
            yield f"`{name}`: {'; '.join(each)}"
