"""Scores of every image, measured once: what a condition (`filter.where`) compares.

One table per scorer and range of images, row == position; null where an image has no score.
"""

import itertools

import numpy as np
import pyarrow as pa

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.decoding import decode_each
from dinoforge.curation.stored.scores import scored_by, scores_schema
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.scorers.make import make_scorer
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["ScoreStage", "check_scorers"]

_BATCH = 64  # images decoded at a time


class ScoreStage(CurationStage):
    """Measure what the recipe asks for (`scores`), a partition per scorer and range of images."""

    name = "score"
    number = 23
    keys = ("decode",)
    # A payload has what its partition measures: a scorer at the end leaves the others alone.
    grows = True
    execution_keys = ("scores", "partition_images", "base")
    needs = ("ingest", "plant", "inspect")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids per scorer."""
        ranges = tables.split_ids(inputs) if inputs.config.scores else []
        return [
            {"start": start, "stop": stop, "range": number, "scorer": spec, "version": version}
            for spec in scored_by(inputs.config.scores)
            for version in [make_scorer(spec).fingerprint]
            for number, (start, stop) in enumerate(ranges)
        ]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Score the images of one range."""
        start, stop = payload["start"], payload["stop"]
        scorer = make_scorer(payload["scorer"])
        facts = read_table(inputs.file("inspect", "facts.parquet", payload["range"]), ["width"])
        decodes = facts.column("width").to_numpy() > 0
        images = decode_each(
            inputs, tables.read_locations(inputs, start, stop).filter(pa.array(decodes))
        )
        scores = np.full((stop - start, len(scorer.columns)), np.nan, np.float32)
        rows = np.flatnonzero(decodes)
        for low in range(0, len(rows), _BATCH):
            batch = list(itertools.islice(images, _BATCH))
            scores[rows[low : low + _BATCH]] = scorer.score(batch)
        missing = np.isnan(scores)
        columns = [
            pa.array(values, mask=is_null)
            for values, is_null in zip(scores.T.copy(), missing.T, strict=True)
        ]
        out.write_table("scores", columns, scores_schema(scorer))
        return {"scored": len(rows), "without": int(missing[decodes].any(axis=1).sum())}


def check_scorers(config: CurationConfig) -> None:
    """Load the scorers of a recipe, so that a missing package or file is reported at once.

    Raises
    ------
    UsageError
        If a scorer, its package or its file is missing.
    """
    for spec in scored_by(config.scores):
        make_scorer(spec)
