import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import toy

from dinoforge.errors import UsageError
from dinoforge.stages.executor import make_executor
from dinoforge.stages.pipeline import run_stages

STAGES = (toy.Square(), toy.Keep())


def run(folder, config=None, on="in-process", stages=STAGES):
    executor = make_executor(on)
    try:
        return run_stages("toy", stages, folder, config or toy.ToyConfig(), executor)
    finally:
        executor.close()


def state(folder):
    """Every file's hash; markers without what may differ."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".done":
            marker = json.loads(path.read_text())
            marker.pop("measured")
            files[str(path.relative_to(folder))] = marker
        elif path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[str(path.relative_to(folder))] = digest
    return files


def test_a_second_start_does_nothing(tmp_path):
    first = run(tmp_path)
    second = run(tmp_path)
    assert first["square"].num_run == 4
    assert [r.num_run for r in second.values()] == [0, 0]
    assert second["keep"].facts == [{"kept": 18, "before": 20}]


def test_a_changed_policy_runs_only_what_reads_it(tmp_path):
    run(tmp_path)
    changed = replace(toy.ToyConfig(), policy=toy.Policy(threshold=100))
    again = run(tmp_path, changed)
    assert again["square"].num_run == 0
    assert again["keep"].num_run == 1
    assert np.load(tmp_path / "toy/20-keep/part-00000.kept.npy").min() == 121


def test_fewer_partitions_leave_no_stale_files(tmp_path):
    run(tmp_path)
    run(tmp_path, replace(toy.ToyConfig(), per_partition=20))
    assert len(list((tmp_path / "toy/10-square").glob("part-*"))) == 2


def test_a_raised_version_runs_the_stage_and_what_follows(tmp_path):
    run(tmp_path)
    again = run(tmp_path, stages=(replace(toy.Square(), version="1.1.0"), toy.Keep()))
    assert [r.num_run for r in again.values()] == [4, 1]


@pytest.mark.parametrize("damage", ["missing", "short", "marker"])
def test_damaged_partitions_are_done_again(tmp_path, damage):
    run(tmp_path)
    before = state(tmp_path)
    output = tmp_path / "toy/10-square/part-00002.values.npy"
    if damage == "missing":
        output.unlink()
    elif damage == "short":
        output.write_bytes(output.read_bytes()[:-1])
    else:
        (tmp_path / "toy/10-square/part-00002.done").write_text("{")
    again = run(tmp_path)
    assert again["square"].num_run == 1
    assert state(tmp_path) == before


def test_local_processes_give_the_same_bytes_and_survive_a_killed_worker(tmp_path):
    run(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/die-once").touch()
    run(tmp_path / "two", on="local:2")
    assert state(tmp_path / "one") == state(tmp_path / "two")


def test_only_temporary_files_of_the_run_itself_are_removed(tmp_path):
    run(tmp_path)
    halves = ["toy/10-square/.a.tmp-node-1", "shards/.a.tar.tmp-node-1", ".run.json.tmp-node-1"]
    others = ["mine/.draft.tmp-1/thesis.txt", "mine/.a.tmp-node-1", ".draft.tmp-node-1", ".a.tmp-b"]
    others += ["runs/other/toy/10-square/.a.tmp-node-1", "toy/10-square/.a.tmp-b"]
    for name in [*halves, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("y")
    run(tmp_path)
    assert [name for name in halves if (tmp_path / name).exists()] == []
    assert [name for name in others if not (tmp_path / name).exists()] == []


@pytest.mark.parametrize(
    "on", ["local:0", "local", "slrum:x", "local:x", "local:２", f"local:{10**19}"]
)
def test_an_unknown_executor_is_named(on):
    with pytest.raises(UsageError, match="in-process or local:N"):
        make_executor(on)
