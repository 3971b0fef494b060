"""Records arranged for reading: tables of scores, paired differences, the headline."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dinoforge.records import Record

__all__ = [
    "FEATURES",
    "Difference",
    "Headline",
    "Scores",
    "Table",
    "TableRow",
    "arrange",
    "headline",
    "headline_k",
    "k_and_bank",
    "list_left_out",
    "step_of",
]

FEATURES = {
    "cls": "class token",
    "patch_mean": "patch mean",
    "both": "both",
    "cls_gem": "class token and GeM",
    "pixels": "pixels",
}
_MODELS = ("trained", "untrained", "pixels")  # order of rows; other models follow
_ACCURACIES = ("accuracy", "mean_per_class")
_K = 20  # what DINOv2 reports (section 7.1)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Scores of one model and one kind of features; None where nothing was measured."""

    model: str
    features: str
    cells: list[Record | None]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One benchmark: one row per model and kind of features, one column per k or metric."""

    benchmark: str
    column_name: str  # "k", or "" when the columns are metrics
    columns: list[str]
    rows: list[TableRow]
    n: int  # test images
    left_out: str = ""  # k-NN: numbers of neighbors that the bank does not have

    @property
    def is_unlabeled(self) -> bool:
        """Whether it holds signs of collapse, which need no truth."""
        return self.benchmark.startswith("collapse")

    @property
    def units_dropped(self) -> int | None:
        """How many test units (images, queries, videos) are leaked; None: not looked up."""
        cells = (cell for row in self.rows for cell in row.cells if cell is not None)
        dropped = [c.settings["units_dropped"] for c in cells if "units_dropped" in c.settings]
        return max(dropped, default=None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired difference ``model_a - model_b`` on the same test images."""

    record: Record
    model_a: str
    model_b: str
    features_a: str
    features_b: str
    k: int | None

    @property
    def is_clear(self) -> bool:
        """The 95 % interval excludes 0, and McNemar's exact test agrees (p < 0.05).

        The bootstrap alone is sure of three test images that all agree.
        """
        interval = self.record.interval
        excludes_0 = interval is not None and (interval[0] > 0 or interval[1] < 0)
        return excludes_0 and float(self.record.settings.get("mcnemar_p", 0.0)) < 0.05


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All records of the newest checkpoint, in tables; older ones in ``checkpoints``."""

    tables: list[Table]
    plain: list[Table]  # metrics other than accuracy, such as signs of collapse
    differences: list[Difference]
    k: int | None  # of the checkpoints, and of the plotted differences
    # k-NN accuracy: benchmark -> kind of features -> records by step
    checkpoints: dict[str, dict[str, list[Record]]]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The k-NN scores in short: the best kind of features of each model, and differences."""

    benchmark: str
    k: int
    best: list[Record]  # one per model: trained, untrained, pixels, others
    differences: list[Difference]  # trained minus each other model


def headline_k(ks: Iterable[tuple[int | None, int]]) -> int | None:
    """Return the k nearest to 20, the smaller of two; None if there is no k.

    ``ks`` are numbers of neighbors and sizes of their banks. More than half of a bank votes by
    the sizes of the classes, and under leave-one-out against the own class: such k come last.
    """
    known = ((2 * k > bank + 1, abs(k - _K), k) for k, bank in ks if k is not None)
    return min(known, default=(None,))[-1]


def arrange(records: Sequence[Record]) -> Scores:
    """Sort records into tables; their values are not changed."""
    newest = _newest(records)
    accuracies = [r for r in newest if r.metric in _ACCURACIES]
    others = [r for r in newest if r.metric not in _ACCURACIES and not r.is_difference]
    k = headline_k(k_and_bank(r) for r in newest if _is_knn(r))
    return Scores(
        tables=[_table(group) for group in _by_benchmark(accuracies)],
        plain=[_table(group) for group in _by_benchmark(others)],
        differences=_differences(newest),
        k=k,
        checkpoints=_by_checkpoint(records, k),
    )


def headline(records: Sequence[Record]) -> Headline | None:
    """Pick k-NN scores at k = 20 (or the nearest k measured); None without k-NN records."""
    newest = _newest(records)
    benchmark = next((r.benchmark for r in newest if _is_knn(r)), None)
    if benchmark is None:
        return None
    knn = [r for r in newest if _is_knn(r) and r.benchmark == benchmark]
    k = headline_k(map(k_and_bank, knn))
    best: dict[str, Record] = {}
    for record in sorted(knn, key=lambda r: (-r.value, _feature_order(_features(r)))):
        if _k(record) == k:
            best.setdefault(record.model, record)
    features = {model: _features(record) for model, record in best.items()}
    return Headline(
        benchmark=benchmark,
        k=k or 0,
        best=[best[model] for model in _model_names(knn) if model in best],
        differences=[
            d
            for d in _differences(newest)
            if (d.k, d.record.benchmark, d.model_a) == (k, benchmark, "trained")
            and features.get(d.model_a) == d.features_a
            and features.get(d.model_b) == d.features_b
        ],
    )


def step_of(record: Record) -> int | None:
    """Training step of a record's checkpoint; None for a file, a baseline, a difference."""
    step = record.settings.get("step")
    return step if isinstance(step, int) else None


def list_left_out(records: Sequence[Record], protocols: Iterable[str]) -> list[str]:
    """List, one line each, what an evaluation was to measure and did not, and why."""
    ks = sorted({_ks_left_out(record) for record in records} - {""})
    names = {record.benchmark.partition("/")[0] for record in records}
    counted = {name.rstrip("0123456789") for name in names}  # few_shot_5
    is_there = {name: name in names or f"{name}_" in counted for name in protocols}
    return ks + [_NEEDS[name] for name in protocols if not is_there[name]]


# Why a protocol gives no record.
_NEEDS = {
    "knn": "no k-NN: it needs labeled images that decode",
    "logistic": "no logistic regression: it needs a network, two classes, separate test images",
    "few_shot": "no few-shot k-NN: it needs labels and separate test images",
    "linear": "no linear probe: it needs a network, two classes, separate test images",
    "linear_v1": "no linear probe of DINO v1: it needs what `linear` needs",
    "low_shot": "no low-shot: it needs a network, two classes, separate test images",
    "soft_nn": "no soft nearest neighbors: they need two classes and separate test images",
    "collapse": "no signs of collapse: they need a network and two test images",
    "propagation": "no label propagation: it needs a ViT and videos with masks",
    "attention": "no attention masks: they need a ViT and images with masks of objects",
    "discovery": "no object discovery: it needs a ViT and images with boxes or masks of objects",
    "clips": "no classification of videos: it needs two classes in the training videos",
    "ranking": "no ranked lists: they need classes, or a data set of retrieval",
    "instances": "no recognition of instances: it needs a data set such as met",
    "copies": "no copy detection: it needs a data set such as disc21 or ground_truth",
    "segmentation": "no linear segmentation: it needs a ViT and images with masks",
    "in_context": "no in-context segmentation: it needs a ViT and images with masks",
    "depth": "no depth: it needs a ViT and images with depth maps",
}


def _ks_left_out(record: Record) -> str:
    """Name the numbers of neighbors that the bank does not have; "" for none."""
    ks = record.settings.get("k_left_out")
    if not ks:
        return ""
    listed = ", ".join(map(str, ks))
    return f"no k-NN with k = {listed}: the size of the bank is {record.settings['bank']}"


def _newest(records: Sequence[Record]) -> list[Record]:
    """Drop the records of earlier steps of a model that a benchmark measured at several."""
    last: dict[tuple[str, str], int] = {}
    for record in records:
        step, key = step_of(record), (record.benchmark, record.model)
        if step is not None:
            last[key] = max(step, last.get(key, step))
    return [r for r in records if step_of(r) in {None, last.get((r.benchmark, r.model))}]


def _by_checkpoint(records: Sequence[Record], k: int | None) -> dict[str, dict[str, list[Record]]]:
    """Scores at one k in the order of their steps, where there is more than one step."""
    curves: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda r: step_of(r) or 0):
        is_shown = _is_knn(record) and _k(record) == k and record.model != "untrained"
        if is_shown and step_of(record) is not None:
            curves.setdefault((record.benchmark, _features(record)), []).append(record)
    by_benchmark: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        key = (record.benchmark, _features(record))
        curve = curves.get(key, [])
        if len({step_of(r) for r in curve}) > 1:
            by_benchmark.setdefault(key[0], {})[key[1]] = curve
    return by_benchmark


def _is_knn(record: Record) -> bool:
    return record.benchmark.startswith("knn") and record.metric == "accuracy"


def _differences(records: Iterable[Record]) -> list[Difference]:
    names = ("model_a", "model_b", "features_a", "features_b")
    return [
        Difference(record=r, k=_k(r), **{name: str(r.settings[name]) for name in names})
        for r in records
        if r.is_difference
    ]


def _by_benchmark(records: Sequence[Record]) -> list[list[Record]]:
    names = dict.fromkeys(r.benchmark for r in records)
    return [[r for r in records if r.benchmark == name] for name in names]


def _table(records: Sequence[Record]) -> Table:
    """Scores of one benchmark by k; without k, one column per metric."""
    ks = sorted({k for r in records if r.metric in _ACCURACIES and (k := _k(r)) is not None})
    columns: list[Any] = ks or list(dict.fromkeys(r.metric for r in records))
    cells = {(r.model, _features(r), _k(r) if ks else r.metric): r for r in records}
    models = _model_names(records)
    keys = sorted(
        dict.fromkeys((r.model, _features(r)) for r in records),
        key=lambda key: (models.index(key[0]), _feature_order(key[1])),
    )
    return Table(
        benchmark=records[0].benchmark,
        column_name="k" if ks else "",
        columns=[str(column) for column in columns],
        rows=[
            TableRow(
                model=model,
                features=features,
                cells=[cells.get((model, features, column)) for column in columns],
            )
            for model, features in keys
        ],
        n=max(r.n for r in records),
        left_out=_ks_left_out(records[0]),
    )


def _model_names(records: Sequence[Record]) -> list[str]:
    names = list(dict.fromkeys(r.model for r in records))
    return [m for m in _MODELS if m in names] + [m for m in names if m not in _MODELS]


def _features(record: Record) -> str:
    return str(record.settings.get("features", ""))


def _feature_order(features: str) -> int:
    return list(FEATURES).index(features) if features in FEATURES else len(FEATURES)


def _k(record: Record) -> int | None:
    k = record.settings.get("k")
    return k if isinstance(k, int) else None


def k_and_bank(record: Record) -> tuple[int | None, int]:
    """Return the number of neighbors of a record, and the size of its bank, for `headline_k`."""
    return _k(record), int(record.settings.get("bank", sys.maxsize))
