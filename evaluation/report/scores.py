"""Records arranged for reading: tables of scores, paired differences, the headline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dinoforge.evaluation.headline import headline_k, is_knn
from dinoforge.records import Record

__all__ = [
    "FEATURES",
    "MODELS",
    "CheckpointScore",
    "Difference",
    "Headline",
    "Scores",
    "Table",
    "TableRow",
    "arrange",
    "headline",
]

MODELS = ("trained", "untrained", "pixels")
FEATURES = {"cls": "class token", "patch_mean": "patch mean", "both": "both", "pixels": "pixels"}


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Scores of one model and one kind of features; None where nothing was measured."""

    model: str
    features: str
    cells: list[Record | None]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One benchmark: a row a model and kind of features, a column a setting or a metric."""

    benchmark: str
    metric: str
    column_name: str  # "k", or "" when the columns are metrics
    columns: list[str]
    rows: list[TableRow]
    n: int  # test samples


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired difference ``model_a - model_b`` on the same test samples."""

    record: Record
    model_a: str
    model_b: str
    features_a: str
    features_b: str
    k: int | None

    @property
    def is_clear(self) -> bool:
        """The 95 % interval excludes 0."""
        interval = self.record.interval
        return interval is not None and (interval[0] > 0 or interval[1] < 0)


@dataclass(frozen=True, kw_only=True)
class CheckpointScore:
    """k-NN accuracy of one saved step."""

    step: int
    record: Record


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All records of the newest checkpoint, in tables; older ones in ``checkpoints``."""

    tables: list[Table]
    plain: list[Table]  # metrics that are not accuracies: signs of collapse and the like
    differences: list[Difference]
    k: int | None  # of the checkpoints, and of the differences on show
    # benchmark -> kind of features -> by step
    checkpoints: dict[str, dict[str, list[CheckpointScore]]]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The k-NN scores in short: the best kind of features of each model, and differences."""

    benchmark: str
    k: int
    best: list[Record]  # one a model, in the order of `MODELS`
    differences: list[Difference]  # trained minus each other model


def arrange(records: Sequence[Record]) -> Scores:
    """Sort records into tables; their values are not changed."""
    newest = _newest(records)
    accuracies = [r for r in newest if r.metric == "accuracy"]
    k = headline_k(map(_k, filter(is_knn, newest)))
    others = [r for r in newest if r.metric != "accuracy" and not _is_difference(r)]
    return Scores(
        tables=[_table(group) for group in _by_benchmark(accuracies)],
        plain=[_metrics_table(group) for group in _by_benchmark(others)],
        differences=[_difference(r) for r in newest if _is_difference(r)],
        k=k,
        checkpoints=_by_checkpoint(records, k),
    )


def headline(records: Sequence[Record]) -> Headline | None:
    """Pick k-NN scores at k = 20 (or the nearest k measured); None without k-NN records."""
    knn = list(filter(is_knn, _newest(records)))
    if not knn:
        return None
    benchmark = knn[0].benchmark
    mine = [r for r in knn if r.benchmark == benchmark]
    k = headline_k(map(_k, mine))
    at_k = [r for r in mine if _k(r) == k]
    best = [
        max(group, key=lambda r: (r.value, -_feature_order(r)))
        for model in _model_names(at_k)
        if (group := [r for r in at_k if r.model == model])
    ]
    features = {r.model: _features(r) for r in best}
    differences = [
        d
        for d in map(_difference, filter(_is_difference, _newest(records)))
        if d.k == k
        and d.record.benchmark == benchmark
        and d.model_a == "trained"
        and features.get(d.model_a) == d.features_a
        and features.get(d.model_b) == d.features_b
    ]
    return Headline(benchmark=benchmark, k=k or 0, best=best, differences=differences)


def step_of(record: Record) -> int | None:
    """Training step of a record's checkpoint; None of a file, a baseline, a difference."""
    step = record.settings.get("step")
    return step if isinstance(step, int) else None


def _newest(records: Sequence[Record]) -> list[Record]:
    """Drop the records of earlier steps of a model that a benchmark measured at several."""
    last: dict[tuple[str, str], int] = {}
    for record in records:
        step, key = step_of(record), (record.benchmark, record.model)
        if step is not None:
            last[key] = max(step, last.get(key, step))
    return [r for r in records if step_of(r) in {None, last.get((r.benchmark, r.model))}]


def _by_checkpoint(
    records: Sequence[Record], k: int | None
) -> dict[str, dict[str, list[CheckpointScore]]]:
    found: dict[str, dict[str, list[CheckpointScore]]] = {}
    for record in records:
        step = step_of(record)
        is_shown = is_knn(record) and _k(record) == k and record.model != "untrained"
        if is_shown and step is not None:
            score = CheckpointScore(step=step, record=record)
            kinds = found.setdefault(record.benchmark, {})
            kinds.setdefault(_features(record), []).append(score)
    curves = {benchmark: _curves(kinds) for benchmark, kinds in found.items()}
    return {benchmark: kinds for benchmark, kinds in curves.items() if kinds}


def _curves(kinds: dict[str, list[CheckpointScore]]) -> dict[str, list[CheckpointScore]]:
    """Scores in the order of their steps, where there is more than one."""
    return {
        features: sorted(scores, key=lambda score: score.step)
        for features, scores in kinds.items()
        if len({score.step for score in scores}) > 1
    }


def _is_difference(record: Record) -> bool:
    return "model_a" in record.settings and "model_b" in record.settings


def _difference(record: Record) -> Difference:
    settings = record.settings
    return Difference(
        record=record,
        model_a=str(settings["model_a"]),
        model_b=str(settings["model_b"]),
        features_a=str(settings["features_a"]),
        features_b=str(settings["features_b"]),
        k=_k(record),
    )


def _by_benchmark(records: Sequence[Record]) -> list[list[Record]]:
    names = dict.fromkeys(r.benchmark for r in records)
    return [[r for r in records if r.benchmark == name] for name in names]


def _table(records: Sequence[Record]) -> Table:
    """Scores of one benchmark by k; a protocol without k has one column."""
    ks = sorted({k for r in records if (k := _k(r)) is not None})
    columns: list[Any] = ks or ["accuracy"]
    cells = {(*_row_key(r), _k(r) if ks else "accuracy"): r for r in records}
    return Table(
        benchmark=records[0].benchmark,
        metric="accuracy",
        column_name="k" if ks else "",
        columns=[str(column) for column in columns],
        rows=_rows(records, columns, cells),
        n=max(r.n for r in records),
    )


def _metrics_table(records: Sequence[Record]) -> Table:
    columns = list(dict.fromkeys(r.metric for r in records))
    cells = {(*_row_key(r), r.metric): r for r in records}
    return Table(
        benchmark=records[0].benchmark,
        metric="",
        column_name="",
        columns=columns,
        rows=_rows(records, columns, cells),
        n=max(r.n for r in records),
    )


def _rows(
    records: Sequence[Record], columns: Iterable[Any], cells: dict[tuple[Any, ...], Record]
) -> list[TableRow]:
    models = _model_names(records)
    keys = sorted(
        {_row_key(r) for r in records},
        key=lambda key: (models.index(key[0]), _order(key[1]), key[1]),
    )
    columns = list(columns)
    return [
        TableRow(
            model=model,
            features=features,
            cells=[cells.get((model, features, column)) for column in columns],
        )
        for model, features in keys
    ]


def _row_key(record: Record) -> tuple[str, str]:
    return record.model, _features(record)


def _model_names(records: Sequence[Record]) -> list[str]:
    names = list(dict.fromkeys(r.model for r in records))
    return [m for m in MODELS if m in names] + [m for m in names if m not in MODELS]


def _features(record: Record) -> str:
    return str(record.settings.get("features", ""))


def _feature_order(record: Record) -> int:
    return _order(_features(record))


def _order(features: str) -> int:
    return list(FEATURES).index(features) if features in FEATURES else len(FEATURES)


def _k(record: Record) -> int | None:
    k = record.settings.get("k")
    return k if isinstance(k, int) else None
