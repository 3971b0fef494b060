"""Published layouts of copy detection: DISC21, Copydays, and tars beside a ground_truth.json.

Shapes: q queries, n references.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.named_images import images_in, open_named
from dinoforge.evaluation.layouts.stored import read_json, read_lines
from dinoforge.images import DecodePolicy
from dinoforge.sources.image_set import ImageSet, open_images

__all__ = ["Copies", "read_copydays", "read_disc", "read_ground_truth"]

Rows = NDArray[np.int64]

_COPYDAYS_PREFIX = 4  # digits of the name that number the original; two more number the attack
_DISC_HEADER = "query_id,reference_id"


@dataclass(frozen=True)
class Copies:
    """Queries, some of them edited copies of references."""

    queries: ImageSet  # [q]
    references: ImageSet  # [n]
    matches: tuple[Rows, ...]  # per query: the references it copies; empty: none
    kinds: tuple[str, ...] = ()  # per query: the edit, where it is known


def read_disc(
    root: Path,
    *,
    truth: str = "list_files/public_ground_truth.csv",
    query_list: str = "list_files/dev_queries_25k",
    images: str = "images",
    policy: DecodePolicy | None = None,
) -> Copies:
    """Read DISC21 (Douze et al. 2021): images, a list of queries, and a csv of true pairs.

    The csv has lines ``query_id,reference_id``, with or without this header; a query without a copy
    has an empty reference or no line. The truth of only half of the published queries is public, so
    the list decides which are asked: a true copy that is not in the csv would count as an error.

    Parameters
    ----------
    root : Path
        Folder that the other paths are relative to.
    truth, query_list : str
        The csv, and the ids of the queries, one per line.
    images : str
        Folder with ``queries/`` and ``references/``.
    policy : DecodePolicy, optional
        How images are decoded.

    Raises
    ------
    UsageError
        If a folder or file is missing, or the csv names an image that is not there; the first is
        named.
    """
    ids = read_lines(root / query_list, layout="DISC21")
    names = (
        [f"{name}.jpg" for name in ids],
        images_in(root / images / "references", layout="DISC21"),
    )
    queries, references = (
        open_named(root / images / folder, some, layout="DISC21", policy=policy)
        for folder, some in zip(("queries", "references"), names, strict=True)
    )
    at = [{Path(name).stem: row for row, name in enumerate(some)} for some in names]
    matches: list[list[int]] = [[] for _ in ids]
    for number, line in enumerate(read_lines(root / truth, layout="DISC21"), start=1):
        query, comma, reference = line.partition(",")
        if line == _DISC_HEADER or (comma and not reference):
            continue
        if query not in at[0] or reference not in at[1]:
            name = query if query not in at[0] else reference or "nothing"
            what = f"line {number}: {name} is no {'query' if name == query else 'reference'}"
            do = "give the csv and the list of queries that belong to the images"
            raise UsageError(what=what, where=str(root / truth), do=do)
        matches[at[0][query]].append(at[1][reference])
    return Copies(queries, references, _as_rows(matches))


def read_copydays(
    root: Path, *, block: str = "strong", policy: DecodePolicy | None = None
) -> Copies:
    """Read Copydays: ``original/`` and one block of attacks, ``strong/`` or ``jpegqual/5``.

    The first four digits of a name number its original. Published results have 10,000 images of
    another set among the references; add them by `with_distractors`.

    Raises
    ------
    UsageError
        If a folder is missing, or a copy has no original; the first is named.
    """
    names = [images_in(root / folder, layout="Copydays") for folder in ("original", block)]
    originals: dict[str, list[int]] = {}
    for row, name in enumerate(names[0]):
        originals.setdefault(name[:_COPYDAYS_PREFIX], []).append(row)
    for name in names[1]:
        if name[:_COPYDAYS_PREFIX] not in originals:
            what = f"missing original of {block}/{name} in Copydays"
            where = str(root / "original" / f"{name[:_COPYDAYS_PREFIX]}00.jpg")
            do = "give the root of the unpacked data set, complete"
            raise UsageError(what=what, where=where, do=do)
    references, queries = (
        open_named(root / folder, some, layout="Copydays", policy=policy)
        for folder, some in zip(("original", block), names, strict=True)
    )
    matches = [originals[name[:_COPYDAYS_PREFIX]] for name in names[1]]
    return Copies(queries, references, _as_rows(matches), (block,) * len(matches))


def read_ground_truth(
    queries: Path, references: Sequence[str], *, cache: Path, policy: DecodePolicy | None = None
) -> Copies:
    """Read a folder of queries with ``ground_truth.json``, against references given by paths.

    The file has ``{"queries": {KEY: {"match": KEY or null, "kind": TEXT}}}``, where the keys are
    those of the images; ``kind`` may be missing.

    Raises
    ------
    UsageError
        If a path is missing, an image is in one of file and folder only, or its match is not among
        the references; the first is named.
    """
    file = queries / "ground_truth.json"
    truth = read_json(file, layout="copy detection")
    sets = [
        open_images(paths, cache=cache, policy=policy) for paths in ([str(queries)], references)
    ]
    keys, reference_keys = (images.table.column("key").to_pylist() for images in sets)
    try:
        entries = dict(truth["queries"])
        pairs = [(entries.pop(key)["match"], key) for key in keys if key in entries]
        kinds = tuple(str(truth["queries"][key].get("kind", "")) for _, key in pairs)
    except (KeyError, TypeError, ValueError) as error:
        what, do = f"not a ground truth of copies: {error!r}", "restore the file"
        raise UsageError(what=what, where=str(file), do=do) from error
    at = {key: row for row, key in enumerate(reference_keys)}
    known = {key for _, key in pairs}
    wrong = [f"image {key} of the folder is not in it" for key in keys if key not in known]
    wrong += [f"query {key} is no image of the folder" for key in entries]
    wrong += [
        f"match {m} of query {k} is no reference" for m, k in pairs if m is not None and m not in at
    ]
    if wrong:
        what, do = wrong[0], "give the queries and references that belong to the file"
        raise UsageError(what=what, where=str(file), do=do)
    matches = [[] if match is None else [at[match]] for match, _ in pairs]
    return Copies(sets[0], sets[1], _as_rows(matches), kinds)


def _as_rows(matches: Sequence[Sequence[int]]) -> tuple[Rows, ...]:
    return tuple(np.array(rows, np.int64) for rows in matches)
