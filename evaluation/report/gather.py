"""Evaluations of several steps of a training, and of several recipes, as the records of one report.

A folder of evaluations is one of three: a run of ``dinoforge evaluate``; the runs of one recipe,
``step-000005000`` and so on; the runs of several recipes, ``NAME/step-000005000``. A training
that was submitted with ``--evaluate`` has the last kind as ``RUN/evaluation``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dinoforge.evaluation.scores import step_of
from dinoforge.exports import step_name, steps_in
from dinoforge.records import Record, read_records

__all__ = ["RECORDS", "find_evaluations", "gather_records"]

RECORDS = "records.jsonl"


def find_evaluations(folder: Path) -> dict[str, list[Path]]:
    """Find the finished evaluations below a folder.

    Parameters
    ----------
    folder : Path
        One of the three kinds.

    Returns
    -------
    dict
        Name of a recipe -> run folders that have records, newest step first. The name is "" for a
        run or for the steps of one recipe. Empty when nothing is finished.
    """
    if (folder / RECORDS).is_file():
        return {"": [folder]}
    own = _by_step(folder)
    if own:
        return {"": own}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path.name: _by_step(path) for path in inside if path.is_dir()}
    return {name: runs for name, runs in found.items() if runs}


def _by_step(folder: Path) -> list[Path]:
    runs = [folder / step_name(step) for step in reversed(steps_in(folder))]
    return [run for run in runs if (run / RECORDS).is_file()]


def gather_records(evaluations: Mapping[str, Sequence[Path]]) -> list[Record]:
    """Read every record of the newest step of each recipe, and of earlier steps those of the curve.

    Parameters
    ----------
    evaluations : mapping
        As `find_evaluations` gives them.

    Returns
    -------
    list of Record
        Of an earlier step only ``trained`` with its step: baselines and the untrained network are
        the same at every step. Where two recipes measured a benchmark of one name, the name
        of the recipe is added to it.
    """
    found = {name: _of_recipe(runs) for name, runs in evaluations.items()}
    uses = Counter(benchmark for records in found.values() for benchmark in _benchmarks(records))
    return [
        replace(r, benchmark=f"{r.benchmark} ({name})") if uses[r.benchmark] > 1 else r
        for name, records in found.items()
        for r in records
    ]


def _of_recipe(runs: Sequence[Path]) -> list[Record]:
    newest, *earlier = (read_records(run / RECORDS) for run in runs)
    curve = [
        record
        for records in earlier
        for record in records
        if record.model == "trained" and step_of(record) is not None
    ]
    return [*newest, *curve]


def _benchmarks(records: Sequence[Record]) -> set[str]:
    return {record.benchmark for record in records}
