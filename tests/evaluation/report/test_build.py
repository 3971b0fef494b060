"""The two files of a report: equal runs give equal bytes, and both hold the same numbers."""

import json
import shutil

import pytest

from dinoforge.evaluation.report.build import make_report


@pytest.fixture(scope="module")
def report(project, tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("report"), **project, title="Small")


def test_equal_runs_give_equal_bytes(report, project, tmp_path):
    again = make_report(tmp_path / "elsewhere", **project, title="Small")
    assert again.html.read_bytes() == report.html.read_bytes()
    assert again.json.read_bytes() == report.json.read_bytes()


def test_the_numbers_of_the_page_are_in_the_json(report, records):
    result = json.loads(report.json.read_text(encoding="utf-8"))
    assert result["records"] == [record.as_json() for record in records]
    assert result["title"] == "Small"
    assert result["curation"]["funnel"]["kept"] == 30
    assert result["training"]["steps"] == 1500
    assert result["headline"]["k"] == 20
    assert len(result["features"]["images"]) == 6
    assert result["features"]["explained_variance"].keys() == {"untrained", "trained"}


def test_what_two_equal_runs_need_not_share_is_in_one_place(report, project, tmp_path):
    """Another machine and another pace change `measured` and nothing else."""
    other = {}
    for kind, folder in project.items():
        other[kind] = shutil.copytree(folder, tmp_path / kind)
        notes = tmp_path / kind / "run.json"
        facts = json.loads(notes.read_text())
        notes.write_text(json.dumps(facts | {"host": "cluster", "cores": 64, "started": "later"}))
    metrics = tmp_path / "training" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(r | {"clock/images_per_s": 9.0}) + "\n" for r in rows))
    first = json.loads(report.json.read_text(encoding="utf-8"))
    second = json.loads(make_report(tmp_path / "report", **other, title="Small").json.read_text())
    assert first.pop("measured") != second.pop("measured")
    assert first == second


def test_a_report_of_nothing_is_a_page_that_states_it(tmp_path):
    report = make_report(tmp_path)
    assert "No finished curation was given." in report.html.read_text(encoding="utf-8")
    result = json.loads(report.json.read_text(encoding="utf-8"))
    assert (result["curation"], result["training"], result["features"]) == (None, None, None)
