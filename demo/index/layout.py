"""Where the files of an index are in its folder."""

from pathlib import Path

__all__ = ["NAME", "card_file"]

NAME = "index"  # of the pipeline


def card_file(folder: Path) -> Path:
    """Return the path of the card; an index without one is not finished."""
    return folder / "index.json"
