"""Scores as they are stored: one table per scorer and range of images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from dinoforge.curation.config import ScoreConfig
from dinoforge.curation.tables import CurationInputs
from dinoforge.scorers.make import make_scorer, scorer_of
from dinoforge.scorers.scorer import Scorer
from dinoforge.tables import iter_blocks, open_table

__all__ = ["iter_scores", "scored_by", "scorer_columns", "scores_schema", "stored_columns"]

_ONLY = "score"  # name of a column that has none


def scored_by(scores: Sequence[ScoreConfig]) -> list[str]:
    """Return the scorers of a recipe, each once; one measures all that pixels show."""
    return list(dict.fromkeys(scorer_of(score.scorer)[0] for score in scores))


def scores_schema(scorer: Scorer) -> pa.Schema:
    """Return the columns of the tables of a scorer."""
    return pa.schema([(name or _ONLY, pa.float32()) for name in scorer.columns])


def scorer_columns(scores: Sequence[ScoreConfig]) -> list[str]:
    """Return every column that conditions may name; loads the scorers."""
    return list(_columns(scores, lambda spec: scores_schema(make_scorer(spec)).names))


def stored_columns(inputs: CurationInputs) -> dict[str, tuple[str, str]]:
    """Return the same columns of a run, with the scorer and its column: from the tables alone."""
    files = _files_by_scorer(inputs)

    def names_of(spec: str) -> list[str]:
        with open_table(files[spec][0]) as table:
            return table.schema_arrow.names

    return _columns(inputs.config.scores, names_of)


def _columns(
    scores: Sequence[ScoreConfig], names_of: Callable[[str], Sequence[str]]
) -> dict[str, tuple[str, str]]:
    columns: dict[str, tuple[str, str]] = {}
    for score in scores:
        spec, column = scorer_of(score.scorer)
        for name in [column] if column else names_of(spec):
            of_several = "" if column or name == _ONLY else f"_{name}"
            columns[f"{score.name}{of_several}"] = spec, name
    return columns


def iter_scores(
    inputs: CurationInputs, columns: Mapping[str, tuple[str, str]]
) -> Iterator[pa.Table]:
    """Yield some `stored_columns` of blocks of images of this run; nothing without any."""
    files = _files_by_scorer(inputs)
    parts = [iter_blocks(files[spec], [column]) for spec, column in columns.values()]
    for blocks in zip(*parts, strict=True):
        yield pa.table([block.column(0) for block in blocks], names=list(columns))


def _files_by_scorer(inputs: CurationInputs) -> dict[str, list[Path]]:
    specs, paths = scored_by(inputs.config.scores), inputs.files("score", "scores.parquet")
    size = len(paths) // max(len(specs), 1)
    return {spec: paths[n * size : (n + 1) * size] for n, spec in enumerate(specs)}
