"""What a run keeps of its jobs: read back what was written, whoever was killed."""

import json
import signal
import subprocess
import sys

import pytest

from dinoforge.slurm.outcomes import Outcome
from dinoforge.slurm.store.events import (
    AttemptWriter,
    Submission,
    Submissions,
    append_line,
    read_attempts,
    read_lines,
)
from dinoforge.slurm.store.layout import JobPlan, SlurmFolder
from dinoforge.slurm.store.snapshot import take_snapshot


def test_a_torn_line_spoils_neither_what_was_before_nor_what_comes(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"b": ')
    append_line(path, {"c": 3})
    assert read_lines(path) == [{"a": 1}, {"c": 3}]


def test_the_file_shows_what_became_of_every_intent(tmp_path):
    submissions = Submissions(tmp_path / "submissions.jsonl")
    for name in ("first", "second", "third"):
        submissions.intent(Submission(name=name, kind="array", stage="square", elements=7))
    submissions.outcome("submitted", "first", job="12")
    submissions.outcome("refused", "second", text="no")
    submissions.retry()
    submissions.intent(Submission(name="fourth", kind="gate"))
    submissions.outcome("cancelled", "first")
    result = [(job.name, job.outcome, job.job, job.forgiven) for job in submissions.read()]
    assert result == [
        ("first", "cancelled", "12", True),
        ("second", "refused", "", True),
        ("third", "intent", "", True),
        ("fourth", "intent", "", False),
    ]
    assert submissions.read()[0].elements == 7


def test_a_missing_end_means_that_it_runs_or_was_killed(tmp_path):
    path = tmp_path / "part.jsonl"
    first = AttemptWriter(path, plan="a", job="1_0")
    first.start(memory_gb=4, minutes=60)
    first.signal(signal.SIGTERM)
    assert read_attempts(path)[0].outcome == ""
    first.end("memory", "out of memory", event="classified")
    second = AttemptWriter(path, plan="b", job="2_0")
    second.start(memory_gb=6, minutes=60)
    second.end(Outcome.DONE)
    attempts = read_attempts(path)
    assert [(a.plan, a.outcome, a.memory_gb) for a in attempts] == [
        ("a", "memory", 4),
        ("b", "done", 6),
    ]
    assert attempts[0].signals == ["TERM"]


def test_a_requeued_job_begins_again_under_its_name(tmp_path):
    path = tmp_path / "part.jsonl"
    for step in (0, 40):
        AttemptWriter(path, plan="a", job="1").start(memory_gb=0, minutes=0, step=step)
    (attempt,) = read_attempts(path)
    assert (attempt.starts, attempt.steps, attempt.outcome) == (2, [0, 40], "")


def test_what_never_started_can_be_judged_too(tmp_path):
    path = tmp_path / "part.jsonl"
    AttemptWriter(path, plan="a", job="1_3").end("set-up", "no python", event="classified")
    (attempt,) = read_attempts(path)
    assert (attempt.job, attempt.starts, attempt.outcome) == ("1_3", 0, "set-up")


def plan(**facts):
    given = {
        "name": "df-x", "pipeline": "toys:PIPELINE", "stage": "square", "stage_fingerprint": "p",
        "config": {}, "per_element": 3, "partitions": [4, 5, 7, 8, 9],
        "payloads": [{"n": n} for n in range(5)], "memory_gb": 1.0, "minutes": 5, "cpus": 1,
        "gpus": 0,
    }  # fmt: skip
    return JobPlan(**(given | facts))


def test_elements_cover_every_partition_once_and_the_last_may_be_short(tmp_path):
    SlurmFolder(tmp_path).write_plan(plan())
    read = SlurmFolder(tmp_path).read_plan("df-x")
    assert read == plan()
    assert read.elements == 2
    assert read.element(0) == [(4, {"n": 0}), (5, {"n": 1}), (7, {"n": 2})]
    assert read.element(1) == [(8, {"n": 3}), (9, {"n": 4})]


def test_one_job_owns_a_plan_and_keeps_it_over_requeues(tmp_path):
    folder = SlurmFolder(tmp_path)
    assert folder.claim("df-x", "12")
    assert not folder.claim("df-x", "13")
    assert folder.claim("df-x", "12")
    assert [path.name for path in (folder.root / "claims").iterdir()] == ["df-x"]


@pytest.fixture
def tree(tmp_path):
    """A git tree that holds our packages, one change that is not committed, one new file."""
    root = tmp_path / "tree"
    for package in ("dinoforge", "cli", "curation", "training", "evaluation", "demo", "slurm"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
        if package != "dinoforge":
            (root / "dinoforge" / package).symlink_to(f"../{package}")
    (root / "configs").mkdir()
    (root / "configs/a.yaml").write_text("a: 1\n")
    (root / ".gitignore").write_text("*.log\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    (root / "slurm/__init__.py").write_text("VERSION = 2\n")
    (root / "slurm/new.py").write_text("")
    (root / "slurm/noise.log").write_text("")
    return root


def test_a_snapshot_holds_tracked_and_new_files_the_commit_and_the_difference(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setattr("dinoforge.__file__", str(tree / "dinoforge/__init__.py"))
    taken = take_snapshot(tmp_path / "snapshot")
    assert (taken / "dinoforge/slurm/__init__.py").read_text() == "VERSION = 2\n"
    assert (taken / "dinoforge/slurm/new.py").exists()
    assert (taken / "dinoforge/_configs/a.yaml").exists()
    assert not (taken / "dinoforge/slurm/noise.log").exists()
    assert "+VERSION = 2" in (taken / "uncommitted.diff").read_text()
    assert len(json.loads((taken / "snapshot.json").read_text())["commit"]) == 40
    assert (taken / "dinoforge/slurm/new.py").stat().st_mode & 0o222 == 0
    assert take_snapshot(tmp_path / "snapshot") == taken  # the same code is copied once
    (tree / "slurm/__init__.py").write_text("VERSION = 3\n")
    assert take_snapshot(tmp_path / "snapshot") != taken
    assert (taken / "dinoforge/slurm/__init__.py").read_text() == "VERSION = 2\n"


def test_installed_packages_are_copied_where_there_is_no_git(tree, tmp_path, monkeypatch):
    subprocess.run(["rm", "-r", str(tree / ".git")], check=True)
    monkeypatch.setattr("dinoforge.__file__", str(tree / "dinoforge/__init__.py"))
    taken = take_snapshot(tmp_path / "snapshot")
    assert (taken / "dinoforge/slurm/new.py").exists()
    assert (taken / "dinoforge/_configs/a.yaml").exists()
    assert json.loads((taken / "snapshot.json").read_text())["commit"] == ""


def test_a_snapshot_runs_by_itself(tmp_path):
    taken = take_snapshot(tmp_path / "snapshot")
    code = "import dinoforge.curation.pipeline, dinoforge.slurm.node.worker as w; print(w.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, env={"PYTHONPATH": str(taken), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(taken / "dinoforge/slurm/node/worker.py")
