"""The images of an evaluation: a labeled bank, a test set, and one numbering of their classes.

Not here: pixels and features. Undecodable images are detected when features are extracted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError, some_of
from dinoforge.evaluation.config import SetConfig
from dinoforge.evaluation.settings import SplitConfig
from dinoforge.images import DecodePolicy
from dinoforge.randomness import uniforms
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import locate_images
from dinoforge.sources.numbering import describe_classes, rename_classes, unite_classes

__all__ = ["EvalData", "NothingToTestError", "Part", "Rules", "arrange", "hold_out", "open_sets"]

_log = logging.getLogger(__name__)

# Held-out images below which `auto` tests every image instead: of 30, each decides about 3 points.
_FEW_TEST_IMAGES = 30


class NothingToTestError(UsageError):
    """Too few images, or none that decodes, to measure anything."""


@dataclass(frozen=True)
class Part:
    """Some images of a set, in its order, and their classes (-1: unknown)."""

    images: ImageSet
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]  # one number per class of both parts

    @property
    def is_labeled(self) -> bool:
        """Whether the class of any image is known."""
        return bool((self.labels >= 0).any())


@dataclass(frozen=True)
class EvalData:
    """The bank and the test set."""

    bank: Part
    test: Part
    leave_one_out: bool = False  # the test images are the bank's own

    @property
    def is_labeled(self) -> bool:
        """Whether accuracies can be measured."""
        return self.bank.is_labeled and self.test.is_labeled


@dataclass(frozen=True)
class Rules:
    """How test images are found, and which protocols need them."""

    split: SplitConfig
    seed: int
    protocols: Sequence[str]


def open_sets(one: SetConfig, cache: Path, policy: DecodePolicy) -> list[ImageSet]:
    """Open the images of the bank and, if there are any of their own, the test images.

    ``cache`` is the folder for unpacked archives.

    Raises
    ------
    UsageError
        If a path is missing or holds no image.
    """
    paths = [one.train, *([one.test] if one.test else [])]
    sets = [open_images(part, cache=cache, policy=policy) for part in paths]
    _warn_of_overlap(sets)
    for at, most in enumerate(one.max_images):
        sets[at] = _choose(sets[at], most)
    return sets


def arrange(sets: Sequence[ImageSet], one: SetConfig, rules: Rules) -> EvalData:
    """Unite the classes of bank and test images; without test images, split them off the bank.

    Raises
    ------
    UsageError
        If labels contradict each other, or no class of the test images is in the bank; a
        `NothingToTestError` if the images are too few or the protocols need labels that they lack.
    """
    data = _two_sets(sets[0], sets[1], one) if one.test else _one_set(sets[0], one, rules)
    _stop_if_nothing_to_test(data, one, rules.protocols)
    if not data.is_labeled:
        without = "test set" if data.bank.is_labeled else "bank"
        _log.info("no labels in the %s: recording only metrics without labels", without)
    parts = [("bank", data.bank), ("test set", data.test)]
    for name, part in parts[: 1 if data.leave_one_out else 2]:
        unlabeled = int(np.count_nonzero(part.labels < 0))
        if 0 < unlabeled < len(part.labels):
            text = "%d of %d images of the %s have no label"
            _log.info(text, unlabeled, len(part.labels), name)
    return data


def _choose(images: ImageSet, most: int) -> ImageSet:
    """Keep a choice of images, by a keyed draw per image, in their order."""
    draws = uniforms(0, "evaluation/max-images", np.arange(len(images)))[:, 0]
    rows = np.sort(np.argsort(draws, kind="stable")[:most])
    table, rest = images.table.take(rows), (images.problems, images.class_lists, images.failed)
    return ImageSet(table, images.policy, *rest)


def _warn_of_overlap(sets: Sequence[ImageSet]) -> None:
    if len(sets) < 2:
        return
    if shared := set.intersection(*(set(locate_images(images.table)) for images in sets)):
        text = (
            "%d of %d test images are also in the bank, which raises the scores - `train` and "
            "`test` - give other files, or leave out `test`"
        )
        _log.warning(text, len(shared), len(sets[1]))


def _two_sets(train: ImageSet, test: ImageSet, one: SetConfig) -> EvalData:
    tables = [
        rename_classes(train.table, train.class_lists, one.train_classes, "train_classes"),
        rename_classes(test.table, test.class_lists, one.test_classes, "test_classes"),
    ]
    numbering = unite_classes(tables, [train.class_lists, test.class_lists])
    labels, test_labels = (numbering.labels(table) for table in tables)
    missing = np.setdiff1d(test_labels, [*labels, -1])
    if len(missing) and set(missing) >= set(test_labels) - {-1} and (labels >= 0).any():
        bank = describe_classes(tables[0], train.class_lists)
        asked = describe_classes(tables[1], test.class_lists)
        raise UsageError(
            what=f"no class of the test images is in the bank, which has {bank}",
            where=f"`test` with {asked}",
            do="put the list of classes beside the tars, or rename with test_classes={FROM: TO}",
        )
    if len(missing):
        count = int(np.isin(test_labels, missing).sum())
        names = numbering.names
        shown = some_of((names.get(number, str(number)) for number in missing.tolist()), 5)
        _log.warning("%d test images belong to classes that the bank lacks: %s", count, shown)
    return EvalData(
        Part(train, np.arange(len(train)), labels), Part(test, np.arange(len(test)), test_labels)
    )


def _one_set(train: ImageSet, one: SetConfig, rules: Rules) -> EvalData:
    split, renames = rules.split, one.train_classes
    table = rename_classes(train.table, train.class_lists, renames, "train_classes")
    labels = unite_classes([table], [train.class_lists]).labels(table)
    every = Part(train, np.arange(len(train)), labels)
    if not every.is_labeled:  # a split is for accuracies
        return EvalData(every, every)
    is_test = hold_out(labels, split.share, rules.seed)
    is_few = split.mode == "auto" and 0 < np.count_nonzero(is_test) < _FEW_TEST_IMAGES
    if is_few or split.mode == "leave_one_out":
        _log.info("no test set: leave-one-out over %d images", len(train))
        _, counts = np.unique(labels[labels >= 0], return_counts=True)
        if alone := int((counts == 1).sum()):
            _log.warning("%d images are alone in their class: leave-one-out gets them wrong", alone)
        return EvalData(every, every, leave_one_out=True)
    bank, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    _log.info("no test set: %d of %d images held out of the bank", len(test), len(train))
    return EvalData(Part(train, bank, labels[bank]), Part(train, test, labels[test]))


def _stop_if_nothing_to_test(data: EvalData, one: SetConfig, protocols: Sequence[str]) -> None:
    num, num_test = len(data.bank.rows), len(data.test.rows)
    do = "add images, or give test images in `test`"
    if not num_test:
        num_classes = len(np.unique(data.bank.labels))
        each = f"each of the {num_classes} classes has 1 image" if num > 1 else "there is 1 image"
        raise NothingToTestError(
            what=f"no test image is left after the split: {each}", where="`train`", do=do
        )
    if data.leave_one_out and num < 2:
        what = f"leave-one-out needs at least 2 images, got {num}"
        raise NothingToTestError(what=what, where="`train`", do=do)
    if data.is_labeled or ("collapse" in protocols and num_test > 1):
        return
    part = "`test`" if one.test and data.bank.is_labeled else "`train`"
    if "collapse" in protocols:
        what = f"signs of collapse need 2 images, got {num_test}, and other protocols need labels"
        raise NothingToTestError(what=what, where=part, do="add images, or labels")
    raise NothingToTestError(
        what="no labels, and the protocols need them",
        where=part,
        do="add class folders, or .cls files in tars, or set protocols=[collapse]",
    )


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
