"""What dinoforge itself wrote, recognized by content, so that no output is read back as input.

Run folders hold a ``run.json``, caches a ``CACHEDIR.TAG`` (https://bford.info/cachedir/) with our
comment, exported shards a checksum file beside each.
"""

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from dinoforge.errors import Fault, UsageError
from dinoforge.files import read_regular, write_text
from dinoforge.remote import is_url
from dinoforge.shards.sidecar import read_sidecar

__all__ = [
    "check_out",
    "command_of_run",
    "is_output_folder",
    "is_output_shard",
    "mark_cache",
    "output_above",
]

_TAG, _RUN = "CACHEDIR.TAG", "run.json"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Written by dinoforge: unpacked or derived images, made again when they are missing.
"""


def mark_cache(folder: Path) -> None:
    """Mark a folder of files that can be made again: it is no source, and needs no backup."""
    if not (folder / _TAG).exists():
        write_text(folder / _TAG, _TAG_TEXT)


def is_output_folder(folder: str, names: Collection[str] | None = None) -> bool:
    """Return whether dinoforge wrote a folder; ``names`` are those of its files, if known."""
    if (names is None or _TAG in names) and _text(folder, _TAG).startswith(_TAG_TEXT[:80]):
        return True
    return (names is None or _RUN in names) and bool(command_of_run(folder))


def command_of_run(folder: str) -> str:
    """Return the command that wrote a run folder; "" for any other folder."""
    try:
        facts = json.loads(_text(folder, _RUN))
    except ValueError:
        return ""
    versions = facts.get("versions") if isinstance(facts, dict) else None
    is_ours = isinstance(versions, dict) and "dinoforge" in versions
    return str(facts.get("command", "")) if is_ours else ""


def is_output_shard(tar: str) -> bool:
    """Return whether dinoforge exported a tar, or that which a link leads to."""
    return read_sidecar(os.path.realpath(tar)) is not None


def output_above(path: str, base: str) -> str | None:
    """Return the topmost folder that dinoforge wrote of those which lead from ``base`` to a path.

    Neither ``base`` nor what is above it counts: the user named it.
    """
    parts = Path(os.path.relpath(path or ".", base or ".")).parts
    folders = (os.path.join(base, *parts[: at + 1]) for at in range(len(parts)))  # noqa: PTH118
    return next((folder for folder in folders if is_output_folder(folder)), None)


def check_out(paths: Iterable[str], out: str, written: Collection[str] = ("cache",)) -> None:
    """Check that a run will not read what it writes: ``out``, and folders ``written`` in it.

    Other folders in ``out`` may be sources.

    Raises
    ------
    UsageError
        If a source is one of these folders, or inside one of the latter.
    """
    run = Path(os.path.realpath(out))
    faults = []
    for path in paths:
        if is_url(path):
            continue
        source = Path(os.path.realpath(path))
        parts = source.relative_to(run).parts if source.is_relative_to(run) else None
        if parts == ():
            what = "the run folder is also a source"
        elif parts is not None and parts[0] in written:
            what = f"the source `{path}` is part of the run folder"
        else:
            continue
        faults.append(Fault(what, out, "choose another folder with out=FOLDER"))
    if faults:
        raise UsageError(faults=faults)


def _text(folder: str, name: str) -> str:
    try:
        return read_regular(os.path.join(folder, name)).decode("utf-8", "replace")  # noqa: PTH118
    except OSError:
        return ""
