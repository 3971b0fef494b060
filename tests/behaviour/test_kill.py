"""Kill it at any moment, damage what it wrote: the same command brings the same bytes."""

import json
import random
import shutil
import signal
import time

import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.errors import Interrupted, UsageError
from dinoforge.images import pillow
from dinoforge.sources.discover import discover_files


def test_kills_at_random_moments_lose_nothing_and_change_nothing(pool, tmp_path):
    words = ["curate", f"sources={json.dumps(pool.sources)}", *pools.SMALL]
    result = pools.kill.measure(words, tmp_path, kills=4, draw=random.Random(1))
    assert result["kills"] == 4
    assert result["files"] > 60
    assert result["different"] == []


@pytest.fixture
def run(calm, tmp_path):
    shutil.copytree(calm, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name",
    [
        "curation/10-ingest/part-00000.index.parquet",
        "curation/15-plant/planted-000000.tar",
        "curation/30-embed/part-00002.embeddings.npy",
        "curation/80-export/part-00000.ledger.parquet",
        "published/ledger.parquet",
        "published/pairs/part-00001.pairs.parquet",
        "published/summary.json",
        "shards/pool-000001.tar",
        "shards/classes.txt",
    ],
)
def test_missing_and_truncated_outputs_are_made_again(pool, calm, run, name):
    assert (run / name).is_file()
    config = pools.recipe(pool.sources, run)
    (run / name).unlink()
    pools.curated(config)
    assert pools.differences(calm, run) == []
    (run / name).write_bytes((run / name).read_bytes()[:-1])
    pools.curated(config)
    assert pools.differences(calm, run) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"stage": "export"}', "\0" * 99],
    ids=["empty", "cut", "list", "part", "zeros"],
)
def test_damaged_markers_are_no_proof(pool, calm, run, text):
    for marker in ("curation/80-export/part-00001.done", "curation/40-graph/part-00000.done"):
        (run / marker).write_text(text)
    pools.curated(pools.recipe(pool.sources, run))
    assert pools.differences(calm, run) == []


def test_halves_of_killed_writers_are_swept_up(pool, calm, run):
    for folder in ("shards", "curation/10-ingest/unpacked", "curation/30-embed"):
        (run / folder / ".pool-000000.tar.tmp-node-1-99").write_bytes(b"half")
    (run / ".run.json.tmp-node-1-99").write_bytes(b"half")
    (run / ".published.tmp-node-1-99/pairs").mkdir(parents=True)
    (run / ".published.tmp-node-1-99/pairs/part-00000.pairs.parquet").write_bytes(b"half")
    (run / "shards/pool-000099.tar").write_bytes(b"of a recipe with more shards")
    (run / "shards/pool-000099.json").write_bytes(b"{}")
    pools.curated(pools.recipe(pool.sources, run))
    assert pools.differences(calm, run) == []


def test_a_changed_source_is_read_again_and_leaves_nothing_of_the_old_one(pool, tmp_path):
    shutil.copytree(pool.folder / "seeds", tmp_path / "pool")
    packed = (pool.folder / "pool/tars/cut.tar.gz").read_bytes()
    (tmp_path / "pool/x.tar.gz").write_bytes(packed)
    sources = [{"role": "pool", "paths": [str(tmp_path / "pool")]}]
    plain = ("plant.count=0", "retrieve.mode=none")
    before = pools.curated(pools.recipe(sources, tmp_path / "run", *plain))
    (tmp_path / "pool/x.tar.gz").write_bytes(packed[:-700])
    next(tmp_path.glob("pool/*/*.png")).unlink()
    after = pools.curated(pools.recipe(sources, tmp_path / "run", *plain))
    assert after.images < before.images
    pools.curated(pools.recipe(sources, tmp_path / "fresh", *plain))
    assert pools.differences(tmp_path / "run", tmp_path / "fresh") == []


class Stopping:
    """An executor that is stopped before the stage of a name."""

    def __init__(self, stage):
        self.stage = stage

    def run(self, tasks, done):
        from dinoforge.stages import make_executor

        if tasks[0].stage.name == self.stage:
            raise Interrupted("stopped")
        make_executor("in-process").run(tasks, done)

    def close(self):
        return None


def test_a_run_that_is_being_changed_is_not_taken_for_finished(pool, run):
    assert discover_files([str(run)]).items
    changed = pools.recipe(pool.sources, run, "export.name=other")
    with pytest.raises(Interrupted):
        pools.curated(changed, on_change="update", executor=Stopping("export"))
    with pytest.raises(UsageError, match="the curation is not finished"):
        discover_files([str(run)])
    pools.curated(changed)
    names = [item.path.rsplit("/", 1)[1] for item in discover_files([str(run)]).items]
    assert names == ["other-000000.tar", "other-000001.tar", "other-000002.tar"]


def test_a_signal_ends_the_command_with_75_and_the_next_start_goes_on(pool, calm, tmp_path):
    words = ["curate", f"sources={json.dumps(pool.sources)}", *pools.SMALL]
    process = pools.kill.start(words, tmp_path / "run")
    started = tmp_path / "run/curation/10-ingest/part-00000.done"
    while not started.exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 75
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["exit_code"] == 75
    pools.curated(pools.recipe(pool.sources, tmp_path / "run"))
    assert pools.differences(calm, tmp_path / "run") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_inside_the_decoder_is_not_taken_for_a_damaged_picture(
    pool, calm, tmp_path, monkeypatch, capsys, number
):
    decode, calls = pillow._open, []

    def stopped(*words):
        calls.append(words)
        if len(calls) == 60:
            signal.raise_signal(number)
        return decode(*words)

    monkeypatch.setattr(pillow, "_open", stopped)
    # Ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    words = ["curate", f"sources={json.dumps(pool.sources)}", *pools.SMALL]
    assert main([*words, f"out={tmp_path / 'run'}", "-q"]) == 75
    assert "start the same command again to resume" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/run.json").read_text())["exit_code"] == 75
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    pools.curated(pools.recipe(pool.sources, tmp_path / "run"))
    assert pools.differences(calm, tmp_path / "run") == []
