"""Which head is kept, on what it was chosen, and what else the choice depends on."""

import numpy as np
import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.linear_choice import Images, choose_probe, stratified_folds
from dinoforge.evaluation.methods.linear_grid import cached
from dinoforge.evaluation.settings import ChoiceConfig, LinearConfig

CLASSES, DIM = 4, 6
GRID = LinearConfig(rates=[1e-7, 0.5, 2.0], blocks=[1, 2], epochs=2, epoch_steps=25, batch_size=32)


def pictures(n, seed, noise=1.0, informative=0):
    """Only the older class token (slot 0) depends on the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(n) % CLASSES
    slots = torch.randn(n, 3, DIM, generator=generator)
    slots[:, informative] *= noise
    slots[torch.arange(n), informative, torch.from_numpy(labels)] += 3
    return Images(slots, labels)


def choose(train, test, config=GRID, **choice):
    return choose_probe(
        train,
        test,
        blocks=2,
        num_classes=CLASSES,
        config=config,
        choice=ChoiceConfig(**choice),
        seed=0,
    )


def accuracy(probe, images):
    return float((probe.scores(images.slots).argmax(1).numpy() == images.labels).mean())


@pytest.fixture(scope="module")
def train():
    return pictures(240, 0)


@pytest.fixture(scope="module")
def test():
    return pictures(120, 1)


def test_the_published_way_keeps_the_best_head_on_the_test_images(train, test):
    kept = choose(train, test, select="paper")
    assert (kept.selection, kept.training, kept.chosen_on) == (
        "test-peek",
        "cached features",
        "the test images",
    )
    assert kept.accuracies.shape == (1, 12)
    assert accuracy(kept.probe, test) == kept.accuracies.max()
    assert kept.probe.head.blocks == 2
    assert kept.probe.head.rate > 1e-7


@pytest.mark.parametrize(
    ("below", "text"),
    [
        (1000, "5-fold cross-validation; retrained on all"),
        (0, "24 images held out of train; retrained on all"),
    ],
)
def test_a_choice_on_train_does_not_see_the_test_images(train, test, below, text):
    kept = choose(train, test, cross_validate_below=below)
    assert (kept.selection, kept.chosen_on) == ("val", text)
    unseen = Images(torch.full_like(test.slots, torch.nan), test.labels)
    again = choose(train, unseen, cross_validate_below=below)
    assert torch.equal(kept.probe.weights, again.probe.weights)
    assert accuracy(kept.probe, test) > 0.8


def test_retraining_alone_equals_training_in_the_grid(train, test):
    """The same head of a grid that was trained on all images, as the published way trains it."""
    kept = choose(train, test)
    grid = choose(train, test, select="paper")
    number = grid.heads.index(kept.probe.head)
    assert accuracy(kept.probe, test) == pytest.approx(grid.accuracies[0, number], abs=1e-6)


def test_without_retraining_the_head_saw_the_rest_only(train, test):
    kept = choose(train, test, cross_validate_below=0, retrain=False)
    full = choose(train, test, cross_validate_below=0)
    assert kept.chosen_on == "24 images held out of train; trained on the rest"
    assert kept.probe.head == full.probe.head
    assert not torch.equal(kept.probe.weights, full.probe.weights)


def test_every_epoch_is_a_candidate_in_the_protocol_of_dino(train, test):
    config = LinearConfig(
        rates=[0.1],
        blocks=[2],
        average_patches=[False],
        epochs=6,
        epoch_steps=0,
        batch_size=48,
        decay="epoch",
        candidates="every_epoch",
    )
    peek = choose(train, test, config, select="paper")
    assert peek.accuracies.shape == (6, 1)
    assert peek.epoch == 1 + int(peek.accuracies[:, 0].argmax())
    assert accuracy(peek.probe, test) == peek.accuracies.max()
    clean = choose(train, test, config)
    assert clean.epoch == 1 + int(clean.accuracies[:, 0].argmax())


def test_a_single_candidate_is_no_choice(train, test):
    one = LinearConfig(rates=[0.1], blocks=[1], average_patches=[False], epochs=1, epoch_steps=5)
    assert choose(train, test, one, select="paper").selection == "none"


def test_of_equal_heads_the_one_that_reads_least_is_kept(test):
    blank = Images(torch.zeros(80, 3, DIM), np.arange(80) % CLASSES)
    always_wrong = Images(torch.zeros(20, 3, DIM), np.full(20, CLASSES))
    kept = choose(blank, always_wrong, select="paper")
    assert (kept.probe.head.blocks, kept.probe.head.average_patches) == (1, False)
    assert kept.probe.head.rate == 1e-7


def test_crops_train_and_the_own_crop_is_held_out(train, test):
    views = cached(train.slots)
    augmented = Images(train.slots, train.labels, views)
    kept = choose(augmented, test, cross_validate_below=0)
    assert kept.training == "augmented views"
    # The crops here are the cached features, so nothing else may differ.
    assert torch.equal(
        kept.probe.weights, choose(train, test, cross_validate_below=0).probe.weights
    )


def test_folds_have_equal_shares_of_every_class():
    labels = np.repeat([0, 1, 2], [50, 7, 23])
    folds = stratified_folds(labels, 5, seed=0)
    assert sorted(np.bincount(folds).tolist()) == [16, 16, 16, 16, 16]
    for label in range(3):
        sizes = np.bincount(folds[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(folds, stratified_folds(labels, 5, seed=1))


def test_too_few_images_to_hold_any_out():
    few = pictures(4, 0)
    with pytest.raises(UsageError, match="cannot hold out images to choose a head: train has 4"):
        choose(few, few, cross_validate_below=0)
