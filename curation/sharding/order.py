"""Which samples go into the shards, under which keys, in which order; reads tables only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.sharding.ids import Wanted, as_digests
from dinoforge.curation.sharding.index import FOLDERS
from dinoforge.curation.sharding.tables import (
    PLACES_SCHEMA,
    ShardingInputs,
    ShardingStage,
    iter_samples,
)
from dinoforge.errors import UsageError, some_of
from dinoforge.randomness import KeyedPermutation
from dinoforge.remote.copies import fingerprint_list, local_copy
from dinoforge.shards.tar import BLOCK
from dinoforge.shards.writer import cut_shards
from dinoforge.sources.classes import NAMES, NUMBERS, find_class_list
from dinoforge.stages import Json, Output
from dinoforge.tables import shuffle_rows

__all__ = ["OrderStage"]

_SHUFFLED_ROWS = 1 << 15  # samples that are put into their order at once, ...
_MOST_FILES = 512  # ... or more, so that their files can all be open
_NAMED = 4  # keys in a message
_SPACES = {FOLDERS: "class folders", NUMBERS: "numbers in .cls", NAMES: "names in .cls"}
_END_BYTES = 20 * BLOCK  # of a tar: its end, and padding to a record


class OrderStage(ShardingStage):
    """Choose the samples, give them places, and cut shards."""

    name = "order"
    number = 30
    keys = ("ids", "shard_images", "shard_mib", "order", "seed", "repeated_keys")
    execution_keys = ("sources",)
    needs = ("index",)

    def plan(self, inputs: ShardingInputs) -> list[Json]:
        """Plan one partition; its payload covers the list of ids."""
        file = inputs.config.ids.file
        return [{"ids": fingerprint_list(file) if file else ""}]

    def run(self, payload: Json, inputs: ShardingInputs, out: Output) -> Json:  # noqa: ARG002
        """Read what the decisions need of every sample, then write the samples in their order."""
        config = inputs.config
        classes = _class_names(inputs)
        chosen = _choose(inputs)
        num = len(chosen.rows)
        order = np.arange(num)
        if config.order == "random":
            order = KeyedPermutation(num, config.seed, "shards")[order]
        limit = max(1, (config.shard_mib << 20) - _END_BYTES)
        starts = cut_shards(chosen.bytes[order], config.shard_images, limit)
        place = np.empty(num, np.int64)
        place[order] = np.arange(num)
        rows = _with_keys(inputs, chosen)
        if config.order == "random":
            at_once = max(_SHUFFLED_ROWS, -(-num // _MOST_FILES))
            rows = shuffle_rows(rows, place, out.folder, at_once)
        out.write_tables("places", rows, PLACES_SCHEMA)
        of_rows = np.full(chosen.samples, -1, np.int64)
        of_rows[chosen.rows] = place
        out.write_array("place", of_rows)
        return {
            "samples": chosen.samples,
            "chosen": num,
            "renamed": len(chosen.keys),
            "ids": chosen.ids,
            "classes": classes,
            "shard_starts": starts.tolist(),
        }


@dataclass(frozen=True)
class _Chosen:
    """What is chosen: rows of the index, their bytes in a shard, and new keys by row."""

    samples: int  # all of them
    rows: NDArray[np.int64]
    bytes: NDArray[np.int64]
    keys: Mapping[int, str]
    ids: dict[str, int]


def _class_names(inputs: ShardingInputs) -> dict[str, str]:
    """Return the names of the classes by number, as text; refuse sources that number differently.

    Class folders without a list are numbered in the order of their names.
    """
    spaces: dict[str, str] = {}
    folders: set[str] = set()
    for facts in inputs.facts("index"):
        spaces = facts["spaces"] | spaces
        folders |= set(facts["class_names"])
    if len(spaces) > 1:
        shown = (f"{_SPACES.get(space, 'a list')} in {where}" for space, where in spaces.items())
        raise UsageError(
            what=f"the sources number classes differently: {some_of(shown)}",
            where=some_of(inputs.config.sources),
            do="shard them one by one, or give classes=ignore to leave all members as they are",
        )
    space, where = next(iter(spaces.items()), ("", ""))
    if space == FOLDERS:
        return {str(number): name for number, name in enumerate(sorted(folders))}
    classes = (
        find_class_list([where.rpartition("/")[0] or "."]) if space.startswith("list:") else None
    )
    if classes is None:
        return {}
    if classes.fault:
        raise UsageError(faults=[classes.fault])
    return {str(number): name for number, name in sorted(classes.names.items())}


def _choose(inputs: ShardingInputs) -> _Chosen:
    ids = inputs.config.ids
    wanted = None
    if ids.file:
        copy = local_copy(ids.file, inputs.run_folder / "cache/lists")
        wanted = Wanted.read(str(copy), ids.column, ids.field)
    rows, num_bytes, hashes = [], [], []
    first = without = 0
    for block in iter_samples(inputs, ["bytes", "digest", "id"]):
        digests = as_digests(block.column("digest"))
        here = np.arange(block.num_rows)
        if wanted is not None:
            without += block.column("id").null_count if ids.field else 0
            compared = as_digests(block.column("id")) if ids.field else digests
            here = np.flatnonzero(wanted.match(compared))
        rows.append(first + here)
        num_bytes.append(block.column("bytes").to_numpy()[here])
        hashes.append(digests[here].view(np.uint64).reshape(-1, 2)[:, 0])
        first += block.num_rows
    every = np.concatenate(rows) if rows else np.empty(0, np.int64)
    if not len(every):
        raise _nothing(inputs, wanted, without if ids.field else 0, first)
    counts = {}
    if wanted is not None:
        counts = {
            "listed": wanted.listed,
            "repeated": wanted.repeated,
            "unmatched": wanted.unmatched,
            "samples_without": without,
        }
    keys = _new_keys(inputs, every, np.concatenate(hashes))
    return _Chosen(first, every, np.concatenate(num_bytes), keys, counts)


def _nothing(
    inputs: ShardingInputs, wanted: Wanted | None, without: int, samples: int
) -> UsageError:
    if wanted is None:
        do = "give sources that contain images or shards"
        return UsageError(what="no samples", where=some_of(inputs.config.sources), do=do)
    ids = inputs.config.ids
    what = f"none of {wanted.listed:,} ids is that of one of {samples:,} samples"
    do = "the ids are compared with keys: give ids.field if they are a field of the .json"
    if ids.field:
        do = f"{without:,} samples have no `{ids.field}` in a .json: check ids.field"
    return UsageError(what=what, where=ids.file, do=do)


def _new_keys(
    inputs: ShardingInputs, rows: NDArray[np.int64], hashes: NDArray[np.uint64]
) -> dict[int, str]:
    """Return new keys for samples whose key an earlier one has; or refuse them."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return {}
    del ordered
    is_suspect = np.isin(hashes, repeated)
    by_key: dict[str, list[int]] = {}
    for row, key in _keys_of(inputs, rows[is_suspect]):
        by_key.setdefault(key, []).append(row)
    by_key = {key: some for key, some in by_key.items() if len(some) > 1}
    if by_key and inputs.config.repeated_keys == "refuse":
        times = Counter({key: len(some) for key, some in by_key.items()})
        shown = (f"{key} ({count})" for key, count in sorted(times.items()))
        raise UsageError(
            what=f"{len(by_key):,} keys occur more than once: {some_of(shown, _NAMED)}",
            where=some_of(inputs.config.sources),
            do="give repeated_keys=rename to number all but the first, or other sources",
        )
    new = {}
    taken = set(by_key)
    for key, some in by_key.items():
        number = 2
        for row in some[1:]:
            while f"{key}-{number}" in taken:
                number += 1
            new[row] = f"{key}-{number}"
            taken.add(new[row])
    return _avoid(inputs, rows, new)


def _avoid(inputs: ShardingInputs, rows: NDArray[np.int64], new: dict[int, str]) -> dict[int, str]:
    """Change new keys that another sample has."""
    names = {key: row for row, key in new.items()}
    clashes = {key for _, key in _keys_of(inputs, rows) if key in names}
    taken = set(names)
    for key in sorted(clashes):
        number, row = 2, names[key]
        while f"{key}-{number}" in taken:
            number += 1
        new[row] = f"{key}-{number}"
        taken.add(new[row])
    return _avoid(inputs, rows, new) if clashes else new


def _keys_of(inputs: ShardingInputs, rows: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    """Yield row and key of some samples, in order."""
    first = 0
    for block in iter_samples(inputs, ["key"]):
        here = rows[slice(*np.searchsorted(rows, [first, first + block.num_rows]))]
        keys = block.column("key").take(pa.array(here - first))
        yield from zip(here.tolist(), keys.to_pylist(), strict=True)
        first += block.num_rows


def _with_keys(inputs: ShardingInputs, chosen: _Chosen) -> Iterator[pa.Table]:
    """Yield the chosen samples in the order of the sources, under their new keys."""
    first = 0
    for block in iter_samples(inputs):
        start, stop = np.searchsorted(chosen.rows, [first, first + block.num_rows])
        here = chosen.rows[start:stop]
        table = block.take(pa.array(here - first)).drop(["bytes", "digest", "id"])
        old = table.column("key").combine_chunks()
        table = table.append_column("row", pa.array(here)).append_column("source_key", old)
        if renamed := [at for at, row in enumerate(here.tolist()) if row in chosen.keys]:
            keys = old.to_pylist()
            for at in renamed:
                keys[at] = chosen.keys[int(here[at])]
            table = table.set_column(0, "key", pa.array(keys, pa.string()))
        yield table.select(PLACES_SCHEMA.names)
        first += block.num_rows
