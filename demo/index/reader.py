"""Read an index: search it by vectors and by regions, look images up by their row."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.ndimage import label

from dinoforge.config import config_of
from dinoforge.demo.index.config import IndexConfig
from dinoforge.demo.index.kinds import open_compressed
from dinoforge.demo.index.layout import FORMAT, NAME, card_file
from dinoforge.demo.index.pipeline import STAGES
from dinoforge.demo.index.search import ExactRows, Nearest, SearchableRows
from dinoforge.demo.index.tables import IndexInputs
from dinoforge.demo.network import Network
from dinoforge.demo.views import Box
from dinoforge.demo.views.regions import unit
from dinoforge.errors import UsageError
from dinoforge.files import read_object, sha256_file
from dinoforge.runs import read_recipe
from dinoforge.sources.image_set import ImageSet
from dinoforge.stages import changed_partitions, make_inputs, part_name, read_markers
from dinoforge.tables import read_table

__all__ = ["ClassTree", "Hit", "Index", "open_index"]

_SHORTLIST = 200  # images whose patches are compared
_OPEN = 128  # partitions whose files stay open
_HASHED = 64 << 20  # bytes of an index that are read when it is opened; of others, the sizes
# A box grows from the best patch over its neighbors that are this similar to what was asked for,
# between the average patch of the image (0) and the best (1).
_SIMILAR = 0.6


class Hit(NamedTuple):
    """An image that shows a region."""

    row: int
    score: float  # cosine of its best patch
    place: tuple[int, int]  # row and column of this patch
    box: Box  # the patches around it that are alike


class ClassTree(NamedTuple):
    """The dendrogram of the means of classes, by average linkage of 1 - cosine."""

    names: list[str]  # of classes; empty: fewer than three
    images: list[int]  # of each class
    of_rows: NDArray[np.int32]  # the class of every image, [N]; -1: none of these
    merges: NDArray[np.float64]  # rows of SciPy's ``linkage``
    cophenetic: float | None  # correlation of its distances with those of the means


class Index:
    """An index on disk; made by `open_index`. Threads may share it.

    Rows are numbers of images: those that decode, in the order of the sources.
    """

    def __init__(self, card: dict[str, Any], inputs: IndexInputs) -> None:
        self.folder, self.card = inputs.run_folder, card
        # Another one after every change of the index, which writes its card again.
        self.version = f"{card_file(self.folder).stat().st_mtime_ns:x}"
        self.num_images, self.dim = int(card["num_images"]), int(card["dim"])
        self.patch_dim = int(card["patch_dim"])  # 0: no patches
        self._inputs, self._config = inputs, inputs.whole_config
        self._starts = np.cumsum([0, *self._inputs.facts("join")[0]["counts"]])
        # Copied when written to: torch wants arrays that can be.
        self._tables = {
            name: np.load(self._inputs.file("join", f"{name}.npy"), mmap_mode="c")
            for name in card["search"]
        }
        self._searched = {name: self._open(name) for name in self._tables}
        self._images = lru_cache(_OPEN)(self._read_images)
        self._maps = lru_cache(2 * _OPEN)(self._map)

    def search(self, vectors: NDArray[Any], k: int, *, exact: bool = False) -> Nearest:
        """Return scores and rows ``[Q, k]`` of the images nearest to unit vectors ``[Q, D]``.

        ``exact``: compare every image, whatever the index is.
        """
        rows = ExactRows(self._tables["vectors"]) if exact else self._searched["vectors"]
        return rows.search(np.asarray(vectors, np.float32), k)

    def search_region(
        self, vector: NDArray[Any], k: int, *, shortlist: int = _SHORTLIST
    ) -> list[Hit]:
        """Return the images with the patches most similar to a vector ``[D]``, the best patch each.

        `region_vector` makes one of a selection. Images are proposed by their regions, as many as
        ``shortlist``; all patches of these are compared.

        Raises
        ------
        UsageError
            If the index has no patches.
        """
        if not self.patch_dim:
            do = "make it again with a ViT as encoder, and patches.size above 0"
            raise UsageError(what="the index has no patches", where=str(self.folder), do=do)
        regions = self._config.patches.regions
        query = unit(np.asarray(vector)).astype(np.float32)
        near = self._searched["regions"].search(query[None], regions * shortlist)
        images = list(dict.fromkeys((near.rows[0][near.rows[0] >= 0] // regions).tolist()))
        images = images[:shortlist]
        best = sorted((-float(self._similar(row, query).max()), row) for row in images)
        return [self._hit(row, query) for _, row in best[:k]]

    def patches(self, row: int) -> NDArray[np.float16]:
        """Return the features of the patches of an image, ``[X, Y, D]``; none: ``[0, 0, 0]``."""
        if not self.patch_dim:
            return np.empty((0, 0, 0), np.float16)
        part, at = self._place(row)
        facts = self._facts(part, at, ("rows", "columns", "start"))
        rows, columns, start = facts["rows"], facts["columns"], facts["start"]
        flat = self._maps(part, "patches").view(np.float16).reshape(-1, self.patch_dim)
        return flat[start : start + rows * columns].reshape(rows, columns, -1)

    def vector(self, row: int) -> NDArray[np.float32]:
        """Return the unit vector of an image, ``[D]``."""
        return self._tables["vectors"][row].astype(np.float32)

    def thumbnail(self, row: int) -> bytes:
        """Return the thumbnail of an image, WebP."""
        part, at = self._place(row)
        facts = self._facts(part, at, ("thumb", "thumb_bytes"))
        start = facts["thumb"]
        return self._maps(part, "thumbnails")[start : start + facts["thumb_bytes"]].tobytes()

    def facts(self, row: int) -> dict[str, Any]:
        """Return what is known of an image: key, class, size in pixels, where it is from.

        Also the columns of the recipe that lie beside it, such as its license.
        """
        names = ("key", "shard", "member", "class_name", "width", "height", "rows", "columns")
        known = self._facts(*self._place(row), (*names, "beside"))
        return json.loads(known.pop("beside")) | {"row": row} | known

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return the image itself, upright RGB ``[H, W, 3]``.

        Raises
        ------
        Undecodable
            If its source is gone.
        """
        part, at = self._place(row)
        return ImageSet(self._images(part).slice(at, 1), self._config.decode).decode(0)

    def map(self) -> tuple[NDArray[np.float32], NDArray[np.int32], list[str]]:
        """Return places ``[N, 2]`` on the map, clusters ``[N]``, and the name of each cluster."""
        names: list[str] = self._inputs.facts("map")[0]["names"]
        xy, clusters = (np.load(self._inputs.file("map", f"{n}.npy")) for n in ("xy", "clusters"))
        return xy, clusters, names

    def layout(self) -> tuple[str, int]:
        """Return how the map is laid out, and how many images were; others lie between these."""
        facts = self._inputs.facts("map")[0]
        return facts["layout"], facts["laid_out"]

    def class_tree(self) -> ClassTree:
        """Return the dendrogram of classes; it is empty if there are too few."""
        facts = self._inputs.facts("map")[0]
        of_rows, merges = np.full(self.num_images, -1, np.int32), np.empty((0, 4))
        if facts["classes"]:
            of_rows, merges = (
                np.load(self._inputs.file("map", f"{name}.npy")) for name in ("classes", "tree")
            )
        known = (facts["classes"], facts["class_images"], of_rows, merges)
        return ClassTree(*known, facts["cophenetic"])

    def _open(self, table: str) -> SearchableRows:
        rows = self._tables[table]
        for at, facts in enumerate(self._inputs.facts("compress")):
            if facts["table"] == table:
                probes = self.card["search"][table]["probes"]
                return open_compressed(self._inputs.file("compress", "faiss", at), rows, probes)
        return ExactRows(rows)

    def _similar(self, row: int, query_D: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines of the patches of an image to a unit vector, ``[X, Y]``."""
        wide = self.patches(row).astype(np.float32)
        lengths = np.sqrt(np.einsum("xyd,xyd->xy", wide, wide))
        return (wide @ query_D) / np.maximum(lengths, 1e-12)

    def _hit(self, row: int, query_D: NDArray[np.float32]) -> Hit:
        similar = self._similar(row, query_D)
        at = int(similar.argmax())
        place = (at // similar.shape[1], at % similar.shape[1])
        best, mean = similar[place], similar.mean()
        alike, _ = label(similar >= mean + _SIMILAR * (best - mean))
        inside = np.argwhere(alike == alike[place])
        (top, left), (bottom, right) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()
        return Hit(row, float(best), place, Box(top, left, bottom, right))

    def _place(self, row: int) -> tuple[int, int]:
        """Return the partition of a row, and its row there."""
        if not 0 <= row < self.num_images:
            raise IndexError(f"row {row} of {self.num_images}")
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return part, int(row - self._starts[part])

    def _facts(self, part: int, at: int, names: tuple[str, ...]) -> dict[str, Any]:
        table = self._images(part)
        return {name: table.column(name)[at].as_py() for name in names}

    def _read_images(self, part: int) -> pa.Table:
        return read_table(self._inputs.file("embed", "images.parquet", part))

    def _map(self, part: int, name: str) -> NDArray[np.uint8]:
        return np.memmap(self._inputs.file("embed", f"{name}.bin", part), np.uint8, "r")


def open_index(folder: Path | str, network: Network | None = None) -> Index:
    """Open the index in a folder; ``network`` is the one that will search it.

    Raises
    ------
    UsageError
        If there is no finished index, or it is damaged, or another version of dinoforge or
        another network made it.
    """
    folder = Path(folder)
    card = read_object(card_file(folder))
    if "fingerprint" not in card:
        do = "run `dinoforge index`, which continues where it stopped"
        raise UsageError(what="no finished index", where=str(folder), do=do)
    if network is not None and network.fingerprint != card["fingerprint"]:
        raise UsageError(
            what=f"the index was built with another network ({card['encoder']})",
            where=str(folder),
            do=f"open it with that network, or index the images again with {network.name}",
        )
    return Index(card, _inputs_of(folder, card))


def _inputs_of(folder: Path, card: dict[str, Any]) -> IndexInputs:
    """Return how the files of an index are read, after comparing them with what was written."""
    what = "the index is by another version of dinoforge"
    if card.get("format") == FORMAT:
        inputs = make_inputs(NAME, STAGES, folder, config_of(IndexConfig, read_recipe(folder)))
        changed = changed_partitions(STAGES, inputs)
        task = next(changed, None)
        if task is None:
            what = _swapped_file(inputs, card)
        elif _version_of(task.marker) in ("", task.stage.version):
            at = f"{task.folder.relative_to(folder)}/{part_name(task.index)}"
            what = f"a file of {at} is missing, cut off, or of another index"
        if not what:
            return inputs
    do = f"run `dinoforge index {folder}/config.yaml out={folder} --update`, which makes it again"
    raise UsageError(what=what, where=str(folder), do=do)


def _version_of(marker: Path) -> str:
    return str(read_object(marker).get("version", ""))


def _swapped_file(inputs: IndexInputs, card: dict[str, Any]) -> str:
    """Find a file that has the size of what was written, and another content."""
    (joined,) = inputs.facts("join")
    if [card["num_images"], card["dim"]] != joined["vectors_shape"]:
        return f"{card_file(inputs.run_folder).name} is of another index"
    left = _HASHED
    for stage in STAGES:
        for marker in read_markers(inputs.run_folder, NAME, stage.number, stage.name):
            for output in marker.outputs:
                if output["bytes"] > left:
                    continue
                left -= output["bytes"]
                if sha256_file(inputs.run_folder / output["path"]) != output["sha256"]:
                    return f"{output['path']} is of another index, or damaged"
    return ""
