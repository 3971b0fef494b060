"""Where the recipe's device is used: the joins run on it, with the results of a CPU."""

import pool as pools
import pytest
import torch

from dinoforge.curation.pipeline import PIPELINE
from dinoforge.errors import UsageError
from dinoforge.neighbors.products import TileProduct
from dinoforge.stages import Task, make_inputs, run_task


def test_a_back_end_for_another_device_gives_the_same_curation(pool, calm, tmp_path, monkeypatch):
    made = []

    class Recorded(TileProduct):
        def __init__(self, backend, device):
            made.append((backend, device))
            super().__init__(backend, device)

    for stage in ("duplicates.graph", "search"):
        name = f"dinoforge.curation.stages.{stage}.backend_for"
        monkeypatch.setattr(name, lambda device: f"torch{device[3:]}")
    for module in ("join", "search"):
        monkeypatch.setattr(f"dinoforge.neighbors.{module}.TileProduct", Recorded)
    pools.curated(pools.recipe(pool.sources, tmp_path / "run"))
    assert set(made) == {("torch", "cpu")}
    assert pools.ledger(tmp_path / "run") == pools.ledger(calm)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_reported_before_anything_is_read(pool, tmp_path):
    with pytest.raises(UsageError, match="device `cuda` cannot be used"):
        pools.curated(pools.recipe(pool.sources, tmp_path / "run", "device=cuda"))
    assert not (tmp_path / "run/curation").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_checks_and_plans_for_machines_that_have_one(pool, calm):
    config = pools.recipe(pool.sources, calm, "device=cuda")
    PIPELINE.check(config)
    inputs = make_inputs("curation", PIPELINE.stages, calm, config)
    plans = {stage.name: stage.plan(inputs.scoped(stage)) for stage in PIPELINE.stages}
    assert len(plans["embed"]) > 1
    (embed,) = (stage for stage in PIPELINE.stages if stage.name == "embed")
    task = Task(embed, 0, plans["embed"][0], "", inputs.folder("embed"), inputs)
    with pytest.raises(UsageError, match="device `cuda` cannot be used"):
        run_task(task)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_curation_on_a_gpu_decides_as_on_a_cpu(pool, calm, tmp_path):
    pools.curated(pools.recipe(pool.sources, tmp_path / "run", "device=cuda"))
    assert pools.ledger(tmp_path / "run") == pools.ledger(calm)
