"""Operations of a simulated step against those that torch counts in a real one."""

import numpy as np
import pytest

from dinoforge.config import find_recipe, load_config
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.masks import draw_masks, expected_masked, most_masked
from dinoforge.training.plan.simulation import Simulation

pytestmark = pytest.mark.timeout(400)  # simulations of large networks


def counted(measuring, config):
    """Operations of a step, and the masked patches of its batch."""
    step = measuring.Step(config)
    parts = step.views(0, *measuring.noise(config))
    return measuring.count_flops(step, parts), measuring.masked_patches(parts)


def planned(config, masked):
    return Simulation(config, "cpu").run(config.batch_size, masked).flops


def test_a_step_executes_exactly_the_operations_planned(measuring, variant):
    found, masked = counted(measuring, variant)
    assert planned(variant, masked).executed == found


@pytest.mark.parametrize("change", ["batch_size=1", "batch_size=2", "crops.num_local=0"])
def test_odd_batches_execute_exactly_the_operations_planned(measuring, small, change):
    config = small(change, "model.drop_path=0.4")
    found, masked = counted(measuring, config)
    assert planned(config, masked).executed == found


def test_dropped_paths_are_not_counted(small):
    whole, dropped = (
        planned(small(f"model.drop_path={p}", "batch_size=20"), 100) for p in (0, 0.4)
    )
    embedding = 2 * 2 * 20 * (2 * 144 + 3 * 36) * 64 * 3 * 49
    positions = 2 * 2 * (6 * 12 * 12 + 6 * 6 * 12) * 64  # from a grid of 12 to one of 6
    blocks = whole.student_backbone - embedding - positions
    assert dropped.student_backbone - embedding - positions == pytest.approx(0.6 * blocks)
    assert dropped.teacher_backbone == whole.teacher_backbone


def test_checkpointed_blocks_are_executed_again(measuring, small):
    config = small("parallel.activation_checkpointing=blocks")
    found, masked = counted(measuring, config)
    flops = planned(config, masked)
    assert flops.executed == found
    assert flops.blocks_again == pytest.approx(flops.student_backbone / 3, rel=0.05)
    assert flops.model == planned(small(), masked).model


@pytest.mark.parametrize("group", [0, 2])
def test_groups_of_images_draw_their_subsets_of_every_crop(measuring, small, group):
    """Of 20 images 12 are kept, of each pair 1, whatever the number of crops."""
    config = small("batch_size=20", "model.drop_path=0.4", f"group_size={group}")
    found, masked = counted(measuring, config)
    assert planned(config, masked).executed == found


def test_the_published_recipes_cost_what_the_literature_says():
    """GFLOP of an image, from 24 d^2 + 4 n d a token and layer; see each recipe's source."""
    for name, wanted in {"vitl16_fast": 1155, "vitl14_long": 1375, "vitg14_long": 5023}.items():
        config = load_config(TrainingConfig, find_recipe("training", name))
        flops = Simulation(config).estimate(32).flops.per_image(32)
        assert flops.model / 1e9 == pytest.approx(wanted, rel=0.02), name


@pytest.mark.parametrize("images", [1, 4, 64])
def test_masked_patches_are_as_many_as_expected_and_never_more_than_the_most(small, images):
    masks, side = small().masks, 16
    drawn = [
        len(
            draw_masks(
                2 * images, side, side, masks, seed=0, step=n, crops=np.arange(2 * images)
            ).indices_M
        )
        for n in range(max(200 // images, 5))
    ]
    assert max(drawn) <= most_masked(masks, 2 * images, side**2)
    mean = sum(drawn) / len(drawn)
    assert mean == pytest.approx(expected_masked(masks, 2 * images, side**2), rel=0.05)
