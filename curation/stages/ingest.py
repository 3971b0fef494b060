"""What is listed of all sources to one index: one row per image, in the order of the recipe.

Blocks of rows pass through; in memory are a byte per image, and the classes.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import find_base
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, SourceConfig
from dinoforge.curation.policies.selection import (
    RepeatedFiles,
    Selection,
    find_repeated_files,
    select_images,
)
from dinoforge.curation.stored.generations import first_id, generation_fingerprint
from dinoforge.curation.stored.listed import ListedSource, merge_problems, read_listed
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.errors import Fault, UsageError, some_of
from dinoforge.remote import is_url
from dinoforge.remote.urls import is_stream
from dinoforge.runs import record_facts
from dinoforge.shards.index import summarize_reasons
from dinoforge.sources.accounting import Account
from dinoforge.sources.classes import NAMES
from dinoforge.sources.listing import LISTING_SCHEMA, fill_in_ids_of_names, report_listing
from dinoforge.sources.numbering import (
    FirstOfClasses,
    Numbering,
    class_keys,
    rename_classes,
    unite_classes,
)
from dinoforge.stages import Json, Output
from dinoforge.tables import take_rows

__all__ = ["IngestStage", "check_folders"]

_log = logging.getLogger(__name__)


class IngestStage(CurationStage):
    """Select and number the images of all sources; one of several belongs to the first of them.

    To the first reference, if there is one: what must not leak is never a pool image.
    """

    name = "ingest"
    number = 10
    version = "1.6.0"
    keys = ("sources", "seed")
    execution_keys = ("base", "data.root")  # the latter for messages
    needs = ("discover", "list")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition; the payload covers what the base decided."""
        base = find_base(inputs.run_folder, inputs.config.base)
        return [{"base": generation_fingerprint(base)} if base else {}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Unite the sources."""
        config, listed = inputs.config, read_listed(inputs)
        for source in listed:
            report_listing(source.num_in_folders, source.class_lists)
        repeated = find_repeated_files(*zip(*(one.read_places() for one in listed), strict=True))
        selection = _select(config, listed, repeated)
        counts = [int(np.count_nonzero(chosen)) for chosen in selection.chosen]
        problems = (entry for block in merge_problems(listed) for entry in block.to_pylist())
        failed = Counter[str]()
        for facts in (*inputs.facts("discover"), *inputs.facts("list")):
            failed.update(facts["not_downloaded"])
        account = Account.of(
            sum(counts), problems, not_selected=selection.not_selected, not_downloaded=failed
        )
        try:
            classes, numbering = _unite(config, listed, selection, counts)
        except UsageError:
            record_facts(inputs.run_folder, sources=account.as_json())  # there will be no table
            raise
        index = _Index(config, listed, selection, repeated, classes, first_id(inputs))
        out.write_tables("index", index.iter_rows(), tables.INDEX_SCHEMA)
        members = [[member[at] for member in numbering.members] for at in range(4)]
        out.write_table("classes", members, tables.CLASSES_SCHEMA)
        out.write_table("shared", index.shared(), tables.SHARED_SCHEMA)
        out.write_tables("problems", merge_problems(listed), tables.PROBLEMS_SCHEMA)
        return {
            "images": sum(counts),
            "images_by_source": counts,
            "not_selected": selection.not_selected,  # by `keys` and `limit` of every source
            "not_downloaded": dict(account.not_downloaded),
            "problems": dict(account.problems),
        }


def _select(
    config: CurationConfig, listed: Sequence[ListedSource], repeated: RepeatedFiles
) -> Selection:
    def matches(at: int) -> NDArray[np.bool_]:
        return listed[at].match_keys(config.sources[at].keys)

    selection = select_images(config.sources, matches, repeated, config.seed)
    if selection.num_shared:
        _log.warning(
            "%d images of other sources are also in a reference source: used as references only",
            selection.num_shared,
        )
    return selection


class _Classes(NamedTuple):
    """The classes of a source: what each becomes in the index."""

    keys: pa.Array  # see `class_keys`
    columns: dict[str, pa.Array]  # label, class_name, class_space

    def of(self, block: pa.Table) -> dict[str, pa.Array]:
        """Return the columns of the rows of a block of the listing."""
        keys = class_keys(block)
        rows = pc.index_in(keys.dictionary, value_set=self.keys).take(keys.indices)
        return {name: values.take(rows) for name, values in self.columns.items()}


def _unite(
    config: CurationConfig,
    listed: Sequence[ListedSource],
    selection: Selection,
    counts: Sequence[int],
) -> tuple[list[_Classes], Numbering]:
    """Rename the classes of every source and find one numbering for those of selected images.

    Raises
    ------
    UsageError
        If a source gives no image, or classes do not fit the recipe or each other.
    """
    keys, every, chosen = [], [], []
    for at, source in enumerate(listed):
        every_class, used = _find_classes(source, selection.chosen[at])
        table = fill_in_ids_of_names(every_class.table)
        table = rename_classes(
            table, source.class_lists, config.sources[at].classes, f"sources[{at}].classes"
        )
        keys.append(pa.array(every_class.keys, pa.string()))
        every.append(table)
        rows = table.take(pc.index_in(pa.array(used.keys, pa.string()), value_set=keys[-1]))
        shard = rows.column_names.index("shard")
        chosen.append(rows.set_column(shard, "shard", used.table.column("shard")))
    _stop_if_empty(config, listed, selection, counts)
    _warn_of_other_numbers(config, counts)
    numbering = _united(chosen, config.sources, listed)
    names = numbering.names
    classes = []
    for of_source, table in zip(keys, every, strict=True):
        labels = numbering.labels(table)
        columns = {
            "label": pa.array(labels),
            "class_name": pa.array([names.get(at, "") for at in labels.tolist()], pa.string()),
            "class_space": table.column("class_space").combine_chunks(),
        }
        classes.append(_Classes(of_source, columns))
    return classes, numbering


def _find_classes(
    source: ListedSource, chosen: NDArray[np.bool_]
) -> tuple[FirstOfClasses, FirstOfClasses]:
    """Find the classes of all images of a source, and those of the chosen ones."""
    every_class, used = FirstOfClasses(), FirstOfClasses()
    at = 0
    for block in source.iter_rows(["label", "class_space", "class_name", "shard"]):
        every_class.add(block)
        used.add(block.filter(pa.array(chosen[at : at + block.num_rows])))
        at += block.num_rows
    return every_class, used


class _Index:
    """The rows of the index, which exist once, while they are written."""

    def __init__(
        self,
        config: CurationConfig,
        listed: Sequence[ListedSource],
        selection: Selection,
        repeated: RepeatedFiles,
        classes: Sequence[_Classes],
        start: int,
    ) -> None:
        self._sources, self._listed, self._selection = config.sources, listed, selection
        self._repeated, self._classes = repeated, classes
        self._next_id = start
        # Of the images that a reference shares with others, by their number.
        self._ids = np.zeros(repeated.num_images if selection.num_shared else 0, np.int64)

    def iter_rows(self) -> Iterator[pa.Table]:
        """Yield the selected rows of all sources, by their ids."""
        for at, listed in enumerate(self._listed):
            start = 0
            for block in listed.iter_rows(LISTING_SCHEMA.names):
                chosen = self._selection.chosen[at][start : start + block.num_rows]
                ids = self._next_id + np.cumsum(chosen) - 1
                if len(self._ids):
                    rows, numbers = self._repeated.images(at, start, start + block.num_rows)
                    is_chosen = chosen[rows - start]
                    self._ids[numbers[is_chosen]] = ids[rows[is_chosen] - start]
                start += block.num_rows
                self._next_id += int(np.count_nonzero(chosen))
                rest = block.filter(pa.array(chosen))
                yield _indexed(rest, self._sources[at], self._classes[at], ids[chosen])

    def shared(self) -> pa.Table:
        """Name the images that are left out because a reference has them, too; after the rows."""
        parts = [tables.SHARED_SCHEMA.empty_table()]
        shared = zip(self._sources, self._listed, self._selection.also_in_references, strict=True)
        for source, listed, (rows, numbers) in shared:
            if len(rows):
                keys = take_rows(listed.iter_rows(["key"]), rows).column("key")
                columns = [_same(source.label, len(rows)), keys, pa.array(self._ids[numbers])]
                parts.append(pa.table(columns, schema=tables.SHARED_SCHEMA))
        return pa.concat_tables(parts)


def _indexed(
    block: pa.Table, source: SourceConfig, classes: _Classes, ids: NDArray[np.int64]
) -> pa.Table:
    num = block.num_rows
    columns = {name: block.column(name) for name in block.column_names} | classes.of(block)
    columns |= {
        "image_id": pa.array(ids),
        "role": _same(source.role, num),
        "source": _same(source.label, num),
        "planted_from": pa.nulls(num, pa.int64()),
        "edit": pa.nulls(num, pa.string()),
    }
    return pa.table(columns)


def _same(text: str, num: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), num)


def _united(
    tables: Sequence[pa.Table], sources: Sequence[SourceConfig], listed: Sequence[ListedSource]
) -> Numbering:
    """Unite the classes of all sources; without those of reference images if they do not fit.

    References are compared by their pixels alone: their classes neither stop a curation nor give
    other names to the classes of the images that it keeps.
    """
    lists = [source.class_lists for source in listed]
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


def _stop_if_empty(
    config: CurationConfig,
    listed: Sequence[ListedSource],
    selection: Selection,
    counts: Sequence[int],
) -> None:
    """Report the sources that gave no image."""
    do = "check the paths, `keys`, and that no earlier or reference source lists the same images"
    faults = []
    each = zip(config.sources, counts, listed, selection.also_in_references, strict=True)
    for source, count, images, (also, _) in each:
        if len(also) and len(also) == images.num_images:
            what = f"{len(also):,} of {len(also):,} images are also in a reference source"
            where = f"source {source.label}: {', '.join(source.paths_in(config.data.root))}"
            faults.append(Fault(what, where, "leave them out of one of the two"))
        elif not count:
            pattern = f" under the key pattern {source.keys}" if source.keys else ""
            what = f"no images{pattern}{summarize_reasons(images.iter_reasons())}"
            faults.append(Fault(what, ", ".join(source.paths_in(config.data.root)), do))
    if faults:
        raise UsageError(faults=faults)


def _warn_of_other_numbers(config: CurationConfig, counts: Sequence[int]) -> None:
    """Name the sources that give another number of images than the recipe expects."""
    for source, count in zip(config.sources, counts, strict=True):
        if source.images not in {0, count}:
            text = "source %s: %d images, the recipe expects %d (sources.images)"
            _log.warning(text, source.label, count, source.images)


def check_folders(config: CurationConfig) -> None:
    """Raise one error that names what is missing below `data.root`, before a source is listed."""
    if not (root := config.data.root) or is_url(root):
        return
    every = [path for source in config.sources for path in source.paths]
    paths = [path for path in every if not (is_url(path) or is_stream(path))]
    # Of a pattern: the folder that it starts in.
    literal = [re.sub(r"[^/]*[*?\[{].*", "", path) for path in paths]
    missing = [path for path in literal if not (Path(root) / path).exists()]
    if missing:
        what = f"{len(missing)} of {len(literal)} sources are missing: {some_of(missing, 8)}"
        do = "give the folder that holds them, data.root=FOLDER, or other sources"
        raise UsageError(what=what, where=f"data.root={root}", do=do)
