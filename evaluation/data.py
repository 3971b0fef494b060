"""The images of an evaluation: a bank that answers, a test set that asks, classes in common.

Not here: pixels and features. Images that do not decode are found when features are extracted.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig, SplitConfig
from dinoforge.files import hash_json
from dinoforge.randomness import uniforms
from dinoforge.sources import ImageSet, open_images

__all__ = ["EvalData", "Part", "hold_out", "match_classes", "open_data"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Some images of a set, in its order, and their classes (-1: not known)."""

    images: ImageSet
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]  # numbered as in the bank; larger numbers: classes it has not

    @property
    def is_labeled(self) -> bool:
        """Tell whether the class of any image is known."""
        return bool((self.labels >= 0).any())


@dataclass(frozen=True)
class EvalData:
    """What is measured on."""

    bank: Part
    test: Part
    fingerprint: str  # of the test images and how they were chosen
    leave_one_out: bool = False  # the test images are the bank's own

    @property
    def is_labeled(self) -> bool:
        """Tell whether accuracies can be measured."""
        return self.bank.is_labeled and self.test.is_labeled


def open_data(config: EvaluationConfig, cache: Path) -> EvalData:
    """Open bank and test images; without test images, split them off the bank.

    Parameters
    ----------
    config : EvaluationConfig
        Its ``train``, ``test``, ``split``, ``decode`` and ``seed``.
    cache : Path
        Folder for listings and unpacked archives.

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
        _log.info("no labels in the %s: only metrics without labels are recorded", without)
    return data


def _two_sets(train: ImageSet, test: ImageSet) -> EvalData:
    labels, test_labels, strangers = match_classes(train, test)
    if strangers:
        count = int(np.isin(test_labels, list(strangers)).sum())
        names = ", ".join(list(strangers.values())[:5]) + (", ..." if len(strangers) > 5 else "")
        _log.warning("%d test images are of classes that are not in the bank: %s", count, names)
    return EvalData(
        Part(train, np.arange(len(train)), labels),
        Part(test, np.arange(len(test)), test_labels),
        test.fingerprint,
    )


def _one_set(train: ImageSet, split: SplitConfig, seed: int) -> EvalData:
    every = Part(train, np.arange(len(train)), train.labels)
    if split.mode == "leave_one_out":
        _log.info("no test images: each of %d is asked of all the others", len(train))
        return EvalData(every, every, train.fingerprint, leave_one_out=True)
    is_test = hold_out(train.labels, split.share, seed)
    bank, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    _log.info("no test images: %d of %d are held out of the bank", len(test), len(train))
    chosen = {"set": train.fingerprint, "share": split.share, "seed": seed}
    return EvalData(
        Part(train, bank, train.labels[bank]),
        Part(train, test, train.labels[test]),
        hash_json(chosen),
    )


def match_classes(
    train: ImageSet, test: ImageSet
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, str]]:
    """Give the classes of two sets one numbering: by name, or by number where a set has no names.

    Parameters
    ----------
    train, test : ImageSet
        The bank, whose numbering is kept, and the images that ask.

    Returns
    -------
    train_labels, test_labels : ndarray
        int64; test classes that ``train`` has not get numbers above all of its own.
    strangers : dict
        Those numbers, with the names of the classes.
    """
    if not (train.class_names and test.class_names):
        # Positions in a list of names that only one set has mean nothing to the other.
        numbers = [_numbers(images) for images in (train, test)]
        unknown = np.setdiff1d(numbers[1], [*numbers[0], -1]).tolist()
        return numbers[0], numbers[1], {number: str(number) for number in unknown}
    number = {name: at for at, name in enumerate(train.class_names)}
    strangers = [name for name in test.class_names if name not in number]
    number |= {name: len(train.class_names) + at for at, name in enumerate(strangers)}
    # One more entry at the end, for label -1.
    table = np.array([*(number[name] for name in test.class_names), -1], np.int64)
    return train.labels, table[test.labels], {number[name]: name for name in strangers}


def _numbers(images: ImageSet) -> NDArray[np.int64]:
    return images.table.column("label").to_numpy().astype(np.int64)


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose a share of every class (at least one image of two) by a keyed draw.

    Images without a class count as a class of their own.

    Parameters
    ----------
    labels : ndarray
        Class of every image, ``[n]``; -1: not known.
    share : float
        Of the images of each class, rounded; one image of a class always stays in the bank.
    seed : int
        Keys the draw, one number an image.

    Returns
    -------
    ndarray
        bool ``[n]``, True = test.
    """
    draws = uniforms(seed, "evaluation/hold-out", np.arange(len(labels)))[:, 0]
    is_test = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(mine))), len(mine) - 1)
        is_test[mine[np.argsort(draws[mine], kind="stable")[:count]]] = True
    return is_test
