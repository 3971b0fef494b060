"""One page about the quality of the images of a run: issues, histograms, the worst of each."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dinoforge.curated import quality_page
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.quality.issues import ISSUES, MEASURED, filter_limits
from dinoforge.curation.quality.measures import IssueCounts, Quality, ScoreCounts, measure_quality
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.stored.generations import first_id
from dinoforge.curation.summary import CurationSummary
from dinoforge.curation.tables import CurationInputs
from dinoforge.files import write_text
from dinoforge.images import Undecodable, decode
from dinoforge.pages.formatting import significant
from dinoforge.pages.histograms import Histogram, histogram
from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import Thumbnail, thumbnail
from dinoforge.scorers.make import scorer_of
from dinoforge.scorers.measures import MEASURES
from dinoforge.tables import take_rows

__all__ = ["write_page"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_LOG = ("side", "scale", "bytes")  # measures that are powers of 2
_DUPLICATES = ("exact_duplicate", "near_duplicate")


def write_page(inputs: CurationInputs, summary: CurationSummary) -> None:
    """Write the page of a finished run."""
    quality = measure_quality(inputs)
    limits = _limits(inputs.config)
    pictures = _read_pictures(inputs, quality)
    counts = [(reason, _dropped_for(summary, reason)) for reason in _DUPLICATES]
    text = render(
        "quality.html",
        folder=_TEMPLATES,
        title="Image quality",
        images=quality.images,
        undecodable=sum(summary.undecodable.values()),
        sources=quality.sources.most_common(),
        issues=quality.issues,
        duplicates=counts,
        has_pixels=quality.has_pixels,
        where=inputs.config.filter.where,
        limit_of=_limit_of,
        histograms=[
            _draw(name, counts, limits.get(name, [])) for name, counts in quality.scores.items()
        ],
        sheets=[(one, _sheets(one, pictures)) for one in quality.issues if one.images],
    )
    write_text(quality_page(inputs.run_folder), text)


def _limits(config: CurationConfig) -> dict[str, list[tuple[str, float]]]:
    """Return the limits of the filter by measure, also of scores of pixels with other names."""
    limits = filter_limits(config.filter)
    for score in config.scores:
        _, measure = scorer_of(score.scorer)
        if measure and score.name != measure:
            limits[measure] = [*limits.get(measure, []), *limits.get(score.name, [])]
    return limits


def _dropped_for(summary: CurationSummary, reason: str) -> int:
    return sum(by_reason.get(reason, 0) for by_reason in summary.roles.values())


def _limit_of(one: IssueCounts) -> str:
    """Write the limit of an issue: ``blur above 1.5``."""
    issue = one.issue
    if issue.measure == "odd":
        return issue.what
    return f"{issue.measure} {'above' if issue.is_above else 'below'} {significant(issue.limit)}"


def _draw(name: str, counts: ScoreCounts, limits: list[tuple[str, float]]) -> Markup:
    if name == "side":
        limits = [(text, math.log2(value)) for text, value in limits if value > 0]
    if name == "bytes":
        known = [(text, value / 1024) for text, value in limits if value > 0]
        limits = [(f"{text.split()[0]} {significant(kib)}", math.log2(kib)) for text, kib in known]
    marks = [(f"keep {text}", value) for text, value in limits]
    marks += [
        (issue.name.replace("_", " "), issue.limit) for issue in ISSUES if issue.measure == name
    ]
    missing = f"; {counts.missing:,} without" if counts.missing else ""
    return histogram(
        Histogram(
            title=name,
            unit=f"{MEASURED.get(name) or MEASURES.get(name) or 'score of the recipe'}{missing}",
            low=counts.low,
            high=counts.high,
            counts=counts.counts.tolist(),
            marked=counts.dropped.tolist(),
            limits=marks,
            is_log=name in _LOG,
        )
    )


@dataclass(frozen=True)
class _Shown:
    """One image; without a picture if it no longer decodes."""

    key: str
    value: str
    picture: Thumbnail | None


def _read_pictures(inputs: CurationInputs, quality: Quality) -> Mapping[int, tuple[str, Any]]:
    """Decode the worst images of every issue: id -> key and picture."""
    ids = sorted(
        {at for one in quality.issues for worst in one.worst.values() for _, at, _ in worst}
    )
    if not ids:
        return {}
    rows = np.array(ids, np.int64) - first_id(inputs)
    places = take_rows(tables.iter_index(inputs, ["key", "shard", "offset", "size"]), rows)
    pictures: dict[int, tuple[str, Any]] = {}
    contents = ImageReader(inputs.run_folder).read_each(places)
    for at, key, data in zip(ids, places.column("key").to_pylist(), contents, strict=True):
        picture = None
        with contextlib.suppress(Undecodable):
            picture = thumbnail(decode(data or b"", inputs.config.decode))
        pictures[at] = (key, picture)
    return pictures


def _sheets(
    one: IssueCounts, pictures: Mapping[int, tuple[str, Any]]
) -> list[tuple[str, int, list[_Shown]]]:
    """Return the worst images of an issue by source, with how many that source has."""
    sheets = []
    for source in sorted(one.worst, key=lambda name: (-one.by_source[name], name)):
        shown = []
        for _, at, value in one.worst[source]:
            key, picture = pictures[at]
            shown.append(_Shown(key, _value_of(one, value), picture))
        sheets.append((source, one.by_source[source], shown))
    return sheets


def _value_of(one: IssueCounts, value: float) -> str:
    if one.issue.measure == "odd":
        return f"factor {significant(2**value)}"
    return f"{one.issue.measure} {significant(value)}"
