"""Data sets in which images are looked up, opened as one list of images with a truth by rows.

The bank comes first, the images that the set itself brings before those that the recipe adds; then
the test images; then others. Shapes: n images of a bank, q queries.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.layouts.named_images import with_distractors
from dinoforge.evaluation.layouts.searches.copies import (
    Copies,
    read_copydays,
    read_disc,
    read_ground_truth,
)
from dinoforge.evaluation.layouts.searches.retrieval import (
    Retrieval,
    read_amstertime,
    read_met,
    read_revisited,
    read_ukbench,
)
from dinoforge.evaluation.metrics.ranking import Judgment, leave_one_out
from dinoforge.images import DecodePolicy
from dinoforge.sources.image_set import ImageSet, open_images

__all__ = ["OPENERS", "Opened", "Rankings", "Recognition", "Search", "Sources"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """Queries against a database, both as rows of the images of a set."""

    queries: Rows  # [q]
    database: Rows  # [n]
    judgments: Callable[[], Iterable[Judgment]]  # one per query, over the database


@dataclass(frozen=True)
class Rankings:
    """The truth of a benchmark of ranked lists."""

    # by what follows the name of the protocol in that of the benchmark: easy, medium; "": nothing
    searches: Mapping[str, Search]
    rule: Literal["trapezoid", "step"]  # of the average precision
    has_precisions: bool = False  # also mP@k
    groups: Rows | None = None  # of four images, for the N-S score


@dataclass(frozen=True)
class Recognition:
    """The truth of a benchmark of instances; label -1: a distractor."""

    labels: Rows  # [n] of the bank
    query_labels: Rows  # [q] of the test images
    val: Rows  # rows of the validation queries
    val_labels: Rows


@dataclass(frozen=True)
class Sources:
    """Where the images are, and how they are read."""

    root: Path
    train: Sequence[str]  # paths of images that the recipe adds to the bank
    bank: str  # names of the parts, as in `Layout.splits`
    test: str
    policy: DecodePolicy
    cache: Path  # of uncompressed tars

    def enlarged(self, images: ImageSet) -> ImageSet:
        """Add the images of the recipe to a bank: distractors."""
        if not self.train:
            return images
        added = open_images(self.train, cache=self.cache, policy=self.policy)
        return with_distractors(images, added)


@dataclass(frozen=True)
class Opened:
    """Images, bank first, and the truth."""

    bank: ImageSet
    test: ImageSet | None  # None: the images of the bank
    truth: Any  # `Rankings`, `Recognition` or `Copies`
    facts: Sequence[Any]  # numbers and names that the truth consists of, for its hash
    others: ImageSet | None = None
    boxes: NDArray[np.float64] | None = None  # of the test images, see `Retrieval`


def _revisited(sources: Sources) -> Opened:
    data = read_revisited(sources.root, policy=sources.policy)
    bank = sources.enlarged(data.database)
    queries = len(bank) + np.arange(len(data.queries))
    searches = {
        name: Search(queries, np.arange(len(bank)), partial(iter, judged))
        for name, judged in data.judgments.items()
    }
    truth = Rankings(searches, "trapezoid", has_precisions=True)
    return Opened(bank, data.queries, truth, _facts(data), boxes=data.boxes)


def _amstertime(sources: Sources) -> Opened:
    directions = read_amstertime(sources.root, policy=sources.policy)
    old, new = directions["old"].queries, directions["new"].queries
    place = {"old": np.arange(len(old)), "new": len(old) + np.arange(len(new))}
    searches = {
        name: Search(place[name], place[other], partial(iter, data.judgments["all"]))
        for (name, data), other in zip(directions.items(), ("new", "old"), strict=True)
    }
    facts = [fact for data in directions.values() for fact in _facts(data)]
    return Opened(with_distractors(old, new), None, Rankings(searches, "step"), facts)


def _ukbench(sources: Sources) -> Opened:
    data = read_ukbench(sources.root, policy=sources.policy)
    every = np.arange(len(data.images))
    search = Search(every, every, partial(leave_one_out, data.groups))
    truth = Rankings({"": search}, "step", groups=data.groups)
    return Opened(data.images, None, truth, data.groups.tolist())


def _met(sources: Sources) -> Opened:
    mini = sources.bank.startswith("mini")
    data, val = (
        read_met(sources.root, split=split, mini=mini, policy=sources.policy)
        for split in (sources.test, "val")
    )
    rows = len(data.database) + len(data.queries) + np.arange(len(val.queries))
    truth = Recognition(data.labels, data.query_labels, rows, val.query_labels)
    facts = [data.labels.tolist(), data.query_labels.tolist(), val.query_labels.tolist()]
    return Opened(data.database, data.queries, truth, facts, others=val.queries)


def _disc(sources: Sources) -> Opened:
    query_list = f"list_files/{sources.test}"
    data = read_disc(sources.root, query_list=query_list, policy=sources.policy)
    return _copies(data, sources)


def _copydays(sources: Sources) -> Opened:
    return _copies(read_copydays(sources.root, block=sources.test, policy=sources.policy), sources)


def _ground_truth(sources: Sources) -> Opened:
    """Open queries beside a ground truth; the references are those of the recipe."""
    data = read_ground_truth(
        sources.root, sources.train, cache=sources.cache, policy=sources.policy
    )
    return Opened(data.references, data.queries, data, _keys(data.references, data.matches))


def _copies(data: Copies, sources: Sources) -> Opened:
    facts = _keys(data.references, data.matches)
    return Opened(sources.enlarged(data.references), data.queries, data, facts)


def _facts(data: Retrieval) -> list[Any]:
    lists = [rows for judged in data.judgments.values() for one in judged for rows in one]
    boxes = [] if data.boxes is None else data.boxes.tolist()
    return [*_keys(data.database, lists), boxes]


def _keys(database: ImageSet, lists: Iterable[Rows]) -> list[Any]:
    return [database.table.column("key").to_pylist(), *(rows.tolist() for rows in lists)]


OPENERS: Mapping[str, Callable[[Sources], Opened]] = {
    "roxford5k": _revisited,
    "rparis6k": _revisited,
    "amstertime": _amstertime,
    "ukbench": _ukbench,
    "met": _met,
    "disc21": _disc,
    "copydays": _copydays,
    "ground_truth": _ground_truth,
}
