"""The runs that a curation adds to: its base, the base of that one, and so on.

Images are numbered through all of them, so an id names one image, whichever run has it. What an
earlier run measured and decided is read where it lies and never written. Where it lies changes no
result (`base` is an execution key); what it holds is part of the payload of `ingest`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.config import config_of
from dinoforge.curated import find_base, ledger_path, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.errors import UsageError, damaged
from dinoforge.files import hash_json
from dinoforge.runs import read_recipe
from dinoforge.stages import Inputs
from dinoforge.stages.task import read_marker

__all__ = [
    "Generation",
    "earlier_generations",
    "every_generation",
    "first_id",
    "generation_fingerprint",
    "of_every_generation",
    "open_generations",
]

# Stages that decide nothing for a later run: takedowns rewrite the export, and are read apart.
_UNREAD = ("55-check", "80-export")


class Generation(NamedTuple):
    """A finished run and the ids ``first .. stop - 1`` of its images."""

    run_folder: Path
    config: CurationConfig
    first: int
    stop: int


def open_generations(folder: Path) -> tuple[Generation, ...]:
    """Read the generations up to a finished run, the oldest first.

    Raises
    ------
    UsageError
        If one of them is not finished.
    """
    summary = summary_path(folder)
    if not (ledger_path(folder).is_file() and summary.is_file()):
        raise UsageError(
            what="the base is not a finished curation run",
            where=str(folder),
            do="run `dinoforge curate` to its end, or name its run folder in `base`",
        )
    # A run that changes is published again.
    return _open(folder, summary.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _open(folder: Path, _: int) -> tuple[Generation, ...]:
    config = config_of(CurationConfig, read_recipe(folder))
    base = find_base(folder, config.base)
    earlier = () if base is None else open_generations(base)
    first = earlier[-1].stop if earlier else 0
    path = summary_path(folder)
    try:
        num = json.loads(path.read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(path, error) from error
    return (*earlier, Generation(folder, config, first, first + num))


def generation_fingerprint(folder: Path) -> str:
    """Hash what a run measured and decided: its markers, with the hashes of all their files."""
    markers = sorted((folder / "curation").glob("*/part-*.done"))
    read = [read_marker(path) for path in markers if path.parent.name not in _UNREAD]
    return hash_json(
        [[m.stage, m.partition, m.fingerprint, m.outputs] for m in read if m is not None]
    )


def earlier_generations(
    inputs: Inputs[CurationConfig],
) -> list[tuple[Generation, Inputs[CurationConfig]]]:
    """Return the earlier generations, the oldest first, with their inputs.

    These are not restricted: each stage depends on all that an earlier generation decided.
    """
    base = find_base(inputs.run_folder, inputs.config.base)
    if base is None:
        return []
    return [
        (
            one,
            replace(
                inputs,
                stage=None,
                run_folder=one.run_folder,
                whole_config=one.config,
                folders={
                    name: one.run_folder / path.relative_to(inputs.run_folder)
                    for name, path in inputs.folders.items()
                },
            ),
        )
        for one in open_generations(base)
    ]


def every_generation(inputs: Inputs[CurationConfig]) -> list[Inputs[CurationConfig]]:
    """Return the inputs of the earlier generations, and those of this run as the last."""
    return [*(of_run for _, of_run in earlier_generations(inputs)), inputs]


def first_id(inputs: Inputs[CurationConfig]) -> int:
    """Return the id of the first image of this run: the number of images of earlier ones."""
    earlier = earlier_generations(inputs)
    return earlier[-1][0].stop if earlier else 0


def of_every_generation(
    inputs: Inputs[CurationConfig], read: Callable[[Inputs[CurationConfig]], NDArray[Any]]
) -> NDArray[Any]:
    """Concatenate an array that ``read`` returns of each generation, by image id.

    Of a single one it may be mapped from a file.
    """
    parts = [read(of_run) for of_run in every_generation(inputs)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
