"""What a curation leaves for others to read: the words, columns and places of its results.

The contract of `curation`, which writes, with the evaluation, sources and the command line, which
read. Null in the ledger means: there is nothing to say.
"""

from pathlib import Path

import pyarrow as pa

__all__ = [
    "KEPT_REASONS",
    "LEDGER_SCHEMA",
    "MADE_BY_RUN",
    "REASONS",
    "ROLES",
    "content_file",
    "ledger_path",
    "pairs_files",
    "resolve_shard",
    "shards_folder",
    "slots_file",
    "summary_path",
]

# Order of preference among like images: the smaller number stays.
ROLES = ("as_is", "seed", "pool", "reference")

# Reasons with which an image is kept; a `seed` may be dropped, too: it only asked.
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
        ("duplicate_of", pa.int64()),  # the image that stays in its place, or the reference
        ("similarity", pa.float32()),  # of the pair (edge_i, edge_j)
        ("edge_i", pa.int64()),
        ("edge_j", pa.int64()),
        ("component", pa.int64()),  # smallest image id of its group of duplicates
        ("seed_id", pa.int64()),  # the seed that asked for it with the best score
        ("rank", pa.int64()),  # 0: nearest to that seed
        ("score", pa.float32()),
        ("copies", pa.int32()),  # files in the shards; more than 1 only under policy multiset
        ("planted_from", pa.int64()),
        ("edit", pa.string()),
        ("sha256", pa.string()),
        ("label", pa.int32()),
        ("out_shard", pa.string()),
        ("out_key", pa.string()),
    ]
)

# How the paths of what the run itself unpacked or planted begin; those of sources never do.
MADE_BY_RUN = "curation/"


def ledger_path(run_folder: Path) -> Path:
    """Return where the ledger of a run lies."""
    return run_folder / "curation" / "80-export" / "ledger.parquet"


def summary_path(run_folder: Path) -> Path:
    """Return where the summary of a run lies; a run without one is not finished."""
    return run_folder / "curation" / "summary.json"


def shards_folder(run_folder: Path) -> Path:
    """Return where the shards of a run lie."""
    return run_folder / "shards"


def content_file(run_folder: Path) -> Path:
    """Return where the content of every image lies: the smallest image id of the same pixels."""
    return run_folder / "curation" / "35-exact" / "part-00000.content.npy"


def pairs_files(run_folder: Path) -> list[Path]:
    """Tables of all pairs above the floor (columns i, j, similarity), in order."""
    return sorted((run_folder / "curation" / "40-graph").glob("part-*.pairs.parquet"))


def slots_file(run_folder: Path) -> Path:
    """Return where the candidates of every seed lie; not there when no seeds were asked."""
    return run_folder / "curation" / "70-retrieve" / "part-00000.slots.parquet"


def resolve_shard(run_folder: Path, shard: str) -> str:
    r"""Path of a shard of index or ledger, to be read with `dinoforge.shards.RangeReader`.

    Relative to the run folder for what the run itself made, else as the recipe gave it. Not by
    what lies in the run folder: it has ``shards/pool-000000.tar``, and so may a source.
    """
    return str(run_folder / shard) if shard.startswith(MADE_BY_RUN) else shard
