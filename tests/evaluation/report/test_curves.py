"""Curves: means of rows of the metrics, in panels; numbers of a clock apart."""

import json
import math

import numpy as np
import pytest

from dinoforge.evaluation.report.curves import make_curves


@pytest.fixture(scope="module")
def rows(project):
    lines = (project["training"] / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def curves(project):
    return make_curves(project["training"], prototypes=1024)


def written(folder, rows, end=""):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + end)
    return make_curves(folder)


def test_a_run_without_metrics_has_no_curves(tmp_path):
    assert make_curves(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert make_curves(tmp_path) is None


def test_a_point_is_the_mean_of_its_rows_at_their_last_step(curves, rows):
    assert (curves.rows, curves.steps, curves.per_point) == (300, 1500, 3)
    (total,) = curves.panels[0].curves
    values = np.array([row["loss/total"] for row in rows]).reshape(-1, 3).mean(axis=1)
    assert total.values == pytest.approx(values.tolist(), rel=1e-5)
    assert total.steps == [float(row["step"]) for row in rows[2::3]]


def test_every_metric_is_drawn_once(curves, rows):
    everything = [*curves.panels, *curves.schedules, *curves.clock]
    drawn = sum(len(panel.curves) for panel in everything)
    assert drawn == len(rows[0].keys() - {"step"})


def test_a_metric_that_nobody_expected_gets_a_panel_of_its_own(tmp_path):
    curves = written(tmp_path, [{"step": n, "teacher/new_thing": n / 7} for n in (1, 2)])
    assert [panel.title for panel in curves.panels] == ["New thing"]


def test_what_a_clock_measured_is_in_no_other_panel(curves):
    assert {panel.title for panel in curves.clock} == {
        "Images per second",
        "Seconds waiting for data",
    }
    assert not any("clock" in key for key in (*curves.first, *curves.last))


def test_the_entropy_is_compared_with_its_bound(curves, project):
    (panel,) = [panel for panel in curves.panels if panel.title == "Teacher entropy"]
    assert panel.levels == [("ln K", math.log(1024))]
    unknown = make_curves(project["training"])
    (panel,) = [panel for panel in unknown.panels if panel.title == "Teacher entropy"]
    assert panel.levels == []


def test_a_run_without_a_teacher_has_no_schedules_of_one_and_entropies_below_that_of_its_classes(
    tmp_path,
):
    names = ("loss/xent", "loss/me_max", "predictions/entropy_of_mean", "schedule/momentum")
    row = dict.fromkeys((*names, "schedule/teacher_temperature", "schedule/lr"), 1.0)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, **row}))
    curves = make_curves(tmp_path, classes=10)
    assert [panel.title for panel in curves.schedules] == ["Learning rate"]
    titles = ["Loss between views", "Loss of the mean prediction", "Entropy of predictions"]
    assert [panel.title for panel in curves.panels] == titles
    assert curves.panels[-1].levels == [("ln C", math.log(10))]


def test_a_loss_that_is_always_zero_has_no_panel(tmp_path):
    rows = [{"step": 1, "loss/ibot": 0.0, "loss/koleo": 0.0}, {"step": 2, "loss/koleo": 0.1}]
    assert [panel.title for panel in written(tmp_path, rows).panels] == ["KoLeo loss"]


def test_rows_that_a_resumed_run_wrote_again_count_once_and_the_later_ones_count(tmp_path):
    rows = [{"step": s, "loss/total": v} for s, v in ((1, 5.0), (3, 4.0), (2, 9.0), (3, 2.0))]
    (curve,) = written(tmp_path, rows).panels[0].curves
    assert (curve.steps, curve.values) == ([1.0, 2.0, 3.0], [5.0, 9.0, 2.0])


def test_half_a_line_of_a_killed_run_is_left_out(tmp_path):
    rows = [{"step": 1, "loss/total": 5.0}, {"step": 2, "loss/total": 4.0}]
    assert written(tmp_path, rows, end='{"step": 3, "loss/to').steps == 2


def test_what_is_not_finite_is_a_gap(tmp_path):
    rows = [{"step": 1, "loss/total": 5.0}, {"step": 2, "loss/total": math.nan}]
    curves = written(tmp_path, rows)
    assert curves.panels[0].curves[0].values == [5.0, None]
    assert curves.last == {}
