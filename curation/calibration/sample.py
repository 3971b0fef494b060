"""Which pairs a person is shown: as many from every bin of similarity, in a mixed order.

Pairs of planted copies are left out: their truth is known, and nature makes other copies.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.config import config_of
from dinoforge.curated import ledger_path, pairs_files, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.errors import UsageError, damaged
from dinoforge.files import hash_json, write_json
from dinoforge.randomness import KeyedPermutation
from dinoforge.runs import read_recipe
from dinoforge.stages import read_markers
from dinoforge.tables import read_table, read_tables

__all__ = ["Bin", "Measured", "Sample", "SampledPair", "draw_sample", "read_measured"]


@dataclass(frozen=True)
class Measured:
    """What the similarities of a run were measured with."""

    spec: str  # `duplicates.encoder`
    encoder: str  # fingerprint of weights, transform and decoder
    decode: dict[str, Any]  # the recipe's policy
    pairs: str  # hash of everything that determines the stored pairs
    floor: float
    threshold: float
    background: str = ""  # of `duplicates`
    background_weight: float = 1.0


@dataclass(frozen=True)
class Bin:
    """Pairs with a similarity above ``low`` and at most ``high``."""

    low: float
    high: float
    pairs: int  # stored in the run


@dataclass(frozen=True)
class SampledPair:
    """Two images by id, and the number of their bin."""

    i: int
    j: int
    similarity: float
    bin: int


@dataclass(frozen=True)
class Sample:
    """Bins from low to high, and pairs in the order in which they are shown."""

    measured: Measured
    bins: list[Bin]
    pairs: list[SampledPair]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Sample":
        """Read what `write` wrote.

        Raises
        ------
        UsageError
            If the file is damaged.
        """
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                Measured(**known["measured"]),
                [Bin(**one) for one in known["bins"]],
                [SampledPair(**one) for one in known["pairs"]],
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise damaged(path, error) from error


def read_measured(run_folder: Path) -> Measured:
    """Read the encoder, the decoder and the pairs of a finished curation.

    Raises
    ------
    UsageError
        If the folder holds none.
    """
    recipe = read_recipe(run_folder)
    embed = read_markers(run_folder, "curation", 30, "embed")
    graph = read_markers(run_folder, "curation", 40, "graph")
    if not (recipe and embed and summary_path(run_folder).is_file()):
        do = "run `dinoforge curate` to its end, or name its run folder"
        raise UsageError(what="not a finished curation run", where=str(run_folder), do=do)
    config = config_of(CurationConfig, recipe)
    if config.base:
        what = f"the run adds to {config.base}, whose pairs it does not have"
        raise UsageError(what=what, where=str(run_folder), do="calibrate that run")
    return Measured(
        spec=config.duplicates.encoder,
        encoder=embed[0].facts["encoder"],
        decode=recipe["decode"],
        pairs=hash_json([marker.fingerprint for marker in graph]),
        floor=config.duplicates.floor,
        threshold=config.duplicates.threshold,
        background=config.duplicates.background,
        background_weight=config.duplicates.background_weight,
    )


def draw_sample(run_folder: Path, *, bins: int, per_bin: int, seed: int = 0) -> Sample:
    """Draw pairs of a finished curation; the same seed gives the same pairs.

    Raises
    ------
    UsageError
        If the folder holds no finished curation, or no pair is stored.
    """
    measured = read_measured(run_folder)
    planted = read_table(ledger_path(run_folder), ["planted_from"]).column(0)
    is_natural = ~planted.is_valid().to_numpy()
    pairs = read_tables(pairs_files(run_folder), ["i", "j", "similarity"])
    i, j, similarity = (column.to_numpy() for column in pairs.columns)
    natural = is_natural[i] & is_natural[j]
    i, j, similarity = i[natural], j[natural], similarity[natural].astype(np.float64)
    if not len(i):
        what = f"no pair above duplicates.floor ({measured.floor}) is stored"
        raise UsageError(what=what, where=str(run_folder), do="lower duplicates.floor")
    edges = np.round(np.linspace(measured.floor, 1.0, bins + 1), 4)
    edges[0] = measured.floor
    # Above an edge, as above a threshold; float32 products may exceed 1.
    number = np.clip(np.searchsorted(edges, similarity, side="left") - 1, 0, bins - 1)
    chosen = [_choose(np.flatnonzero(number == at), per_bin, seed, at) for at in range(bins)]
    return Sample(
        measured,
        [
            Bin(low, high, int(np.count_nonzero(number == at)))
            for at, (low, high) in enumerate(itertools.pairwise(edges.tolist()))
        ],
        [
            SampledPair(
                int(i[row]), int(j[row]), round(float(similarity[row]), 6), int(number[row])
            )
            for row in _mixed(chosen)
        ],
    )


def _choose(rows: NDArray[np.int64], per_bin: int, seed: int, at: int) -> list[int]:
    if not len(rows):
        return []
    order = KeyedPermutation(len(rows), seed, f"calibration {at}")
    return rows[order[np.arange(min(per_bin, len(rows)))]].tolist()


def _mixed(chosen: Sequence[list[int]]) -> list[int]:
    """Take a pair of every bin in turn, the most similar first: a person may stop at any time."""
    rounds = max(map(len, chosen))
    return [rows[at] for at in range(rounds) for rows in reversed(chosen) if at < len(rows)]
