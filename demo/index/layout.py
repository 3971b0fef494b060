"""Where the files of an index are in its folder."""

from pathlib import Path

__all__ = ["FORMAT", "NAME", "card_file"]

NAME = "index"  # of the pipeline
FORMAT = 1  # of the card; raised when readers need what older cards do not have


def card_file(folder: Path) -> Path:
    """Return the path of the card; an index without one is not finished."""
    return folder / "index.json"
