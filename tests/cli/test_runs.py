"""The best export of a training, over the evaluations that name it."""

import json
from dataclasses import replace

import pytest

from dinoforge.cli.main import main
from dinoforge.records import Record, write_records


def write_run(folder, kind, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    known = {"command": kind, "exit_code": 0, "started": "2026-11-29T10:00:00+00:00"}
    known |= {"stopped": "2026-11-29T11:00:00+00:00", "run_folder": str(folder)}
    known |= {"working_folder": str(folder.parent)}
    (folder / "run.json").write_text(json.dumps(known | facts))
    return folder


def record(value, benchmark="knn/birds", metric="accuracy", features="cls", **settings):
    settings |= {"features": features}
    return Record(
        benchmark=benchmark, model="trained", metric=metric, value=value, settings=settings
    )


def evaluate(folder, records, **facts):
    write_records(write_run(folder, "evaluate", **facts) / "records.jsonl", records)


@pytest.fixture
def runs(tmp_path):
    """A training with an evaluation of two steps inside it, and one beside it; another without."""
    runs = tmp_path / "runs"
    training = write_run(runs / "birds", "train")
    write_run(runs / "other", "train")
    for step, knn, rmse in ((100, 0.7, 0.5), (200, 0.8, 0.4)):
        evaluate(
            training / f"evaluation/step-{step:09d}",
            [
                record(knn, k=20, step=step),
                record(knn - 0.1, k=20, step=step, features="both"),
                record(0.99, k=1, step=step),
                record(rmse, "depth/rooms", "rmse"),  # of a file: the folder has the step
            ],
        )
    some = [record(0.75, k=20, step=300), record(0.6, "depth/rooms", "rmse", step=300)]
    evaluate(runs / "beside", some, parents=["birds"])
    return runs


def best(capsys, runs, *words):
    assert main(["runs", str(runs), "--json", "--kind", "train", *words]) == 0
    return {row["path"]: row["best"] for row in json.loads(capsys.readouterr().out)}


def test_the_best_is_the_highest_headline_over_all_evaluations_of_a_training(runs, capsys):
    exports = best(capsys, runs)
    assert exports["other"] is None
    assert exports["birds"] == {
        "benchmark": "knn/birds",
        "metric": "accuracy",
        "value": 0.8,
        "step": 200,
        "features": "cls",
        "k": 20,
        "test_sets": 1,
    }


def test_of_an_error_the_lowest_is_the_best(runs, capsys):
    export = best(capsys, runs, "--best", "depth/rooms")["birds"]
    assert (export["value"], export["step"]) == (0.4, 200)


def test_the_evaluations_of_a_training_that_was_moved_with_them_are_still_its(
    runs, tmp_path, capsys
):
    runs.rename(tmp_path / "moved")
    assert best(capsys, tmp_path / "moved")["birds"]["value"] == 0.8


def test_the_table_has_the_benchmark_and_the_step(runs, capsys):
    assert main(["runs", str(runs)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("birds ")]
    assert "knn/birds 0.800 @ 200" in row


@pytest.mark.parametrize("name", ["knn/fish", "collapse/birds"])
def test_a_benchmark_without_a_rank_names_those_there_are(runs, capsys, name):
    sign = record(3.0, "collapse/birds", "rankme")
    evaluate(runs / "birds/evaluation/step-000000300", [sign])
    assert main(["runs", str(runs), "--best", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no number of a training to rank")
    assert f"--best {name} - choose from " in error
    assert "depth/rooms, knn/birds" in error


def test_damaged_records_do_not_hide_the_others(runs, capsys):
    (runs / "birds/evaluation/step-000000200/records.jsonl").write_text("{")
    assert best(capsys, runs)["birds"]["value"] == 0.75


def test_numbers_on_other_test_images_are_not_compared(runs, capsys):
    other = replace(record(0.9, k=20, step=400), data="other")
    evaluate(runs / "shifted", [other], parents=["birds"])
    export = best(capsys, runs)["birds"]
    assert (export["value"], export["test_sets"]) == (0.8, 2)
    assert main(["runs", str(runs)]) == 0
    assert "knn/birds 0.800 @ 200, one of 2 test sets" in capsys.readouterr().out
