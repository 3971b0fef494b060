"""Why one image was kept or dropped, in words and with the images that show it.

Answers from the ledger and the stored pairs and candidates of a finished run; computes nothing
new, so it says exactly what was decided.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curated import content_path, ledger_path, pairs_files, slots_path, summary_path
from dinoforge.curation.words import sentences_of
from dinoforge.errors import UsageError
from dinoforge.files import write_text
from dinoforge.shards import readable
from dinoforge.tables import read_table

__all__ = ["Explanation", "Related", "explain"]

_SHOWN = 8  # neighbors, seeds and references of each kind


@dataclass(frozen=True)
class Related:
    """Another image that has to do with the decision."""

    image_id: int
    key: str
    similarity: float | None
    note: str


@dataclass(frozen=True)
class Explanation:
    """The answer of ``dinoforge explain RUN IMAGE``."""

    run: str
    image_id: int
    key: str
    decision: str
    reason: str
    sentences: list[str]  # the most important first
    row: dict[str, Any]  # the ledger's
    representative: list[Related]
    neighbors: list[Related]  # stored pairs, most similar first
    seeds: list[Related]  # those that listed it, nearest first
    references: list[Related]

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)

    def write_html(self, path: Path) -> None:
        """Write the answer with pictures as one self-contained page."""
        from dinoforge.curation.explain_page import page_of

        write_text(path, page_of(self))


def explain(run_folder: Path, image: str | int) -> Explanation:
    """Explain the decision about one image.

    Parameters
    ----------
    run_folder : Path
        A finished curation run.
    image : str or int
        Image id, key, or the path (or its end) of an image file; a number is an id first.

    Raises
    ------
    UsageError
        If there is no ledger, or the image is not in it, or several match.
    """
    run_folder = Path(run_folder)
    if not (ledger_path(run_folder).is_file() and summary_path(run_folder).is_file()):
        raise UsageError(
            what="not a finished curation run",
            where=str(run_folder),
            do="run `dinoforge curate` to its end, or name its run folder",
        )
    evidence = Evidence(run_folder)
    image_id = evidence.find(str(image))
    row = evidence.row(image_id)
    groups = evidence.neighbors(image_id)
    return Explanation(
        run=str(run_folder),
        image_id=image_id,
        key=row["key"],
        decision=row["decision"],
        reason=row["reason"],
        sentences=[
            *sentences_of(row, evidence.row, groups, evidence.config),
            *evidence.other_reading(str(image), image_id),
        ],
        row=row,
        representative=_representative(row, evidence),
        neighbors=[n for n in groups if evidence.row(n.image_id)["role"] != "reference"][:_SHOWN],
        seeds=evidence.seeds(image_id)[:_SHOWN],
        references=[n for n in groups if evidence.row(n.image_id)["role"] == "reference"][:_SHOWN],
    )


class Evidence:
    """The tables of a finished run, looked up by image."""

    def __init__(self, run_folder: Path) -> None:
        import yaml

        self._folder = run_folder
        self._ledger = read_table(ledger_path(run_folder))
        config = (run_folder / "config.yaml").read_text(encoding="utf-8")
        self.config: dict[str, Any] = yaml.safe_load(config)

    def row(self, image_id: int) -> dict[str, Any]:
        """Row of the ledger: image ids are its positions."""
        found: dict[str, Any] = self._ledger.slice(image_id, 1).to_pylist()[0]
        return found

    def find(self, image: str) -> int:
        """Id of the image that a person named by id, key or path."""
        num = self._ledger.num_rows
        image = readable(os.fsencode(image))
        number = int(image) if image.isascii() and image.isdigit() else num
        if str(number) == image and number < num:
            return number
        for column, found in self._matches(image):
            if len(found) == 1:
                return int(found[0])
            if len(found) > 1:
                named = ", ".join(str(row) for row in found[:5].tolist())
                raise UsageError(
                    what=f"{len(found)} images match `{image}` by {column}: {named}",
                    where=str(self._folder),
                    do="name one by its id",
                )
        if number < num:  # with leading zeros: a key of the exported shards
            return number
        near = _nearest_key(image, self._ledger.column("key"))
        hint = f" (did you mean `{near}`?)" if near else ""
        raise UsageError(
            what=f"no image `{image}`{hint}",
            where=str(self._folder),
            do=f"name it by id (0 to {num - 1}), key or path",
        )

    def other_reading(self, image: str, image_id: int) -> list[str]:
        """Say which images have a key that was read as an id."""
        if str(image_id) != image:
            return []
        ids = np.flatnonzero(pc.equal(self._ledger.column("key"), image))
        return [
            f"`{image}` was read as an image id; the key `{image}` is that of image {other}."
            for other in ids[:_SHOWN].tolist()
            if other != image_id
        ]

    def _matches(self, image: str) -> Iterator[tuple[str, np.ndarray]]:
        """Rows by key, by path, by its end, by name in a tar; the first that finds any counts."""
        if not image:
            return
        keys, shards, members = (self._ledger.column(n) for n in ("key", "shard", "member"))
        yield "key", np.flatnonzero(pc.equal(keys, image))
        written = [image, os.path.abspath(image), os.path.relpath(image)]  # noqa: PTH100
        yield "path", np.flatnonzero(pc.is_in(shards, pa.array(written)))
        yield "path", np.flatnonzero(pc.ends_with(shards, f"/{image.removeprefix('./')}"))
        yield "member", np.flatnonzero(pc.equal(members, image))

    def neighbors(self, image_id: int) -> list[Related]:
        """Images of the stored pairs that touch this image's content, most similar first."""
        content = np.load(content_path(self._folder), mmap_mode="r")
        mine = int(content[image_id])
        same = np.flatnonzero(content == mine)
        related = [
            self._related(int(other), 1.0, "same pixels")
            for other in same[: _SHOWN + 1]
            if other != image_id
        ]
        found: list[tuple[float, int]] = []
        for path in pairs_files(self._folder):
            i, j, similarity = (column.to_numpy() for column in read_table(path).columns)
            touching = (i == mine) | (j == mine)
            others = np.where(i == mine, j, i)[touching]
            found.extend(zip(similarity[touching].tolist(), others.tolist(), strict=True))
        found.sort(key=lambda pair: (-pair[0], pair[1]))
        return related + [self._related(other, value, "") for value, other in found[: 2 * _SHOWN]]

    def seeds(self, image_id: int) -> list[Related]:
        """Seeds that have this image among their candidates, best score first."""
        path = slots_path(self._folder)
        if not path.is_file():
            return []
        slots = read_table(path)
        slots = slots.filter(pc.equal(slots.column("image_id"), image_id))
        rows = sorted(slots.to_pylist(), key=lambda slot: (-slot["score"], slot["seed_id"]))
        return [
            self._related(
                slot["seed_id"],
                slot["score"],
                f"rank {slot['rank']}" + ("" if slot["granted"] else ", not granted"),
            )
            for slot in rows
        ]

    def _related(self, image_id: int, similarity: float, note: str) -> Related:
        row = self.row(image_id)
        words = [note, row["decision"], row["reason"].replace("_", " ")]
        text = ", ".join(dict.fromkeys(word for word in words if word))
        return Related(image_id, row["key"], round(similarity, 6), text)


def _representative(row: dict[str, Any], evidence: Evidence) -> list[Related]:
    if row["duplicate_of"] is None or row["reason"] == "leak":
        return []
    other = evidence.row(row["duplicate_of"])
    direct = row["duplicate_of"] in (row["edge_i"], row["edge_j"])
    note = f"{other['width']} x {other['height']}, {other['size']} bytes"
    return [Related(row["duplicate_of"], other["key"], row["similarity"] if direct else None, note)]


def _nearest_key(image: str, keys: pa.ChunkedArray) -> str | None:
    from dinoforge.config import nearest

    # Comparing with a million keys takes minutes: those that share a part are tried first.
    stem = Path(image).stem
    shares = keys.filter(pc.match_substring(keys, stem[: max(3, len(stem) // 2)]))
    return nearest(stem, pc.unique(shares).to_pylist()[:1000])
