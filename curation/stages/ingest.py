"""Sources to one index: one row per image, in the order of the recipe; no byte is moved."""

import fnmatch
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import MADE_BY_RUN
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, SourceConfig
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError
from dinoforge.files import path_of_text, path_text
from dinoforge.randomness import KeyedPermutation
from dinoforge.shards.index import Problem, problem, summarize_reasons
from dinoforge.sources.accounting import Account, merge_problems
from dinoforge.sources.classes import NAMES, ClassList
from dinoforge.sources.discover import discover_files
from dinoforge.sources.listing import Listing, list_files
from dinoforge.sources.numbering import Numbering, rename_classes, unite_classes
from dinoforge.stages import Json, Output

__all__ = ["IngestStage"]

_log = logging.getLogger(__name__)

_Location = tuple[str, int]


class IngestStage(CurationStage):
    """List the images of all sources; an image listed twice belongs to the first source."""

    name = "ingest"
    number = 10
    version = "1.3.0"
    keys = ("sources", "seed")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition: only names and tar headers are read.

        The payload covers names, sizes and times of all files, so that a source that grew is
        listed again.
        """
        faults: list[Fault] = []
        marks = []
        for source in inputs.config.sources:
            try:
                marks.append(discover_files(source.paths).fingerprint())
            except UsageError as error:
                faults.extend(error.faults)
        if faults:
            raise UsageError(faults=faults)
        return [{"files": marks}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """List every source."""
        config = inputs.config
        folder = out.folder / "unpacked"
        indexed: list[pa.Table] = []
        listings = [list_files(discover_files(s.paths), unpacked=folder) for s in config.sources]
        seen: set[_Location] = set()
        listed: set[_Location] = set()
        aliases: list[list[Problem]] = []
        for at, (source, listing) in enumerate(zip(config.sources, listings, strict=True)):
            key = f"sources[{at}].classes"
            named = rename_classes(listing.table, listing.class_lists, source.classes, key)
            locations = _locations(named)
            aliases.append(_aliases(named, locations))
            listed.update(locations)
            rows = _choose(named, locations, source, seen, config.seed)
            table = _relative(named.take(rows), listing.unpacked, inputs.run_folder)
            indexed.append(_indexed(table, source))
        _stop_if_empty(config, indexed, listings)
        problems = merge_problems(listing.problems for listing in listings)
        problems += merge_problems(aliases)
        numbering = _united(indexed, config.sources, [listing.class_lists for listing in listings])
        index = _numbered(pa.concat_tables(indexed), numbering)
        index = index.append_column("image_id", pa.array(np.arange(index.num_rows)))
        out.write_table("index", index, tables.INDEX_SCHEMA)
        members = [[member[at] for member in numbering.members] for at in range(4)]
        out.write_table("classes", members, tables.CLASSES_SCHEMA)
        table = pa.Table.from_pylist(problems, tables.PROBLEMS_SCHEMA)
        out.write_table("problems", table, tables.PROBLEMS_SCHEMA)
        for tar in sorted({tar for listing in listings for tar in listing.unpacked}):
            out.add(tar)
        return {
            "images": index.num_rows,
            "images_by_source": [table.num_rows for table in indexed],
            "not_selected": len(listed - seen),  # by `keys` and `limit` of every source
            "problems": dict(Account.of(index.num_rows, problems).problems),
        }


def _relative(table: pa.Table, unpacked: Sequence[Path], run_folder: Path) -> pa.Table:
    """Name what the run unpacked by its path inside the run: the run may be moved.

    A source in a folder of the same name is distinguished from it by ``./``.
    """
    inside = {path_text(tar): path_text(tar.relative_to(run_folder)) for tar in unpacked}
    shards = table.column("shard").combine_chunks().dictionary_encode()
    names = [
        inside.get(name) or (f"./{name}" if name.startswith(MADE_BY_RUN) else name)
        for name in shards.dictionary.to_pylist()
    ]
    renamed = pa.DictionaryArray.from_arrays(shards.indices, pa.array(names, pa.string()))
    at = table.column_names.index("shard")
    return table.set_column(at, "shard", renamed.cast(pa.string()))


def _locations(table: pa.Table) -> list[_Location]:
    """Identify images by their file (without links) and offset, whatever path leads to them."""
    real = cache(lambda shard: os.path.realpath(path_of_text(shard)))
    shards, offsets = (table.column(name).to_pylist() for name in ("shard", "offset"))
    return [(real(shard), offset) for shard, offset in zip(shards, offsets, strict=True)]


def _aliases(table: pa.Table, locations: Sequence[_Location]) -> list[Problem]:
    """Note the images of a source that are listed before under another name, by a link."""
    first: dict[_Location, int] = {}
    rows = [row for row, place in enumerate(locations) if first.setdefault(place, row) != row]
    shards, members = (table.column(name).to_pylist() for name in ("shard", "member"))
    return [
        problem(shards[row], members[row], "same_file", f"as {shards[first[locations[row]]]}")
        for row in rows
    ]


def _choose(
    table: pa.Table,
    locations: Sequence[_Location],
    source: SourceConfig,
    seen: set[_Location],
    seed: int,
) -> NDArray[np.int64]:
    """Return the rows of a source: its key pattern, minus those in ``seen``, up to its limit."""
    taken = set(seen)
    rows = []
    keys = table.column("key").to_pylist()
    for row, (key, location) in enumerate(zip(keys, locations, strict=True)):
        if location not in taken and (not source.keys or fnmatch.fnmatchcase(key, source.keys)):
            taken.add(location)
            rows.append(row)
    if source.limit and source.limit < len(rows):
        if source.pick == "random":
            order = KeyedPermutation(len(rows), seed, f"limit {source.role} {source.name}")
            rows = sorted(rows[at] for at in order[np.arange(source.limit)].tolist())
        else:
            rows = rows[: source.limit]
    seen.update(locations[row] for row in rows)
    return np.array(rows, np.int64)


def _indexed(table: pa.Table, source: SourceConfig) -> pa.Table:
    num = table.num_rows
    columns = {name: table.column(name) for name in table.column_names} | {
        "role": pa.array([source.role] * num, pa.string()),
        "source": pa.array([source.name or source.role] * num, pa.string()),
        "planted_from": pa.nulls(num, pa.int64()),
        "edit": pa.nulls(num, pa.string()),
    }
    return pa.table(columns)


def _united(
    tables: Sequence[pa.Table],
    sources: Sequence[SourceConfig],
    lists: Sequence[Mapping[str, ClassList]],
) -> Numbering:
    """Unite the classes of all sources; without those of reference images if they do not fit.

    References are compared by their pixels alone: their classes neither stop a curation nor give
    other names to the classes of the images that it keeps.
    """
    sets = zip(tables, sources, strict=True)
    others = [table for table, source in sets if source.role != "reference"]
    numbering = unite_classes(others, lists)
    if len(others) == len(tables):
        return numbering
    try:
        united = unite_classes(tables, lists)
    except UsageError as error:
        _log.warning("reference images get no class numbers: %s", error)
        return numbering
    names, new_names = _names(numbering), _names(united)
    renamed = [f"`{name}` `{new_names[at]}`" for at, name in names.items() if new_names[at] != name]
    if not renamed:
        return united
    _log.warning(
        "reference images get no class numbers: their list of classes would call %s%s",
        ", ".join(renamed[:4]),
        ", ..." if len(renamed) > 4 else "",
    )
    return numbering


def _names(numbering: Numbering) -> dict[tuple[str, int | str], str]:
    """Return the name of every class by space and id."""
    names = numbering.names
    return {
        (space, name if space == NAMES else label): names.get(number, str(number))
        for number, space, label, name in numbering.members
    }


def _numbered(index: pa.Table, numbering: Numbering) -> pa.Table:
    """Replace ids and names of class spaces by those of the whole run."""
    labels, names = numbering.labels(index), numbering.names
    columns = {"label": labels, "class_name": [names.get(at, "") for at in labels.tolist()]}
    for name, values in columns.items():
        field = index.schema.field(name)
        at = index.column_names.index(name)
        index = index.set_column(at, field, pa.array(values, field.type))
    return index


def _stop_if_empty(
    config: CurationConfig, indexed: list[pa.Table], listings: list[Listing]
) -> None:
    """Report the sources that gave no image."""
    faults = []
    for source, table, listing in zip(config.sources, indexed, listings, strict=True):
        if table.num_rows:
            continue
        pattern = f" under the key pattern {source.keys}" if source.keys else ""
        do = "check the paths, `keys`, and that no earlier source lists the same images"
        what = f"no images{pattern}{summarize_reasons(listing.problems)}"
        faults.append(Fault(what, ", ".join(source.paths), do))
    if faults:
        raise UsageError(faults=faults)
