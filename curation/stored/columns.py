"""The columns of images that a condition may name (`filter.where`): what is known of every image.

Blocks of rows are those of `tables.iter_index`, so columns of several tables fit together.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curation import tables
from dinoforge.curation.stored.scores import iter_scores, stored_columns
from dinoforge.curation.stored.side import iter_side
from dinoforge.curation.tables import CurationInputs

__all__ = ["describe", "iter_columns", "known_columns", "with_side"]

# Name in a condition -> column of the index, or of the facts.
_INDEX = {"key": "key", "source": "source", "bytes": "size", "class_name": "class_name"}
_FACTS = {name: name for name in ("width", "height", "std", "quality", "format")}
_SIDE = "side."
_ASPECT = "aspect"  # longer side / shorter side
_SHA256 = "sha256"  # of the file, 64 digits


def known_columns(scores: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the type of every column but side data, given the names of scores."""
    known = {name: tables.INDEX_SCHEMA.field(column).type for name, column in _INDEX.items()}
    known |= {name: tables.FACTS_SCHEMA.field(column).type for name, column in _FACTS.items()}
    known |= dict.fromkeys(scores, pa.float32())
    return known | {_ASPECT: pa.float64(), _SHA256: pa.string()}


def with_side(
    known: Mapping[str, pa.DataType], side: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """Add side data, as ``side.NAME`` and, if nothing else has the name, as ``NAME``."""
    return {**side, **{f"{_SIDE}{name}": kind for name, kind in side.items()}, **known}


def iter_columns(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of blocks of images of this run, by id; always as many blocks."""
    in_index = [name for name in names if name in _INDEX]
    in_facts = [name for name in names if name in _FACTS]
    measured = ["width", "height"] * (_ASPECT in names) + [_SHA256] * (_SHA256 in names)
    for index, facts, scores, side in zip(
        tables.iter_index(inputs, [_INDEX[name] for name in in_index] or ["image_id"]),
        tables.iter_facts(inputs, list(dict.fromkeys(in_facts + measured)) or ["image_id"]),
        _iter_scores(inputs, names),
        _iter_side(inputs, names),
        strict=False,  # without scores or side data, these never end
    ):
        columns = {name: index.column(_INDEX[name]) for name in in_index}
        columns |= {name: facts.column(name) for name in in_facts}
        for extra in (scores, side):
            columns |= {name: extra.column(name) for name in extra.column_names}
        if _SHA256 in names:
            texts = [value.hex() for value in facts.column(_SHA256).to_pylist()]
            columns[_SHA256] = pa.chunked_array([texts], pa.string())
        if _ASPECT in names:
            width, height = (facts.column(side).to_numpy() for side in ("width", "height"))
            short = np.maximum(np.minimum(width, height), 1)
            columns[_ASPECT] = pa.chunked_array([np.maximum(width, height) / short])
        yield pa.table({name: columns[name] for name in names})


def _iter_scores(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    columns = stored_columns(inputs)
    named = {name: columns[name] for name in names if name in columns}
    return iter_scores(inputs, named) if named else itertools.repeat(pa.table({}))


def _iter_side(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield side data under the names of the condition: ``side.url``, or ``url``."""
    taken = {*_INDEX, *_FACTS, _ASPECT, _SHA256, *stored_columns(inputs)}
    named = [name for name in names if name not in taken]
    if not named:
        yield from itertools.repeat(pa.table({}))
    for block in iter_side(inputs, [name.removeprefix(_SIDE) for name in named]):
        yield block.rename_columns(named)


def describe(columns: pa.Table) -> pa.Array:
    """Return the values of every row in words: ``width 64, format PNG``."""
    texts = [
        pc.binary_join_element_wise(
            name, pc.fill_null(_as_text(columns.column(name).combine_chunks()), "(none)"), " "
        )
        for name in columns.column_names
    ]
    return pc.binary_join_element_wise(*texts, ", ")


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_floating(values.type):
        # 5 places: enough to compare with a threshold, without the noise of float32.
        wide = pc.round(values.cast(pa.float64()), ndigits=5)
        values = pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
    return values.cast(pa.string())
