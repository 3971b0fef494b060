"""Evaluations of several steps and recipes become the records of one report."""

import json
import shutil

import pytest

from dinoforge.cli.main import main
from dinoforge.evaluation.report.facts import Sources, collect, find_evaluations, gather_records
from dinoforge.records import Record, write_records


def records_of(step, benchmark="knn/birds"):
    """What one evaluation leaves: trained, untrained, pixels, a difference, a sign of collapse."""

    def record(model, metric="accuracy", benchmark=benchmark, **settings):
        return Record(
            benchmark=benchmark,
            model=model,
            metric=metric,
            value=(step or 1) / 1000,
            n=10,
            settings={"features": "cls", "k": 20} | settings,
        )

    pair = {"model_a": "trained", "model_b": "pixels", "features_a": "cls", "features_b": "pixels"}
    return [
        record("trained", step=step),
        record("untrained", step=0),
        record("pixels"),
        record("trained - pixels", "accuracy_difference", **pair),
        record("trained", "rankme", benchmark.replace("knn", "collapse"), step=step),
    ]


def write_step(folder, step, benchmark="knn/birds"):
    place = folder / f"step-{step:09d}"
    place.mkdir(parents=True)
    facts = {"command": "evaluate", "argv": ["evaluate", f"checkpoints={step}"], "exit_code": 0}
    (place / "run.json").write_text(json.dumps(facts))
    write_records(place / "records.jsonl", records_of(step, benchmark))
    return place


@pytest.fixture
def measured(tmp_path):
    """Two recipes: birds at three steps and one that still runs, ships at one."""
    folder = tmp_path / "run/evaluation"
    for step in (50, 100, 150):
        write_step(folder / "birds", step)
    (folder / "birds/step-000000200").mkdir()
    (folder / "birds/cache").mkdir()
    write_step(folder / "ships", 100, "knn/ships")
    (folder / "clouds").mkdir()
    return folder


def test_a_folder_is_one_run_the_steps_of_a_recipe_or_several_recipes(measured):
    birds = [measured / f"birds/step-000000{step}" for step in (150, 100, "050")]
    ships = [measured / "ships/step-000000100"]
    assert find_evaluations(measured) == {"birds": birds, "ships": ships}
    assert find_evaluations(measured / "birds") == {"": birds}
    assert find_evaluations(birds[1]) == {"": [birds[1]]}
    assert find_evaluations(measured / "clouds") == {}
    assert find_evaluations(measured / "nowhere") == {}


def test_earlier_steps_give_the_curve_of_the_trained_network_and_nothing_twice(measured):
    result = gather_records(find_evaluations(measured / "birds"))
    assert result[:5] == records_of(150)
    assert result[5:] == [r for step in (100, 50) for r in records_of(step)[::4]]


def test_two_recipes_that_call_their_data_alike_stay_apart(measured):
    write_step(measured / "ships", 150, "knn/birds")
    names = {r.benchmark for r in gather_records(find_evaluations(measured))}
    assert names == {
        *(f"knn/birds ({name})" for name in ("birds", "ships")),
        *(f"collapse/birds ({name})" for name in ("birds", "ships")),
        *("knn/ships", "collapse/ships"),
    }


def test_a_training_brings_what_was_measured_while_it_ran(measured, project):
    run = measured.parent
    for name in ("metrics.jsonl", "run.json", "config.yaml"):
        shutil.copy(project["training"] / name, run)
    facts, _ = collect(Sources(curation=None, training=run, evaluation=None), "")
    curve = facts.scores.checkpoints["knn/birds"]["cls"]
    assert [(s.settings["step"], s.value) for s in curve] == [(50, 0.05), (100, 0.1), (150, 0.15)]
    assert [r.command.rpartition("=")[2] for r in facts.runs[1:]] == ["150", "100"]
    # An evaluation that is named is the only one.
    named = Sources(curation=None, training=run, evaluation=project["evaluation"])
    assert {r.benchmark for r in collect(named, "")[0].records} == {
        "knn/example",
        "collapse/example",
    }


def test_the_command_takes_a_folder_of_evaluations(measured, tmp_path, capsys):
    for folder in (measured, measured / "birds"):
        assert main(["report", str(tmp_path / "page"), "--evaluation", str(folder), "-q"]) == 0
        assert "Exported steps" in (tmp_path / "page/report.html").read_text()
    assert main(["report", str(tmp_path / "page"), "--evaluation", str(measured / "clouds")]) == 2
    assert "no evaluation run" in capsys.readouterr().err
