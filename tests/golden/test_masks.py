"""Block masks: bit for bit with the published random numbers, in distribution with ours."""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

from dinoforge.randomness import Draws
from dinoforge.training.data.masks import block_mask, collate_masks, slot_mask

pytestmark = pytest.mark.golden

NUM_DRAWS = 20_000  # what the acceptance limits of the reference are for
CASES = ("worked_example", "prob1", "odd", "prob0.05_none_masked")


class PythonDraws:
    """The standard library's generator, drawn from in the order of the published code."""

    def __init__(self, seed):
        self.source = random.Random(seed)

    def uniform(self, low, high):
        return self.source.uniform(low, high)

    def integer(self, low, high):
        return self.source.randint(low, high - 1)

    def shuffle(self, n):
        order = list(range(n))
        self.source.shuffle(order)
        return np.array(order)


class Watched:
    """Notes how many patches were left to mask at every try."""

    def __init__(self, draws):
        self.draws = draws
        self.left = []

    def uniform(self, low, high):
        if low == 4:  # an area
            self.left.append(high)
        return self.draws.uniform(low, high)

    def integer(self, low, high):
        return self.draws.integer(low, high)


@pytest.fixture(scope="module")
def facts(golden_file):
    return json.loads(golden_file("masking.json").read_text())


@pytest.fixture(scope="module")
def tensors(golden_file):
    return load_file(golden_file("masking.safetensors"))


def test_masks_are_the_published_ones_bit_for_bit(facts, tensors):
    masks = facts["rng_exact_masks"]["masks"]
    assert len(masks) == 12
    for number, case in enumerate(masks):
        result = block_mask(16, 16, case["target"], PythonDraws(case["python_random_seed"]))
        np.testing.assert_array_equal(result, tensors[f"seeded/{number}"])
        assert result.sum() == case["count"]


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_masks_is_the_published_one_bit_for_bit(facts, tensors, name):
    case = facts["collate"]["cases"][name]
    count, grid = case["B_global_crops"], case["grid"]
    num_masked = int(count * case["mask_probability"])
    draws = PythonDraws(case["python_random_seed"])
    masks = np.zeros((count, grid * grid), np.bool_)
    for slot in range(num_masked):
        mask = slot_mask(slot, num_masked, grid, grid, tuple(case["mask_ratio"]), draws)
        masks[slot] = mask.ravel()
    result = collate_masks(masks[draws.shuffle(count)])
    np.testing.assert_array_equal(result.masks_BN, tensors[f"collate/{name}/masks"])
    np.testing.assert_array_equal(result.indices_M, tensors[f"collate/{name}/mask_indices_list"])
    np.testing.assert_array_equal(result.weights_M, tensors[f"collate/{name}/masks_weight"])
    assert result.weights_M.dtype == np.float32
    assert result.masks_BN.sum(axis=1).tolist() == case["per_sample_counts"]


@pytest.mark.parametrize("name", CASES)
def test_indices_and_weights_follow_from_masks(tensors, name):
    result = collate_masks(tensors[f"collate/{name}/masks"])
    np.testing.assert_array_equal(result.indices_M, tensors[f"collate/{name}/mask_indices_list"])
    np.testing.assert_array_equal(result.weights_M, tensors[f"collate/{name}/masks_weight"])


def sample(side, low, high, count):
    """Masked counts, targets, blocks, first areas, and how often each place is masked."""
    rows = []
    places = np.zeros((side, side))
    for draws in Draws.many(0, f"test masks {side} {low} {high}", range(count)):
        target = int(side * side * draws.uniform(low, high))
        watched = Watched(draws)
        mask = block_mask(side, side, target, watched)
        left = sorted({*watched.left, target - int(mask.sum())}, reverse=True)
        rows.append((mask.sum(), target, len(left) - 1, left[0] - left[1]))
        places += mask
    return *np.array(rows).T, places


@pytest.fixture(scope="module")
def recipe_masks():
    return sample(16, 0.1, 0.5, NUM_DRAWS)


def test_counts_are_distributed_as_published(facts, recipe_masks):
    truth = facts["grid16_recipe(224/14)"]["rows"]["0.1-0.5"]
    counts, targets, blocks, areas, _ = recipe_masks
    assert (counts <= targets).all()
    assert abs(counts.mean() - truth["masked_count"]["mean"]) <= 1.2
    assert abs((counts == targets).mean() - truth["fraction_exact"]) <= 0.01
    assert abs((targets - counts).mean() - truth["target_minus_count"]["mean"]) <= 0.015
    assert abs(blocks.mean() - truth["blocks_per_mask"]["mean"]) <= 0.08
    # Two means of 20,000 areas with a standard deviation of 25.5 differ by 0.26 (one sigma).
    assert abs(areas.mean() - truth["first_block_area"]["mean"]) <= 1.0
    histogram = np.array(truth["masked_count_hist_bins_of_8"])
    actual = np.bincount(counts // 8, minlength=len(histogram))
    table = np.array([actual, histogram])[:, actual + histogram >= 10]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("ratio", ["0.1-0.1", "0.3-0.3", "0.5-0.5"])
def test_counts_at_one_ratio_are_distributed_as_published(facts, ratio):
    truth = facts["grid16_recipe(224/14)"]["rows"][ratio]
    low, high = map(float, ratio.split("-"))
    counts, targets, blocks, *_ = sample(16, low, high, 4000)
    # A fifth of the draws: limits wider by sqrt((1 / 4000 + 1 / 20000) / (2 / 20000)) = 1.7.
    assert abs((counts == targets).mean() - truth["fraction_exact"]) <= 0.017
    assert abs((targets - counts).mean() - truth["target_minus_count"]["mean"]) <= 0.026
    assert abs(blocks.mean() - truth["blocks_per_mask"]["mean"]) <= 0.14


def test_the_middle_is_masked_more_often_than_the_corners(recipe_masks):
    places = recipe_masks[-1] / recipe_masks[-1].mean()
    corners = places[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners == pytest.approx([0.13] * 4, abs=0.03)
    assert places[0, 7:9] == pytest.approx([0.49] * 2, abs=0.05)
    assert places[7:9, 7:9].ravel() == pytest.approx([1.72] * 4, abs=0.08)


def test_counts_on_the_large_grid(facts):
    truth = facts["grid37(518/14)"]["rows"]["0.1-0.5"]
    counts, targets, blocks, *_ = sample(37, 0.1, 0.5, 2000)
    # Limits: three standard errors of the difference of two means of 2,000 draws.
    for result, name in ((counts, "masked_count"), (blocks, "blocks_per_mask")):
        limit = 3 * truth[name]["std"] * (2 / 2000) ** 0.5
        assert abs(result.mean() - truth[name]["mean"]) <= limit, name
    assert abs((counts == targets).mean() - truth["fraction_exact"]) <= 0.03
