"""Markers: the proof that one partition is done, and from what.

Written last (outputs are fsynced and in place before), so a marker whose fingerprint matches
and whose files exist with their sizes is the truth. Only ``measured`` may differ between
identical runs.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinoforge.files import write_json
from dinoforge.stages.stage import part_name

__all__ = ["Marker", "discard", "is_done", "marker_path", "read_marker", "write_marker"]


@dataclass(frozen=True)
class Marker:
    """One partition that is done."""

    stage: str
    version: str
    partition: int
    fingerprint: str
    outputs: list[dict[str, Any]]  # path (relative to the run), bytes, sha256, rows
    facts: dict[str, Any]
    measured: dict[str, Any] = field(default_factory=dict)


def marker_path(folder: Path, index: int) -> Path:
    """Path of the marker of partition ``index`` in a stage folder."""
    return folder / f"{part_name(index)}.done"


def write_marker(folder: Path, marker: Marker) -> None:
    """Put the marker in place, atomically."""
    write_json(marker_path(folder, marker.partition), asdict(marker))


def read_marker(path: Path) -> Marker | None:
    """Read a marker; None when it is missing or damaged (then its work is to be done)."""
    try:
        return Marker(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_done(marker: Marker | None, fingerprint: str, run_folder: Path) -> bool:
    """Return whether the marker proves this very work done: fingerprint and file sizes match."""
    if marker is None or marker.fingerprint != fingerprint:
        return False
    try:
        sizes = [(run_folder / output["path"]).stat().st_size for output in marker.outputs]
    except OSError:
        return False
    return sizes == [output["bytes"] for output in marker.outputs]


def discard(folder: Path, marker_file: Path, run_folder: Path) -> None:
    """Remove a stale partition: its outputs first, its marker last."""
    marker = read_marker(marker_file)
    for output in marker.outputs if marker is not None else []:
        (run_folder / output["path"]).unlink(missing_ok=True)
    marker_file.unlink(missing_ok=True)
    for rest in folder.glob(f"{marker_file.stem}.*"):
        rest.unlink(missing_ok=True)
