"""`dinoforge shard` as arrays on a real SLURM: the bytes of a single process, also after a kill."""

import json

import killed_shards
import pytest
import shard_sets as sets
from waiting import wait_for_end

from dinoforge.config import load_config
from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.slurm.store.events import read_attempts
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.submit import SubmitRequest, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def test_arrays_write_the_shards_of_one_process_also_after_a_kill(bed, run, profile, tmp_path):
    for number in range(2):
        start = number * 20
        sets.write_tar(tmp_path / f"old/{number}.tar", sets.samples_of(start, start + 20))
    words = (f"sources=[{tmp_path / 'old'}]", "shard_images=10", "order=random", "seed=4")
    local = sets.run_shard(tmp_path / "here", *words)
    run.mkdir()
    killed_shards.flag(run).touch()
    config = load_config(ShardingConfig, None, [f"out={run}", *words])
    pipeline = "killed_shards:PIPELINE"
    submit(SubmitRequest(command="shard", config=config, profile=profile(), pipeline=pipeline))
    state = wait_for_end(run)
    assert (state.state, state.why) == ("finished", [])
    attempts = [
        [attempt.outcome for attempt in read_attempts(SlurmFolder(run).attempt("write", shard))]
        for shard in range(4)
    ]
    assert attempts == [["done"], ["killed", "done"], ["done"], ["done"]]
    assert sets.files_of(run) == sets.files_of(tmp_path / "here")
    assert len(sets.written(run)) == local.samples == 40
    summaries = [folder / "published/summary.json" for folder in (run, tmp_path / "here")]
    assert [json.loads(path.read_text())["samples"] for path in summaries] == [40, 40]
