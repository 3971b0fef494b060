"""`records.load`: one table of every evaluation, as its documentation shows it."""

import doctest
import json

import pandas as pd
import pytest

from dinoforge import records
from dinoforge.errors import UsageError
from dinoforge.records import Record, load, write_records

EVALUATED = {"command": "evaluate"}


def write_run(folder, some=(), facts=EVALUATED):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(facts))
    if some:
        write_records(folder / "records.jsonl", some)
    return folder


def accuracy(value, *, benchmark="knn/birds", model="trained", interval=None, **settings):
    return Record(
        benchmark=benchmark,
        model=model,
        metric="accuracy",
        value=value,
        interval=interval,
        settings=settings,
    )


def write_documented_runs(root):
    write_run(
        root / "birds",
        [
            accuracy(value, model=model, features="both", k=k)
            for model, values in (("trained", (0.8, 0.82)), ("untrained", (0.6, 0.61)))
            for k, value in zip((5, 20), values, strict=True)
        ],
    )
    write_run(root / "trained", facts={"command": "train"})
    for step, value in ((500, 0.7), (1000, 0.75)):
        record = accuracy(value, interval=(value - 0.03, value + 0.03), step=step)
        untrained = accuracy(0.6, model="untrained", step=0)
        write_run(root / f"trained/evaluation/birds/step-{step:09d}", [record, untrained])
    for seed, value in enumerate((0.8, 0.81, 0.82)):
        write_run(root / f"seed{seed}", facts={"command": "train"})
        write_run(root / f"seed{seed}/evaluation/step-000000100", [accuracy(value)])


def test_the_examples_of_the_documentation_give_what_they_show(tmp_path, monkeypatch):
    write_documented_runs(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder().find(load, "load", globs=vars(records))
    with pd.option_context("display.precision", 2):
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        assert runner.run(example) == (0, 7)


def test_a_folder_of_runs_gives_the_records_of_all_evaluations_below_it(tmp_path):
    write_documented_runs(tmp_path / "runs")
    cached = tmp_path / "runs/trained/cache/step-000000001"
    write_run(cached, [accuracy(0.1)])
    frame = load(str(tmp_path / "runs"))
    assert len(frame) == 4 + 2 * 2 + 3
    assert str(cached) not in set(frame.path)
    assert frame.path.is_monotonic_increasing
    one = load(tmp_path / "runs/trained/evaluation/birds/step-000000500/records.jsonl")
    assert one.value.tolist() == [0.7, 0.6]


def test_a_setting_with_the_name_of_a_field_has_a_column_of_its_own(tmp_path):
    write_records(tmp_path / "r.jsonl", [accuracy(0.5, n=7, path="x")])
    (row,) = load([tmp_path / "r.jsonl"]).to_dict("records")
    assert (row["n"], row["settings.n"], row["settings.path"]) == (0, 7, "x")
    assert row["path"] == str(tmp_path / "r.jsonl")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_place_without_records_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"no records - .*{name} - name a file of records"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"benchmark": "b"', "Expecting"),
        ('{"benchmark": "b", "model": "m", "metric": "x"}', "no value"),
        ('{"benchmark": "b", "model": "m", "metric": "x", "value": 1, "k": 1}', "unknown field k"),
        ("[1]", "not an object"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path, line, why):
    (tmp_path / "r.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match=rf"{why}.*r\.jsonl - rerun"):
        load(tmp_path / "r.jsonl")
