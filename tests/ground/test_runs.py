import json
import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dinoforge import runs
from dinoforge.errors import Interrupted, UsageError
from dinoforge.evaluation.report.facts import read_run
from dinoforge.runs import Run, read_facts, read_recipe, run_folders


@dataclass(frozen=True)
class Inner:
    threshold: float = 0.5


@dataclass(frozen=True)
class Recipe:
    out: str = "here"
    policy: Inner = field(default_factory=Inner)


def test_a_run_keeps_what_was_asked_and_how_it_ended(tmp_path):
    with Run.open(tmp_path / "run", Recipe(), command="curate") as run:
        assert (run.folder / "config.yaml").read_text().startswith("out: here")
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["exit_code"] == 0
    assert facts["stopped"] >= facts["started"]
    assert "python" in facts["versions"]


def test_a_run_remembers_every_start(tmp_path, monkeypatch):
    for commit in ("one", "two+", "two+"):
        monkeypatch.setattr(runs, "git_commit", lambda commit=commit: commit)
        with Run.open(tmp_path, Recipe(), command="curate"):
            pass
    facts = json.loads((tmp_path / "run.json").read_text())
    starts = [*facts["earlier"], facts]
    assert [start["commit"] for start in starts] == ["one", "two+", "two+"]
    assert all(start["exit_code"] == 0 and start["started"] for start in starts)
    assert not any("earlier" in start for start in facts["earlier"])
    assert read_run(tmp_path, "curation").commits == ["one", "two+"]


def test_parents_are_the_paths_that_are_runs(tmp_path):
    with Run.open(tmp_path / "first", Recipe(), command="curate"):
        (tmp_path / "images").mkdir()
    paths = [tmp_path / "images", str(tmp_path / "first"), tmp_path / "first", "x" * 300, ""]
    assert run_folders(paths) == [tmp_path / "first"]
    with Run.open(tmp_path / "next", Recipe(), command="train", parents=run_folders(paths)):
        pass
    assert json.loads((tmp_path / "next/run.json").read_text())["parents"] == [
        str(tmp_path / "first")
    ]


def test_an_interrupted_run_is_reported(tmp_path):
    with pytest.raises(Interrupted), Run.open(tmp_path, Recipe(), command="curate"):
        raise Interrupted("stopped")
    assert json.loads((tmp_path / "run.json").read_text())["exit_code"] == 75


def test_a_mended_recipe_goes_on_where_nothing_was_done_yet(tmp_path):
    with pytest.raises(UsageError), Run.open(tmp_path, Recipe(), command="curate"):
        raise UsageError(what="no such folder", where="sources", do="check the path")
    with Run.open(tmp_path, replace(Recipe(), policy=Inner(0.7)), command="curate"):
        pass
    assert "0.7" in (tmp_path / "config.yaml").read_text()


def test_a_changed_recipe_is_refused_by_its_keys(tmp_path):
    with Run.open(tmp_path, Recipe(), command="curate"):
        (tmp_path / "result").touch()
    changed = replace(Recipe(), policy=Inner(0.7))
    with pytest.raises(UsageError, match=r"finished run changed: `policy.threshold`"):
        Run.open(tmp_path, changed, command="curate")
    with Run.open(tmp_path, changed, command="curate", on_change="update"):
        pass
    with Run.open(tmp_path, replace(changed, out="elsewhere"), command="curate"):
        pass


def test_fresh_moves_the_old_run_aside(tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        with Run.open(folder, Recipe(), command="curate", on_change="fresh"):
            (folder / "result").touch()
    assert (tmp_path / "run.old-1/result").exists()


def test_fresh_does_not_move_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), tmp_path):
        with Run.open(folder, Recipe(), command="curate"):
            pass
        with pytest.raises(UsageError, match="the working folder, or one above it, cannot be"):
            Run.open(folder, Recipe(), command="curate", on_change="fresh")


@pytest.mark.parametrize("target", ["nowhere", "link"])
@pytest.mark.parametrize("out", ["link", "link/run"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, target, out):
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError, match="not writable: a link that leads nowhere"):
        Run.open(tmp_path / out, Recipe(), command="curate")


def test_another_command_and_a_second_writer_are_refused(tmp_path):
    first = Run.open(tmp_path, Recipe(), command="curate")
    with first, pytest.raises(UsageError, match="another process is writing"):
        Run.open(tmp_path, Recipe(), command="curate")
    with pytest.raises(UsageError, match="run of `dinoforge curate`"):
        Run.open(tmp_path, Recipe(), command="train")


def test_a_pipe_in_place_of_the_record_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(UsageError, match=r"`run\.json` is not a regular file"):
        Run.start(tmp_path, command="embed", settings={})
    assert read_facts(tmp_path) == {}
    with pytest.raises(UsageError, match="not a regular file"):
        read_recipe(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a read-only file system")
def test_a_read_only_folder_is_one_line(tmp_path):
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(UsageError, match="not writable"):
            Run.open(tmp_path / "run", Recipe(), command="curate")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("text", ["", "garbage", "a: [", "\udce9"])
def test_a_damaged_recipe_of_a_run_is_one_line_and_a_missing_one_is_empty(tmp_path, text):
    assert read_recipe(tmp_path) == {}
    (tmp_path / "config.yaml").write_bytes(os.fsencode(text))
    with pytest.raises(UsageError, match=r"file unreadable: .* - .*config\.yaml - rerun"):
        read_recipe(tmp_path)
