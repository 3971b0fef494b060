"""Every table of the curation: its schema, and how stages read it.

Image ids are positions: the images of earlier generations, if the run has a base, then the sources
in the order of the recipe, then the planted copies. A table has the rows of its run alone. The
bytes of images stay where they are: `shard` is the path of the file or tar that holds them, see
`dinoforge.curated.resolve_shard`.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.policies.decisions import Screened
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.stored.generations import (
    earlier_generations,
    every_generation,
    first_id,
    of_every_generation,
)
from dinoforge.errors import UsageError
from dinoforge.sources.numbering import Member, Numbering
from dinoforge.stages import Inputs, Stage
from dinoforge.tables import iter_blocks, open_table, read_rows, read_table, read_tables

__all__ = [
    "CANDIDATES_SCHEMA",
    "CHECK_SCHEMA",
    "CLASSES_SCHEMA",
    "DECISIONS_SCHEMA",
    "DISCOVERED_SCHEMA",
    "EXCLUDED_SCHEMA",
    "EXPORTS_SCHEMA",
    "FACTS_SCHEMA",
    "FILES_SCHEMA",
    "FILTERED_SCHEMA",
    "GROUPS_SCHEMA",
    "INDEX_SCHEMA",
    "LEAKS_SCHEMA",
    "LISTED_SCHEMA",
    "PAIRS_SCHEMA",
    "PROBLEMS_SCHEMA",
    "PROPOSALS_SCHEMA",
    "RECALL_SCHEMA",
    "SCREENED_SCHEMA",
    "SHARED_SCHEMA",
    "SLOTS_SCHEMA",
    "VERIFIED_SCHEMA",
    "CurationInputs",
    "CurationStage",
    "columns_of",
    "hash_column",
    "iter_facts",
    "iter_hashes",
    "iter_index",
    "num_images",
    "read_all_screened",
    "read_class_names",
    "read_content",
    "read_decodable",
    "read_embeddings",
    "read_facts",
    "read_index",
    "read_keys",
    "read_locations",
    "read_pairs",
    "read_roles",
    "read_screened",
    "read_side_locations",
    "read_source_codes",
    "read_sources",
    "read_stored",
    "split_ids",
    "split_range",
    "unit_rows",
]

CurationInputs = Inputs[CurationConfig]
CurationStage = Stage[CurationConfig]


def _schema(columns: str) -> pa.Schema:
    """Make a schema of ``name type, ...``; ``hash`` is 32 bytes."""
    pairs = [column.split() for column in columns.split(",")]
    return pa.schema(
        [(n, pa.binary(32) if t == "hash" else pa.type_for_alias(t)) for n, t in pairs]
    )


# discover: one row per file of the sources, in order; list_folders: of an archive, where its list
# of classes may be; key: of an image in a file of its own; label: in a list of files, else null;
# place: equal for files that are the same one behind links
FILES_SCHEMA = _schema(
    "path string, root string, size int64, mtime_ns int64, is_archive bool, label string,"
    "key string, place int64"
).append(pa.field("list_folders", pa.list_(pa.string())))

# list: one row per file, in order; place: equal for files that are the same one, as of their images
LISTED_SCHEMA = _schema("place hash, images int64")

# ingest, plant: one row per image; label: number of the class in this run, -1: none; class_space:
# where the class comes from, see `dinoforge.sources.classes`; planted_from null: not planted
INDEX_SCHEMA = _schema(
    "image_id int64, role string, source string, key string, shard string, member string,"
    "offset int64, size int64, label int64, class_name string, class_space string,"
    "planted_from int64, edit string"
)

# ingest: one row per class of each class space; classes of several spaces may share a label. In
# the space of names, class_id is -1
CLASSES_SCHEMA = _schema("label int64, class_space string, class_id int64, class_name string")

# list, ingest: one row per shard, member or file that gave no image; discover: with the source
PROBLEMS_SCHEMA = _schema("shard string, member string, reason string, detail string")
DISCOVERED_SCHEMA = PROBLEMS_SCHEMA.append(pa.field("source", pa.int32()))

# ingest: one row per image of another source that is left out because it is a reference: image_id
SHARED_SCHEMA = _schema("source string, key string, image_id int64")

# inspect: one row per image. Upright width and height, 0 if undecodable; hashes of the file and of
# size and decoded RGB (null if undecodable); std of the gray values 0..255 (NaN if undecodable);
# format as Pillow names it, "" if unknown; quality: see `compression_quality`; reason: why
# undecodable, null if it decodes; notes: what was unusual and accepted, keys of `NOTES`, by commas
FACTS_SCHEMA = _schema(
    "image_id int64, sha256 hash, pixels_sha256 hash, width int32, height int32, format string,"
    "quality float32, std float32, reason string, detail string, notes string"
)

# filter: one row per image, codes as in `Screened`
SCREENED_SCHEMA = _schema("role int8, reason int8")

# filter: one row per image that the condition drops, ascending: the values that it read
FILTERED_SCHEMA = _schema("image_id int64, detail string")

# graph: one row per pair of contents above the floor, i < j
PAIRS_SCHEMA = _schema("i int64, j int64, similarity float32")

# proposals: one row per picture and other picture: how many votes, or the cosine
PROPOSALS_SCHEMA = _schema("a int64, b int64, strength float32")

# candidates: one row per pair of contents to compare on the pixels, i < j, sorted
CANDIDATES_SCHEMA = _schema("i int64, j int64")

# verify: one row per pair that was compared; similarity is the cosine, the others as in
# `dinoforge.verification.compare.Comparison`
VERIFIED_SCHEMA = _schema(
    "i int64, j int64, similarity float32, places int32, correlation float32, overlap_a float32,"
    "overlap_b float32, mirrored bool"
)

# recall: one row per pair above the floor of a sampled image, i, and another one, j; whether they
# share a cell, so that the join by cells finds them
RECALL_SCHEMA = _schema("i int64, j int64, similarity float32, is_found bool")

# components: one row per candidate (an admitted image that takes part), columns as in `Groups`
GROUPS_SCHEMA = _schema(
    "image_id int64, kept bool, reason int8, component int64, duplicate_of int64, link int64,"
    "similarity float32"
)

# check: one row per planted copy that was admitted together with its original; similarity to the
# original, NaN if there is no pair above the floor
CHECK_SCHEMA = _schema(
    "image_id int64, planted_from int64, edit string, similarity float32, found bool"
)

# decontaminate: one row per image that leaks; -1 and NaN if only through its component
LEAKS_SCHEMA = _schema("image_id int64, reference_id int64, similarity float32")

# retrieve: one row per rule, seed and candidate; rank 0 is the nearest. If the rule draws from
# clusters, one per image drawn: its cluster, and -1, -1, NaN for seed, rank and score
SLOTS_SCHEMA = _schema(
    "seed_id int64, rank int64, image_id int64, score float32, granted bool, rule int32,"
    "cluster int32"
)

# retrieve: one row per pool image that a rule excludes, ascending; the first such rule
EXCLUDED_SCHEMA = _schema("image_id int64, example_id int64, similarity float32, rule int32")

# select: one row per image, columns as in `Decisions`
DECISIONS_SCHEMA = _schema(
    "kept bool, reason int8, copies int32, component int64, duplicate_of int64, edge_i int64,"
    "edge_j int64, similarity float32, seed_id int64, rank int64, score float32, rule int32"
)

# select: one row per exported file, in the order of the shards; copy is above 0 only under the
# policy multiset; extra: scores and side data, as JSON, null if there are none
EXPORTS_SCHEMA = _schema(
    "image_id int64, copy int32, out_shard int32, key string, source string, shard string,"
    "offset int64, size int64, label int64, class_name string, member string, format string,"
    "sha256 hash, reason string, seed_id int64, rank int64, score float32, extra string"
)


def split_range(total: int, size: int) -> list[tuple[int, int]]:
    """Cut ``range(total)`` into ranges of ``size``."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]


def columns_of(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name."""
    return {name: table.column(name).to_numpy() for name in table.column_names}


# --- the index and the bytes of images


def _index_files(inputs: CurationInputs) -> list[Path]:
    return [*inputs.files("ingest", "index.parquet"), *inputs.files("plant", "index.parquet")]


def num_images(inputs: CurationInputs) -> int:
    """Count the images of this run, planted ones included."""
    total = 0
    for path in _index_files(inputs):
        with open_table(path) as file:
            total += file.metadata.num_rows
    return total


def split_ids(inputs: CurationInputs) -> list[tuple[int, int]]:
    """Cut the ids of this run into the ranges of the partitions of `inspect`."""
    start = first_id(inputs)
    ranges = split_range(num_images(inputs), inputs.config.partition_images)
    return [(start + a, start + b) for a, b in ranges]


def read_index(inputs: CurationInputs, columns: Sequence[str]) -> pa.Table:
    """Read columns of the index of this run, planted copies included."""
    return read_tables(_index_files(inputs), columns)


def iter_index(inputs: CurationInputs, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what `read_index` reads in blocks of rows."""
    return iter_blocks(_index_files(inputs), columns)


def read_source_codes(inputs: CurationInputs) -> tuple[list[str], NDArray[np.int16]]:
    """Read the source of every image, earlier generations included, as an index into names."""
    code: dict[str, int] = {}
    parts = [np.zeros(0, np.int16)]
    for of_run in every_generation(inputs):
        for block in iter_index(of_run, ["source"]):
            names = block.column("source").combine_chunks().dictionary_encode()
            codes = [code.setdefault(name, len(code)) for name in names.dictionary.to_pylist()]
            parts.append(np.array(codes, np.int16)[names.indices.to_numpy()])
    return list(code), np.concatenate(parts)


def read_class_names(inputs: CurationInputs) -> dict[int, str]:
    """Read the name of every class by number, ascending; empty if all are just numbers."""
    table = read_table(inputs.file("ingest", "classes.parquet"))
    return Numbering([Member(*row.values()) for row in table.to_pylist()]).names


def read_roles(inputs: CurationInputs) -> NDArray[np.int8]:
    """Read the role of every image of this run as an index into ROLES."""
    columns = (block.column("role") for block in iter_index(inputs, ["role"]))
    parts = [pc.index_in(c, pa.array(ROLES)).to_numpy().astype(np.int8) for c in columns]
    return np.concatenate([np.zeros(0, np.int8), *parts])


def _read_index_rows(
    inputs: CurationInputs, start: int, stop: int, columns: Sequence[str]
) -> pa.Table:
    """Read columns of the index of images of this run, ids ``[start, stop)``."""
    first = first_id(inputs)
    return read_rows(_index_files(inputs), start - first, stop - first, columns)


def read_locations(inputs: CurationInputs, start: int, stop: int) -> pa.Table:
    """Read where images of this run are, ids ``[start, stop)``: columns shard, offset, size."""
    return _read_index_rows(inputs, start, stop, ["shard", "offset", "size"])


def read_keys(inputs: CurationInputs, start: int, stop: int) -> pa.ChunkedArray:
    """Read the keys of images of this run, ids ``[start, stop)``."""
    return _read_index_rows(inputs, start, stop, ["key"]).column("key")


def read_side_locations(inputs: CurationInputs, start: int, stop: int) -> pa.Table:
    """Read where images of this run are, ids ``[start, stop)``: columns shard, member, offset.

    Of planted copies, where their originals are.
    """
    columns = ["shard", "member", "offset", "planted_from"]
    index = _read_index_rows(inputs, start, stop, columns)
    planted = index.column("planted_from").combine_chunks()
    if planted.null_count < len(planted):
        every = read_index(inputs, columns)
        own = pa.array(np.arange(start, stop))
        index = every.take(pc.subtract(pc.coalesce(planted, own), first_id(inputs)))
    return index


def read_sources(inputs: CurationInputs, ids: NDArray[np.int64]) -> pa.ChunkedArray:
    """Read the names of the sources of at least one image of this run, ids ascending.

    Only the rows between the first and the last are read: of a billion images, those of other
    roles than pool are a small range.
    """
    first, last = int(ids[0]), int(ids[-1])
    source = _read_index_rows(inputs, first, last + 1, ["source"]).column("source")
    return source.take(pa.array(ids - first))


# --- facts, admission, contents, embeddings


def read_facts(inputs: CurationInputs, columns: Sequence[str]) -> pa.Table:
    """Read columns of the facts of every image of this run."""
    return read_tables(inputs.files("inspect", "facts.parquet"), columns)


def iter_facts(inputs: CurationInputs, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what `read_facts` reads in blocks of rows, those of `iter_index`."""
    return iter_blocks(inputs.files("inspect", "facts.parquet"), columns)


def read_decodable(inputs: CurationInputs) -> NDArray[np.bool_]:
    """Return which images of this run decode."""
    parts = [block.column("width").to_numpy() > 0 for block in iter_facts(inputs, ["width"])]
    return np.concatenate([np.zeros(0, np.bool_), *parts])


def hash_column(facts: pa.Table, name: str) -> NDArray[np.void]:
    """Return a column of 32-byte hashes as comparable fixed-size values; nulls become zeros."""
    column = facts.column(name).combine_chunks()
    if column.null_count:
        column = column.fill_null(pa.scalar(bytes(32), pa.binary(32)))
    raw = np.frombuffer(column.buffers()[1], np.uint8)
    start = column.offset * 32
    return raw[start : start + len(column) * 32].view("V32")


def iter_hashes(inputs: CurationInputs, name: str) -> Iterator[NDArray[np.void]]:
    """Yield a column of hashes of the facts of every image, earlier generations included."""
    for of_run in every_generation(inputs):
        for block in iter_facts(of_run, [name]):
            yield hash_column(block, name)


def read_screened(inputs: CurationInputs) -> Screened:
    """Read the role of every image of this run and whether `filter` admitted it."""
    return Screened(**columns_of(read_table(inputs.file("filter", "screened.parquet"))))


def read_all_screened(inputs: CurationInputs) -> Screened:
    """Read what `read_screened` does of every image, earlier generations included."""
    parts = [read_screened(of_run) for of_run in every_generation(inputs)]
    roles, reasons = zip(*((part.role, part.reason) for part in parts), strict=True)
    return Screened(np.concatenate(roles), np.concatenate(reasons))


def _map_content(of_run: CurationInputs) -> NDArray[np.int64]:
    content: NDArray[np.int64] = np.load(of_run.file("exact", "content.npy"), mmap_mode="r")
    return content


def read_content(inputs: CurationInputs) -> NDArray[np.int64]:
    """Read the content of every image, earlier generations included.

    It is the smallest image id with the same pixels.
    """
    return of_every_generation(inputs, _map_content)


def read_stored(inputs: CurationInputs, stage: str, ids: NDArray[np.int64]) -> NDArray[np.float16]:
    """Read embeddings of ascending image ids as they are stored, float16 ``[n, D]``.

    Raises
    ------
    UsageError
        If a file has too few rows for its images, rows of another encoder's dimension, or numbers
        that are not finite: something else has written it.
    """
    parts: list[NDArray[np.float16]] = []
    rest = 0
    for one, of_run in earlier_generations(inputs):
        start, rest = rest, int(np.searchsorted(ids, one.stop))
        parts += _read_own(of_run, stage, ids[start:rest], one.first)
    parts += _read_own(inputs, stage, ids[rest:], first_id(inputs))
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float16)


def _read_own(
    inputs: CurationInputs, stage: str, ids: NDArray[np.int64], first: int
) -> list[NDArray[np.float16]]:
    """Read embeddings of images of one run, whose first id is given, by partition."""
    size = inputs.config.partition_images
    parts: list[NDArray[np.float16]] = []
    for partition in np.unique((ids - first) // size).tolist():
        path = inputs.file(stage, "embeddings.npy", partition)
        file = np.load(path, mmap_mode="r")
        start = first + partition * size
        rows = ids[(ids >= start) & (ids < start + size)] - start
        dim = parts[0].shape[1] if parts else file.shape[-1]
        if file.ndim != 2 or len(file) <= rows[-1] or file.shape[1] != dim:
            least = f"at least {rows[-1] + 1} x {dim}"
            raise _foreign(path, f"embeddings of shape {list(file.shape)}, expected {least}")
        part = file[rows]
        if len(part) and (part.view(np.uint16) & 0x7FFF).max() >= _INFINITE:
            raise _foreign(path, "embeddings that are not finite")
        parts.append(part)
    return parts


_INFINITE = 0x7C00  # bits of float16 infinity; NaN is above. 50 times as fast as np.isfinite


def _foreign(path: Path, what: str) -> UsageError:
    do = "the file was changed: delete it and run the curation of this folder again"
    return UsageError(what=what, where=str(path), do=do)


def unit_rows(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return stored embeddings as unit rows, float32; a zero row stays zero.

    Normalized after loading: float16 storage moves the cosine of similar rows by up to 2.5e-4 at 64
    dimensions and 1e-4 at 512, normalizing again leaves 4e-5 and 1e-5 (8,000 random pairs each,
    cosine 0.98).
    """
    rows = stored.astype(np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    rows /= np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]
    return rows


def read_embeddings(
    inputs: CurationInputs, stage: str, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Read embeddings of ascending image ids as `unit_rows`, float32 ``[n, D]``."""
    return unit_rows(read_stored(inputs, stage, ids))


# --- pairs


def read_pairs(inputs: CurationInputs) -> Pairs:
    """Read all pairs of contents, earlier generations included, sorted by ``(i, j)``."""
    files = (of_run.files("graph", "pairs.parquet") for of_run in every_generation(inputs))
    paths = itertools.chain.from_iterable(files)
    return concat_pairs([Pairs(**columns_of(read_table(path))) for path in paths])
