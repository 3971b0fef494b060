"""Short cuts of a simulation against the runs that they replace."""

import numpy as np
import pytest

from dinoforge.training.data.masks import most_masked
from dinoforge.training.plan import simulation
from dinoforge.training.plan.simulation import Simulation

CHANGES = {
    "packed, bfloat16": ("precision=bfloat16", "model.drop_path=0.4"),
    "checkpointed": ("precision=bfloat16", "parallel.activation_checkpointing=blocks"),
    "float32, plain attention": ("precision=float32", "model.attention=plain", "model.ffn=swiglu"),
}


def assert_equal(one, other):
    assert one.flops == other.flops
    assert one.kept == other.kept
    for phase, deltas in one.timeline.items():
        assert np.array_equal(deltas, other.timeline[phase]), phase


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_few_blocks_tell_what_all_blocks_do(small, monkeypatch, changes):
    config = small("model.depth=5", *changes)
    extended = Simulation(config).run(6, 20)
    monkeypatch.setattr(simulation, "_extend", lambda *_: None)
    assert_equal(extended, Simulation(config).run(6, 20))


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_other_batch_sizes_are_estimated_to_the_byte(small, changes):
    config = small("group_size=2", *changes)
    simulation = Simulation(config)
    run, estimate = simulation.run(12, most_masked(config.masks, 24, 144)), simulation.estimate(12)
    assert estimate.kept == run.kept
    for share in (1.0, 0.25):
        wanted = run.peaks(gradients=share, block_copies=True)
        assert estimate.peaks(gradients=share, block_copies=True) == wanted
