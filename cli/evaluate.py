"""``dinoforge evaluate``: every protocol of a recipe, with intervals."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import make_console, on_change, print_table
from dinoforge.cli.recipe_command import RecipeCommand, open_run

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.evaluation.config import EvaluationConfig
    from dinoforge.records import Record
    from dinoforge.runs import OnChange

__all__ = ["COMMAND", "evaluate_run", "low_high", "number"]


def evaluate_run(
    loaded: "Loaded[EvaluationConfig]", *, on: str, change: "OnChange"
) -> "list[Record]":
    """Open the run folder and measure every record; see `evaluation.suite.evaluate`.

    ``on`` is ``in-process`` or ``local:N``; ``change`` is the ``on_change`` of `Run.open`.
    """
    from dinoforge.evaluation.suite import evaluate
    from dinoforge.stages import make_executor

    config = loaded.config
    executor = make_executor(on)
    try:
        with open_run("evaluate", loaded, change, [config.checkpoint, *_sources(config)]) as run:
            return evaluate(config, run.folder, executor)
    finally:
        executor.close()


def _execute(args: argparse.Namespace, loaded: "Loaded[EvaluationConfig]") -> "list[Record]":
    return evaluate_run(loaded, on=args.on, change=on_change(args))


def _sources(config: "EvaluationConfig") -> list[str]:
    from dinoforge.evaluation.config import named_sets

    return [
        path
        for one in named_sets(config).values()
        for path in (*one.train, *one.test, one.root, *one.tests.values(), *one.subsets)
        if path
    ]


def _show(records: "list[Record]", folder: Path, args: argparse.Namespace) -> None:
    if args.all:
        _show_all(records)
    elif records:
        _show_best(records)
    print(f"records, with their settings: {folder / 'records.jsonl'}")


def _show_best(records: "list[Record]") -> None:
    """Print one number per model and benchmark, and differences that intervals do not settle."""
    from dinoforge.evaluation.compare.build import compare_records
    from dinoforge.evaluation.compare.terminal import print_comparison
    from dinoforge.evaluation.compare.texts import interval_text, number_text
    from dinoforge.evaluation.report.against import against_others

    comparison = compare_records(records)
    if comparison.columns:  # else records of the leakage gate alone
        print_comparison(comparison, make_console(width=100))
    for one in against_others(records, comparison):
        if one.is_close and one.difference is not None:
            value = number_text(one.difference.record.value, one.column, sign=True)
            interval = interval_text(one.difference.record.interval, one.column, sign=True)
            verdict = "clear" if one.difference.is_clear else "not clear"
            print(f"- {one.column.title}: trained - {one.model}: {value} {interval}, {verdict}")
    print("add --all for every kind of features, k, metric and difference")


def _show_all(records: "list[Record]") -> None:
    from dinoforge.evaluation.scores import arrange

    scores = arrange(records)
    for table in (*scores.tables, *scores.plain):
        columns = [f"{table.column_name} = {c}" if table.column_name else c for c in table.columns]
        rows = [[row.model, row.features, *map(_cell, row.cells)] for row in table.rows]
        title = f"{table.benchmark}, {table.n} images"
        print_table(["model", "features", *columns], rows, title=title)
    rows = [
        [
            d.record.benchmark,
            f"{d.model_a} - {d.model_b}",
            d.features_a + ("" if d.k is None else f", k = {d.k}"),
            d.record.metric.removesuffix("_difference"),
            number(d.record.value, "+.4f"),
            low_high(d.record.interval, "+.4f"),
        ]
        for d in scores.differences
    ]
    if rows:
        names = ["benchmark", "models", "features", "metric", "difference", "95 % interval"]
        print_table(names, rows, title="Paired differences")


def _cell(record: "Record | None") -> str:
    if record is None:
        return "–"
    interval = low_high(record.interval, ".3f").replace(" .. ", "–")
    return "\n".join(filter(None, [number(record.value, ".4f"), interval, _without_leaked(record)]))


def _without_leaked(record: "Record") -> str:
    """Format the score without the test images that the models were trained on."""
    if not record.settings.get("units_dropped"):
        return ""
    value = record.settings["without_leaked"]
    return f"{'–' if value is None else number(value, '.4f')} without leaked"


def number(value: float, form: str) -> str:
    """Format a number as ``form``; a dash if it is undefined."""
    return "–" if math.isnan(value) else f"{value:{form}}"


def low_high(interval: tuple[float, float] | None, form: str) -> str:
    """Format an interval, each end as ``form``; "" for none."""
    return "" if interval is None else f"{interval[0]:{form}} .. {interval[1]:{form}}"


def _add_own_arguments(parser: argparse.ArgumentParser) -> None:
    text = "print every record, not only the best features of each model at one k"
    parser.add_argument("--all", action="store_true", help=text)


COMMAND = RecipeCommand(
    kind="evaluation",
    sentence="measure a checkpoint: classification, retrieval, dense tasks, videos; with intervals",
    examples=(
        "dinoforge evaluate --list",
        "dinoforge evaluate cifar10_cpu checkpoint=runs/cifar10 out=runs/cifar10-eval",
        "dinoforge evaluate cifar10_cpu checkpoint=runs/cifar10 out=runs/cifar10-eval --json",
    ),
    pipeline="dinoforge.evaluation.suite:PIPELINE",
    add_own_arguments=_add_own_arguments,
    execute=_execute,
    as_json=lambda records: [record.as_json() for record in records],
    sources=_sources,
    written=("cache", "evaluation"),
    show=_show,
)
