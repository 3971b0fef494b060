"""What was measured of images beyond the facts, for the ledger and the exported samples."""

import itertools
import json
from collections.abc import Iterator

import pyarrow as pa

from dinoforge.curation.stored.scores import iter_scores, stored_columns
from dinoforge.curation.tables import CurationInputs

__all__ = ["as_json", "extra_fields", "iter_extras"]


def extra_fields(inputs: CurationInputs) -> list[pa.Field]:
    """Return the columns of `iter_extras`: ``scores.NAME``."""
    return [pa.field(f"scores.{name}", pa.float32()) for name in stored_columns(inputs)]


def iter_extras(inputs: CurationInputs) -> Iterator[pa.Table]:
    """Yield these columns of blocks of images of this run, by id; without any, never ends."""
    columns = stored_columns(inputs)
    if not columns:
        yield from itertools.repeat(pa.table({}))
    named = {f"scores.{name}": where for name, where in columns.items()}
    yield from iter_scores(inputs, named)


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
