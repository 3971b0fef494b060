"""Which linear head to keep: chosen on the test set as published, or on images held out of train.

DINOv2 reports the best of its 52 heads on the very set that it was chosen on, DINO the best of 100
epochs: both are ``paper`` here, and what they give is ``test-peek``. ``val-selected`` is the clean
form.

Shapes: n images, S slots, D dimensions, H heads, E epochs after which heads are candidates.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.linear_grid import (
    Head,
    LinearHeads,
    Probe,
    Slots,
    Views,
    cached,
    keyed_batches,
    train_heads,
)
from dinoforge.evaluation.settings import ChoiceConfig, LinearConfig
from dinoforge.randomness import uniforms

__all__ = ["Choice", "Images", "choose_probe", "stratified_folds"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Features and classes of n images; ``views`` gives augmented crops of them, if there are."""

    slots: Tensor  # [n, S, D] of the evaluation's own crop
    labels: NDArray[np.int64]  # [n], 0 .. K - 1
    views: Views | None = None
    num_val: int = 0  # the last of them are for the choice; 0: a share of all

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)


@dataclass(frozen=True)
class Choice:
    """The head that was kept, and how it was chosen."""

    probe: Probe
    epoch: int  # epochs of training behind it
    selection: str  # of the record: test-peek, val, or none if there was one candidate
    chosen_on: str  # images, and whether the head was trained on them afterwards
    training: str  # cached or augmented features
    heads: list[Head]
    accuracies: NDArray[np.float64]  # [E, H], on what the choice was made on


def choose_probe(
    train: Images,
    test: Images,
    *,
    blocks: int,
    num_classes: int,
    config: LinearConfig,
    choice: ChoiceConfig,
    seed: int,
) -> Choice:
    """Train all heads and keep one; of equal accuracies the first epoch, input and rate.

    ``blocks`` counts the class tokens among the slots; ``test`` is read in mode ``paper`` only.

    Raises
    ------
    UsageError
        If heads read slots that there are not, or no image can be held out.
    """
    has_patch_mean = train.slots.shape[1] > blocks
    trial = _Trial(Slots(blocks, has_patch_mean, train.slots.shape[2]), num_classes, seed)
    if choice.select == "paper":
        runs, chosen_on = [trial.run(train, test, config)], "the test images"
    else:
        rounds, chosen_on = _rounds(train, choice, seed)
        runs = [trial.run(_part(train, ~held), _part(train, held), config) for held in rounds]
    correct = np.sum([run.correct for run in runs], axis=0)
    accuracies = correct / sum(run.num for run in runs)
    heads = runs[0].heads
    row, number = _first_best(accuracies, heads)
    epoch, probe = runs[0].epochs[row], runs[0].best
    if choice.select != "paper":
        is_one = len(runs) == 1 and not choice.retrain
        chosen_on += "; trained on the rest" if is_one else "; retrained on all"
        probe = probe if is_one else trial.train_one(train, heads[number], epoch, config)
    is_choice = accuracies.size > 1
    return Choice(
        probe=probe,
        epoch=epoch,
        selection=("test-peek" if choice.select == "paper" else "val") if is_choice else "none",
        chosen_on=chosen_on if is_choice else "",
        training="cached features" if train.views is None else "augmented views",
        heads=heads,
        accuracies=accuracies,
    )


@dataclass(frozen=True)
class _Run:
    """One training of all heads, and how they did on other images."""

    heads: list[Head]
    epochs: list[int]
    correct: NDArray[np.int64]  # [E, H]
    num: int  # images that they are counts of
    best: Probe


class _Trial:
    """Trains heads from the same initial weights and order of images."""

    def __init__(self, slots: Slots, num_classes: int, seed: int) -> None:
        self._slots, self._num_classes, self._seed = slots, num_classes, seed

    def run(self, train: Images, held: Images, config: LinearConfig) -> _Run:
        heads = self._new(config, train)
        labels = torch.from_numpy(held.labels).to(held.slots.device)
        epochs: list[int] = []
        table: list[NDArray[np.int64]] = []
        best: Probe | None = None
        for epoch in self._train(train, heads, config):
            if config.candidates == "last" and epoch < config.epochs:
                continue
            epochs.append(epoch)
            table.append((heads.predict(held.slots) == labels).sum(dim=1).cpu().numpy())
            row, number = _first_best(np.stack(table), heads.heads)
            if row == len(table) - 1:
                best = heads.probe(number)
        assert best is not None, "at least one epoch"
        if diverged := int((~heads.is_finite()).sum()):
            _log.info("%d of %d linear heads diverged", diverged, len(heads.heads))
        return _Run(heads.heads, epochs, np.stack(table), len(held), best)

    def train_one(self, train: Images, head: Head, epoch: int, config: LinearConfig) -> Probe:
        """Train one head alone, as if it were in the grid, up to an epoch."""
        alone = replace(
            config, rates=[head.rate], blocks=[head.blocks], average_patches=[head.average_patches]
        )
        heads = self._new(alone, train)
        for _ in self._train(train, heads, alone, epoch):
            pass
        return heads.probe(0)

    def _new(self, config: LinearConfig, train: Images) -> LinearHeads:
        return LinearHeads(
            config, self._slots, self._num_classes, seed=self._seed, like=train.slots
        )

    def _train(
        self, train: Images, heads: LinearHeads, config: LinearConfig, epochs: int | None = None
    ) -> Iterator[int]:
        return train_heads(
            train.views or cached(train.slots),
            train.labels,
            heads,
            config=config,
            batches=keyed_batches(len(train), config.batch_size, self._seed),
            epochs=epochs,
        )


def stratified_folds(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Give every image a fold, 0 .. folds - 1: equal shares of each class, keyed by the seed."""
    ranks, counts, classes = _ranks(labels, seed)
    # The classes go on where the one before stopped, so that folds are of equal size.
    starts = np.cumsum(counts) - counts
    return (ranks + starts[classes]) % folds


def _rounds(train: Images, choice: ChoiceConfig, seed: int) -> tuple[list[NDArray[np.bool_]], str]:
    """Masks of held-out images, one per training of all heads, and how to call them."""
    labels = train.labels
    if train.num_val:
        rounds = [np.arange(len(train)) >= len(train) - train.num_val]
        text = f"{train.num_val} images of val"
    elif len(labels) < choice.cross_validate_below:
        folds = stratified_folds(labels, choice.folds, seed)
        rounds = [folds == fold for fold in range(choice.folds)]
        text = f"{choice.folds}-fold cross-validation"
    else:
        ranks, counts, classes = _ranks(labels, seed)
        rounds = [ranks < np.rint(choice.held_out * counts).astype(np.int64)[classes]]
        text = f"{int(rounds[0].sum())} images held out of train"
    if not all(0 < held.sum() < len(labels) for held in rounds):
        raise UsageError(
            what=f"cannot hold out images to choose a head: train has {len(labels)}",
            where="`select` is val-selected",
            do="add images, or change `folds` or `held_out`",
        )
    return rounds, text


def _ranks(
    labels: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rank of every image in its class by a keyed draw, images per class, class of each image."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    draws = uniforms(seed, "evaluation/linear/held-out", np.arange(len(labels)))[:, 0]
    order = np.lexsort((draws, classes))
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[classes[order]]
    return ranks, counts, classes


def _part(images: Images, keep: NDArray[np.bool_]) -> Images:
    rows = np.flatnonzero(keep)
    views = images.views
    return Images(
        images.slots[torch.from_numpy(rows).to(images.slots.device)],
        images.labels[rows],
        None if views is None else lambda of_part, step: views(rows[of_part], step),
    )


def _first_best(table: NDArray[Any], heads: Sequence[Head]) -> tuple[int, int]:
    """Row and column of the largest value: the first row, then the order of DINOv2's grid."""
    keys = [(head.blocks, head.average_patches, head.rate) for head in heads]
    order = sorted(range(len(heads)), key=keys.__getitem__)
    row, at = divmod(int(table[:, order].argmax()), len(order))
    return row, order[at]
