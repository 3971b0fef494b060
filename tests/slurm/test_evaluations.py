"""Backbones of a training measured while it trains: jobs on a real SLURM."""

import datetime
import json
import os
import re
import signal
from pathlib import Path

import pytest
from trainings import PROFILE, TRAINING
from waiting import wait_for, wait_for_end

from dinoforge.cli.main import main
from dinoforge.slurm.cluster.commands import queue
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.events import read_attempts, read_lines
from dinoforge.slurm.store.layout import SlurmFolder

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(580)]

SMALL = (*TRAINING, "log_every=10", "checkpoint.every=50")

RECIPE = """\
name: waves
train: [%s]
baselines: [pixels_centered]
protocols: [knn, collapse]
features: [cls]
device: cpu
knn: {k: [3, 5]}
bootstrap: {resamples: 200}
"""


@pytest.fixture
def train(bed, run, photos, tmp_path, capsys):
    recipe, cluster = tmp_path / "waves.yaml", tmp_path / "profile.yaml"
    recipe.write_text(RECIPE % photos)

    def start(*words, profile=PROFILE, more=()):
        cluster.write_text(profile)
        keys = [*SMALL, f"data.paths=[{photos}]", f"out={run}", *words]
        on = ["--on", f"slurm:{cluster}", "--evaluate", str(recipe)]
        for name in more:
            (tmp_path / f"{name}.yaml").write_text(RECIPE % photos)
            on += ["--evaluate", str(tmp_path / f"{name}.yaml")]
        code = main(["train", "model.architecture=custom", *keys, *on])
        assert code == 0, capsys.readouterr().err

    return start


def attempts_at(run, step):
    return read_attempts(SlurmFolder(run).attempt("evaluate-waves", step))


def moment(run, stage, index, event):
    """When an event was first written down."""
    lines = read_lines(SlurmFolder(run).attempt(stage, index))
    return next(
        datetime.datetime.fromisoformat(line["time"]) for line in lines if line["event"] == event
    )


def kill(pid):
    """End a job's own process and all below it at once, as the kernel would."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *map(int, children)):
        os.kill(one, signal.SIGKILL)


def test_kept_backbones_are_measured_while_the_training_runs_and_make_a_curve(
    own_bed, train, run, tmp_path, capsys
):
    train("steps=1500", "checkpoint.export_every=500")
    lines = SlurmFolder(run).attempt("evaluate-waves", 500)
    wait_for(lambda: read_lines(lines), 300, "the first evaluation")
    kill(read_lines(lines)[0]["pid"])

    assert wait_for_end(run, 400).state == "finished"
    assert moment(run, "evaluate-waves", 500, "start") < moment(run, "train", 0, "end")
    first, second = attempts_at(run, 500)
    assert (first.outcome, second.outcome) == ("killed", "done")
    jobs = SlurmFolder(run).submissions.read()
    plans = [SlurmFolder(run).read_plan(job.name) for job in jobs if job.kind == "array"]
    assert sorted(step for plan in plans for step in plan.partitions) == [500, 500, 1000, 1500]
    assert json.loads((run / "run.json").read_text())["exit_code"] == 0

    # The features of bank and baselines are extracted once: three trained, one untrained, pixels.
    assert len(list((run / "evaluation/waves/cache/features").iterdir())) == 5
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    reported = capsys.readouterr().out
    assert re.search(r"evaluate-waves +3 +3 +0 +0 +0", reported)
    assert "evaluate-waves: step 1500: knn/waves " in reported

    assert main(["report", str(tmp_path / "page"), "--training", str(run), "-q"]) == 0
    facts = json.loads((tmp_path / "page/report.json").read_text())
    steps = {r["settings"].get("step") for r in facts["records"] if r["model"] == "trained"}
    assert steps == {500, 1000, 1500}
    assert "Exported steps" in (tmp_path / "page/report.html").read_text()


def test_where_nodes_may_not_submit_retry_sends_what_is_missing_and_a_lasting_failure_stops(
    bed, train, run, photos, capsys
):
    train("steps=100", "checkpoint.export_every=50", profile=PROFILE + "nodes_may_submit: false\n")
    state = wait_for_end(run, 300)
    assert (state.state, state.why) == ("waiting", ["2 partitions of evaluate-waves to submit"])
    assert not list((run / "evaluation/waves").glob("step-*"))

    hidden = photos.rename(photos.with_name("hidden"))
    try:
        assert main(["retry", str(run), "-q"]) == 0
        state = wait_for_end(run, 300)
    finally:
        hidden.rename(photos)
    assert state.state == "stopped"
    assert all(re.match(r"evaluate-waves 50, 100: usage: .*photos", why) for why in state.why)
    assert json.loads((run / "run.json").read_text())["exit_code"] == 0
    capsys.readouterr()
    assert main(["logs", str(run), "evaluate-waves:50"]) == 0
    assert "photos" in capsys.readouterr().out

    assert main(["retry", str(run), "--wait", "-q"]) == 0
    assert SlurmFolder(run).read_state().state == "finished"
    assert [Evaluation(run, "waves").is_done(step) for step in (50, 100)] == [True, True]
    ranks = [e for e in SlurmFolder(run).submissions.read() if e.kind == "ranks"]
    assert len(ranks) == 1


def test_a_recipe_may_be_added_while_it_trains_and_cancel_ends_evaluations_too(
    bed, train, run, photos, capsys
):
    words = ("steps=1200", "checkpoint.export_every=400")
    train(*words)
    wait_for((run / "metrics.jsonl").exists, 200, "the training")
    train(*words, more=["again"])
    wait_for(SlurmFolder(run).attempt("evaluate-again", 400).exists, 200, "the second recipe")
    assert main(["cancel", str(run), "-q"]) == 0
    prefix = f"df-{SlurmFolder(run).read_launch().run_id}-"
    assert queue(prefix) == []
    before = sum(Evaluation(run, name).is_done(1200) for name in ("waves", "again"))
    assert before < 2

    assert main(["retry", str(run), "-q"]) == 0
    assert wait_for_end(run, 400).state == "finished"
    for name in ("waves", "again"):
        assert all(Evaluation(run, name).is_done(step) for step in (400, 800, 1200))
