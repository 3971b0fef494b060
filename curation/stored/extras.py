"""What was measured of images beyond the facts, for the ledger and the exported samples."""

import itertools
import json
from collections.abc import Iterator

import pyarrow as pa

from dinoforge.curation.stored.scores import iter_scores, stored_columns
from dinoforge.curation.stored.side import iter_side, side_schema
from dinoforge.curation.tables import CurationInputs

__all__ = ["as_json", "extra_fields", "iter_extras"]


def extra_fields(inputs: CurationInputs) -> list[pa.Field]:
    """Return the columns of `iter_extras`: ``scores.NAME`` and ``side.NAME``."""
    scores = [pa.field(f"scores.{name}", pa.float32()) for name in stored_columns(inputs)]
    side = [pa.field(f"side.{name}", kind) for name, kind in side_schema(inputs).items()]
    return scores + side


def iter_extras(inputs: CurationInputs) -> Iterator[pa.Table]:
    """Yield these columns of blocks of images of this run, by id; without any, never ends."""
    columns, side = stored_columns(inputs), list(side_schema(inputs))
    named = {f"scores.{name}": where for name, where in columns.items()}
    none = itertools.repeat(pa.table({}))
    for block, beside in zip(
        iter_scores(inputs, named) if named else none,
        iter_side(inputs, side) if side else none,
        strict=False,
    ):
        names = [*block.column_names, *(f"side.{name}" for name in side)]
        yield pa.table([*block.columns, *beside.columns], names=names)


def as_json(extras: pa.Table) -> list[str | None]:
    """Return every row as a JSON object of what it has: ``{"scores": {"nsfw": 0.1}}``."""
    texts = []
    for row in extras.to_pylist():
        groups: dict[str, dict[str, object]] = {}
        for name, value in row.items():
            group, _, column = name.partition(".")
            if value is not None:
                groups.setdefault(group, {})[column] = value
        texts.append(json.dumps(groups, sort_keys=True, ensure_ascii=False) if groups else None)
    return texts
