"""What a curation publishes: the reasons, columns and paths of its results.

The contract between `curation`, which writes them, and whoever reads them: evaluation, sources, the
command line. Null in the ledger means: does not apply.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from dinoforge.errors import UsageError, damaged
from dinoforge.files import path_of_text, path_text, read_regular
from dinoforge.runs import read_recipe, working_folders

__all__ = [
    "KEPT_REASONS",
    "LEDGER_SCHEMA",
    "MADE_BY_RUN",
    "PUBLISHED",
    "REASONS",
    "ROLES",
    "UPLOADED",
    "PublishedPart",
    "clusters_path",
    "content_path",
    "find_base",
    "generation_folders",
    "ledger_path",
    "pairs_files",
    "pairs_folder",
    "parts_path",
    "quality_page",
    "read_parts",
    "resolve_shard",
    "shards_folder",
    "shards_path",
    "slots_path",
    "summary_path",
    "verified_files",
    "verified_folder",
]

# In order of preference: of several duplicates the one with the first role is kept.
ROLES = ("as_is", "seed", "pool", "reference")

# Reasons of kept images. A seed may be dropped as `seed`, too: used for retrieval, not exported.
KEPT_REASONS = ("seed", "as_is", "retrieved", "kept")

# Every reason of the ledger, in the order of the funnel.
REASONS = (
    "undecodable",
    "too_small",
    "bad_aspect",
    "flat",
    "reference",
    "exact_duplicate",
    "near_duplicate",
    "leak",
    "not_retrieved",
    *KEPT_REASONS,
    # Decided last, whatever the other rules are. At the end: stored tables count reasons.
    "taken_down",
    "not_balanced",
    "excluded",
    # Not what `filter.where` asks for, or a value that it needs is missing.
    "filtered_out",
    "missing_value",
)

LEDGER_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("role", pa.string()),
        ("shard", pa.string()),  # file or tar; see `resolve_shard`
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("decision", pa.string()),  # kept | dropped
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("duplicate_of", pa.int64()),  # the image kept in its place, or the reference
        # Of the pair (edge_i, edge_j): the cosine, or if the pictures were compared on their pixels
        # the correlation of their finest details and in how many places they agree.
        ("similarity", pa.float32()),
        ("places", pa.int32()),
        ("edge_i", pa.int64()),
        ("edge_j", pa.int64()),
        ("component", pa.int64()),  # smallest image id of its group of duplicates
        ("seed_id", pa.int64()),  # the seed that retrieved it with the best score
        ("rank", pa.int64()),  # 0: nearest to that seed
        ("score", pa.float32()),
        ("rule", pa.string()),  # name of the first rule that retrieved or excluded it
        ("cluster", pa.int32()),  # of the first level, if the pool is balanced
        ("copies", pa.int32()),  # files in the shards; more than 1 only under policy multiset
        ("planted_from", pa.int64()),
        ("edit", pa.string()),
        ("sha256", pa.string()),
        ("label", pa.int64()),  # number of its class in the shards; -1: none
        ("class_space", pa.string()),  # where its class comes from: names, numbers, list:HASH; ""
        ("out_shard", pa.string()),
        ("out_key", pa.string()),
        ("generation", pa.int32()),  # number of runs that its run adds to: 0 without a base
    ]
)

# How the paths of what the run itself unpacked or planted begin; those of sources never do.
MADE_BY_RUN = "curation/"

# Commits what was uploaded, the last object to be written: all others, with size and SHA-256.
UPLOADED = "published/uploaded.json"
PUBLISHED = "published"  # folder in a finished run; see `ledger_path` and the functions below it


def find_base(run_folder: Path, base: str) -> Path | None:
    """Return the folder of the run that ``base`` names in the recipe of a run; None if empty."""
    if not base:
        return None
    here = Path.cwd()
    starts = (Path() if folder == here else folder for folder in working_folders(run_folder))
    return next((start / base for start in starts if (start / base).is_dir()), Path(base))


def generation_folders(run_folder: Path) -> list[Path]:
    """Return the run folders that a curation adds to, the oldest first, and its own."""
    base = find_base(run_folder, read_recipe(run_folder).get("base", ""))
    return [*(generation_folders(base) if base else ()), run_folder]


def ledger_path(run_folder: Path) -> Path:
    """Return the path of the ledger: one row per image, columns of `LEDGER_SCHEMA`."""
    return run_folder / PUBLISHED / "ledger.parquet"


def summary_path(run_folder: Path) -> Path:
    """Return the path of the summary; a run without one is not finished."""
    return run_folder / PUBLISHED / "summary.json"


def quality_page(run_folder: Path) -> Path:
    """Return the path of the page of issues and scores; a run without scores has none."""
    return run_folder / "quality.html"


def shards_path(run_folder: Path) -> Path:
    """Return the path of the list of shards: JSON, their names in the run and image counts."""
    return run_folder / PUBLISHED / "shards.json"


def parts_path(run_folder: Path) -> Path:
    """Return the path of the parts: JSON, name, weight, images and shards; if there are any."""
    return run_folder / PUBLISHED / "parts.json"


class PublishedPart(NamedTuple):
    """A part of the shards: what one rule retrieved, with its seeds, or another source."""

    name: str
    weight: float  # in training, relative to the other parts
    images: int
    shards: str  # pattern of their paths


def read_parts(run_folder: Path) -> list[PublishedPart]:
    """Read the parts of a finished curation.

    Raises
    ------
    UsageError
        If this is none, or it was exported without parts.
    """
    try:
        rows = json.loads(read_regular(parts_path(run_folder)))
        return [
            PublishedPart(
                str(row["name"]),
                float(row["weight"]),
                int(row["images"]),
                f"{path_text(run_folder)}/{row['shards']}",
            )
            for row in rows
        ]
    except FileNotFoundError as error:
        what, do = "no finished curation", "give the folder that `dinoforge curate` wrote"
        if summary_path(run_folder).exists():
            what = "the curation was exported without parts"
            do = "curate with export.parts=true --update, or train on all of it: data.paths"
        raise UsageError(what=what, where=str(run_folder), do=do) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(parts_path(run_folder), error) from error


def content_path(run_folder: Path) -> Path:
    """Return the path of the contents: by image id, the smallest id with the same pixels."""
    return run_folder / PUBLISHED / "content.npy"


def clusters_path(run_folder: Path) -> Path:
    """Return the path of the clusters that balance the pool: their images, before and after."""
    return run_folder / PUBLISHED / "clusters.parquet"


def pairs_folder(run_folder: Path) -> Path:
    """Return the folder of the tables of all pairs of contents above the floor.

    Columns i, j, similarity; file names sort in the order of the pairs.
    """
    return run_folder / PUBLISHED / "pairs"


def pairs_files(run_folder: Path) -> list[Path]:
    """Return the files of `pairs_folder`, in order."""
    return sorted(pairs_folder(run_folder).glob("*.parquet"))


def verified_folder(run_folder: Path) -> Path:
    """Return the folder of the tables of all pairs that were compared on their pixels, if any.

    Columns i, j, similarity (the cosine), and what was measured: `tables.VERIFIED_SCHEMA` of the
    curation.
    """
    return run_folder / PUBLISHED / "verified"


def verified_files(run_folder: Path) -> list[Path]:
    """Return the files of `verified_folder`, in order."""
    return sorted(verified_folder(run_folder).glob("*.parquet"))


def slots_path(run_folder: Path) -> Path:
    """Return the path of the candidates of every seed; missing if the recipe uses no seeds."""
    return run_folder / PUBLISHED / "slots.parquet"


def shards_folder(run_folder: Path) -> Path:
    """Return the folder of the exported shards."""
    return run_folder / "shards"


def resolve_shard(run_folder: Path, shard: str, folders: Sequence[Path] = ()) -> str:
    """Path of a shard of the index or the ledger, for `dinoforge.shards.RangeReader`.

    Relative to the run folder for what the run itself made, else as the recipe gave it. What lies
    in the run folder cannot decide: it has ``shards/pool-000000.tar``, and so may a source.
    A relative path starts in the first of ``folders`` that has such a file; without them, or if
    none has, in that of this process.
    """
    if shard.startswith(MADE_BY_RUN):
        return f"{path_text(run_folder)}/{shard}"
    places = (folder / path_of_text(shard) for folder in folders)
    return next((path_text(place) for place in places if place.exists()), shard)
