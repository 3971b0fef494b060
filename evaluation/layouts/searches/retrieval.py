"""Published layouts of retrieval sets: Oxford and Paris, UKBench, AmsterTime, Met.

Shapes: q queries, n images in the database.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.named_images import images_in, open_named
from dinoforge.evaluation.layouts.searches.pickles import read_plain_pickle
from dinoforge.evaluation.layouts.stored import read_json
from dinoforge.evaluation.metrics.ranking import Difficulty, Judgment, judge
from dinoforge.images import DecodePolicy
from dinoforge.sources.image_set import ImageSet

__all__ = [
    "Groups",
    "Instances",
    "Retrieval",
    "crop_to_box",
    "read_amstertime",
    "read_met",
    "read_revisited",
    "read_ukbench",
]

Rows = NDArray[np.int64]

_COMPLETE = "give the root of the unpacked data set, complete"
_UKBENCH = re.compile(r"ukbench([0-9]{5})\.jpg", re.IGNORECASE)


@dataclass(frozen=True)
class Retrieval:
    """Queries against a database."""

    database: ImageSet  # [n]
    queries: ImageSet  # [q]
    # One judgment per query, over the database; by difficulty, or under "all".
    judgments: Mapping[str, Sequence[Judgment]]
    # What a query shows of its image, in pixels: left, top, right, bottom; [q, 4]. None: all of it.
    boxes: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Groups:
    """Images that are each other's queries, by group."""

    images: ImageSet
    groups: Rows  # [n]; -1: in no group, so only a distractor


@dataclass(frozen=True)
class Instances:
    """Queries that show an object of the database, or none (label -1: a distractor)."""

    database: ImageSet
    labels: Rows  # [n]
    queries: ImageSet
    query_labels: Rows  # [q]


def read_revisited(root: Path, *, policy: DecodePolicy | None = None) -> Retrieval:
    """Read revisited Oxford or Paris (Radenovic et al. 2018).

    ``root`` is ``roxford5k`` or ``rparis6k`` with ``gnd_<name>.pkl`` and ``jpg/``; the name is that
    of the only such file. The protocol crops queries to their boxes; DINO's published script does
    not.

    Raises
    ------
    UsageError
        If a file is missing (the first is named) or the ground truth is not of this form.
    """
    truths = sorted(root.glob("gnd_*.pkl"))
    if len(truths) != 1:
        what = f"{len(truths)} ground truths gnd_*.pkl, need 1"
        raise UsageError(what=what, where=str(root), do="give the folder of roxford5k or rparis6k")
    layout = truths[0].stem.removeprefix("gnd_")
    truth = read_plain_pickle(truths[0])
    try:
        names, query_names = ([f"{n}.jpg" for n in truth[key]] for key in ("imlist", "qimlist"))
        lists = [
            [_indices(query[key]) for key in ("easy", "hard", "junk")] for query in truth["gnd"]
        ]
        boxes = np.array([query["bbx"] for query in truth["gnd"]], np.float64).reshape(-1, 4)
    except (KeyError, TypeError, ValueError) as error:
        what = f"not the ground truth of {layout}: {error!r}"
        raise UsageError(
            what=what, where=str(truths[0]), do="restore the published file"
        ) from error
    highest = max((int(rows.max()) for query in lists for rows in query if len(rows)), default=-1)
    if len(lists) != len(query_names) or highest >= len(names):
        what = (
            f"{len(lists)} judgments of {len(query_names)} queries, image {highest} of {len(names)}"
        )
        raise UsageError(what=what, where=str(truths[0]), do="restore the published file")
    folder = root / "jpg"
    return Retrieval(
        open_named(folder, names, layout=layout, policy=policy),
        open_named(folder, query_names, layout=layout, policy=policy),
        {
            d: [judge(easy, hard, junk, d) for easy, hard, junk in lists]
            for d in get_args(Difficulty)
        },
        boxes,
    )


def crop_to_box(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Cut a query out of its image ``[H, W, 3]``; the box is rounded, and clipped to the image."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def read_ukbench(root: Path, *, policy: DecodePolicy | None = None) -> Groups:
    """Read UKBench: ``ukbench00000.jpg`` and on in ``root`` or ``root/full``, groups of four.

    Raises
    ------
    UsageError
        If a number is missing (the first is named), or the last group is incomplete.
    """
    folder = root / "full" if (root / "full").is_dir() else root
    names = {}
    for name in images_in(folder, layout="UKBench"):
        if match := _UKBENCH.fullmatch(name):
            names[int(match[1])] = name
    if not names:
        what, do = "no images named ukbench00000.jpg and on", _COMPLETE
        raise UsageError(what=what, where=str(folder), do=do)
    num = 4 * (max(names) // 4 + 1)
    ordered = [names.get(number, f"ukbench{number:05d}.jpg") for number in range(num)]
    images = open_named(folder, ordered, layout="UKBench", policy=policy)
    return Groups(images, np.arange(num) // 4)


def read_amstertime(root: Path, *, policy: DecodePolicy | None = None) -> dict[str, Retrieval]:
    """Read AmsterTime: ``old/`` and ``new/``, where equal names (without suffix) show one place.

    Returns both directions, ``old`` and ``new`` by what is the query; the third published figure
    pools their queries.

    Raises
    ------
    UsageError
        If a folder or the partner of an image is missing; the first is named.
    """
    names: dict[str, dict[str, str]] = {}
    for age in ("old", "new"):
        names[age] = {Path(n).stem: n for n in images_in(root / age, layout="AmsterTime")}
    for age, other in (("old", "new"), ("new", "old")):
        for stem, name in names[age].items():
            if stem not in names[other]:
                what = f"missing partner of {age}/{name} in AmsterTime"
                raise UsageError(what=what, where=str(root / other / name), do=_COMPLETE)
    order = sorted(names["old"])
    opened = {
        age: open_named(
            root / age, [names[age][stem] for stem in order], layout="AmsterTime", policy=policy
        )
        for age in ("old", "new")
    }
    nothing = np.zeros(0, np.int64)
    judgments = {"all": [Judgment(np.array([row]), nothing) for row in range(len(order))]}
    return {
        "old": Retrieval(opened["new"], opened["old"], judgments),
        "new": Retrieval(opened["old"], opened["new"], judgments),
    }


def read_met(
    root: Path, *, split: str = "test", mini: bool = False, policy: DecodePolicy | None = None
) -> Instances:
    """Read Met (Ypsilantis et al. 2021): ``ground_truth/*.json`` and ``images/``.

    ``split`` is ``test`` or ``val`` (on which k and scale of the k-NN are chosen); ``mini`` takes
    the smaller published database. Queries without ``MET_id`` are distractors, label -1.

    Raises
    ------
    UsageError
        If a file is missing (the first is named) or a list is not of this form.
    """
    folder = root / "ground_truth"
    database = folder / f"{'mini_' if mini else ''}MET_database.json"
    queries = folder / f"{split}set.json"
    rows = [(file, read_json(file, layout="Met")) for file in (database, queries)]
    try:
        paths = [[str(entry["path"]) for entry in entries] for _, entries in rows]
        labels = np.array([int(entry["id"]) for entry in rows[0][1]], np.int64)
        query_labels = np.array([int(entry.get("MET_id", -1)) for entry in rows[1][1]], np.int64)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what, do = f"not a ground truth of Met: {error!r}", "restore the published file"
        raise UsageError(what=what, where=f"{database}, {queries.name}", do=do) from error
    opened = [open_named(root / "images", some, layout="Met", policy=policy) for some in paths]
    return Instances(opened[0], labels, opened[1], query_labels)


def _indices(values: Any) -> Rows:
    """Return indices of the database, from 0; the published lists may be empty floats."""
    rows = np.asarray(values).reshape(-1)
    if (rows != np.rint(rows)).any() or (rows < 0).any():
        raise ValueError("an index that is no whole number")
    return rows.astype(np.int64)
