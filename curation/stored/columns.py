"""The columns of images that a condition may name (`filter.where`): what is known of every image.

Blocks of rows are those of `tables.iter_index`, so columns of several tables fit together.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.scores import iter_scores, scorer_columns, stored_columns
from dinoforge.curation.tables import CurationInputs

__all__ = ["describe", "iter_columns", "known_columns"]

# Name in a condition -> column of the index, or of the facts.
_INDEX = {"key": "key", "source": "source", "bytes": "size", "class_name": "class_name"}
_FACTS = {name: name for name in ("width", "height", "std", "quality", "format")}
_ASPECT = "aspect"  # longer side / shorter side


def known_columns(config: CurationConfig) -> dict[str, pa.DataType]:
    """Return the type of every column; loads the scorers, whose columns these are."""
    known = {name: tables.INDEX_SCHEMA.field(column).type for name, column in _INDEX.items()}
    known |= {name: tables.FACTS_SCHEMA.field(column).type for name, column in _FACTS.items()}
    known |= dict.fromkeys(scorer_columns(config.scores), pa.float32())
    return known | {_ASPECT: pa.float64()}


def iter_columns(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of blocks of images of this run, by id; always as many blocks."""
    in_index = [name for name in names if name in _INDEX]
    in_facts = [name for name in names if name in _FACTS]
    sides = ["width", "height"] if _ASPECT in names else []
    for index, facts, scores in zip(
        tables.iter_index(inputs, [_INDEX[name] for name in in_index] or ["image_id"]),
        tables.iter_facts(inputs, list(dict.fromkeys(in_facts + sides)) or ["image_id"]),
        _iter_scores(inputs, names),
        strict=False,  # without scores, these never end
    ):
        columns = {name: index.column(_INDEX[name]) for name in in_index}
        columns |= {name: facts.column(name) for name in in_facts}
        columns |= {name: scores.column(name) for name in scores.column_names}
        if sides:
            width, height = (facts.column(side).to_numpy() for side in sides)
            short = np.maximum(np.minimum(width, height), 1)
            columns[_ASPECT] = pa.chunked_array([np.maximum(width, height) / short])
        yield pa.table({name: columns[name] for name in names})


def _iter_scores(inputs: CurationInputs, names: Sequence[str]) -> Iterator[pa.Table]:
    rest = set(names) - {*_INDEX, *_FACTS, _ASPECT}
    if not rest:
        return itertools.repeat(pa.table({}))
    columns = stored_columns(inputs)
    return iter_scores(inputs, {name: columns[name] for name in names if name in columns})


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
        # 5 digits: those of float32 that a person compares with a threshold.
        texts = [None if x is None or math.isnan(x) else f"{x:.5g}" for x in values.to_pylist()]
        values = pa.array(texts, pa.string())
    return values.cast(pa.string())
