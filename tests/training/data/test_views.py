"""Subsets of stochastic depth: functions of (step, image, crop), however a step is split."""

import numpy as np
import torch

from dinoforge.training.config import CropsConfig, ModelConfig, TrainingConfig
from dinoforge.training.data.views import draw_rows

DEPTH, BATCH, GROUP = 3, 12, 4


def draw(images=range(BATCH), step=0, rate=0.3, group_size=GROUP):
    config = TrainingConfig(
        batch_size=BATCH,
        group_size=group_size,
        model=ModelConfig(architecture="custom", depth=DEPTH, drop_path=rate),
        crops=CropsConfig(num_local=5),
    )
    return draw_rows(config, step, images)


def places(rows, images):
    """(block, branch, batch) -> crops and images of the whole step that are kept."""
    result = {}
    for at_block, block in enumerate(rows):
        for at_branch, branch in enumerate(block[:2]):
            for at_batch, part in enumerate(branch):
                crops, offsets = np.divmod(part.numpy(), len(images))
                kept = set(zip(crops.tolist(), (offsets + images.start).tolist(), strict=True))
                result[at_block, at_branch, at_batch] = kept
    return result


def test_every_group_of_every_crop_keeps_the_same_share():
    for (_, _, batch), kept in places(draw(), range(BATCH)).items():
        crops = 2 if batch == 0 else 5
        counts = np.zeros((crops, BATCH // GROUP))
        for crop, image in kept:
            counts[crop, image // GROUP] += 1
        assert (counts == 2).all()  # of 4 at a rate of 0.3, rounded down


def test_a_part_of_a_step_draws_what_the_whole_step_draws_there():
    whole = places(draw(), range(BATCH))
    for part in (range(4), range(4, 12), range(8, 12)):
        for key, kept in places(draw(part), part).items():
            assert kept == {(crop, image) for crop, image in whole[key] if image in part}


def test_blocks_branches_and_steps_draw_on_their_own():
    rows = draw(group_size=BATCH)
    subsets = {tuple(part.tolist()) for block in rows for branch in block[:2] for part in branch}
    assert len(subsets) == DEPTH * 2 * 2
    other = draw(step=1, group_size=BATCH)
    assert not torch.equal(rows[0][0][0], other[0][0][0])


def test_all_samples_are_kept_equally_often():
    counts = np.zeros(2 * BATCH)
    for step in range(300):
        for block in draw(step=step):
            for branch in block[:2]:
                counts[branch[0].numpy()] += 1
    expected = 300 * DEPTH * 2 / 2
    assert np.abs(counts / expected - 1).max() < 0.12  # 4 standard deviations of a binomial
