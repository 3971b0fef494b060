"""How a run is, from its files alone: on a machine that has no SLURM."""

import json
import time

import pytest

from dinoforge.cli.main import main
from dinoforge.slurm.outcomes import Outcome
from dinoforge.slurm.status import read_status
from dinoforge.slurm.store.events import AttemptWriter, Submission
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Six partitions: three done, one runs, one failed, one waits."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    folder = SlurmFolder(tmp_path / "run")
    stage = folder.run / "toy/10-square"
    stage.mkdir(parents=True)
    folder.root.mkdir()
    launch = Launch(
        run_id="run-1", command="curate", pipeline="toys:PIPELINE", device="cpu", folder="/",
        python_path=[], python="python", stages={"square": "toy/10-square", "keep": "toy/20-keep"},
    )  # fmt: skip
    folder.write_launch(launch)
    folder.write_state(State(state="running", stage="square"))
    payloads = [{"low": n, "deep": {"a": [{}]}} for n in range(6)]
    (stage / "plan.json").write_text(json.dumps({"payloads": payloads}, indent=1))
    for index in range(3):
        (stage / f"part-{index:05d}.done").write_text("never opened")
        (stage / f"part-{index:05d}.values.npy").touch()
    folder.submissions.intent(Submission(name="df-a", kind="array", stage="square"))
    folder.submissions.outcome("submitted", "df-a", job="7")
    for index in (2, 3, 4):
        writer = AttemptWriter(folder.attempt("square", index), plan="df-a", job=f"7_{index}")
        writer.start(memory_gb=1, minutes=5)
        if index == 4:
            writer.end(Outcome.EXCEPTION, "ValueError: odd")
    folder.logs.mkdir()
    folder.log("df-a", 4).write_text("Traceback\nValueError: odd\n")
    return folder.run


def test_partitions_are_counted_by_markers_and_attempts(run):
    status = read_status(run)
    square, keep = status.stages
    assert (square.total, square.done, square.running) == (6, 3, 1)
    assert (square.failed, square.pending) == (1, 1)
    assert keep.total is None
    assert not status.asked_slurm
    assert status.state.state == "running"
    assert status.rate_per_min > 0
    assert status.left_s > 0


def test_a_failure_has_a_class_an_advice_and_a_log(run):
    (failure,) = read_status(run).failures
    assert (failure.where, failure.outcome) == ("square:4", "exception")
    assert failure.advice == f"read the traceback: dinoforge logs {run} square:4"
    assert failure.log == str(SlurmFolder(run).log("df-a", 4))


def test_the_command_shows_it_to_people_and_to_machines(run, capsys):
    assert main(["status", str(run)]) == 0
    reported = capsys.readouterr().out
    assert "square:4: exception: ValueError: odd" in reported
    assert "status from files only" in reported
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["pending"] == 1


def test_logs_of_a_partition_are_found_by_its_number(run, capsys):
    assert main(["logs", str(run), "square:4"]) == 0
    assert "ValueError: odd" in capsys.readouterr().out
    assert main(["logs", str(run), "5"]) == 2
    assert "no log of partition 5" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "logs", "retry", "cancel"])
def test_a_folder_that_was_never_submitted_is_named(command, tmp_path, capsys):
    assert main([command, str(tmp_path)]) == 2
    assert "no run that was submitted to a cluster" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_what_needs_slurm_is_reported(command, run, capsys):
    assert main([command, str(run)]) == 2
    assert capsys.readouterr().err.startswith("error: no sbatch on this machine - ")


def test_ten_thousand_partitions_take_no_time(run):
    stage = run / "toy/10-square"
    (stage / "plan.json").write_text(json.dumps({"payloads": [{"n": 0}] * 10_000}, indent=1))
    for index in range(10_000):
        (stage / f"part-{index:05d}.done").touch()
    began = time.process_time()
    assert read_status(run).stages[0].done == 10_000
    assert time.process_time() - began < 0.5
