"""List the images of some files of a source: tar headers and labels are read, no image is."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curated import MADE_BY_RUN
from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import path_of_text, path_text
from dinoforge.sources.discover import SourceFile
from dinoforge.sources.listing import LISTING_SCHEMA, ClassLists, ListedFiles, list_each, printable
from dinoforge.sources.outputs import mark_cache
from dinoforge.stages import Json, Output
from dinoforge.tables import ROW_GROUP_ROWS, read_rows

__all__ = ["ListStage"]

_FILES = 4096  # that are objects at a time


class ListStage(CurationStage):
    """Write one row per image, uncompress tars that are compressed."""

    name = "list"
    number = 7
    version = "1.1.0"
    needs = ("discover",)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the discovered files; each is of one source."""
        names = ("source", "start", "stop")
        ranges = inputs.facts("discover")[0]["ranges"]
        return [dict(zip(names, one, strict=True)) for one in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """List the files of one range."""
        lists, waiting = ClassLists(), deque[int]()  # places of files that are not listed yet
        files = [tables.LISTED_SCHEMA.empty_table()]
        problems = [tables.PROBLEMS_SCHEMA.empty_table()]
        copies: set[Path] = set()
        in_folders = 0
        failed = Counter[str]()
        # Where the index of `ingest` is: paths in the ledgers of runs lead there.
        unpacked = out.folder.parent / "10-ingest/unpacked"

        def named() -> Iterator[tuple[SourceFile, str]]:
            for file, key, place in _read_files(inputs, payload):
                waiting.append(place)
                yield file, key

        def rows() -> Iterator[pa.Table]:
            nonlocal in_folders
            for listed in list_each(named(), lists, unpacked=unpacked):
                in_folders += listed.num_in_folders
                failed.update(listed.failed)
                copies.update([listed.copy] if listed.copy else [])
                files.append(_places([waiting.popleft() for _ in range(listed.num_files)], listed))
                entries = [dict(printable(entry)) for entry in listed.problems]
                problems.append(pa.Table.from_pylist(entries, tables.PROBLEMS_SCHEMA))
                yield _inside(listed, inputs.run_folder)

        mark_cache(out.folder)
        out.write_tables("listing", rows(), LISTING_SCHEMA)
        out.write_table("files", pa.concat_tables(files), tables.LISTED_SCHEMA)
        out.write_table("problems", pa.concat_tables(problems), tables.PROBLEMS_SCHEMA)
        for copy in sorted(copies):
            out.add(copy)
        return {
            "source": payload["source"],
            "images": out.written[0]["rows"],
            "in_folders": in_folders,
            "not_downloaded": dict(sorted(failed.items())),
            # in the order of use
            "class_lists": [[space, each.path] for space, each in lists.by_space.items()],
        }


def _read_files(inputs: CurationInputs, payload: Json) -> Iterator[tuple[SourceFile, str, int]]:
    """Yield the files of a range with their keys and places."""
    path = inputs.file("discover", "files.parquet")
    for start in range(payload["start"], payload["stop"], ROW_GROUP_ROWS):
        stop = min(start + ROW_GROUP_ROWS, payload["stop"])
        for batch in read_rows([path], start, stop).to_batches(_FILES):
            for row in batch.to_pylist():
                key, place = row.pop("key"), row.pop("place")
                row |= {name: path_of_text(row[name]) for name in ("path", "root")}
                row["list_folders"] = tuple(map(path_of_text, row["list_folders"]))
                yield SourceFile(**row), key, place


def _places(places: Sequence[int], listed: ListedFiles) -> pa.Table:
    """Identify files wherever they lie; an image and a tar of one path are two."""
    kind = "archive" if listed.is_archive else "image"
    names = [f"{kind} {place}" for place in places]
    if listed.copy is not None:
        names = [f"copy {listed.copy.name}"]
    hashes = [hashlib.sha256(name.encode()).digest() for name in names]
    counts = [listed.table.num_rows] if listed.is_archive else [1] * len(hashes)
    return pa.table([hashes, counts], schema=tables.LISTED_SCHEMA)


def _inside(listed: ListedFiles, run_folder: Path) -> pa.Table:
    """Name what the run unpacked by its path inside the run: the run may be moved.

    A source in a folder of the same name is distinguished from it by ``./``.
    """
    shard = listed.table.column("shard")
    if listed.copy is not None:
        inside = path_text(listed.copy.relative_to(run_folder))
        names = pa.repeat(pa.scalar(inside), len(shard))
    else:
        is_alike = pc.starts_with(shard, MADE_BY_RUN)
        names = pc.if_else(is_alike, pc.binary_join_element_wise(".", shard, "/"), shard)
    return listed.table.set_column(1, LISTING_SCHEMA.field("shard"), names)
