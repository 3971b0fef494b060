"""What was measured of all images, read in blocks: counts, and the worst of every issue."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curated import REASONS
from dinoforge.curation import tables
from dinoforge.curation.quality.issues import ISSUES, MEASURED, Issue
from dinoforge.curation.stored.generations import first_id
from dinoforge.curation.stored.scores import iter_scores, scored_by, stored_columns
from dinoforge.curation.tables import CurationInputs
from dinoforge.scorers.make import PIXELS
from dinoforge.scorers.measures import MEASURES
from dinoforge.tables import iter_blocks

__all__ = ["BINS", "IssueCounts", "Quality", "ScoreCounts", "measure_quality"]

BINS = 40
WORST = 8  # images shown per issue and source
_SOURCES = 8  # of which the worst are shown: the largest
_BY_FILTER = tuple(
    REASONS.index(r) for r in ("too_small", "bad_aspect", "flat", "filtered_out", "missing_value")
)
# Ranges of histograms; of other scores that of their values.
_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("brightness", "dark", "light", "color", "text"), (0.0, 1.0)),
    **{"blur": (0.5, 3.5), "entropy": (0.0, 8.0), "aspect": (1.0, 5.0), "std": (0.0, 128.0)},
    **{"quality": (0.0, 100.0), "scale": (-6.0, 6.0)},
}
_Values = dict[str, NDArray[np.float64]]


@dataclass
class IssueCounts:
    """The images of one issue."""

    issue: Issue
    images: int = 0
    dropped: int = 0  # of these, by the filter
    by_source: Counter[str] = field(default_factory=Counter)
    # source -> negative badness, id and value of the worst, the worst first
    worst: dict[str, list[tuple[float, int, float]]] = field(default_factory=dict)


@dataclass
class ScoreCounts:
    """How often each range of values occurs; ``dropped``: of images that the filter drops."""

    low: float
    high: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    dropped: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    missing: int = 0

    def add(self, values: NDArray[np.float64], is_dropped: NDArray[np.bool_]) -> None:
        """Count values; the outer ranges hold what is beyond."""
        is_known = np.isfinite(values)
        self.missing += int((~is_known).sum())
        at = (values[is_known] - self.low) / (self.high - self.low) * BINS
        places = np.clip(at, 0, BINS - 1).astype(np.int64)
        self.counts += np.bincount(places, minlength=BINS)
        self.dropped += np.bincount(places[is_dropped[is_known]], minlength=BINS)


@dataclass
class Quality:
    """What a page shows of a run."""

    images: int  # that decode
    sources: Counter[str]
    issues: list[IssueCounts]
    scores: dict[str, ScoreCounts]
    has_pixels: bool  # a score of pixels was measured


def measure_quality(inputs: CurationInputs) -> Quality:
    """Count issues and values in two passes over the tables of a finished run."""
    columns = _columns(inputs)
    ranges, median, sources = _find_ranges(inputs, columns)
    kinds = [one for one in ISSUES if one.measure in columns or one.measure in (*MEASURED, "odd")]
    quality = Quality(
        images=0,
        sources=sources,
        issues=[IssueCounts(issue) for issue in kinds],
        scores={name: ScoreCounts(*limits) for name, limits in ranges.items()},
        has_pixels="dark" in columns,
    )
    shown = {name for name, _ in sources.most_common(_SOURCES)}
    first = first_id(inputs)
    screened = iter_blocks(inputs.files("filter", "screened.parquet"), ["reason"])
    for (values, source), block in zip(_iter_values(inputs, columns), screened, strict=True):
        values["scale"] = values["scale"] - median
        values["odd"] = np.abs(values["scale"])
        is_dropped = np.isin(block.column("reason").to_numpy(), _BY_FILTER)
        quality.images += int(np.isfinite(values["aspect"]).sum())
        for name, counts in quality.scores.items():
            counts.add(values[name], is_dropped & np.isfinite(values["aspect"]))
        for one in quality.issues:
            _count(one, values[one.issue.measure], source, is_dropped, first, shown)
        first += len(source)
    return quality


def _columns(inputs: CurationInputs) -> dict[str, tuple[str, str]]:
    """Return the scores that were measured: all of pixels, if one of them was asked for."""
    own = stored_columns(inputs)
    if PIXELS not in scored_by(inputs.config.scores):
        return own
    pixels = {name: (PIXELS, name) for name in MEASURES}
    return pixels | {name: at for name, at in own.items() if at[0] != PIXELS}


def _iter_values(
    inputs: CurationInputs, columns: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[_Values, pa.Array]]:
    """Yield what is known of blocks of images, NaN where an image does not decode."""
    facts = tables.iter_facts(inputs, ["width", "height", "std", "quality"])
    index = tables.iter_index(inputs, ["source", "size"])
    scores = iter_scores(inputs, columns) if columns else itertools.repeat(pa.table({}))
    for fact, row, score in zip(facts, index, scores, strict=False):
        width, height, std, quality = (
            column.to_numpy().astype(np.float64) for column in fact.columns
        )
        decodes = width > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            known = {
                "aspect": np.maximum(width, height) / np.minimum(width, height),
                "side": np.log2(np.minimum(width, height)),
                "scale": np.log2(width * height) / 2,
                "std": std,
                "quality": np.where(np.isfinite(quality), quality, np.nan),
                "bytes": np.log2(row.column("size").to_numpy() / 1024),
            }
        values = {name: np.where(decodes, value, np.nan) for name, value in known.items()}
        for name in score.column_names:
            values[name] = score.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
        yield values, row.column("source").combine_chunks()


def _find_ranges(
    inputs: CurationInputs, columns: Mapping[str, tuple[str, str]]
) -> tuple[dict[str, tuple[float, float]], float, Counter[str]]:
    """Find the range of every histogram, the median of the scale, and the images by source."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    scales, sources = np.zeros(64 * 64, np.int64), Counter[str]()
    for values, source in _iter_values(inputs, columns):
        for pair in source.value_counts().to_pylist():
            sources[pair["values"]] += pair["counts"]
        for name, value in values.items():
            finite = value[np.isfinite(value)]
            if len(finite):
                low[name] = min(low.get(name, np.inf), float(finite.min()))
                high[name] = max(high.get(name, -np.inf), float(finite.max()))
        scale = values["scale"][np.isfinite(values["scale"])]
        scales += np.bincount((scale * 64).astype(np.int64), minlength=len(scales))[: len(scales)]
    median = int(np.searchsorted(np.cumsum(scales), scales.sum() / 2)) / 64
    ranges = {
        # Not empty, of a constant.
        name: _RANGES.get(name, (least, max(high[name], least + 1e-6)))
        for name, least in low.items()
    }
    return ranges, median, sources


def _count(
    counts: IssueCounts,
    values: NDArray[np.float64],
    source: pa.Array,
    is_dropped: NDArray[np.bool_],
    first: int,
    shown: set[str],
) -> None:
    """Add the images of a block that have an issue."""
    rows = np.flatnonzero(counts.issue.has(values))
    counts.images += len(rows)
    counts.dropped += int(is_dropped[rows].sum())
    names = source.take(pa.array(rows)).to_pylist()
    counts.by_source.update(names)
    badness = counts.issue.badness(values[rows])
    for name in shown.intersection(names):
        own = np.flatnonzero(np.array([one == name for one in names]))
        worst = own[np.lexsort((rows[own], -badness[own]))[:WORST]]
        ranks, ids = (-badness[worst]).tolist(), (first + rows[worst]).tolist()
        new = zip(ranks, ids, values[rows[worst]].tolist(), strict=True)
        counts.worst[name] = sorted([*counts.worst.get(name, []), *new])[:WORST]
