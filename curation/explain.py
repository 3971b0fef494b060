"""Why one image was kept or dropped, in sentences and with the images that show it.

Reads only what a finished run has published, so it reports exactly what was decided.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.config import config_of, nearest
from dinoforge.config.paths import expand_home
from dinoforge.curated import (
    content_path,
    ledger_path,
    pairs_files,
    slots_path,
    summary_path,
    verified_files,
)
from dinoforge.curation.sentences import Compared, Related, describe_decision, on_pixels
from dinoforge.curation.stored.generations import open_generations
from dinoforge.curation.stored.links import Verdict
from dinoforge.errors import UsageError, damaged
from dinoforge.files import path_text, write_text
from dinoforge.runs import read_recipe, working_folders
from dinoforge.shards.tar import readable
from dinoforge.tables import read_table
from dinoforge.verification.compare import is_copy

if TYPE_CHECKING:
    from dinoforge.pages.thumbnails import Thumbnail

__all__ = ["Explanation", "explain", "make_page"]

_SHOWN = 8  # neighbors, seeds and references of each kind
_DRAWN = 4  # pairs that were compared on their pixels


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
    compared: list[Compared]  # on their pixels, most alike first
    seeds: list[Related]  # those that listed it, nearest first
    references: list[Related]
    group: list[Related] = field(default_factory=list)  # of duplicates: others, the kept one first

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def write_html(self, path: Path) -> None:
        """Write the answer with pictures as one self-contained page."""
        from dinoforge.curation.stored.decoding import ImageReader
        from dinoforge.images import DecodePolicy, Undecodable, decode
        from dinoforge.pages.thumbnails import Thumbnail, thumbnail
        from dinoforge.verification.drawing import draw_evidence

        run = Path(self.run)
        evidence_of = _Evidence(run)
        readers = {
            folder: ImageReader(folder, working_folders(folder)) for folder in evidence_of.folders
        }
        policy = config_of(DecodePolicy, read_recipe(run).get("decode", {}))

        def decoded(image_id: int) -> NDArray[np.uint8]:
            row = evidence_of.row(image_id)
            reader = readers[evidence_of.folder_of(image_id)]
            data = reader.read(row["shard"], row["offset"], row["size"])
            return decode(data or b"", policy)

        def picture(image_id: int, side: int) -> Thumbnail | None:
            with contextlib.suppress(Undecodable, UsageError):
                return thumbnail(decoded(image_id), side=side)
            return None

        def evidence(other_id: int) -> Thumbnail | None:
            with contextlib.suppress(Undecodable, UsageError):
                drawn, _ = draw_evidence(decoded(self.image_id), decoded(other_id))
                return thumbnail(drawn, side=drawn.shape[1], quality=90)
            return None

        write_text(path, make_page(self, picture, evidence))


def make_page(
    answer: Explanation,
    picture: "Callable[[int, int], Thumbnail | None]",
    evidence: "Callable[[int], Thumbnail | None]",
) -> str:
    """Render an explanation.

    ``picture`` returns an image, given its id and longer side; ``evidence`` the drawing of how this
    image and that of an id fit together.
    """
    from dinoforge.pages.render import render

    title = f"{answer.key}: {answer.decision}"
    size = _size_of(answer.row)
    templates = Path(__file__).resolve().parent / "templates"
    return render(
        "explain.html",
        folder=templates,
        title=title,
        answer=answer,
        size=size,
        picture=picture,
        evidence=evidence,
    )


def explain(run_folder: Path, image: str | int) -> Explanation:
    """Explain the decision of a finished curation run about one image.

    ``image`` is an image id, a key, or the path (or its end) of an image file; a number is an id
    first. ``~`` at the start is replaced if no image has that text.

    Raises
    ------
    UsageError
        If there is no ledger, or the image is not in it, or several match.
    """
    run_folder = Path(run_folder)
    config = read_recipe(run_folder)
    if not (config and ledger_path(run_folder).is_file() and summary_path(run_folder).is_file()):
        raise UsageError(
            what="not a finished curation run",
            where=str(run_folder),
            do="run `dinoforge curate` to its end, or name its run folder",
        )
    evidence = _Evidence(run_folder)
    image_id = evidence.find(str(image))
    if (decided_in := evidence.folder_of(image_id)) != run_folder:
        return explain(decided_in, image_id)
    row = evidence.row(image_id)
    pairs = evidence.neighbors(image_id)
    compared = evidence.compared(image_id, config["duplicates"].get("verify", {}))
    references = [n for n in pairs if evidence.row(n.image_id)["role"] == "reference"]
    return Explanation(
        run=str(run_folder),
        image_id=image_id,
        key=row["key"],
        decision=row["decision"],
        reason=row["reason"],
        sentences=[
            *describe_decision(row, evidence.row, pairs, compared, config),
            *evidence.other_meaning(str(image), image_id),
        ],
        row=row,
        representative=evidence.representative(row),
        neighbors=[n for n in pairs if n not in references][:_SHOWN],
        compared=compared[:_DRAWN],
        seeds=evidence.seeds(image_id)[:_SHOWN],
        references=references[:_SHOWN],
        group=evidence.group(row),
    )


class _Evidence:
    """The published tables of a run and of those that it adds to, looked up by image."""

    def __init__(self, run_folder: Path) -> None:
        self._generations = open_generations(run_folder)
        self._folder, self._first = run_folder, self._generations[-1].first
        self._read_ledger = lru_cache(lambda folder: read_table(ledger_path(folder)))
        self._ledger = self._read_ledger(run_folder)

    @property
    def folders(self) -> list[Path]:
        """List the run folders of all generations."""
        return [generation.run_folder for generation in self._generations]

    def folder_of(self, image_id: int) -> Path:
        """Return the run folder of the generation that an image belongs to."""
        return next(g.run_folder for g in self._generations if image_id < g.stop)

    def row(self, image_id: int) -> dict[str, Any]:
        """Return a row of the ledger of its run, by position; ``run`` is an earlier generation."""
        number = next(n for n, g in enumerate(self._generations) if image_id < g.stop)
        generation = self._generations[number]
        ledger = self._read_ledger(generation.run_folder)
        (row,) = ledger.slice(image_id - generation.first, 1).to_pylist()
        if generation.run_folder != self._folder:
            row["run"] = f"generation {number} in {generation.run_folder}"
        return row

    def find(self, image: str) -> int:
        """Return the id of the image that a person named by id, key or path.

        A name that this run does not have may be that of an image of an earlier one.
        """
        num = self._generations[-1].stop
        number = int(image) if image.isascii() and image.isdigit() else num
        if str(number) == image and number < num:
            return number
        texts = dict.fromkeys([image, expand_home(image)])  # literally, as in the ledger, first
        for generation in reversed(self._generations):
            ledger = self._read_ledger(generation.run_folder)
            matches = itertools.chain.from_iterable(self._matches(ledger, text) for text in texts)
            for column, rows in matches:
                if len(rows) == 1:
                    return generation.first + int(rows[0])
                if len(rows) > 1:
                    some = ", ".join(str(generation.first + row) for row in rows[:5].tolist())
                    raise UsageError(
                        what=f"{len(rows)} images match `{image}` by {column}: {some}",
                        where=str(generation.run_folder),
                        do="name one by its id",
                    )
        if number < num:  # with leading zeros: a key of the exported shards
            return number
        near = self._nearest_key(path_text(image))
        hint = f" (did you mean `{near}`?)" if near else ""
        raise UsageError(
            what=f"no image `{image}`{hint}",
            where=str(self._folder),
            do=f"name it by id (0 to {num - 1}), key or path",
        )

    def _matches(self, ledger: pa.Table, image: str) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield rows by key, path, end of a path, name in a tar; the first with any row counts."""
        if not image:
            return
        keys, shards, members = (ledger.column(n) for n in ("key", "shard", "member"))
        # As the shell gives it, or as tables show it.
        texts = list(dict.fromkeys([path_text(image), readable(os.fsencode(image))]))
        yield "key", np.flatnonzero(pc.is_in(keys, pa.array(texts)))
        full = os.path.abspath(image)  # noqa: PTH100 - links are kept
        ways = [os.path.relpath(full, folder) for folder in working_folders(self._folder)]
        paths = [full, *ways, *(f"./{way}" for way in ways)]
        paths = texts + [path_text(path) for path in paths]
        yield "path", np.flatnonzero(pc.is_in(shards, pa.array(paths)))
        for text in texts:
            yield "path", np.flatnonzero(pc.ends_with(shards, f"/{text.removeprefix('./')}"))
        yield "member", np.flatnonzero(pc.is_in(members, pa.array(texts)))

    def _nearest_key(self, image: str) -> str | None:
        # Comparing with a million keys takes minutes: those that share a part are tried first.
        stem, keys = Path(image).stem, self._ledger.column("key")
        similar = keys.filter(pc.match_substring(keys, stem[: max(3, len(stem) // 2)]))
        return nearest(stem, pc.unique(similar).to_pylist()[:1000])

    def other_meaning(self, image: str, image_id: int) -> list[str]:
        """Return a sentence for every image whose key was read as an id."""
        if str(image_id) != image:
            return []
        ids = self._first + np.flatnonzero(pc.equal(self._ledger.column("key"), image))
        return [
            f"`{image}` was read as an image id; it is also the key of image {other}."
            for other in ids[:_SHOWN].tolist()
            if other != image_id
        ]

    def representative(self, row: dict[str, Any]) -> list[Related]:
        """Return the image that is kept in place of a duplicate."""
        image_id = row["duplicate_of"]
        if image_id is None or row["reason"] == "leak":
            return []
        other = self.row(image_id)
        is_direct = image_id in (row["edge_i"], row["edge_j"])
        strength, notes = row["similarity"] if is_direct else None, _size_of(other)
        if is_direct and row.get("places") is not None:
            strength, notes = None, f"{on_pixels(row['places'], row['similarity'])}\n{notes}"
        return [Related(image_id, other["key"], strength, notes)]

    def group(self, row: dict[str, Any]) -> list[Related]:
        """Return the other images of its group of duplicates, the one that is kept first."""
        if row["reason"] == "leak":
            return []
        kept = row["image_id"] if row["duplicate_of"] is None else row["duplicate_of"]
        ids = [kept]
        for generation in self._generations:
            ledger = self._read_ledger(generation.run_folder)
            is_member = pc.equal(ledger.column("duplicate_of"), kept).fill_null(False)
            ids += (generation.first + np.flatnonzero(is_member)).tolist()
        others = [image_id for image_id in ids if image_id != row["image_id"]][:_SHOWN]
        rows = [(image_id, self.row(image_id)) for image_id in others]
        return [
            Related(image_id, other["key"], None, other["decision"]) for image_id, other in rows
        ]

    def neighbors(self, image_id: int) -> list[Related]:
        """Return the images of the stored pairs of this image's content, most similar first."""
        contents = self._contents()
        content = int(contents[image_id])
        same = np.flatnonzero(contents == content)[: _SHOWN + 1].tolist()
        related = [self._related(other, 1.0, "same pixels") for other in same if other != image_id]
        touching: list[tuple[float, int]] = []
        for path in itertools.chain.from_iterable(map(pairs_files, self.folders)):
            i, j, similarity = (column.to_numpy() for column in read_table(path).columns)
            rows = (i == content) | (j == content)
            others = np.where(i == content, j, i)[rows]
            touching.extend(zip((-similarity[rows]).tolist(), others.tolist(), strict=True))
        nearest_pairs = sorted(touching)[: 2 * _SHOWN]
        return related + [self._related(other, -value, "") for value, other in nearest_pairs]

    def _contents(self) -> NDArray[np.int64]:
        """Read the content of every image, earlier generations included."""
        parts = []
        for path in map(content_path, self.folders):
            try:
                parts.append(np.load(path))
            except (EOFError, OSError, ValueError) as error:
                raise damaged(path, error) from error
        return np.concatenate(parts)

    def compared(self, image_id: int, policy: dict[str, Any]) -> list[Compared]:
        """Return the images that were compared with this one on the pixels, most alike first."""
        limits = {name: policy[name] for name in policy if name.startswith("min_")}
        content = int(self._contents()[image_id])
        compared = []
        for path in itertools.chain.from_iterable(map(verified_files, self.folders)):
            table = read_table(path)
            touches = pc.or_(*(pc.equal(table.column(end), content) for end in ("i", "j")))
            for pair in table.filter(touches).to_pylist():
                other = pair["i"] + pair["j"] - content
                verdict = Verdict(**{name: pair[name] for name in Verdict._fields})
                compared.append(
                    Compared(
                        image_id=other,
                        key=self.row(other)["key"],
                        places=pair["places"],
                        correlation=round(pair["correlation"], 6),
                        overlap=round(max(pair["overlap_a"], pair["overlap_b"]), 6),
                        is_same=bool(is_copy(verdict, **limits)),
                    )
                )
        return sorted(
            compared, key=lambda c: (not c.is_same, -c.correlation * (c.places > 3), c.image_id)
        )

    def seeds(self, image_id: int) -> list[Related]:
        """Return the seeds that have this image among their candidates, best score first."""
        path = slots_path(self._folder)
        if not path.is_file():
            return []
        slots = read_table(path)
        is_of_image = pc.equal(slots.column("image_id"), image_id)
        has_seed = pc.greater_equal(slots.column("seed_id"), 0)  # not drawn from a cluster
        slots = slots.filter(pc.and_(is_of_image, has_seed)).to_pylist()
        return [
            self._related(
                slot["seed_id"],
                slot["score"],
                f"rank {slot['rank']}" + ("" if slot["granted"] else ", not granted"),
            )
            for slot in sorted(slots, key=lambda slot: (-slot["score"], slot["seed_id"]))
        ]

    def _related(self, image_id: int, similarity: float, note: str) -> Related:
        row = self.row(image_id)
        notes = [note, row["decision"], row["reason"].replace("_", " ")]
        text = ", ".join(dict.fromkeys(note for note in notes if note))
        return Related(image_id, row["key"], round(similarity, 6), text)


def _size_of(row: dict[str, Any]) -> str:
    return f"{row['width']} x {row['height']}, {row['size']} bytes" if row["width"] else ""
