"""The images of an evaluation: a labeled bank, a test set, and one numbering of their classes.

Not here: pixels and features. Undecodable images are detected when features are extracted.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig, SplitConfig
from dinoforge.files import hash_json
from dinoforge.randomness import uniforms
from dinoforge.sources.image_set import ImageSet, open_images

__all__ = ["EvalData", "Part", "hold_out", "match_classes", "open_data"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Some images of a set, in its order, and their classes (-1: unknown)."""

    images: ImageSet
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]  # numbered as in the bank; its missing classes follow

    @property
    def is_labeled(self) -> bool:
        """Whether the class of any image is known."""
        return bool((self.labels >= 0).any())


@dataclass(frozen=True)
class EvalData:
    """The bank and the test set."""

    bank: Part
    test: Part
    fingerprint: str  # of the test images and their selection
    leave_one_out: bool = False  # the test images are the bank's own

    @property
    def is_labeled(self) -> bool:
        """Whether accuracies can be measured."""
        return self.bank.is_labeled and self.test.is_labeled


def open_data(config: EvaluationConfig, cache: Path) -> EvalData:
    """Open bank and test images; without test images, split them off the bank.

    ``cache`` is the folder for listings and unpacked archives.

    Raises
    ------
    UsageError
        If a path is missing or holds no image.
    """
    train = open_images(config.train, cache=cache, policy=config.decode)
    if config.test:
        data = _two_sets(train, open_images(config.test, cache=cache, policy=config.decode))
    else:
        data = _one_set(train, config.split, config.seed)
    if not data.is_labeled:
        without = "test set" if data.bank.is_labeled else "bank"
        _log.info("no labels in the %s: recording only metrics without labels", without)
    return data


def _two_sets(train: ImageSet, test: ImageSet) -> EvalData:
    labels, test_labels, missing = match_classes(train, test)
    if missing:
        count = int(np.isin(test_labels, list(missing)).sum())
        names = ", ".join(list(missing.values())[:5]) + (", ..." if len(missing) > 5 else "")
        _log.warning("%d test images belong to classes that the bank lacks: %s", count, names)
    return EvalData(
        Part(train, np.arange(len(train)), labels),
        Part(test, np.arange(len(test)), test_labels),
        test.fingerprint,
    )


def _one_set(train: ImageSet, split: SplitConfig, seed: int) -> EvalData:
    every = Part(train, np.arange(len(train)), train.labels)
    if split.mode == "leave_one_out":
        _log.info("no test set: leave-one-out over %d images", len(train))
        return EvalData(every, every, train.fingerprint, leave_one_out=True)
    is_test = hold_out(train.labels, split.share, seed)
    bank, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    _log.info("no test set: %d of %d images held out of the bank", len(test), len(train))
    chosen = {"set": train.fingerprint, "share": split.share, "seed": seed}
    return EvalData(
        Part(train, bank, train.labels[bank]),
        Part(train, test, train.labels[test]),
        hash_json(chosen),
    )


def match_classes(
    train: ImageSet, test: ImageSet
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, str]]:
    """Map the classes of two sets to one numbering: by name, or by number if a set has no names.

    Returns the labels of both, numbered as in ``train``; test classes that it lacks get larger
    numbers. The third result maps these to the names of the classes.
    """
    if not (train.class_names and test.class_names):
        # A position in one set's list of names means nothing in the other set.
        numbers = [_numbers(images) for images in (train, test)]
        unknown = np.setdiff1d(numbers[1], [*numbers[0], -1]).tolist()
        return numbers[0], numbers[1], {number: str(number) for number in unknown}
    number = {name: at for at, name in enumerate(train.class_names)}
    missing = [name for name in test.class_names if name not in number]
    number |= {name: len(train.class_names) + at for at, name in enumerate(missing)}
    # One more entry at the end, for label -1.
    table = np.array([*(number[name] for name in test.class_names), -1], np.int64)
    return train.labels, table[test.labels], {number[name]: name for name in missing}


def _numbers(images: ImageSet) -> NDArray[np.int64]:
    return images.table.column("label").to_numpy().astype(np.int64)


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose a share of every class as test images (True), by one keyed draw per image.

    Images without a class (-1) count as one class. The share is rounded, to at least one image;
    at least one image of a class stays in the bank.
    """
    draws = uniforms(seed, "evaluation/hold-out", np.arange(len(labels)))[:, 0]
    is_test = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        is_test[rows[np.argsort(draws[rows], kind="stable")[:count]]] = True
    return is_test
