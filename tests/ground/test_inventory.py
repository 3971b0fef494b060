"""Runs are listed with what their files say, whatever state they are in."""

import contextlib
import datetime
import fcntl
import json
import os
from pathlib import Path

import pytest

from dinoforge.cli.main import main
from dinoforge.curated import summary_path
from dinoforge.inventory import list_runs
from dinoforge.records import Record, write_records
from dinoforge.runs import run_folders
from dinoforge.steps import export_file

STARTED = "2026-11-29T10:00:00+00:00"
STOPPED = "2026-11-29T11:00:00+00:00"


def write_run(folder, kind="train", code=0, stopped=STOPPED, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    known = {"command": kind, "exit_code": code, "started": STARTED, "stopped": stopped}
    known |= {"host": "box", "run_folder": str(folder), "working_folder": str(folder.parent)}
    (folder / "run.json").write_text(json.dumps(known | facts))
    return folder


def states(folder, in_queue=lambda _: None):
    return {entry.path: entry.state for entry in list_runs(folder, in_queue)}


def write_cluster_state(run, state):
    (run / "slurm").mkdir()
    (run / "slurm/state.json").write_text(json.dumps({"state": state}))
    (run / "slurm/launch.json").write_text(json.dumps({"run_id": run.name}))


def test_the_state_follows_from_exit_code_lock_and_queue(tmp_path):
    for name, code in (("finished", 0), ("failed", 2), ("lost", 76), ("interrupted", 75)):
        write_run(tmp_path / name, code=code)
    for name in ("killed", "locked"):
        write_run(tmp_path / name, code=None, stopped=None)
        (tmp_path / name / ".lock").touch()
    for name, state in (
        ("queued", "running"),
        ("gone", "running"),
        ("held", "waiting"),
        ("stopped", "stopped"),
        ("cancelled", "cancelled"),
    ):
        write_cluster_state(write_run(tmp_path / name, code=None, stopped=None), state)
    write_cluster_state(write_run(tmp_path / "requeued", code=75), "running")
    with (tmp_path / "locked/.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        listed = states(tmp_path, lambda run_id: run_id in {"queued", "requeued"})
    assert listed == {
        **{"finished": "finished", "failed": "failed", "lost": "failed"},
        **{"interrupted": "interrupted", "killed": "killed", "locked": "running"},
        **{"queued": "running", "gone": "waiting", "held": "waiting", "stopped": "failed"},
        **{"cancelled": "cancelled", "requeued": "running"},
    }
    assert states(tmp_path)["gone"] == "unknown"  # SLURM did not answer
    assert states(tmp_path)["requeued"] == "interrupted"
    # The lock was free again after every look at it.
    with (tmp_path / "killed/.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_progress_is_that_of_the_kind_of_run(tmp_path):
    run = write_run(tmp_path / "train", code=None, stopped=None)
    (run / "config.yaml").write_text("seed: 0\nsteps: 600  # recipe\nmodel:\n  steps: 3\n")
    (run / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n{"step": 3')
    (run / "checkpoints/step-000000015").mkdir(parents=True)
    path = summary_path(write_run(tmp_path / "curate", "curate"))
    path.parent.mkdir()
    path.write_text('{"kept": 1323}')
    record = Record(benchmark="b", model="m", metric="x", value=1.0)
    write_records(write_run(tmp_path / "evaluate", "evaluate") / "records.jsonl", [record] * 3)
    entries = {entry.path: entry for entry in list_runs(tmp_path)}
    assert (entries["train"].step, entries["train"].steps) == (20, 600)
    assert entries["curate"].kept == 1323
    assert entries["evaluate"].records == 3
    assert entries["evaluate"].host == "box"


def test_nested_runs_follow_the_run_that_holds_them_and_newer_ones_come_first(tmp_path):
    write_run(tmp_path / "old", started="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "old/evaluation/step-000000001", "evaluate")
    write_run(tmp_path / "new/inner")
    write_run(tmp_path / "new/inner/a", started="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "new/inner/b", started="2026-01-02T00:00:00+00:00")
    listed = [(entry.path, entry.parent) for entry in list_runs(tmp_path)]
    assert listed == [
        ("new/inner", ""),
        ("new/inner/b", "new/inner"),
        ("new/inner/a", "new/inner"),
        ("old", ""),
        ("old/evaluation/step-000000001", "old"),
    ]
    assert next(entry.path for entry in list_runs(tmp_path / "old")) == "."


def test_a_file_counts_once_and_links_are_not_followed(tmp_path):
    run = write_run(tmp_path / "run")
    inner = write_run(run / "evaluation/x", "evaluate")
    (inner / "big").write_bytes(bytes(100_000))
    os.link(inner / "big", run / "same")
    (run / "link").symlink_to(tmp_path)
    (tmp_path / "outside").write_bytes(bytes(500_000))
    entries = {entry.path: entry for entry in list_runs(tmp_path)}
    assert set(entries) == {"run", "run/evaluation/x"}
    files = [run / "run.json", run / "link", inner / "run.json", inner / "big"]
    assert entries["run"].size == sum(file.lstat().st_blocks * 512 for file in files)
    assert entries["run"].size > 100_000
    assert entries["run/evaluation/x"].size < entries["run"].size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "not an object"),
        ('{"exit_code": "x"}', "invalid literal"),
        ('{"parents": 3}', "not iterable"),
        (None, "not a regular file"),
    ],
)
def test_a_damaged_run_is_a_row_that_says_so(tmp_path, capsys, text, why):
    write_run(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    if text is None:
        (tmp_path / "bad/run.json").mkdir()
    else:
        (tmp_path / "bad/run.json").write_text(text)
    (bad,) = [entry for entry in list_runs(tmp_path) if entry.path == "bad"]
    assert bad.state == "damaged"
    assert why in bad.why
    assert main(["runs", str(tmp_path)]) == 0
    assert "damaged" in capsys.readouterr().out


def test_strange_values_in_a_readable_run_are_no_crash(tmp_path):
    run = write_run(tmp_path / "run", started=5, host=None, versions=[])
    (run / "metrics.jsonl").write_text("[]}\n")
    (run / "config.yaml").write_bytes(b"\xff\xfe")
    (entry,) = list_runs(tmp_path)
    assert entry.state == "damaged"
    assert entry.age(datetime.datetime.now(datetime.UTC)) is None
    (run / "metrics.jsonl").write_text("")
    (entry,) = list_runs(tmp_path)
    assert (entry.state, entry.step, entry.steps) == ("finished", 0, None)


@contextlib.contextmanager
def as_nobody():
    """Without the rights of root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)


def test_a_folder_without_permission_is_a_row_of_its_own(tmp_path, monkeypatch):
    write_run(tmp_path / "open/run")
    write_run(tmp_path / "closed/run")
    (write_run(tmp_path / "secret") / "run.json").chmod(0)
    (tmp_path / "open/run/cache").mkdir()
    for folder, mode in ((".", 0o755), ("closed", 0), ("open/run/cache", 0)):
        (tmp_path / folder).chmod(mode)
    monkeypatch.chdir(tmp_path)  # those above it belong to root
    with as_nobody():
        entries = {entry.path: entry for entry in list_runs(Path())}
    (tmp_path / "closed").chmod(0o755)
    assert {path: (entry.state, entry.why) for path, entry in entries.items()} == {
        "closed": ("unknown", "Permission denied: closed"),
        "secret": ("unknown", "Permission denied: secret/run.json"),
        "open/run": ("finished", "Permission denied: open/run/cache"),
    }


def test_an_evaluation_of_an_exported_backbone_names_its_training_as_parent(tmp_path):
    run = write_run(tmp_path / "run")
    file = export_file(run, 300)
    assert run_folders([file, run, tmp_path / "other.safetensors", ""]) == [run]


def test_the_table_indents_nested_runs_and_filters_name_what_is_hidden(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "a/evaluation/step-000000001", "evaluate", code=2)
    write_run(tmp_path / "b", "curate")
    assert main(["runs", str(tmp_path)]) == 0
    rows = [line.rstrip() for line in capsys.readouterr().out.splitlines() if " box" in line]
    assert [row.split()[0] for row in rows] == ["a", "evaluation/step-000000001", "b"]
    assert [len(row) - len(row.lstrip()) for row in rows] == [0, 2, 0]
    assert "failed (2)" in rows[1]
    assert main(["runs", str(tmp_path), "--kind", "evaluate", "--state", "failed"]) == 0
    text = capsys.readouterr().out
    assert "\na/evaluation/step-000000001 " in text
    assert "2 more runs do not match" in text
    assert main(["runs", str(tmp_path), "--kind", "curate", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["path"], row["state"], row["host"]) == ("b", "finished", "box")


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.startswith("error: no such folder - ")
    assert main(["runs", str(tmp_path)]) == 0
    assert "no run below" in capsys.readouterr().out
