"""Labeled images of every step: the class-stratified order of PAWS (Assran et al. 2021).

The support of a group has images of its classes ``c1 c2 .. cC``, repeated, so that row i is of the
i-th class modulo C: labels follow from the position.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt

from dinoforge.config import find_list
from dinoforge.config.paths import OptionalPath, PathText
from dinoforge.config.ranges import PositiveInt, Range
from dinoforge.errors import UsageError, some_of
from dinoforge.sources.manifests import read_subset

if TYPE_CHECKING:  # recipes are checked on machines without torch
    from dinoforge.sources.image_set import ImageSet

__all__ = ["Support", "SupportConfig", "SupportOrder", "open_support"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SupportConfig:
    """The labeled images of PAWS: which, and how many a step sees."""

    # folders, tars, globs or a curation run, with labels; relative to the working directory
    paths: list[PathText] = field(default_factory=list)
    # file that lists the labeled images, some of every class, one per line: keys, file names, or
    # numbers from 0 in the order of the keys; one that is not here is searched for among the
    # installed recipes (labels/cifar10-4-0.txt); "": all images with a label
    subset: OptionalPath = ""
    classes: PositiveInt = 10  # per group and step
    images: PositiveInt = 16  # per class, group and step
    views: Annotated[int, Range(1, 2)] = 1  # global crops of each
    # parts into which each class, or with unique_classes the classes, are divided: the ranks of the
    # published runs; any number of ranks shares them
    groups: PositiveInt = 1
    unique_classes: bool = False  # True: groups have different classes; False: the same ones

    @property
    def num_classes(self) -> int:
        """Classes of a step."""
        return self.classes * (self.groups if self.unique_classes else 1)

    @property
    def rows(self) -> int:
        """Labeled images of a step, each with `views` crops."""
        return self.classes * self.images * self.groups


@dataclass(frozen=True)
class Support:
    """The labeled images of every step on one rank."""

    order: "SupportOrder"
    views: int  # global crops of each
    rank: int
    num_ranks: int

    @property
    def num_images(self) -> int:
        """Count the labeled images."""
        return sum(map(len, self.order.by_class))

    def locate(self, step: int) -> tuple[Indices, Indices]:
        """Return the images of this rank and the columns of their classes."""
        in_group = self.order.classes_per_batch * self.order.images_per_class
        size = in_group * self.order.groups // self.num_ranks
        start = self.rank * size
        groups = range(start // in_group, -(-(start + size) // in_group))
        images, columns = self.order.locate(step, groups)
        own = slice(start - groups.start * in_group, start - groups.start * in_group + size)
        return images[own], columns[own]


@dataclass(frozen=True, kw_only=True)
class SupportOrder:
    """Batches of labeled images for each of several groups of ranks, as published.

    The permutations are those of the published sampler for the same seed: classes from generators
    seeded ``seed + 1, seed + 2, ...`` that all groups share, images of a class from one of the
    group and the pass. Within a pass no image comes twice.
    """

    by_class: Sequence[Indices]  # images of each class
    classes_per_batch: int
    images_per_class: int  # in a batch
    groups: int = 1  # each with batches of its own
    unique: bool = False  # groups have different classes; else each has its part of every class
    passes: int = 1  # over the images, before the order of the classes is drawn anew
    seed: int = 0
    columns_are_classes: bool = False  # numbered as `by_class`, for a step that has all of them
    # of each group, the pass whose images were shuffled last, and these
    _last: dict[int, tuple[int, list[Indices]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def batches_of_pass(self) -> int:
        """Batches of one pass: every class is in one of them, but for a rest of unique classes."""
        return len(self.by_class) // self._together

    @property
    def _together(self) -> int:
        """Classes of a batch of all groups."""
        return self.classes_per_batch * (self.groups if self.unique else 1)

    def locate(self, step: int, groups: range | None = None) -> tuple[Indices, Indices]:
        """Return images and columns of a step, group by group; a column is a class of the step.

        Of all groups, or of ``groups`` alone.
        """
        number, at = divmod(step, self.batches_of_pass)
        groups = groups or range(self.groups)
        drawn = [next(islice(self._pass(group, number), at, None)) for group in groups]
        images = np.concatenate([rows for rows, _ in drawn])
        if self.columns_are_classes:
            return images, np.concatenate([classes for _, classes in drawn])
        columns = [
            np.arange(self.classes_per_batch) + self.classes_per_batch * group * self.unique
            for group in groups
        ]
        return images, np.tile(columns, self.images_per_class).ravel()

    def of_class(self, image: int) -> Iterator[int]:
        """Yield an image, then the others of its class."""
        yield image
        rows = next(rows.tolist() for rows in self.by_class if image in rows)
        at = rows.index(image)
        yield from [*rows[at + 1 :], *rows[:at]]

    def batches(self, group: int, round_: int = 0) -> Iterator[tuple[Indices, Indices]]:
        """Yield images and classes of each batch of a group, in a round of all passes."""
        for number in range(round_ * self.passes, (round_ + 1) * self.passes):
            yield from self._pass(group, number)

    def _pass(self, group: int, number: int) -> Iterator[tuple[Indices, Indices]]:
        if group not in self._last or self._last[group][0] != number:
            self._last[group] = number, self._shuffled(group, number)
        images = self._last[group][1]
        # The published sampler draws one permutation more at the start of every round.
        order = _permutation(len(images), self.seed + 1 + number + number // self.passes)
        first = group * self.classes_per_batch if self.unique else 0
        for start in range(first, self.batches_of_pass * self._together, self._together):
            classes = order[start : start + self.classes_per_batch]
            rows = [images[at][: self.images_per_class] for at in classes]
            yield np.stack(rows, axis=1).ravel(), np.tile(classes, self.images_per_class)

    def _shuffled(self, group: int, number: int) -> list[Indices]:
        import torch

        round_, in_round = divmod(number, self.passes)
        passes = self.passes * (round_ * self.groups + group)
        generator = torch.Generator().manual_seed(self.seed + passes + in_round)
        shuffled = []
        for images in self.by_class:
            part = images
            size = len(images) // self.groups
            if not self.unique and size:
                part = images[group * size : (group + 1) * size]
            if len(part) > 1:  # as published: else the generator does not move
                part = part[torch.randperm(len(part), generator=generator).numpy()]
            shuffled.append(part)
        return shuffled


def _permutation(size: int, seed: int) -> Indices:
    import torch

    drawn: Indices = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    return drawn


def _passes_of_round(config: SupportConfig, rows_of: Sequence[Indices], epoch: int) -> int:
    """Count the passes after which the order of classes is drawn anew, as published.

    They fill an epoch; without unlabeled images, they use the labeled ones of the smallest class.
    """
    if epoch:
        return -(-epoch // max(1, len(rows_of) // config.num_classes))
    parts = 1 if config.unique_classes else config.groups
    return max(1, min(map(len, rows_of)) // (parts * config.images))


def open_support(
    config: SupportConfig,
    images: "ImageSet",
    *,
    offset: int,
    epoch: int,
    seed: int,
    part: tuple[int, int],
    all_classes: bool = False,
) -> Support:
    """Order the labeled images of a recipe, which have the positions from ``offset`` on.

    ``epoch`` is the number of steps of a pass over unlabeled images, 0 if none are used.
    ``part`` is this rank and the number of ranks; with ``all_classes`` a step must have
    all of them, and columns are classes in the order of their labels.

    Raises a `UsageError` if a class has no or too few labels, or classes do not divide.
    """
    keys: list[str] = images.table["key"].to_pylist()
    labels = images.labels
    named: list[str] = images.table["class_name"].to_pylist()
    names = {label: named[at] or str(label) for at, label in enumerate(labels.tolist())}
    names.pop(-1, None)
    if not names:
        raise UsageError(
            what="no image has a label",
            where=", ".join(config.paths),
            do="give images in class folders, or shards with .cls members",
        )
    listed = np.arange(len(keys))
    if config.subset:  # as published, in the order of the list
        chosen = read_subset(find_list("training", config.subset), keys)
        listed = np.array(list(dict.fromkeys(chosen)))
        _check_listed(config.subset, names, labels[listed])
    rows_of = [listed[labels[listed] == label] + offset for label in sorted(names)]
    order = SupportOrder(
        by_class=rows_of,
        classes_per_batch=config.classes,
        images_per_class=config.images,
        groups=config.groups,
        unique=config.unique_classes,
        passes=_passes_of_round(config, rows_of, epoch),
        seed=seed,
        columns_are_classes=all_classes,
    )
    _check_classes(config, len(rows_of), all_of_them=all_classes)
    parts = 1 if config.unique_classes else config.groups
    fewest, label = min(zip(map(len, rows_of), sorted(names), strict=True))
    if fewest < config.images * parts:
        raise UsageError(
            what=f"class {names[label]} has {fewest} labeled images, a step needs "
            f"{config.images * parts}",
            where="`support.images`" + " x `support.groups`" * (parts > 1),
            do=f"give at most {fewest}, or more labels",
        )
    return Support(order, config.views, *part)


def _check_listed(file: str, names: Mapping[int, str], labels: Indices) -> None:
    """Refuse a list without images of a class: a training would not know that class."""
    without = [names[label] for label in sorted(names.keys() - set(labels.tolist()))]
    if without:
        raise UsageError(
            what=f"lists no image of {len(without)} of {len(names)} classes: {some_of(without)}",
            where=file,
            do="add some, or leave these classes out of `support.paths`: it takes a .csv of path "
            "and label",
        )


def _check_classes(config: SupportConfig, count: int, *, all_of_them: bool) -> None:
    needed = config.num_classes
    if needed > count:
        raise UsageError(
            what=f"a step needs {needed} classes, the labeled images have {count}",
            where="`support.classes`" + " x `support.groups`" * (needed > config.classes),
            do=f"give at most {count}",
        )
    if all_of_them and needed < count:
        raise UsageError(
            what=f"a step has {needed} of {count} classes, and a classifier learns them all",
            where="`support.classes`",
            do=f"give {count}, and support.groups=1",
        )
    if not config.unique_classes and count % config.classes:
        unique = ", or support.unique_classes=true" * (config.classes * config.groups <= count)
        divisors = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise UsageError(
            what=f"{count} classes are not a multiple of `support.classes` {config.classes}",
            where="recipe",
            do=f"give {', '.join(divisors[:-1])} or {divisors[-1]}{unique}",
        )
