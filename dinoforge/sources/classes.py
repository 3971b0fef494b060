"""Class names: of class folders, and of lists that lie beside tars."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["CLASS_LISTS", "ClassNames", "class_of_file"]

CLASS_LISTS = ("classes.txt", "classes.tsv")


def class_of_file(path: str, root: str) -> str:
    """Name the class of an image: the first folder below ``root``; "" right in it."""
    parts = Path(path).relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


class ClassNames:
    """Lists of class names beside tars: ``classes.txt`` (one a line) or ``classes.tsv``."""

    def __init__(self) -> None:
        self._known: dict[Path, list[str]] = {}

    def beside(self, tar: Path) -> Sequence[str]:
        """Names by label, for the tars of one folder; empty without a list."""
        folder = tar.parent
        if folder not in self._known:
            self._known[folder] = _from_txt(folder) or _from_tsv(folder)
        return self._known[folder]


def _from_txt(folder: Path) -> list[str]:
    return [line.strip() for line in _lines(folder / "classes.txt") if line.strip()]


def _from_tsv(folder: Path) -> list[str]:
    """Rows ``label <tab> ... <tab> name``; anything else is not such a list."""
    names: list[str] = []
    for line in _lines(folder / "classes.tsv"):
        cells = line.split("\t")
        if len(cells) < 2 or cells[0] != str(len(names)):
            return []
        names.append(cells[-1].strip())
    return names


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
