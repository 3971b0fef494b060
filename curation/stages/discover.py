"""Find the files of all sources: images and tars, by name; none of them is read."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError
from dinoforge.files import path_text
from dinoforge.remote.listings import listings_folder
from dinoforge.sources.discover import (
    SourceFile,
    discover_files,
    fingerprint_sources,
    make_real_path,
)
from dinoforge.sources.listing import name_files, printable
from dinoforge.sources.outputs import mark_cache
from dinoforge.stages import Json, Output
from dinoforge.tables import ROW_GROUP_ROWS

__all__ = ["DiscoverStage"]

# What a partition of `list` lists at most, apart from a single larger tar: minutes of work, and
# what it holds does not depend on it.
PARTITION_FILES = 1 << 20  # images in files of their own
PARTITION_BYTES = 128 << 30  # of tars


class DiscoverStage(CurationStage):
    """Write one row per file of the sources, and what is no image and no tar."""

    name = "discover"
    number = 5
    version = "1.1.0"
    # Their paths are in the payload: the other keys of a source decide what is done with its files.
    execution_keys = ("sources", "data.root")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition.

        The payload covers names, sizes and times of all files, so that a source that grew is
        listed again. Of buckets it covers the listing, which is made once.
        """
        faults: list[Fault] = []
        paths, marks = [], []
        for source in inputs.config.sources:
            paths.append(source.paths_in(inputs.config.data.root))
            try:
                marks.append(fingerprint_sources(paths[-1], listings_folder(inputs.run_folder)))
            except UsageError as error:
                faults.extend(error.faults)
        if faults:
            raise UsageError(faults=faults)
        return [{"paths": paths, "files": marks}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Discover one source after the other."""
        problems = [tables.DISCOVERED_SCHEMA.empty_table()]
        ranges: list[list[int]] = []  # source, first file, and the one after the last

        real_path = make_real_path()
        failed = Counter[str]()
        number: dict[str, int] = {}  # of the first file, by path without links

        def place(path: str) -> int:
            return number.setdefault(real_path(path), len(number))

        def rows() -> Iterator[pa.Table]:
            total = 0
            for at, paths in enumerate(payload["paths"]):
                files = discover_files(paths, listings_folder(inputs.run_folder))
                failed.update(files.failed)
                noted = pa.Table.from_pylist(
                    [dict(printable(entry)) for entry in files.problems], tables.PROBLEMS_SCHEMA
                )
                source = pa.repeat(pa.scalar(at, pa.int32()), noted.num_rows)
                problems.append(noted.append_column("source", source))
                ranges.extend([at, total + a, total + b] for a, b in _split(files.items))
                total += len(files.items)
                yield from _tables(files.items, place)

        mark_cache(out.folder)
        out.write_tables("files", rows(), tables.FILES_SCHEMA)
        out.write_table("problems", pa.concat_tables(problems), tables.DISCOVERED_SCHEMA)
        not_downloaded = dict(sorted(failed.items()))
        return {"files": ranges[-1][2], "ranges": ranges, "not_downloaded": not_downloaded}


def _split(files: Sequence[SourceFile]) -> Iterator[tuple[int, int]]:
    """Cut the files of a source into the ranges of the partitions that list them."""
    start, share = 0, 0.0
    for at, file in enumerate(files):
        size = file.size / PARTITION_BYTES if file.is_archive else 1 / PARTITION_FILES
        if at > start and share + size > 1:
            yield start, at
            start, share = at, 0.0
        share += size
    yield start, len(files)


def _tables(files: Sequence[SourceFile], place: Callable[[str], int]) -> Iterator[pa.Table]:
    rows: list[dict[str, object]] = []
    for file, key in name_files(files):
        row = {
            "path": path_text(file.path),
            "root": path_text(file.root),
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "is_archive": file.is_archive,
            "label": file.label,
            "key": key,
            "place": place(file.path),
            "list_folders": [path_text(folder) for folder in file.list_folders],
        }
        rows.append(row)
        if len(rows) == ROW_GROUP_ROWS:
            yield pa.Table.from_pylist(rows, tables.FILES_SCHEMA)
            rows = []
    yield pa.Table.from_pylist(rows, tables.FILES_SCHEMA)
