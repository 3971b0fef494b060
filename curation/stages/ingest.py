"""Sources to one index: one row per image, in the order of the recipe; no byte is moved."""

import fnmatch
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import MADE_BY_RUN, find_base
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, SourceConfig
from dinoforge.curation.stored.generations import first_id, generation_fingerprint
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError, some_of
from dinoforge.files import path_text
from dinoforge.randomness import KeyedPermutation
from dinoforge.runs import record_facts
from dinoforge.shards.index import summarize_reasons
from dinoforge.sources.accounting import Account, merge_problems
from dinoforge.sources.classes import NAMES, ClassList
from dinoforge.sources.discover import discover_files
from dinoforge.sources.listing import Listing, list_files, locate_images
from dinoforge.sources.numbering import Numbering, rename_classes, unite_classes
from dinoforge.stages import Json, Output

__all__ = ["IngestStage", "check_folders"]

_log = logging.getLogger(__name__)

_Location = tuple[str, int]


class IngestStage(CurationStage):
    """List the images of all sources; one of several sources belongs to the first of them.

    To the first reference, if there is one: what must not leak is never a pool image.
    """

    name = "ingest"
    number = 10
    version = "1.5.0"
    keys = ("sources", "data.root", "seed")
    execution_keys = ("base",)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition: only names and tar headers are read.

        The payload covers names, sizes and times of all files, so that a source that grew is
        listed again, and what the base decided.
        """
        faults: list[Fault] = []
        marks = []
        for source in inputs.config.sources:
            try:
                paths = source.paths_in(inputs.config.data.root)
                marks.append(discover_files(paths).fingerprint())
            except UsageError as error:
                faults.extend(error.faults)
        if faults:
            raise UsageError(faults=faults)
        base = find_base(inputs.run_folder, inputs.config.base)
        return [{"files": marks} | ({"base": generation_fingerprint(base)} if base else {})]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """List every source."""
        config = inputs.config
        folder = out.folder / "unpacked"
        indexed: list[pa.Table] = []
        every = [discover_files(source.paths_in(config.data.root)) for source in config.sources]
        listings = [list_files(files, unpacked=folder) for files in every]
        locations = [locate_images(listing.table) for listing in listings]
        chosen, shared, not_selected = _choose(config, listings, locations)
        problems = merge_problems(listing.problems for listing in listings)
        account = Account.of(sum(map(len, chosen)), problems, not_selected=not_selected)
        try:
            for at, (source, listing) in enumerate(zip(config.sources, listings, strict=True)):
                key = f"sources[{at}].classes"
                named = rename_classes(listing.table, listing.class_lists, source.classes, key)
                table = _relative(named.take(chosen[at]), listing.unpacked, inputs.run_folder)
                indexed.append(_indexed(table, source))
            _stop_if_empty(config, indexed, listings, shared)
            _warn_of_other_numbers(config, indexed)
            numbering = _united(indexed, config.sources, [each.class_lists for each in listings])
        except UsageError:
            record_facts(inputs.run_folder, sources=account.as_json())  # there will be no table
            raise
        index = _numbered(pa.concat_tables(indexed), numbering)
        start = first_id(inputs)
        ids = np.arange(start, start + index.num_rows)
        index = index.append_column("image_id", pa.array(ids))
        out.write_table("index", index, tables.INDEX_SCHEMA)
        members = [[member[at] for member in numbering.members] for at in range(4)]
        out.write_table("classes", members, tables.CLASSES_SCHEMA)
        table = _also_in_references(config, listings, locations, chosen, shared, start)
        out.write_table("shared", table, tables.SHARED_SCHEMA)
        table = pa.Table.from_pylist(problems, tables.PROBLEMS_SCHEMA)
        out.write_table("problems", table, tables.PROBLEMS_SCHEMA)
        for tar in sorted({tar for listing in listings for tar in listing.unpacked}):
            out.add(tar)
        return {
            "images": index.num_rows,
            "images_by_source": [table.num_rows for table in indexed],
            "not_selected": not_selected,  # by `keys` and `limit` of every source
            "problems": dict(account.problems),
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


def _choose(
    config: CurationConfig, listings: Sequence[Listing], locations: Sequence[list[_Location]]
) -> tuple[list[NDArray[np.int64]], list[list[int]], int]:
    """Choose the images of every source, each image once.

    Returns the chosen rows of every source, its rows that a reference has, too, and the number of
    images that no source selects. References choose first: what must not leak is no pool image
    because another source is listed before.
    """
    sources = config.sources
    chosen = [np.array([], np.int64)] * len(sources)
    owner: dict[_Location, str] = {}  # role
    shared: list[list[int]] = [[] for _ in sources]
    for at in sorted(range(len(sources)), key=lambda at: sources[at].role != "reference"):
        source, where = sources[at], locations[at]
        keys = listings[at].table.column("key").to_pylist()
        rows = [
            r for r, k in enumerate(keys) if not source.keys or fnmatch.fnmatchcase(k, source.keys)
        ]
        if source.role != "reference":
            shared[at] = [row for row in rows if owner.get(where[row]) == "reference"]
        rows = _limited([row for row in rows if where[row] not in owner], source, config.seed)
        owner.update((where[row], source.role) for row in rows)
        chosen[at] = np.array(rows, np.int64)
    if num_shared := len({locations[at][row] for at, rows in enumerate(shared) for row in rows}):
        _log.warning(
            "%d images of other sources are also in a reference source: used as references only",
            num_shared,
        )
    return chosen, shared, len(set().union(*locations) - owner.keys())


def _also_in_references(
    config: CurationConfig,
    listings: Sequence[Listing],
    locations: Sequence[list[_Location]],
    chosen: Sequence[NDArray[np.int64]],
    shared: Sequence[Sequence[int]],
    first: int,
) -> pa.Table:
    """Name the images that are left out because a reference source has them, too.

    ``first`` is the id of the first image.
    """
    where = [
        place for at, rows in enumerate(chosen) for place in map(locations[at].__getitem__, rows)
    ]
    wanted = {locations[at][row] for at, rows in enumerate(shared) for row in rows}
    image_id = {place: number for number, place in enumerate(where, first) if place in wanted}
    parts = [tables.SHARED_SCHEMA.empty_table()]
    for at, rows in enumerate(shared):
        columns = [
            pa.array([config.sources[at].label] * len(rows), pa.string()),
            listings[at].table.column("key").take(pa.array(rows, pa.int64())),
            pa.array([image_id[locations[at][row]] for row in rows], pa.int64()),
        ]
        parts.append(pa.table(columns, schema=tables.SHARED_SCHEMA))
    return pa.concat_tables(parts)


def _limited(rows: list[int], source: SourceConfig, seed: int) -> list[int]:
    """Return at most the limit of a source."""
    if not source.limit or source.limit >= len(rows):
        return rows
    if source.pick == "first":
        return rows[: source.limit]
    order = KeyedPermutation(len(rows), seed, f"limit {source.role} {source.name}")
    return sorted(rows[at] for at in order[np.arange(source.limit)].tolist())


def _indexed(table: pa.Table, source: SourceConfig) -> pa.Table:
    num = table.num_rows
    columns = {name: table.column(name) for name in table.column_names} | {
        "role": pa.array([source.role] * num, pa.string()),
        "source": pa.array([source.label] * num, pa.string()),
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
        why = str(error)
    else:
        names, new_names = _names(numbering), _names(united)
        renamed = [
            f"`{name}` `{new_names[c]}`" for c, name in names.items() if new_names[c] != name
        ]
        if not renamed:
            return united
        why = f"their list of classes would call {some_of(renamed)}"
    _log.warning("reference images get no class numbers: %s", why)
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
    config: CurationConfig,
    indexed: list[pa.Table],
    listings: list[Listing],
    shared: list[list[int]],
) -> None:
    """Report the sources that gave no image."""
    do = "check the paths, `keys`, and that no earlier or reference source lists the same images"
    faults = []
    rows = zip(config.sources, indexed, listings, shared, strict=True)
    for source, table, listing, also in rows:
        if also and len(also) == listing.table.num_rows:
            what = f"{len(also):,} of {len(also):,} images are also in a reference source"
            where = f"source {source.label}: {', '.join(source.paths_in(config.data.root))}"
            faults.append(Fault(what, where, "leave them out of one of the two"))
        elif not table.num_rows:
            pattern = f" under the key pattern {source.keys}" if source.keys else ""
            what = f"no images{pattern}{summarize_reasons(listing.problems)}"
            faults.append(Fault(what, ", ".join(source.paths_in(config.data.root)), do))
    if faults:
        raise UsageError(faults=faults)


def _warn_of_other_numbers(config: CurationConfig, indexed: Sequence[pa.Table]) -> None:
    """Name the sources that give another number of images than the recipe expects."""
    for source, table in zip(config.sources, indexed, strict=True):
        if source.images not in {0, table.num_rows}:
            text = "source %s: %d images, the recipe expects %d (sources.images)"
            _log.warning(text, source.label, table.num_rows, source.images)


def check_folders(config: CurationConfig) -> None:
    """Raise one error that names what is missing below `data.root`, before a source is listed."""
    if not (root := config.data.root):
        return
    # Of a pattern: the folder that it starts in.
    literal = [re.sub(r"[^/]*[*?\[{].*", "", path) for s in config.sources for path in s.paths]
    missing = [path for path in literal if not (Path(root) / path).exists()]
    if missing:
        what = f"{len(missing)} of {len(literal)} sources are missing: {some_of(missing, 8)}"
        do = "give the folder that holds them, data.root=FOLDER, or other sources"
        raise UsageError(what=what, where=f"data.root={root}", do=do)
